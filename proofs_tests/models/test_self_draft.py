"""A target's own layers draft for it: with its weights, losslessly, at the tokens a step that were predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from proofs_tests.models.matrix import build
from proofs_tests.tiny import VOCABULARY, tiny_model
from reader_theory.documents import policy_of
from reader_theory.documents.self_draft import SelfDraft
from reader_theory.errors import DocumentError, InvalidInputError
from reader_theory.trees import TokenTree
from runtime.cli.main import app
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.self_draft import Answer, SelfDrafting, StepSeconds, chain_sums, measure_steps, uniform_stride
from runtime.models.base import LanguageModel
from runtime.models.inputs import teacher_forced
from runtime.models.lean import LeanModel
from runtime.models.load import wrap
from runtime.models.part import layer_count, part_of
from runtime.models.table import TableModel
from runtime.models.transformers import TransformersModel

FORWARDS = [("llama", "lean"), ("llama", "transformers"), ("qwen3", "lean"), ("mistral", "transformers")]


def prompts(count: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [generator.integers(0, VOCABULARY, 5 + 3 * i) for i in range(count)]


def target_of(family: str, forward: Any, layers: int = 4) -> LanguageModel:
    return wrap(tiny_model(family, layers=layers), forward)


@pytest.mark.parametrize(("family", "forward"), FORWARDS)
def test_all_layers_are_the_model(family: str, forward: str) -> None:
    target = target_of(family, forward)
    whole = part_of(target, range(4))
    prompt, output = prompts(1)[0], np.arange(9)
    assert torch.equal(teacher_forced(whole, prompt, output), teacher_forced(target, prompt, output))


@pytest.mark.parametrize("kept", [(0,), (1, 3), (0, 2, 3)])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_part_is_the_same_behind_both_forwards(family: str, kept: tuple[int, ...]) -> None:
    prompt, output = prompts(1)[0], np.arange(9)
    lean, plain = (
        teacher_forced(part_of(target_of(family, forward), kept), prompt, output)
        for forward in ("lean", "transformers")
    )
    assert torch.allclose(lean, plain, atol=1e-4)


@pytest.mark.parametrize("forward", ["lean", "transformers"])
def test_no_weight_is_copied(forward: Any) -> None:
    model = tiny_model("llama", layers=4)
    target = wrap(model, forward)
    part = part_of(target, (0, 3))
    if isinstance(target, LeanModel) and isinstance(part, LeanModel):
        assert [id(layer) for layer in part.layers] == [id(target.layers[i]) for i in (0, 3)]
        return
    assert isinstance(part, TransformersModel)
    held = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in part.model.parameters()} <= held
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


@pytest.mark.parametrize(("family", "forward"), FORWARDS)
@pytest.mark.parametrize("drafts", [1, 4])
def test_text_stays_and_tokens_a_step_are_those_predicted(family: str, forward: str, drafts: int) -> None:
    target = target_of(family, forward)
    kept = (0, 1, 3)
    params = SamplingParams(max_new_tokens=24)
    plain = Engine(target, max_batch=2, max_context=80)
    answers = [
        Answer(prompt, np.array(done.tokens))
        for prompt, done in zip(prompts(), plain.generate(prompts(), params), strict=True)
    ]
    sums = SelfDrafting(target, answers, StepSeconds(np.ones(drafts + 1), 0.1, 0.1)).sums(kept)[:, drafts]
    engine = Engine(
        target, part_of(target, kept), policy=policy_of(TokenTree.chain(drafts)), max_batch=2, max_context=80
    )
    drafted = engine.generate(prompts(), params)
    assert [list(done.tokens) for done in drafted] == [answer.output.tolist() for answer in answers]
    assert [done.steps for done in drafted] == sums[:, 1].tolist()


def test_chains_end_where_the_first_draft_is_wrong() -> None:
    right = np.array([False, True, True, True, False, True, True])
    assert chain_sums(right, 3).tolist() == [[6, 6], [6, 3], [6, 3], [6, 2]]


def test_a_sample_holds_the_tokens_that_were_asked_and_is_decided_by_its_number() -> None:
    answers = [Answer(np.arange(3), np.arange(10) % 5) for _ in range(8)]
    scored = SelfDrafting(target_of("llama", "lean"), answers, StepSeconds(np.ones(3), 0.1, 0.1))
    sizes = [[len(answer.output) for answer in scored._sample(25, number)] for number in (0, 0, 1)]
    assert sizes[0] == sizes[1] == [10, 10, 5]
    candidates = [(0, 1, 0, 1), (1, 0, 0, 0)]
    assert scored(candidates, 25, 3) == scored(candidates, 25, 3)


def test_seconds_are_positive_and_add_up_to_a_forward() -> None:
    target = target_of("llama", "lean")
    seconds = measure_steps(target, 3, context=32, repeats=3)
    assert (seconds.target > 0).all()
    whole = seconds.of_steps(layer_count(target))
    assert whole[0] == seconds.target[0]
    assert whole[2] - seconds.target[2] == pytest.approx(2 * (seconds.rest + 4 * seconds.body))


@pytest.mark.parametrize("layers", [(), (4,), (1, 1), (2, 1), (-1, 2)])
def test_layers_that_the_model_has_not_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="layers"):
        part_of(target_of("llama", "lean"), layers)


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="layers are known"):
        layer_count(TableModel(np.full((8, 8), 1 / 8)))


def test_a_model_whose_layers_read_keys_of_others_is_refused() -> None:
    """A part without the layer that makes them would fail in the middle of a search, or read another's."""
    with pytest.raises(InvalidInputError, match=r"of their own.*layers \[2, 3\]"):
        layer_count(wrap(build("gemma3n_text", {}), "transformers"))
    assert layer_count(wrap(build("gemma3n_text", {"num_kv_shared_layers": 0}), "transformers")) == 4


