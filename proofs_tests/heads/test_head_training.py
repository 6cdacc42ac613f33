"""A head is trained on what the engine will ask of it: the unrolled forward is the drafts, the text is the target's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.drafters.heads import KINDS, Defined, head_for, network_for
from proofs_tests.tiny import VOCABULARY, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.drafters.head.checkpoint import load_head_network, read_facts
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.shape import HeadShape
from runtime.drafters.head.unrolled import unrolled
from runtime.models.load import wrap
from runtime.training.heads.asking import library_edits, library_questions
from runtime.training.heads.initial import factors, start_from
from runtime.training.heads.objectives import OBJECTIVES, acceptance
from runtime.training.heads.texts import ANSWERED, ASKED, GIVEN, PADDING, Texts, read_texts
from runtime.training.heads.train import CLOCKS, HeadRegime, train_head
from runtime.training.heads.watching import embedding_of, laws_of, watch
from runtime.training.heads.writing import Opening, Turns, openings, write

STEPS = 4


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_forward_is_what_the_definition_drafts_with_tokens_forced(kind: str) -> None:
    whole = tiny_model("llama").double()
    head = head_for(whole, **KINDS[kind])
    head.network.double()
    defined, network = Defined(whole, head), head.network
    text = random_prompts(1)[0].tokens[:12].astype(np.int64)
    tokens = torch.from_numpy(text)[None]
    hidden, _ = laws_of(whole, tokens, network)
    turns = rotations(network.shape, len(text))
    steps = list(unrolled(network, embedding_of(whole, network), tokens, hidden, STEPS, turns))
    for step, (out, _) in enumerate(steps):
        logits = network.lm_head(out[0])
        for entry in range(step, len(text) - 1):
            before, path = text[: entry + 2 - step], text[entry + 2 - step : entry + 2]
            expected = defined.logits(before.tolist(), path.tolist())
            expected = expected if network.ids is None else expected[network.ids]
            torch.testing.assert_close(logits[entry], expected, rtol=1e-4, atol=1e-4)


# ---- text


TURNS = Turns(before=(1, 2), answer=(9, 3, 4), question=(9, 3, 5))


def _written(heats: tuple[float, ...] = (0.0, 0.0, 0.8)) -> tuple[Any, list[Opening], Texts]:
    whole = tiny_model("llama")
    begun = [Opening((1, 2, 10 + i, 20, 9, 3, 4), i, False, heat) for i, heat in enumerate(heats)]
    begun.append(Opening((1, 2, 30), 7, True, 0.0))
    return whole, begun, write(wrap(whole, check=False), begun, TURNS, 60)


def test_written_text_begins_as_asked_and_is_the_targets_own_likeliest_where_greedy() -> None:
    whole, begun, texts = _written()
    for row, opening in enumerate(begun):
        assert texts.tokens[row, : len(opening.tokens)].tolist() == list(opening.tokens)
    with torch.no_grad():
        best = whole(torch.from_numpy(texts.tokens.astype(np.int64))).logits.argmax(-1).numpy()
    greedy = (texts.roles == ANSWERED)[:, 1:] & (texts.heats == 0.0)[:, None]
    assert greedy.sum() > 60
    assert (best[:, :-1] == texts.tokens[:, 1:])[greedy].all()


def test_turns_follow_the_template_and_roles_say_who_wrote() -> None:
    _, _, texts = _written()
    for row, roles in zip(texts.tokens.tolist(), texts.roles.tolist(), strict=True):
        turn = ANSWERED if roles[7] == ANSWERED else ASKED
        for place in range(7, len(row)):
            if roles[place] in (ASKED, ANSWERED):
                assert roles[place] == turn
            if row[place] == 9 and roles[place] == turn:
                after = TURNS.answer[1:] if turn == ASKED else TURNS.question[1:]
                end = min(place + 1 + len(after), len(row))
                assert row[place + 1 : end] == list(after)[: end - place - 1]
                assert set(roles[place + 1 : end]) <= {GIVEN}
                turn = ANSWERED if turn == ASKED else ASKED


def test_openings_keep_prompts_within_a_row_and_number_documents_by_prompt() -> None:
    prompts = [np.array([1, 2, 11, 12, 13, 9, 3, 4]), np.arange(50)]
    found = openings(prompts, TURNS, 64, 20, np.random.default_rng(0))
    assert all(len(one.tokens) <= 20 for one in found)
    whole = [one for one in found if not one.asked]
    assert whole and all(one.tokens == tuple(prompts[0].tolist()) and one.document == 0 for one in whole)
    assert all(one.tokens[:2] == TURNS.before for one in found)


def test_split_is_by_document(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = Texts(
        rng.integers(0, 9, (200, 8)).astype(np.int32), np.full((200, 8), ANSWERED, np.uint8),
        np.repeat(np.arange(40), 5), np.zeros(200, np.float32),
    )  # fmt: skip
    some, held = texts.split()
    assert not set(some.documents) & set(held.documents)
    assert len(some) + len(held) == 200 and len(held) == 10
    texts.save(tmp_path / "texts.npz")
    assert np.array_equal(Texts.load(tmp_path / "texts.npz").tokens, texts.tokens)
    with pytest.raises(InvalidInputError, match="two documents"):
        texts.at(np.arange(5)).split()


def test_an_epoch_of_batches_takes_each_row_once() -> None:
    roles = np.full((50, 32), PADDING, np.uint8)
    for row in range(50):
        roles[row, : 4 + row % 28] = ANSWERED
    texts = Texts(np.zeros((50, 32), np.int32), roles, np.arange(50), np.zeros(50, np.float32))
    batches, seen = texts.batches(np.random.default_rng(0), 64), list[int]()
    while len(seen) < 50:
        seen += next(batches).tolist()
    assert sorted(seen) == list(range(50))


def test_text_files_become_rows_and_a_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 40)
    (tmp_path / "b.txt").write_text("b" * 30)

    def tokenizer(text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    texts = read_texts([tmp_path], tokenizer, 32)
    assert texts.documents.tolist() == [0, 1]
    assert (texts.roles != PADDING).sum(1).tolist() == [32, 30]
    with pytest.raises(InvalidInputError, match="must hold text"):
        read_texts([tmp_path / "none"], tokenizer, 32)


def test_edits_are_of_functions_that_no_question_is_about(tmp_path: Path) -> None:
    about = '"""Add two numbers, one of which is the argument and one of which is known before it is called."""'
    for name in ("".join(pair) for pair in itertools.product("abcdefghijklmn", repeat=2)):
        (tmp_path / f"sums_{name}.py").write_text(f"def add_{name}(a):\n    {about}\n    return a + {name}\n")
    edits, questions = library_edits(5, tmp_path), "\n".join(library_questions(2000, root=tmp_path))
    assert len(edits) == 5 and len({source for source, _ in edits}) == 5 and questions.count("def add_") > 1000
    for _, text in edits:
        function = text.partition("```python\n")[2].removesuffix("\n```")
        assert "def " in function and function not in questions


# ---- objectives


def test_objectives_are_least_where_the_laws_agree_and_their_gradients_lead_there() -> None:
    torch.manual_seed(0)
    law = torch.rand(3, 7).softmax(-1)
    for name, objective in OBJECTIVES.items():
        there = objective(law, law.log())
        logits = torch.randn(3, 7, requires_grad=True)
        assert (objective(law, logits) > there - 1e-6).all(), name
        start = float(acceptance(law, logits.detach()).mean())
        for _ in range(400):
            (gradient,) = torch.autograd.grad(objective(law, logits).sum(), logits)
            logits = (logits - 0.5 * gradient).detach().requires_grad_(True)
        assert float(acceptance(law, logits.detach()).mean()) > max(start, 0.9), name


# ---- where a head starts


def test_full_rank_factors_give_the_dense_output_head() -> None:
    torch.manual_seed(0)
    weight, seen = torch.randn(40, 16), torch.randn(200, 16) * torch.linspace(0.1, 3, 16)
    for states in (None, seen):
        down, up = factors(weight, 16, states)
        torch.testing.assert_close(up @ down, weight, rtol=1e-5, atol=1e-5)


def test_weighted_start_errs_no_more_than_plain_svd_on_held_out_states() -> None:
    torch.manual_seed(1)
    weight, mix = torch.randn(300, 64), torch.randn(64, 64) * torch.linspace(0.05, 2, 64)
    seen, held = torch.randn(4000, 64) @ mix, torch.randn(1000, 64) @ mix
    for rank in (4, 8, 16):
        errors = []
        for states in (None, seen):
            down, up = factors(weight, rank, states)
            errors.append(float((held @ (up @ down - weight).T).square().mean()))
        assert errors[1] <= errors[0]


def test_parameters_are_counted_exactly() -> None:
    whole = tiny_model("llama")
    for kind in KINDS.values():
        network = network_for(whole, **kind)
        assert network.shape.parameters == sum(each.numel() for each in network.parameters())


# ---- the loop


def _texts(rows: int = 40) -> Texts:
    whole = tiny_model("llama")
    begun = [Opening((int(7 * row % VOCABULARY), int(row % 50)), row, False, 0.0) for row in range(rows)]
    return write(wrap(whole, check=False), begun, None, 24)


def trained(folder: Path, updates: int, block: int = 0, **changes: Any) -> tuple[HeadNetwork, Any]:
    whole = tiny_model("llama")
    shape = HeadShape.of(whole.config, layers=(0, 1), rank=16, block=block)
    torch.manual_seed(0)
    network = HeadNetwork(shape)
    start_from(network, whole, "svd")
    regime = HeadRegime(minutes=60, steps=block or 2, batch_tokens=96, most_updates=updates, **changes)
    return network, train_head(whole, network, _texts(), regime, folder, name="tiny")


def test_training_raises_acceptance_on_held_out_documents(tmp_path: Path) -> None:
    _, before = trained(tmp_path / "a", 1)
    network, after = trained(tmp_path / "b", 60)
    assert after.alpha > before.alpha + 0.02
    loaded = load_head_network(tmp_path / "b")
    assert loaded.shape == replace(network.shape, rope=loaded.shape.rope)
    torch.testing.assert_close(loaded.fc.weight, network.fc.weight.detach(), rtol=1e-3, atol=1e-3)


def test_a_run_that_was_cut_off_goes_on_and_refuses_another_shape(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    held = torch.load(tmp_path / "resume.pt", weights_only=True)
    trained(tmp_path, 5)
    again = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert (held["updates"], again["updates"]) == (3, 5)
    assert again["seen"] > held["seen"] and len(again["curve"]) == 2
    with pytest.raises(InvalidInputError, match="resumed as it was begun"):
        trained(tmp_path, 6, objective="tv")


@pytest.mark.parametrize(("clock", "updates"), [("wall", 2), ("process", 6)])
def test_minutes_are_of_the_clock_that_was_named(
    clock: str, updates: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall's clock leaps ten minutes at each look, as where a run stands still; the process's own does not."""
    leaps = itertools.count(0.0, 600.0)
    monkeypatch.setitem(CLOCKS, "wall", lambda: next(leaps))
    trained(tmp_path, 6, clock=clock)
    assert read_facts(tmp_path)["updates"] == updates
    with pytest.raises(InvalidInputError, match="`clock` must be one of wall, process"):
        HeadRegime(minutes=1, clock="sun")


