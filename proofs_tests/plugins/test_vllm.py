"""vLLM's proposer, driven as vLLM's model runner drives it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proofs_tests.documents.documents_examples import entry, plan
from proofs_tests.plugins import wheels
from proofs_tests.plugins.batches import LONGEST, ROWS, VOCABULARY, Rows, random_steps
from proofs_tests.plugins.test_proposer import GROWN, OWN, STORED, STORED_GROWN, anew, past
from reader_theory.documents import Chain, Off
from runtime.plugins.vllm import VllmProposer

RUNNER = "vllm/v1/worker/gpu_model_runner.py"
SHORT = Chain(min_match=2, offset=2, factor=0, max_tokens=2)
PLANS = {
    "own": [(1, OWN)],
    "stored": [(1, STORED)],
    "grown": [(1, GROWN)],
    "grown from a store": [(1, STORED_GROWN)],
    "own by batch": [(4, SHORT), (9, OWN), (12, Off())],
    "by batch": [(2, OWN), (6, SHORT), (9, GROWN), (12, Off())],
}


def proposer_of(name: str, folder: Path, tokens: int = 6) -> VllmProposer:
    """As vLLM makes it, from its own configuration."""
    document = plan(*(entry(batch, policy) for batch, policy in PLANS[name]), draft=None)
    settings = {"plan": str(document.write(folder / "plan.json"))}
    if name in ("stored", "grown from a store"):
        settings["datastore"] = str(past().save(folder / "past.datastore"))
    config = SimpleNamespace(
        additional_config={"reader": settings},
        speculative_config=SimpleNamespace(num_speculative_tokens=tokens, model="runtime.plugins.vllm.VllmProposer"),
        model_config=SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: VOCABULARY),
    )
    made = VllmProposer(config)
    made.load_model("a model")
    return made


def planned(name: str, rows: int) -> Any:
    return next((policy for batch, policy in PLANS[name] if batch >= rows), PLANS[name][-1][1])


def drive(name: str, steps: int, folder: Path, every: int, scanned: int | None = None) -> int:
    """Random batches; one in `every` is compared with indices made anew. Tokens proposed."""
    proposer, rows, drafts, told = proposer_of(name, folder), Rows(), [list[list[int]]()], 0
    if scanned is not None:
        proposer.proposer.scanned = scanned
    for number, step in enumerate(random_steps(rows, steps, 7, lambda: drafts[0])):
        found = drafts[0] = proposer.propose(
            step.sampled, rows.num_tokens_no_spec, rows.token_ids_cpu, slot_mappings=None
        )
        live = sum(map(bool, step.sampled))
        assert len(found) == len(step.sampled)
        for row, (chain, fresh) in enumerate(zip(found, step.sampled, strict=True)):
            count = int(rows.num_tokens_no_spec[row])
            assert type(chain) is list and all(type(token) is int and 0 <= token < VOCABULARY for token in chain)
            assert len(chain) <= (min(6, max(LONGEST - 1 - count, 0)) if fresh else 0)
            if fresh and number % every == 0:
                assert rows.token_ids_cpu[row, :count].tolist() == step.requests[row].text
                assert chain == anew(planned(name, live), step.requests[row].text, min(6, LONGEST - 1 - count))
        told += sum(map(len, found))
        held = [index for index in proposer.proposer.rows.indices if index is not None]
        searched = proposer.proposer.scanned
        long = sum(bool(fresh) and rows.num_tokens_no_spec[row] > searched for row, fresh in enumerate(step.sampled))
        assert len(held) == len(set(map(id, held))) == long
        assert all(index.tokens <= LONGEST for index in held)
    assert proposer.propose([], rows.num_tokens_no_spec, rows.token_ids_cpu) == []
    assert proposer.proposer.rows.nbytes == 0
    return told


@pytest.mark.parametrize("name", PLANS)
def test_proposals_of_random_batches_are_legal_and_leave_nothing(name: str, tmp_path: Path) -> None:
    assert drive(name, 150, tmp_path, 1) > 300


@pytest.mark.parametrize("scanned", [0, 40])
@pytest.mark.parametrize("name", ["own", "own by batch"])
def test_texts_may_grow_from_searched_to_indexed_ones(name: str, scanned: int, tmp_path: Path) -> None:
    assert proposer_of(name, tmp_path).proposer.scanned > LONGEST
    assert drive(name, 150, tmp_path, 1, scanned) > 300


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_proposals_of_ten_thousand_random_batches_are_legal_and_leave_nothing(name: str, tmp_path: Path) -> None:
    assert drive(name, 10_000, tmp_path, 25) > 20_000


def test_vllm_calls_it_as_it_can_be_called() -> None:
    """Every call of a drafter of this method in vLLM's runner, and of what it does not know."""
    tree = wheels.source(RUNNER)
    branch = next(
        node for node in ast.walk(tree)
        if isinstance(node, ast.If) and "'custom_class'" in ast.unparse(node.test) and wheels.calls(node, "propose")
    )  # fmt: skip
    asked = [call for part in branch.body for call in wheels.calls(part, "propose")]
    assert asked
    for call in asked:
        given, named = [None] * len(call.args), {word.arg: None for word in call.keywords if word.arg}
        inspect.signature(VllmProposer.propose).bind(None, *given, **named)
        assert [ast.unparse(each).split(".")[-1] for each in call.args] == [
            "sampled_token_ids", "num_tokens_no_spec", "token_ids_cpu",
        ]  # fmt: skip
    for call in wheels.calls(tree, "load_model"):
        if "drafter" in ast.unparse(call.func):
            inspect.signature(VllmProposer.load_model).bind(None, *call.args)


