"""Our stat logger and scheduler for vLLM: driven in its call shapes, and, where `make engines` was run, in vLLM."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import scipy

from proofs_tests.house.test_house_rules import HOUSE
from proofs_tests.live.test_watch_cli import planned
from reader_theory.errors import InvalidInputError
from runtime.live.followed import FollowedSchedule
from runtime.live.settings import live_settings
from runtime.live.tally import Tally

ENGINES = HOUSE / ".venv-engines"
MODEL = HOUSE / "out/models/smollm2"
WHEEL = next(iter(ENGINES.glob("lib/python3*/site-packages/vllm")), None)
wheel = pytest.mark.skipif(WHEEL is None, reason="vLLM is not installed in .venv-engines: `make engines`")


@dataclass
class SpecStats:
    """The fields of vLLM's `SpecDecodingStats` that are read."""

    num_spec_tokens: int = 3
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list[int])
    num_draft_tokens_per_pos: list[int] = field(default_factory=list[int])


@dataclass
class Stats:
    """Those of its `SchedulerStats`."""

    num_running_reqs: int = 0
    kv_cache_usage: float = 0.0
    spec_decoding_stats: SpecStats | None = None


class Base:
    """Stands for `StatLoggerBase`."""


class Scheduler:
    """Stands for vLLM's: a table, and steps that look it up."""

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config, self.scheduler_config = vllm_config, vllm_config.scheduler_config
        self.num_spec_tokens, self.dynamic_sd_lookup = 3, vllm_config.lookup

    def schedule(self, rows: int) -> int:
        return self.dynamic_sd_lookup[rows]


