"""From what a user has to a plan: metrics, a configuration and a card, by the commands of the README."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.importers.test_import_metrics import COUNTS, scrape
from reader_theory.documents import Cost, Plan
from reader_theory.documents.serving_schedule import ServingSchedule
from runtime.cli.main import app

ROOT = Path(__file__).parents[2]
EAGLE = ["--model", "Qwen3-32B", "--draft", "Qwen3-32B-speculator.eagle3", "--device", "h100"]


def reader(*words: str, expect: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return done.output


def commands(file: str, first: str) -> list[list[str]]:
    """The lines of the shell block of a file that begins with `first`."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    (block,) = [each for each in blocks if each.startswith(first)]
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]


def test_the_four_commands_of_the_readme_end_in_what_vllm_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    lines = commands("README.md", "reader import vllm")
    assert [line[0] for line in lines] == ["import", "cost", "plan", "export"]
    outputs = [reader(*line) for line in lines]
    plan = Plan.read(tmp_path / "out/served.json")
    assert [entry.batch for entry in plan.entries] == [1, 16] and plan.device == "H100-SXM"
    for entry in plan.entries:
        told = entry.prediction.speed_up
        assert entry.policy.name == "chain 3" and 1.5 < told.low < told.value < told.high < 3
    pasted = json.loads(shlex.split(outputs[-1].split("--speculative-config")[1])[0])
    assert pasted == {"num_speculative_tokens": 3, "method": "eagle3", "model": "Qwen3-32B-speculator.eagle3"}


def test_the_one_command_of_the_docs_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    (line,) = commands("docs/serving.md", "reader advise")
    printed = reader(*line)
    for part in ("paste: vllm serve", "gain:", "memory:", "what would change the answer", "acceptance -10 %", "note:"):
        assert part in printed
    told: dict[str, Any] = json.loads(reader(*line, "--json"))
    assert told["config"]["num_speculative_tokens"] == 3 and told["why_off"] is None
    assert told["speed_up"]["low"] < told["speed_up"]["value"] < told["speed_up"]["high"]
    assert told["memory"]["kv_tokens"] < told["memory"]["kv_tokens_off"]
    changes = {row["what"]: row for row in told["changes"]}
    lower, higher = (changes[f"acceptance {sign}10 %"]["speed_up"]["value"] for sign in "-+")
    assert lower < told["speed_up"]["value"] < higher


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.txt"
    path.write_text(scrape(COUNTS[0]))
    return path


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp"])
@pytest.mark.parametrize("draft", ["ngram", "suffix", "Qwen3-0.6B"])
def test_every_engine_and_kind_of_drafter_is_advised_on(metrics: Path, engine: str, draft: str) -> None:
    words = ["--engine", engine, "--model", "Qwen3-8B", "--draft", draft, "--metrics", str(metrics), "--json"]
    told = json.loads(reader("advise", *words, "--rate", "0.5"))
    assert told["paste"] and told["policy"] != "off" and told["batch"] >= 1


def test_off_says_why(tmp_path: Path) -> None:
    path = tmp_path / "poor.txt"
    path.write_text(scrape(COUNTS[0] * 0 + [1000, 20, 1, 0]))
    printed = reader("advise", "--engine", "vllm", *EAGLE, "--metrics", str(path), expect=3)
    assert "off:" in printed and "drafting is advised from" in printed and "the plan drafts nothing" in printed


def test_measured_steps_are_what_the_cost_says_there(tmp_path: Path) -> None:
    table = tmp_path / "steps.csv"
    table.write_text("batch,context,drafts,ms\n1,1000,0,45\n8,1000,0,47\n8,1000,4,60\n32,1000,4,88\n")
    out = str(tmp_path / "cost.json")
    reader("cost", *EAGLE, "--measured", str(table), "-o", out)
    cost = Cost.read(out)
    plain = cost.target_forward.at([1, 8], [1, 1], [1000, 1000])
    assert plain == pytest.approx([0.045, 0.047], rel=0.04)
    assert cost.target_forward.origin == "fitted"


def test_a_benchmark_gives_its_median_gap(tmp_path: Path) -> None:
    result = {"completed": 100, "median_itl_ms": 40.0, "total_input_tokens": 80_000, "total_output_tokens": 20_000,
              "request_throughput": 0.5, "mean_e2el_ms": 8000.0}  # fmt: skip
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(result))
    out = str(tmp_path / "cost.json")
    reader("cost", *EAGLE, "--bench", str(bench), "-o", out)
    assert float(Cost.read(out).target_forward.at(4, 1, 900)) == pytest.approx(0.04, rel=0.04)


def test_a_rate_gives_a_schedule_that_every_engine_takes(tmp_path: Path, metrics: Path) -> None:
    told, cost, schedule = (str(tmp_path / f"{name}.json") for name in ("acceptance", "cost", "schedule"))
    reader("import", "vllm", str(metrics), "-o", told)
    reader("cost", *EAGLE, "--batch", "1", "--batch", "32", "--context", "1024", "--max-nodes", "8", "-o", cost)
    reader("plan", told, cost, "--rate", "0.5", "-o", schedule)
    assert ServingSchedule.read(schedule).points[0].sustained
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        assert reader("export", engine, schedule, "--nearest", "-o", str(tmp_path / f"{engine}.json"))
