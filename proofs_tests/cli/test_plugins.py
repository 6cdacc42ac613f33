"""Third parties by a real entry point: five kinds of one file each, found by `reader` alone, from record to export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import save_model, save_pair, save_prompts
from proofs_tests.cli.plugin import MODULES, install
from reader_theory.documents import Cost, Plan, RunRecord, Trace
from runtime.cli.main import app

STAGES = """
import json, sys
from typer.testing import CliRunner
from runtime.cli.main import app

told = {}
for name, words in json.loads(sys.argv[1]).items():
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{name}: {done.output} {done.exception!r}"
    told[name] = done.stdout
from reader_theory.documents import Static
from reader_theory.rules import RULES
from reader_theory.rules.battery import check_rule
from reader_theory.trees import TokenTree
from runtime.drafters.base import DRAFTERS
from runtime.drafters.battery import check_drafter

check_rule(RULES["cautious"])
check_drafter(lambda: DRAFTERS["echo"].load("2"), Static.of(TokenTree.chain(4), "echo"), 64)
print(json.dumps(told))
"""


def reader(folder: Path, *words: str, code: int = 0) -> str:
    """What `reader` prints where only the environment says that the distribution is there."""
    done = _python(folder, "-m", "runtime.cli.main", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(folder), *(each for each in sys.path if each)]
    asked = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=asked, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which every stage has run in one process that found the plugins by their entry points."""
    folder = tmp_path_factory.mktemp("plugins")
    install(folder / "site")
    target, draft = save_pair(folder)
    prompts = ["--prompts", str(save_prompts(folder / "prompts.jsonl", 2)), "--workload", "code"]
    models = ["--target", str(target), "--draft", f"small={draft}", "--draft", "mirror=echo:1", *prompts]
    grid = ["--batch", "1", "--batch", "2", "--tokens", "1", "--tokens", "4", "--context", "32", "--context", "96"]
    only = ["--processor", "only:100-104"]
    planned = ["plan", "fit.json", "cost.json", "--trace", "trace.json", "--resamples", "100"]
    stages = {
        "record": ["record", *models, *only, "--new-tokens", "12", "--output", "trace.json"],
        "fit": ["fit", "trace.json", "--resamples", "100", "--output", "fit.json"],
        "calibrate": ["calibrate", *models, *grid, "--seconds", "0.05", "--output", "cost.json"],
        "plan": [*planned, "--batch", "2", "--max-nodes", "4", "--max-depth", "3", "--output", "plan.json"],
        "again": [*planned, "--batch", "1", "--max-nodes", "4", "--max-depth", "3", "--output", "again.json"],
        "run": ["run", "plan.json", *prompts, *only, "--temperature", "0.7", "--verification", "cautious", "--output",
                "run.json"],
        "validate": ["validate", "plan.json", "run.json", "--output", "validation.json"],
        "report": ["report", "plan.json", "run.json", "validation.json", "--fit", "fit.json", "--cost", "cost.json",
                   "--trace", "trace.json", "--output", "report.html"],
        "export": ["export", "abacus", "plan.json", "--batch", "2", "--output", "abacus.json"],
    }  # fmt: skip
    words = {
        stage: [*(str(folder / w) if w.endswith((".json", ".html")) else w for w in arguments), "--json"]
        for stage, arguments in stages.items()
    }
    done = _python(folder / "site", "-c", STAGES, json.dumps(words))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, {name: json.loads(text) for name, text in json.loads(done.stdout.splitlines()[-1]).items()}


def test_a_strangers_drafter_is_recorded_priced_planned_and_reported(made: Any) -> None:
    folder, _ = made
    trace, cost, plan = (kind.read(folder / name) for kind, name in _DOCUMENTS)
    assert trace.drafters["mirror"].model == plan.drafters["mirror"] == "echo:1"
    assert (trace.drafters["mirror"].kind, trace.drafters["mirror"].forwards.kind) == ("block", "lookup")
    assert cost.drafters["mirror"].row_s.value > 0
    (entry,) = plan.entries
    assert {"small", "mirror", "off"} <= entry.alternatives.keys(), "the others are told beside the choice"
    assert "mirror" in (folder / "report.html").read_text()


def test_a_strangers_term_prices_the_drafter_that_names_it(made: Any) -> None:
    folder, told = made
    cost = Cost.read(folder / "cost.json")
    assert cost.drafters["mirror"].term == "by_the_row"
    assert all(_PRICE in row for row in told["again"]["rows"])
    entry = Plan.read(folder / "again.json").entries[0]
    assert "mirror" in entry.prediction.terms_s


def test_a_strangers_processor_and_rule_hold_in_the_run(made: Any) -> None:
    folder, _ = made
    trace, record = Trace.read(folder / "trace.json"), RunRecord.read(folder / "run.json")
    assert set(trace.columns["token"].tolist()) <= set(range(100, 104))
    assert record.verification == "cautious" and record.lossless
    assert all(cell.lossless in ("sampled", "not_checked") for cell in record.cells)
    assert "cautious" in (folder / "report.html").read_text()


def test_a_strangers_exporter_writes_the_plan(made: Any) -> None:
    folder, _ = made
    told = json.loads((folder / "abacus.json").read_text())
    assert told["drafter"] == Plan.read(folder / "plan.json").entries[0].policy.drafted_by


_DOCUMENTS: list[tuple[Any, str]] = [(Trace, "trace.json"), (Cost, "cost.json"), (Plan, "plan.json")]
_PRICE = "with_mirror_tokens_per_s"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise RuntimeError('on purpose')", 2, "strange-reader: RuntimeError: on purpose"),
        ("import strange.missing", 2, "must be one that can be imported"),
        ("import a_library_that_nobody_has", 2, "there must be a exporter of that name"),
        ("from reader_theory.rules import RULES\nRULES['chain']\nRULES.names", 2, "there must be a exporter"),
    ],
)
def test_a_plugin_that_fails_is_named_and_one_that_lacks_a_library_is_left_out(
    tmp_path: Path, text: str, code: int, said: str
) -> None:
    install(tmp_path / "site", {"broken": text})
    assert said in reader(tmp_path / "site", "export", "nobody", code=code)


def test_a_drafter_that_nobody_adds_is_refused_before_a_model_is_used(tmp_path: Path) -> None:
    """Without the distribution, the same words are bad input; so is a source that its class cannot take."""
    target = save_model(tmp_path / "model", 1, 16)
    words = ["record", "--target", str(target), "--prompts", str(save_prompts(tmp_path / "p.jsonl", 1))]
    for source, said in (("echo:1", "there must be a drafter of that name"), ("retrieval:x", "what `--draft` names")):
        done = CliRunner().invoke(app, [*words, "--draft", f"m={source}"])
        assert done.exit_code == 2 and said in done.stderr
    assert len(MODULES) == 5