def test_vllm_finds_and_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By vLLM's own function, from its wheel."""
    maker = wheels.named(wheels.source("vllm/v1/spec_decode/custom_class_proposer.py"), "create_custom_proposer")
    logger = SimpleNamespace(info=lambda *_: None)
    made = wheels.executed([maker], {"importlib": importlib, "logger": logger})
    document = plan(entry(1, OWN), draft=None).write(tmp_path / "plan.json")
    monkeypatch.setenv("READER_PLAN", str(document))
    speculative = SimpleNamespace(model="runtime.plugins.vllm.VllmProposer", num_speculative_tokens=4)
    model = SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: VOCABULARY)
    config = SimpleNamespace(additional_config={}, speculative_config=speculative, model_config=model)
    assert type(made["create_custom_proposer"](config)) is VllmProposer  # type: ignore[operator]


def test_vllm_has_what_is_read_of_its_configuration() -> None:
    assert "additional_config" in wheels.fields(wheels.named(wheels.source("vllm/config/vllm.py"), "VllmConfig"))
    model = wheels.fields(wheels.named(wheels.source("vllm/config/model.py"), "ModelConfig"))
    assert {"max_model_len", "get_vocab_size"} <= model
    speculative = wheels.named(wheels.source("vllm/config/speculative.py"), "SpeculativeConfig")
    assert "num_speculative_tokens" in wheels.fields(speculative)
    rows = ast.unparse(wheels.named(wheels.source("vllm/v1/worker/gpu_input_batch.py"), "InputBatch"))
    assert "self.token_ids_cpu" in rows and "self.num_tokens_no_spec" in rows


@pytest.mark.slow
def test_ten_thousand_batches_of_vllms_own_input_batch_are_legal(tmp_path: Path) -> None:
    """Rows kept, closed up and swapped by vLLM's own class, in its own environment."""
    wheels.source("vllm/v1/worker/gpu_input_batch.py")
    document = plan(entry(2, OWN), entry(8, SHORT), entry(12, Off()), draft=None).write(tmp_path / "plan.json")
    done = subprocess.run(
        [str(wheels.ENGINES / "bin" / "python"), "-m", "proofs_tests.plugins.vllm_batches", str(document), "10000"],
        cwd=wheels.HOUSE, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["batches"] == 10_000 and told["proposed"] > 10_000 and told["wrong"] == 0 and told["held"] <= ROWS
    assert np.isfinite(told["bytes"])