def test_uniform_stride_keeps_first_and_last() -> None:
    assert uniform_stride(30, 4) == (0, 10, 19, 29)
    assert all(len(uniform_stride(30, kept)) == kept for kept in range(1, 31))


@pytest.mark.parametrize("kept", [(), (3,), (1, 0), (0, 0)])
def test_a_document_of_other_layers_is_refused(tmp_path: Path, kept: tuple[int, ...]) -> None:
    file = tmp_path / "draft.json"
    told = SelfDraft(stamp=_stamp(), target="t", layers=3, vocabulary=8, kept=(0, 2), tokens_scored=0)
    told.write(file)
    held = json.loads(file.read_text())
    held["kept"] = kept
    file.write_text(json.dumps(held))
    with pytest.raises(DocumentError, match="kept"):
        SelfDraft.read(file)


def test_the_command_finds_a_draft_that_records_take(tmp_path: Path) -> None:
    draft, trace = tmp_path / "draft.json", tmp_path / "trace.json"
    few = ["--limit", "2", "--new-tokens", "12"]
    search = ["evolve", "self-draft", *few, "--left-out", "1", "--generations", "2", "--offspring", "3"]
    done = CliRunner().invoke(app, [*search, "-o", str(draft), "--json"])
    assert done.exit_code == 0, done.output
    told = SelfDraft.read(draft)
    assert len(told.kept) == told.layers - 1
    assert [choice.name.split(",")[0] for choice in told.choices] == ["found", "uniform stride", "one-shot"]
    assert [file.name for file in tmp_path.iterdir()] == ["draft.json"]
    recorded = CliRunner().invoke(app, ["record", "--draft", f"self={draft}", *few, "-o", str(trace), "--json"])
    assert recorded.exit_code == 0, recorded.output
    assert "self" in json.loads(trace.read_text())["drafters"]


def test_an_interrupted_search_goes_on_as_it_was_begun_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds that were measured once decide both halves; another seed, text or target is refused, nothing lost."""
    draft, limits = tmp_path / "draft.json", ["--limit", "2", "--new-tokens", "12", "--left-out", "1"]
    words = ["evolve", "self-draft", *limits, "--generations", "2", "--offspring", "3", "-o", str(draft), "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("runtime.cli.evolve._judged", _interrupt)
        assert CliRunner().invoke(app, words).exit_code != 0
    begun = sorted(file.name for file in tmp_path.iterdir())
    assert begun == ["draft.1-left-out.json", "draft.begun.json"]
    refused = CliRunner().invoke(app, [*words, "--seed", "1"])
    assert refused.exit_code != 0 and "another seed" in refused.output
    assert sorted(file.name for file in tmp_path.iterdir()) == begun
    monkeypatch.setattr("runtime.measure.self_draft.measure_steps", _interrupt)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert [file.name for file in tmp_path.iterdir()] == ["draft.json"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stamp() -> Any:
    from reader_theory.documents import Stamp

    return Stamp.now()