def dense(ranges: list[tuple[int, int, int]], vllm_max_batch_size: int, vllm_num_speculative_tokens: int) -> list[int]:
    """Stands for vLLM's `build_dynamic_sd_schedule_lookup`."""
    lengths = [next((k for a, b, k in ranges if a <= n <= b), ranges[-1][2]) for n in range(1, vllm_max_batch_size + 1)]
    return [0, *(min(k, vllm_num_speculative_tokens) for k in lengths)]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of vLLM with what ours import of them."""
    told = {
        "vllm.v1.metrics.loggers": {"StatLoggerBase": Base},
        "vllm.v1.core.sched.scheduler": {"Scheduler": Scheduler},
        "vllm.v1.core.sched.async_scheduler": {"AsyncScheduler": type("AsyncScheduler", (Scheduler,), {})},
        "vllm.v1.spec_decode.dynamic.utils": {"build_dynamic_sd_schedule_lookup": dense},
    }
    for name, members in told.items():
        parts = name.split(".")
        for i in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for ours in ("vllm_stats", "vllm_scheduler"):
        monkeypatch.delitem(sys.modules, f"runtime.live.{ours}", raising=False)


def config(reader: Any, lookup: list[int] | None = None) -> Any:
    scheduling = SimpleNamespace(max_num_seqs=64)
    return SimpleNamespace(
        additional_config={} if reader is None else {"reader": reader}, scheduler_config=scheduling, lookup=lookup
    )


def step(rows: int = 4, length: int = 3) -> Stats:
    """A step in which drafts of 4 rows are accepted to depth 3, 3, 2, 0."""
    accepted = [3, 3, 2][:length]
    return Stats(rows, 0.1, SpecStats(3, rows, rows * length, sum(accepted), [*accepted, *[0] * (3 - length)],
                                      [*[rows] * length, *[0] * (3 - length)]))  # fmt: skip


@pytest.mark.usefixtures("vllm")
def test_the_logger_writes_the_plan_at_the_start_and_what_it_counts_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = import_module("runtime.live.vllm_stats")
    clock = [0.0]
    monkeypatch.setattr(stats, "monotonic", lambda: clock[0])
    schedule = tmp_path / "schedule.json"
    plan = planned(0.3).write(tmp_path / "plan.json")
    settings = {"plan": str(plan), "schedule": str(schedule), "refit_drafts": 4000, "rest_s": 0, "switch_s": 0,
                "context": 16}  # fmt: skip
    logger = stats.ScheduleLogger(config(settings), 0)
    logger.log_engine_initialized()
    before = json.loads(schedule.read_text())["num_speculative_tokens_per_batch_size"]
    for _ in range(3000):
        clock[0] += 0.01
        logger.record(scheduler_stats=step(), iteration_stats=None, mm_cache_stats=None, engine_idx=0)
    logger.record(None, None)
    after = json.loads(schedule.read_text())["num_speculative_tokens_per_batch_size"]
    assert before != after and after[-1][2] == 3
    assert logger.tally.steps < 600, "sums begin anew with every look"


@pytest.mark.usefixtures("vllm")
def test_a_schedule_that_cannot_be_written_ends_no_engine_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stats = import_module("runtime.live.vllm_stats")
    clock = [0.0]
    monkeypatch.setattr(stats, "monotonic", lambda: clock[0])
    (tmp_path / "held").write_text("a file where the folder should be")
    schedule, plan = tmp_path / "held" / "schedule.json", planned(0.3).write(tmp_path / "plan.json")
    logger = stats.ScheduleLogger(config({"plan": str(plan), "schedule": str(schedule)}), 0)
    logger.log_engine_initialized()
    assert "was not written" in caplog.text
    (tmp_path / "held").unlink()
    (tmp_path / "held").mkdir()
    clock[0] += 10.0
    logger.record(step(), None)
    assert json.loads(schedule.read_text())["num_speculative_tokens"] >= 1


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("reader", "engine"), [(None, 0), ({"schedule": "s.json"}, 0), ({"schedule": "s", "plan": "p"}, 1)]
)
def test_the_logger_does_nothing_unless_it_is_told_to(reader: Any, engine: int) -> None:
    logger = import_module("runtime.live.vllm_stats").ScheduleLogger(config(reader), engine)
    logger.log_engine_initialized()
    logger.record(step(), None)
    assert logger.settings is None


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("kind", ["LiveScheduler", "LiveAsyncScheduler"])
def test_the_scheduler_follows_the_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("runtime.live.vllm_scheduler")
    clock = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    path = tmp_path / "schedule.json"
    scheduler = getattr(module, kind)(config({"schedule": str(path)}, [0] + [2] * 64))
    assert scheduler.schedule(8) == 2, "no file yet"
    for told, rows, wanted in (
        ([[1, 4, 3], [5, 64, 0]], 8, 0), ([[1, 64, 9]], 8, 3), ("nonsense", 8, 3), ([[2, 4, 1]], 8, 3),
    ):  # fmt: skip
        path.write_text(json.dumps({"num_speculative_tokens_per_batch_size": told}))
        clock[0] += 10.0
        assert scheduler.schedule(rows) == wanted
    path.unlink()
    clock[0] += 10.0
    assert scheduler.schedule(8) == 3


@pytest.mark.usefixtures("vllm")
def test_a_scheduler_without_a_schedule_to_start_from_is_refused(tmp_path: Path) -> None:
    module = import_module("runtime.live.vllm_scheduler")
    for told in (config({"schedule": "s.json"}, None), config(None, [0, 1])):
        with pytest.raises(InvalidInputError, match="schedule to start from"):
            module.LiveScheduler(told)


def test_settings_that_are_none_are_refused_and_others_are_left_alone() -> None:
    assert live_settings({}) is None and live_settings("x") is None and live_settings({"other": 1}) is None
    for bad in ({}, {"schedule": "s", "unknown": 1}, {"schedule": "s", "off_loss": 2.0}, 3):
        with pytest.raises(InvalidInputError, match="settings of a watch"):
            live_settings({"reader": bad})


def test_a_file_is_read_when_it_changes_and_not_oftener_than_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text('{"num_speculative_tokens_per_batch_size": [[1, 8, 2]]}')
    followed = FollowedSchedule(path, 5.0)
    assert followed.changed(0.0) == [[1, 8, 2]]
    path.write_text('{"num_speculative_tokens_per_batch_size": [[1, 8, 3]], "more": 1}')
    assert followed.changed(4.0) is None
    assert followed.changed(6.0) == [[1, 8, 3]]
    assert followed.changed(12.0) is None


def test_a_trial_is_followed_once_and_ends_by_itself(tmp_path: Path) -> None:
    path, ranges = tmp_path / "schedule.json", "num_speculative_tokens_per_batch_size"
    followed = FollowedSchedule(path, 5.0)
    trial = {"number": 1, "seconds": 30.0, ranges: [[1, 8, 2]]}
    path.write_text(json.dumps({ranges: [[1, 8, 0]], "trial": trial}))
    assert followed.changed(0.0) == [[1, 8, 2]]
    assert followed.changed(29.0) is None
    assert followed.changed(30.0) == [[1, 8, 0]]
    path.write_text(json.dumps({ranges: [[1, 8, 0]], "trial": trial, "again": 1}))
    assert followed.changed(60.0) == [[1, 8, 0]], "the same trial is over"
    path.write_text(json.dumps({ranges: [[1, 8, 0]], "trial": trial | {"number": 2}}))
    assert followed.changed(70.0) == [[1, 8, 2]]
    path.write_text(json.dumps({ranges: [[1, 8, 5]]}))
    assert followed.changed(80.0) == [[1, 8, 5]], "a new schedule ends a trial"
    assert followed.changed(200.0) is None
    path.write_text(json.dumps({ranges: [[1, 8, 5]], "trial": trial}))
    assert followed.changed(210.0) == [[1, 8, 2]], "whoever writes began anew, and so do its numbers"
    for bad in ({}, {**trial, "seconds": 1e9}, {**trial, "number": "x"}, {**trial, ranges: [[2, 1, 0]]}, 3):
        path.write_text(json.dumps({ranges: [[1, 8, 4]], "trial": bad}))
        assert FollowedSchedule(path, 5.0).changed(0.0) == [[1, 8, 4]]


def test_steps_of_one_length_are_added_up_apart_from_others() -> None:
    tally = Tally()
    for _ in range(5):
        told = step().spec_decoding_stats
        assert told is not None
        tally.step(4, 0.2)
        tally.drafted(told.num_drafts, told.num_draft_tokens_per_pos, told.num_accepted_tokens_per_pos)
        tally.drafted(2, [2, 0, 0], [1, 0, 0])
        tally.drafted(0, [], [])
    windows, rows, cache = tally.taken()
    assert {len(w.accepted): (w.steps, list(w.accepted)) for w in windows} == {3: (20, [15, 15, 10]), 1: (10, [5])}
    assert (rows, cache) == pytest.approx((4.0, 0.2))
    assert tally.taken() == ([], 0.0, 0.0)


def fields_of(file: str, name: str) -> set[str]:
    """Annotated fields of a class in vLLM's source."""
    assert WHEEL is not None, "skipped otherwise"
    tree = ast.parse((WHEEL / file).read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def arguments_of(file: str, owner: str | None, name: str) -> list[str]:
    assert WHEEL is not None, "skipped otherwise"
    tree: ast.AST = ast.parse((WHEEL / file).read_text())
    if owner is not None:
        tree = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner)
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    return [each.arg for each in found.args.args]


