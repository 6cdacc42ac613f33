"""A head's inspection says what a direct look says: states, attention written out, acceptance along the path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs_tests.cli.test_cli_path import reader
from proofs_tests.drafters.heads import Defined, head_for
from proofs_tests.tiny import random_prompts, tiny_model
from reader_theory.documents.head_inspection import HeadInspection
from runtime.drafters.head.checkpoint import save_head
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.shape import HeadShape
from runtime.measure.inspect_head import disturbances, inspect_head
from runtime.models.house import house_folder
from runtime.report.figures import head_figure
from runtime.training.heads.initial import start_from
from runtime.training.heads.texts import ANSWERED, GIVEN, Texts
from runtime.training.heads.watching import RECENT, watch


class Letters:
    """A tokenizer of 64 letters whose token 1 is special."""

    all_special_ids = (1,)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [2 + ord(letter) % 62 for letter in text]}


class Looked(Defined):
    """What the last entry attends to, and the state that it hands on."""

    def _last(self, embedded: list[torch.Tensor], states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        network, shape = self.head.network, self.head.shape
        read, _ = network.entered(torch.stack(embedded), torch.stack(states))
        attention, count = network.layer.self_attn, len(embedded)
        from runtime.drafters.head.network import rotated

        q, k = (
            rotated(one(read).view(count, -1, shape.head_dim).transpose(0, 1), self.turns[:, :count])
            for one in (attention.q_proj, attention.k_proj)
        )
        k = k.repeat_interleave(shape.heads // shape.kv_heads, 0)
        self.weights = (q[:, -1:] @ k.mT * shape.head_dim**-0.5).softmax(-1)[:, 0].mean(0)
        self.normed, self.left = super()._last(embedded, states)
        return self.normed, self.left


def test_attention_and_acceptance_by_step_are_those_of_the_definition() -> None:
    whole = tiny_model("llama")
    head = head_for(whole)
    torch.manual_seed(0)
    tokens, steps, given = torch.randint(0, 64, (1, 22)), 4, 10
    roles = np.repeat([GIVEN, ANSWERED], [given, 12])[None].astype(np.uint8)
    texts = Texts(tokens.numpy().astype(np.int32), roles, np.zeros(1, np.int64), np.zeros(1, np.float32))
    seen = watch(whole, head.network, texts, rotations(head.shape, 40), steps=steps)
    sink, recent = np.zeros((steps, 2)), np.zeros((steps, 2))
    right, asked = np.zeros(steps), np.zeros(steps)
    text = tokens[0].tolist()
    for start in range(2, 22):  # a step that starts with `start` tokens known
        alive = start >= given
        for step in range(steps):
            at, looked = start + step, Looked(whole, head)
            if at >= 22:
                break
            logits = looked.logits(text[:start], text[start:at])
            if at >= given and at - 2 >= step + RECENT:
                sink[step] += (float(looked.weights[0]), 1)
                recent[step] += (float(looked.weights[-RECENT:].sum()), 1)
            if alive:
                asked[step] += 1
                alive = int(logits.argmax()) == text[at]
                right[step] += alive
    np.testing.assert_allclose(seen.sink, sink[:, 0] / sink[:, 1], rtol=1e-3)
    np.testing.assert_allclose(seen.recent, recent[:, 0] / recent[:, 1], rtol=1e-3)
    np.testing.assert_allclose(seen.by_depth, right / np.maximum(asked, 1), atol=1e-6)


def test_disturbed_prompts_are_what_their_names_say() -> None:
    tokens = np.array([1, 7, 8, 1, 9, 10], dtype=np.int64)
    given = {name: way(tokens).tolist() for name, way in disturbances(Letters()).items()}
    assert given["as it is"] == tokens.tolist()
    assert given["first token dropped"] == [7, 8, 1, 9, 10]
    assert given["another text before"][-6:] == tokens.tolist() and len(given["another text before"]) > 30
    assert given["header given twice"] == [*tokens, *tokens]
    assert given["template removed"] == [7, 8, 9, 10]
    assert all(len(way(tokens[:2])) >= 2 for way in disturbances(Letters()).values())


def test_norms_of_the_output_hold_the_state_and_pre_norm_does_not() -> None:
    whole, ratios = tiny_model("llama"), {}
    for norms, switches in {"post": {}, "pre": {"fc_norm": False, "norm_output": False}}.items():
        network = head_for(whole, **switches).network
        found = inspect_head(whole, network, random_prompts(3), Letters(), names=("t", "h"), new_tokens=24)
        ratios[norms] = found.drift
        assert len(found.variants) == 5 and len(found.variants[0].rms) == 8
        assert 0 < found.worst_over_best <= 1
    assert 0.9 < ratios["post"] < 1.1 < ratios["pre"]


def test_the_command_writes_what_a_report_draws(tmp_path: Path) -> None:
    from runtime.models.transformers import load_transformers

    whole = load_transformers(house_folder("target"), torch.float32)
    torch.manual_seed(0)
    network = HeadNetwork(HeadShape.of(whole.config))
    start_from(network, whole)
    save_head(network, tmp_path / "head", target="house-target", architectures=[], steps=3)
    out = tmp_path / "seen.json"
    told = reader(
        "inspect-head", str(tmp_path / "head"), "--target", "house-target", "--workload", "code", "--limit", "1",
        "--new-tokens", "16", "--steps", "4", "-o", str(out), "--json",
    )  # fmt: skip
    assert json.loads(told[told.index("{") :])["kind"] == "head_inspection"
    found = HeadInspection.read(out)
    drawn = head_figure(found)
    assert drawn.startswith("<svg") and all(each.name in drawn for each in found.variants)
