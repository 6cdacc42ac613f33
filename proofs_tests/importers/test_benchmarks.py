"""Benchmarks of other engines beside a plan: what they measured, placed at its entries, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from proofs_tests.documents import documents_examples as examples
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, entry, plan
from reader_theory.documents import Plan, Validation
from reader_theory.errors import InvalidInputError
from runtime.cli._shared import guarded
from runtime.cli.validate import validate
from runtime.importers.benchmarks import read_benchmarks

app = typer.Typer()
app.command("validate")(guarded(validate))


def bench(step_s: float, tokens_per_step: float = 1.0, drafted: float = 0.0, rows: int = 1, **changes: Any) -> Any:
    """A result of `vllm bench serve` of a server that takes `step_s` a step; 100 requests of 101 tokens."""
    steps = 100 / tokens_per_step
    result = {
        "completed": 100, "total_input_tokens": 5000, "total_output_tokens": 10100, "median_itl_ms": 1e3 * step_s,
        "mean_itl_ms": 1e3 * step_s, "mean_tpot_ms": 1e3 * step_s / tokens_per_step,
        "mean_e2el_ms": 1e3 * step_s * (steps + 1), "request_throughput": rows / (step_s * (steps + 1)),
        "max_concurrency": rows,
    }  # fmt: skip
    if drafted:
        drafts = round(100 * steps)
        result |= {"spec_decode_acceptance_length": tokens_per_step, "spec_decode_num_drafts": drafts,
                   "spec_decode_draft_tokens": round(drafted * drafts)}  # fmt: skip
    return result | changes


def response(step_s: float, accepted: int, drafted: int, tokens: int = 61) -> dict[str, Any]:
    """A response of llama-server with its timings: `tokens` in all, of which the prompt gave the first."""
    steps = tokens - 1 - accepted
    timings = {
        "cache_n": 0,
        "prompt_n": 50,
        "prompt_ms": 10.0,
        "predicted_n": tokens,
        "predicted_ms": 1e3 * step_s * steps,
    }
    return {
        "content": "x",
        "timings": timings | ({"draft_n": drafted, "draft_n_accepted": accepted} if drafted else {}),
    }


def written(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values))
    return path


@pytest.fixture
def planned() -> Plan:
    return plan(entry(1, CHAIN_3, 2.0, 100.0), entry(8, CHAIN_3, 2.0, 400.0))


def run(folder: Path, made: Plan, *arguments: object, expect: int = 0) -> str:
    path = made.write(folder / "plan.json")
    output = folder / "validation.json"
    done = CliRunner().invoke(app, [str(a) for a in ("validate", path, *arguments, "-o", output)][1:])
    assert done.exit_code == expect, done.output
    return done.output


def test_a_vllm_benchmark_is_held_against_the_entry_of_its_batch(tmp_path: Path, planned: Plan) -> None:
    file = written(tmp_path / "bench.json", bench(0.04, 2.0, 3.0, rows=8))
    run(tmp_path, planned, file)
    found = Validation.read(tmp_path / "validation.json")
    measured = {row.quantity: row.measured for row in found.comparisons}
    assert measured == pytest.approx({"tokens_per_step": 2.0, "step_s": 0.04, "tokens_per_s": 400.0}, rel=1e-6)
    assert {row.batch for row in found.comparisons} == {8}
    assert found.notes == ()


def test_a_run_without_drafts_beside_one_with_them_gives_the_speed_up_first(tmp_path: Path, planned: Plan) -> None:
    drafted = written(tmp_path / "drafted.json", bench(0.021, 2.0, 3.0))
    plain = written(tmp_path / "plain.json", bench(1 / 60))
    assert "speed_up" in run(tmp_path, planned, drafted, plain)
    rows = Validation.read(tmp_path / "validation.json").comparisons
    assert rows[0].quantity == "speed_up"
    assert rows[0].measured == pytest.approx(2 / 0.021 / 60)
    off = [row for row in rows if row.policy == OFF]
    assert {row.quantity: row.measured for row in off} == pytest.approx({"tokens_per_s": 60.0, "step_s": 1 / 60})
    assert all(row.inside for row in off)


def test_timings_of_llama_server_are_added_up_with_and_without_drafts_apart(tmp_path: Path, planned: Plan) -> None:
    responses = [response(0.02, 30, 90), response(0.02, 30, 90), response(1 / 60, 0, 0)]
    file = written(tmp_path / "responses.jsonl", *responses)
    drafted, plain = read_benchmarks([file])
    assert (drafted.tokens_per_step, drafted.step_s, drafted.drafted) == pytest.approx((2.0, 0.02, 3.0))
    assert (plain.tokens_per_s, plain.drafted) == pytest.approx((60.0, 0.0))
    run(tmp_path, planned, file)
    assert Validation.read(tmp_path / "validation.json").of("speed_up")[0].measured == pytest.approx(100 / 60)


def test_llama_bench_tells_plain_decoding(tmp_path: Path, planned: Plan) -> None:
    tests = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ns": 1e9},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 64, "avg_ns": 128 / 60 * 1e9},
    ]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(tests))
    assert [each.context for each in read_benchmarks([file])] == [128.0]
    run(tmp_path, planned, file, "--strict")
    assert {row.policy for row in Validation.read(tmp_path / "validation.json").comparisons} == {OFF}


def test_another_length_and_another_batch_are_noted(tmp_path: Path, planned: Plan) -> None:
    run(tmp_path, planned, written(tmp_path / "bench.json", bench(0.04, 2.0, 5.0, rows=6)))
    notes = Validation.read(tmp_path / "validation.json").notes
    assert any("6 requests ran at once, the entry is for 8" in note for note in notes)
    assert any("5 tokens were drafted a step, the plan's 3" in note for note in notes)


def test_drafting_where_the_plan_drafts_nothing_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "bench.json", bench(0.02, 2.0, 3.0))
    assert "drafts nothing" in run(tmp_path, plan(entry(1, OFF, 1.0, 60.0)), file, expect=2)
    assert not (tmp_path / "validation.json").exists()


def test_two_runs_of_one_entry_are_refused(tmp_path: Path, planned: Plan) -> None:
    file = written(tmp_path / "bench.jsonl", bench(0.02, 2.0, 3.0), bench(0.02, 2.0, 3.0))
    assert "different entries" in run(tmp_path, planned, file, expect=2)


@pytest.mark.parametrize("text", ["", "{}", "[]", "nothing", '{"completed": 3}', '{"timings": {"predicted_n": 1}}'])
def test_a_file_without_a_benchmark_is_refused(tmp_path: Path, planned: Plan, text: str) -> None:
    file = tmp_path / "bench.json"
    file.write_text(text)
    assert "benchmark" in run(tmp_path, planned, file, expect=2)
    with pytest.raises(InvalidInputError):
        read_benchmarks([file])


def test_a_workload_must_be_named_where_the_plan_has_several(tmp_path: Path) -> None:
    made = plan(entry(1, CHAIN_3), entry(1, CHAIN_3, workload="code"))
    file = written(tmp_path / "bench.json", bench(0.02, 2.0, 3.0))
    assert "--workload" in run(tmp_path, made, file, expect=2)
    run(tmp_path, made, file, "--workload", "code")
    assert {row.workload for row in Validation.read(tmp_path / "validation.json").comparisons} == {"code"}


def test_a_run_record_is_still_validated_alone(tmp_path: Path, planned: Plan) -> None:
    record = examples.run_record(tmp_path / "run.json")
    other = run(tmp_path, planned, tmp_path / "run.json", expect=2)
    assert record.plan != planned.fingerprint()
    assert "must be a run of `plan`" in other
    assert "alone" in run(tmp_path, planned, tmp_path / "run.json", tmp_path / "run.json", expect=2)
