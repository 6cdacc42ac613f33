"""`reader diffuse` from count to plan to run, and what the exact law buys on the model that ships."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.benchmarks.diffusion import likelihood_row, prompts_of, window_rows
from proofs_tests.cli.cli_examples import save_model, save_prompts
from proofs_tests.diffusion.test_masked_models import bert
from reader_theory.documents.diffusion import DiffusionRun
from runtime.cli.main import app
from runtime.diffusion import DiffusionParams, load_masked
from runtime.diffusion.run import measured_cost
from runtime.models.house import house_folder
from runtime.models.load import load_model


def reader(*words: object) -> Any:
    return CliRunner().invoke(app, ["diffuse", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small masked model with a tokenizer that has a mask, a causal one, and prompts."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    made = tmp_path_factory.mktemp("diffuse")
    save_model(made / "causal", 0)
    tokenizer = AutoTokenizer.from_pretrained(made / "causal")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(made / "masked")
    tokenizer.save_pretrained(made / "masked")
    save_prompts(made / "prompts.jsonl", 3)
    return made


def asked(folder: Path, *words: object) -> list[object]:
    told = ["--target", folder / "masked", "--prompts", folder / "prompts.jsonl", "--new-tokens", 6, "--steps", 2]
    return [*told, *words]


def test_count_plan_run(folder: Path, tmp_path: Path) -> None:
    counted, planned = tmp_path / "counted.json", tmp_path / "run.json"
    assert reader(*asked(folder, "--window", 4, "--output", counted)).exit_code == 0
    done = reader(*asked(folder, "--acceptance", counted, "--seed", 1, "--output", planned, "--json"))
    told, run = json.loads(done.stdout), DiffusionRun.read(planned)
    assert done.exit_code == 0 and told["lossless"] is True and run.window == run.candidates[0].window <= 4
    assert told["rows"][0]["predicted_rounds"]["value"] == run.candidates[0].rounds.value
    assert all(text.text and len(text.tokens) == 6 and sum(text.rounds) <= sum(text.drawn) for text in run.texts)
    assert reader(*asked(folder, "--acceptance", counted, "--window", 3, "--output", planned)).exit_code == 0
    assert DiffusionRun.read(planned).window == 3


def test_a_plan_by_seconds_and_an_assumed_acceptance(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    words = ["--acceptance", "0.6:0.5:0.7", "--cost", "0:0.01", "--output", out]
    assert reader(*asked(folder, *words)).exit_code == 0
    run = DiffusionRun.read(out)
    assert run.window == 1 and run.cost_unit == "seconds"
    assert reader(*asked(folder, "--acceptance", "0.6", "--output", out)).exit_code == 0
    assert DiffusionRun.read(out).window > 1


def test_independent_places_are_called_lossy(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    done = reader(*asked(folder, "--sampling", "parallel_lossy", "--output", out, "--json"))
    assert json.loads(done.stdout)["lossless"] is False and not DiffusionRun.read(out).lossless


BAD: dict[str, tuple[list[object], str]] = {
    "window 0": (["--window", 0], "`window` must be a whole number from 1"),
    "a negative window": (["--window", -3], "`window` must be a whole number from 1"),
    "steps beyond the length": (["--steps", 7], "`steps` must be at most the number of masked tokens"),
    "no steps": (["--steps", 0], "`steps` must be a whole number from 1"),
    "no new tokens": (["--new-tokens", 0], "`new_tokens` must be a whole number"),
    "prompts too long": (["--new-tokens", 200], "prompt and new tokens must fit the model's 256 positions"),
    "a causal model": (["--target", "CAUSAL", "--mask-token", 7], "it is a causal model"),
    "no mask token": (["--target", "CAUSAL"], "must have a mask token of its vocabulary"),
    "a mask outside": (["--mask-token", 100000], "must have a mask token of its vocabulary"),
    "no such folder": (["--target", "./nowhere"], "must be folders or hub names"),
    "an acceptance above 1": (["--acceptance", "1.2"], "`--acceptance` must be"),
    "an acceptance outside its interval": (["--acceptance", "0.5:0.6:0.7"], "with the value inside"),
    "an acceptance of two numbers": (["--acceptance", "0.5:0.6"], "`--acceptance` must be"),
    "an acceptance that is no number": (["--acceptance", "nan"], "must exist"),
    "an acceptance that is no file": (["--acceptance", "nowhere.json"], "must exist"),
    "an acceptance where nothing is verified": (
        ["--acceptance", "0.5", "--sampling", "parallel_lossy"], "where nothing is verified",
    ),
    "a cost of nothing": (["--acceptance", "0.5", "--cost", "0:0"], "must be above 0"),
    "a cost of one number": (["--cost", "3"], "`--cost` must be"),
    "a type": (["--dtype", "int8"], "`dtype` must be one of"),
    "an output that is a folder": (["--output", "."], "must be a file that ends in .json"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_message_and_writes_nothing(case: str, folder: Path, tmp_path: Path) -> None:
    words, told = BAD[case]
    named = [folder / "causal" if word == "CAUSAL" else word for word in words]
    done = reader(*asked(folder, "--output", tmp_path / "run.json", *named))
    assert done.exit_code == 2 and told in " ".join(done.stderr.split()), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_counts_of_a_run_that_asked_otherwise_are_refused(folder: Path, tmp_path: Path) -> None:
    counted = tmp_path / "counted.json"
    assert reader(*asked(folder, "--window", 2, "--output", counted)).exit_code == 0
    for words in (["--temperature", 0.5], ["--steps", 3], ["--drafts", "step"], ["--new-tokens", 7]):
        done = reader(*asked(folder, "--acceptance", counted, "--output", tmp_path / "run.json", *words))
        assert done.exit_code == 2 and "asked for the same" in done.stderr
    done = reader(*asked(folder, "--acceptance", counted, "--window", 9, "--output", tmp_path / "run.json"))
    assert done.exit_code == 2 and "at most the 2 places" in done.stderr


def test_a_round_costs_what_the_clock_says() -> None:
    from runtime.diffusion.load import TransformersMasked

    now, sizes = [0.0], list[int]()
    model = TransformersMasked(bert(), 39)
    plain = model.laws

    def laws(rows: Any, places: Any, params: Any) -> Any:
        sizes.append(len(rows))
        now[0] += 2.0 + len(rows)
        return plain(rows, places, params)

    model.laws = laws  # type: ignore[method-assign]
    cost = measured_cost(model, 10, 6, clock=lambda: now[0])
    assert [cost(forwards) for forwards in (1, 2, 3, 5, 6)] == [3.0, 4.0, 5.0, 7.0, 8.0]
    assert set(sizes) == {1, 2, 4, 6}


def test_texts_of_the_chain_are_likelier_under_the_house_target_than_independent_places() -> None:
    """One denoising step, where independence costs most: the difference in nats a token, its interval off zero."""
    model, target = load_masked(house_folder("diffusion")), load_model(house_folder("target"))
    prompts = [replace(prompt, tokens=prompt.tokens[-24:]) for prompt in prompts_of("test", 4)]
    row = likelihood_row(target, model, prompts, DiffusionParams(new_tokens=12, steps=1, window=1))
    assert row["difference"]["low"] > 0 and row["chain"] > row["parallel_lossy"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4])
def test_texts_are_likelier_at_every_number_of_steps(steps: int) -> None:
    model, target = load_masked(house_folder("diffusion")), load_model(house_folder("target"))
    row = likelihood_row(target, model, prompts_of("test", 10), DiffusionParams(new_tokens=24, steps=steps, window=1))
    assert row["difference"]["low"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("drafts", "share"), [("head", 0.5), ("round", 0.65)])
def test_a_window_of_eight_takes_about_half_the_rounds_and_as_many_as_predicted(drafts: str, share: float) -> None:
    """Predicted from the fit half, measured on the test half; half the rounds with the draft head."""
    model, halves = load_masked(house_folder("diffusion")), (prompts_of("fit", 8), prompts_of("test", 8))
    eight = window_rows(model, halves, DiffusionParams(new_tokens=32, steps=8, drafts=drafts), (8,))[0]
    assert eight["share_of_rounds"]["value"] <= share and abs(eight["error"]) <= 0.1
    assert eight["rounds"]["value"] < eight["forwards"]["value"]