@wheel
def test_the_installed_vllm_has_the_call_shapes_that_are_driven_here() -> None:
    assert {each for each in vars(Stats())} <= fields_of("v1/metrics/stats.py", "SchedulerStats")
    assert {each for each in vars(SpecStats())} == fields_of("v1/spec_decode/metrics.py", "SpecDecodingStats")
    loggers = "v1/metrics/loggers.py"
    assert arguments_of(loggers, "StatLoggerBase", "__init__") == ["self", "vllm_config", "engine_index"]
    assert arguments_of(loggers, "StatLoggerBase", "record") == [
        "self", "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx",
    ]  # fmt: skip
    lookup = arguments_of("v1/spec_decode/dynamic/utils.py", None, "build_dynamic_sd_schedule_lookup")
    assert lookup[1:] == ["vllm_max_batch_size", "vllm_num_speculative_tokens"]
    source = (WHEEL or Path()) / "v1/core/sched/scheduler.py"
    assert "self.dynamic_sd_lookup[" in source.read_text(), "the table is looked up at every step"


@wheel
@pytest.mark.slow
@pytest.mark.skipif(not MODEL.is_dir(), reason="no SmolLM2: `reader fetch smollm2`")
def test_vllm_itself_drafts_what_the_watch_says(tmp_path: Path) -> None:
    """An n-gram drafter on text that repeats, planned as hardly ever right: it drafts longer, and vLLM follows."""
    plan = planned(0.3).write(tmp_path / "plan.json")
    points = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "site" / "reader_theory-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reader-theory\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "\n".join(f"{n} = {v}" for n, v in each.items()) for group, each in points.items())
    )
    for needed in (p for p in Path(scipy.__file__).parents[1].glob("scipy*") if p.name in ("scipy", "scipy.libs")):
        (info.parent / needed.name).symlink_to(needed)  # ours needs it, vLLM does not
    path = os.pathsep.join([str(HOUSE), str(info.parent)])
    done = subprocess.run(
        [ENGINES / "bin/python", Path(__file__).with_name("vllm_worker.py"), MODEL, plan, tmp_path],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "\n@@" in done.stdout, done.stderr[-3000:]
    told = json.loads(done.stdout.split("\n@@")[1].split("\n")[0])
    assert told["ended"] != told["started"] and told["ended"][-1][2] == 3
    assert told["table"][3] == 3, "the scheduler's own table is what the file says"
    assert set(told["lengths"].values()) == {160}