def test_a_small_rate_moves_a_head_less(tmp_path: Path) -> None:
    moved: dict[float, float] = {}
    for rate in (0.1, 1.0):
        begun, _ = trained(tmp_path / f"begun {rate}", 1, rate=1e-6)
        network, _ = trained(tmp_path / f"moved {rate}", 3, rate=rate)
        moved[rate] = float((network.fc.weight - begun.fc.weight).detach().norm())
    assert 0 < moved[0.1] < 0.5 * moved[1.0]
    for rate in (0.0, 11.0):
        with pytest.raises(InvalidInputError, match="`rate` above 0"):
            HeadRegime(minutes=1, rate=rate)


def test_walked_tokens_a_step_are_those_of_the_engine() -> None:
    from reader_theory.documents import policy_of
    from reader_theory.trees import TokenTree
    from runtime.engine.engine import Engine
    from runtime.engine.sampling import SamplingParams

    whole = tiny_model("llama")
    network = HeadNetwork(HeadShape.of(whole.config, layers=(0, 1)))
    start_from(network, whole)
    texts = _texts(12)
    texts.roles[:, :2] = GIVEN
    watched = watch(whole, network.eval(), texts, rotations(network.shape, 32))
    from runtime.drafters.head.model import HeadModel

    head = HeadModel(network.eval(), whole.get_input_embeddings().weight, adaptive=False)
    engine = Engine(wrap(whole), head, policy=policy_of(TokenTree.chain(4)), max_batch=4, max_context=64)
    requests = [engine.add(row[:3].astype(np.int64), SamplingParams(max_new_tokens=21)) for row in texts.tokens]
    while engine.step():
        pass
    assert [r.output for r in requests] == texts.tokens[:, 3:].tolist()
    emitted, steps = sum(len(r.output) - 1 for r in requests), sum(r.steps for r in requests)
    assert abs(watched.walked - emitted / steps) < 0.35
    right, asked = watched.counts[..., 0].sum(0), watched.counts.sum((0, 2))
    np.testing.assert_allclose(right / np.maximum(asked, 1), watched.by_depth)
    assert asked[0] == watched.positions and len(watched.counts) == len(watched.walks) == len(texts)
    assert watched.walks[:, 0].sum() / watched.walks[:, 1].sum() == watched.walked
