"""No command line ends in a traceback: whatever a file, a document, an option or a path is, the answer is a message.

Kinds, not cases: each command that reads a file is given everything that a file may be; each document is damaged at
every leaf by every kind of value; numbers are given at their ends; outputs are put where nothing can be written.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from optimizer.imported_plan import plan_imported
from optimizer.plan import make_plan
from proofs_tests.importers.test_import_metrics import COUNTS, scrape
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.documents.imported import ImportedAcceptance
from runtime.cli.main import app

FINE = (0, 2, 3)
RNG = np.random.default_rng(5)


def ends_well(*words: object) -> str:
    """Run a command; fail unless it ends in success, in a message, or in "not met"."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    told = done.exception
    assert told is None or isinstance(told, SystemExit), f"{words}: {type(told).__name__}: {str(told)[:300]}"
    assert done.exit_code in FINE, f"{words}: {done.exit_code}"
    return done.output


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a document of each kind that needs no model."""
    folder = tmp_path_factory.mktemp("bad")
    recorded = trace(folder / "trace.json")
    recorded.write(folder / "trace.json")
    fitted, costs = fit(recorded), cost()
    fitted.write(folder / "fit.json")
    costs.write(folder / "cost.json")
    make_plan(fitted, costs, recorded, batches=(1,), max_nodes=3, max_depth=2, resamples=100).write(
        folder / "plan.json"
    )
    told = ImportedAcceptance.from_counts(COUNTS, engine="vllm", source="m")
    told.write(folder / "acceptance.json")
    plan_imported(told, costs, batches=(1,), drafter="draft").write(folder / "served.json")
    (folder / "metrics.txt").write_text(scrape(COUNTS[0]))
    (folder / "grid.toml").write_text('model = ["Qwen3-8B"]\ndrafter = ["none"]\ndevice = ["h100"]\nbatch = [1]\n')
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "steps.csv").write_text("batch,context,drafts,ms\n1,1000,0,45\n8,1000,3,60\n")
    (folder / "bench.json").write_text(json.dumps(BENCH))
    return folder


CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
          "intermediate_size": 128, "vocab_size": 1000}  # fmt: skip
BENCH = {"completed": 10, "median_itl_ms": 20.0, "total_input_tokens": 800, "total_output_tokens": 200,
         "request_throughput": 1.0, "mean_e2el_ms": 900.0, "request_rate": 1.0}  # fmt: skip

WRITES = ("plan", "fit", "cost", "import", "export", "watch", "validate")
OPTIONS = ["--batch", "1", "--resamples", "100", "--max-nodes", "3", "--max-depth", "2"]


def lines(folder: Path, out: Path) -> dict[str, list[object]]:
    """By name: a command line with FILE in the place of the file that is bad."""
    fine = {name: folder / f"{name}.json" for name in ("trace", "fit", "cost", "plan", "acceptance")}
    last = ["-o", out / "x.json"]
    planned = ["--trace", fine["trace"], *OPTIONS, *last]
    served = ["--model", "Qwen3-8B", "--draft", "ngram"]
    return {
        "show": ["show", "FILE"],
        "fit": ["fit", "FILE", "--resamples", "100", *last],
        "plan fit": ["plan", "FILE", fine["cost"], *planned],
        "plan cost": ["plan", fine["fit"], "FILE", *planned],
        "plan trace": ["plan", fine["fit"], fine["cost"], "--trace", "FILE", *OPTIONS, *last],
        "plan imported cost": ["plan", fine["acceptance"], "FILE", "--batch", "1", "--drafter", "draft", *last],
        "plan rate": ["plan", "FILE", fine["cost"], "--trace", fine["trace"], "--rate", "1", "--max-nodes", "2", *last],
        "plan datastore": ["plan", fine["fit"], fine["cost"], "--datastore", "FILE", *planned],
        "plan grid": ["plan", fine["fit"], "--grid", "FILE", "--workers", "1", "-o", out / "x.jsonl"],
        "plan grid fit": ["plan", "FILE", "--grid", folder / "grid.toml", "--workers", "1", "-o", out / "y.jsonl"],
        "export": ["export", "vllm", "FILE", *last],
        "import": ["import", "acceptance", "FILE", *last],
        "import prompts": ["import", "prompts", "FILE", "-o", out / "p.jsonl"],
        "cost model": ["cost", "--model", "FILE", "--batch", "1", "--context", "64", "--max-nodes", "2", *last],
        "cost draft": ["cost", "--model", "Qwen3-8B", "--draft", "FILE", "--batch", "1", "--context", "64", *last],
        "cost measured": ["cost", *served, "--measured", "FILE", "--batch", "1", "--context", "64", *last],
        "cost bench": ["cost", *served, "--bench", "FILE", "--batch", "1", "--context", "64", *last],
        "cost devices": ["cost", *served, "--device-file", "FILE", "--batch", "1", "--context", "64", *last],
        "advise": ["advise", "--engine", "vllm", *served, "--metrics", "FILE"],
        "latency": ["latency", "FILE"],
        "validate": ["validate", fine["plan"], "FILE", *last],
        "watch": ["watch", "FILE", "--prometheus", folder / "metrics.txt", "--once", *last],
        "watch metrics": ["watch", folder / "served.json", "--prometheus", "FILE", "--once", *last],
        "report": ["report", "FILE", fine["plan"], fine["plan"], "-o", out / "x.html"],
        "run": ["run", "FILE", *last],
        "sweep": ["sweep", "FILE", *last],
        "datastore show": ["datastore", "show", "FILE"],
    }


def bad_files(folder: Path) -> Iterator[Path]:
    """Everything that a file may be."""
    contents: dict[str, bytes] = {
        "empty.json": b"",
        "binary.json": bytes(RNG.integers(0, 256, 2000, dtype=np.uint8)),
        "latin.json": '{"kind": "plan", "x": "é"}'.encode("latin-1"),
        "deep.json": b"[" * 100_000 + b"]" * 100_000,
        "deep_object.json": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "list.json": b"[]",
        "number.json": b"1" * 6000,
        "string.json": b'"plan"',
        "null.json": b"null",
        "nan.json": b"NaN",
        "version.json": b'{"kind": "plan", "schema_version": ' + b"9" * 5000 + b"}",
        "kind_list.json": b'{"kind": ["plan"], "schema_version": 1}',
        "kind_deep.json": b'{"kind": {"a": 1}}',
        "half.json": b'{"kind": "plan", "entries": [',
        "gzip.json": b"\x1f\x8b\x08\x00damaged",
        "zeros.json": b"\x00" * 500,
        "words.txt": "one\ntwo \ud800".encode("utf-8", "surrogatepass"),
        "ragged.csv": b"batch,context,ms\n1,2\n1,2,3,4,5\n,,\n",
        "nan.csv": b"batch,context,ms\n1,1024,nan\n1,inf,3\n",
        "negative.csv": b"batch,context,ms\n-1,1024,4\n",
        "huge.csv": b"batch,context,ms\n1e308,1e308,1e308\n",
        "fraction.csv": b"batch,context,drafts,ms\n0.5,1024,0,4\n",
        "quote.csv": b'batch,context,ms\n"1,1024,4\n',
        "unknown.toml": b"[card]\npeak = 1\n",
        "axes.toml": b'model = [1]\ndevice = "h100"\nbatch = [0]\n',
        "repeated.toml": b'model = ["Qwen3-8B", "Qwen3-8B"]\ndevice = ["h100"]\nbatch = [1]\n',
        "dates.toml": b"model = 2020-01-01\n",
        "counter.txt": b'vllm:spec_decode_num_drafts_total{engine="0"} nan\n',
        "infinite.txt": scrape(COUNTS[0]).replace("1000.0", "+Inf").encode(),
        "negative.txt": scrape(COUNTS[0]).replace("1000.0", "-5").encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "dangling.json").symlink_to(folder / "nowhere")
    yield from (folder / name for name in ("folder.json", "loop.json", "dangling.json", "nowhere.json"))
    yield from (folder / ("a" * 300 + ".json"), Path("/dev/null"), Path("/"), folder / "empty.json" / "x.json")
    yield from (Path(), folder / "né\n.json", Path("~"), Path("x\x00.json"))


@pytest.mark.parametrize("share", [0.05, pytest.param(1.0, marks=pytest.mark.slow)])
def test_every_command_survives_everything_that_a_file_may_be(house: Path, tmp_path: Path, share: float) -> None:
    (tmp_path / "files").mkdir()
    rng = np.random.default_rng(11)
    files = list(bad_files(tmp_path / "files"))
    names = (
        "trace.json fit.json cost.json plan.json acceptance.json metrics.txt config.json steps.csv bench.json grid.toml"
    )
    wrong = [house / name for name in names.split()]
    for line in lines(house, tmp_path).values():
        for file in [*files, *wrong]:
            if rng.random() > share:
                continue
            ends_well(*(file if word == "FILE" else word for word in line))


WEIRD: tuple[Any, ...] = (
    None, True, "x", "", -1, 0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308, 10**30, 10**400, [], {}, [[]],
    [[1], [2, 3]], ["x"], {"a": 1}, "né\n", [None], [float("nan")],
)  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of a document: of long lists the first and the last."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from leaves(value[index], (*path, index))


def damaged(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("times", [12, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["fit", "cost", "plan", "acceptance", "trace", "config", "bench"])
def test_a_document_may_be_damaged_anywhere(house: Path, tmp_path: Path, name: str, times: int) -> None:
    """A sample of every leaf by every value: read, and used, it is refused or it is right."""
    document = json.loads((house / f"{name}.json").read_text())
    places = list(leaves(document))
    rng = np.random.default_rng(len(name))
    uses = {"fit": ("plan fit",), "cost": ("plan cost", "plan imported cost"), "plan": ("export",), "trace": ("fit",),
            "acceptance": (), "config": ("cost model",), "bench": ("cost bench", "latency")}[name]  # fmt: skip
    beside = house / "trace.parquet"
    for _ in range(times):
        path, value = places[rng.integers(len(places))], WEIRD[rng.integers(len(WEIRD))]
        bad = tmp_path / f"{name}.json"
        bad.write_text(json.dumps(damaged(document, path, value)))
        if name == "trace" and beside.exists():
            (tmp_path / beside.name).write_bytes(beside.read_bytes())
        known = lines(house, tmp_path)
        ends_well(*(bad if word == "FILE" else word for word in known["show"]))
        for use in uses:
            ends_well(*(bad if word == "FILE" else word for word in known[use]))
        if name == "acceptance":
            ends_well("plan", bad, house / "cost.json", "--drafter", "draft", "--batch", "1", "-o", tmp_path / "x.json")


NUMBERS = ("0", "-1", "1e400", "nan", "inf", "1.5", "x", "", str(10**30), "9" * 5000)


@pytest.mark.parametrize(
    "line",
    [
        "plan FIT COST --trace TRACE --batch N",
        "plan FIT COST --trace TRACE --context N",
        "plan FIT COST --trace TRACE --resamples N",
        "plan FIT COST --trace TRACE --prompts-per-workload N --batch 1",
        "plan FIT COST --trace TRACE --rate N --max-nodes 2",
        "plan FIT COST --trace TRACE --rate 1 --slo N --max-nodes 2",
        "plan FIT COST --trace TRACE --rate 1 --kv-tokens N --max-nodes 2",
        "plan FIT --grid GRID --workers N -o OUTL",
        "plan FIT COST --trace TRACE --new-tokens N --batch 1",
        "plan FIT COST --trace TRACE --seed N --batch 1",
        "plan ACC COST --drafter draft --rate N",
        "plan ACC COST --drafter draft --batch 1 --context N",
        "plan ACC COST --drafter draft --resamples N --batch 1",
        "plan ACC COST --drafter draft --max-depth N --batch 1",
        "plan ACC COST --drafter N",
        "plan ACC COST --drafter draft --seed N --batch 1",
        "fit TRACE --depth N",
        "fit TRACE --level N",
        "fit TRACE --resamples N",
        "fit TRACE --seed N",
        "export vllm PLAN --batch N",
        "export vllm PLAN --max-batch N",
        "export vllm PLAN --context N",
        "export N PLAN",
        "export vllm PLAN --workload N",
        "export vllm PLAN --method N",
        "cost --model Qwen3-8B --max-nodes N --batch 1 --context 64",
        "cost --model Qwen3-8B --batch N --context 64",
        "cost --model Qwen3-8B --batch 1 --context N",
        "cost --model Qwen3-8B --tensor-parallel N --batch 1 --context 64",
        "cost --model Qwen3-8B --memory-share N --batch 1 --context 64",
        "cost --model Qwen3-8B --kv-tokens N --batch 1 --context 64",
        "cost --model N --batch 1 --context 64",
        "cost --model Qwen3-8B --device N",
        "cost --model Qwen3-8B --dtype N",
        "cost --model Qwen3-8B --quantization N",
        "cost --model Qwen3-8B --kv-dtype N",
        "import vllm METRICS --num-steps N",
        "import N METRICS",
        "import vllm METRICS --only N",
        "advise --engine vllm --model Qwen3-8B --draft ngram --metrics METRICS --rate N",
        "watch SERVED --prometheus METRICS --once --every N",
        "watch SERVED --prometheus METRICS --once --refit-drafts N",
        "watch SERVED --prometheus METRICS --once --half-life N",
        "watch SERVED --prometheus METRICS --once --off-loss N",
        "watch SERVED --prometheus METRICS --once --kv-tokens N",
        "watch SERVED --prometheus METRICS --once --context N",
        "watch SERVED --prometheus METRICS --once --only N",
        "watch SERVED --prometheus N --once",
        "validate SERVED BENCH --batch N",
        "advise --engine N --model Qwen3-8B --draft ngram --metrics METRICS",
        "advise --engine vllm --model Qwen3-8B --draft ngram --metrics METRICS --num-steps N",
        "latency BENCH --drafted N",
        "latency BENCH --rate N",
        "N",
        "show N",
        "inflate N",
        "fetch N --revision N",
    ],
)
def test_every_number_may_be_anything(house: Path, tmp_path: Path, line: str) -> None:
    names = {"FIT": "fit.json", "COST": "cost.json", "TRACE": "trace.json", "PLAN": "plan.json", "GRID": "grid.toml",
             "ACC": "acceptance.json", "METRICS": "metrics.txt", "BENCH": "bench.json",
             "SERVED": "served.json"}  # fmt: skip
    where = {name: str(house / file) for name, file in names.items()} | {"OUTL": str(tmp_path / "x.jsonl")}
    words = [where.get(word, word) for word in line.split()]
    small = ["--max-nodes", "2"] if words[0] == "plan" and "--trace" in words and "--max-nodes" not in words else []
    last = ["-o", str(tmp_path / "x.json")] if words[0] in WRITES else []
    rng = np.random.default_rng(len(line))
    for number in rng.permutation(NUMBERS)[:5]:
        asked = [str(number) if word == "N" else word for word in words]
        if "--resamples" in words and number == str(10**30):
            continue  # refused by memory alone
        ends_well(*asked, *small, *(() if "-o" in words else last))


@pytest.mark.parametrize(
    "command", ["plan", "fit", "cost", "export", "import", "report", "record", "run", "calibrate", "watch", "validate"]
)
def test_every_output_is_checked_before_the_work(house: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "taken.json").mkdir()
    (tmp_path / "file").write_text("mine")
    line: list[object] = {
        "plan": ["plan", house / "fit.json", house / "cost.json", "--trace", house / "trace.json", *OPTIONS],
        "fit": ["fit", house / "trace.json", "--resamples", "100"],
        "cost": ["cost", "--model", "Qwen3-8B", "--batch", "1", "--context", "64", "--max-nodes", "2"],
        "export": ["export", "vllm", house / "plan.json", "--nearest"],
        "import": ["import", "vllm", house / "metrics.txt"],
        "report": ["report", house / "plan.json", house / "plan.json", house / "plan.json"],
        "record": ["record"],
        "run": ["run", house / "plan.json"],
        "calibrate": ["calibrate"],
        "watch": ["watch", house / "served.json", "--prometheus", house / "metrics.txt", "--once"],
        "validate": ["validate", house / "served.json", house / "bench.json"],
    }[command]
    outputs = ["x.txt", "x", "", ".", "taken.json", "file/x.json", "a" * 300 + ".json", "/proc/x.json",
               "/dev/full", "x\x00.json", "/proc/self/mem.json", "a" * 300 + "/x.json"]  # fmt: skip
    for output in outputs:
        told = ends_well(*line, "-o", output if os.path.isabs(output) or not output else f"{tmp_path}/{output}")
        assert "traceback" not in told.lower()
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]


def test_a_grid_never_touches_a_file_that_is_not_its_own(house: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    for content in ('{"note": "mine"}\nhalf a line', "plain\ntext", '{"key": 1}\n', "[1]\n", "\n", '{"key": "k"}\n',
                    '{"key": "k", "result": {}, "cell": 3}\n'):  # fmt: skip
        notes.write_text(content)
        told = ends_well("plan", house / "fit.json", "--grid", house / "grid.toml", "--workers", "1", "-o", notes)
        assert notes.read_text() == content and "not written by" in told


@pytest.mark.slow
def test_a_scheduler_that_is_dead_is_said_to_be(house: Path, tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:9", "nowhere", "tcp://", "x://y", ""):
        ends_well("plan", house / "fit.json", "--grid", house / "grid.toml", "--scheduler", address,
                  "-o", tmp_path / "x.jsonl")  # fmt: skip
