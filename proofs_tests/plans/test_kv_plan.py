"""Caches under load: bytes become rows, rows and reads become tokens a second, and the best of each load is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimizer.kv_plan import plan_caches
from proofs_tests.documents.documents_examples import STAMP
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.documents import Trace
from reader_theory.documents.kv_caches import KVCaches, MeasuredCache
from reader_theory.documents.kv_plan import KVPlan
from reader_theory.errors import DocumentError, InvalidInputError
from reader_theory.estimate import Estimate
from reader_theory.memory import KVFormat, Window, rows_admitted
from runtime.cli.main import app

VALUES, LAYERS = 1024, 4
PLAIN = KVFormat(name="plain", values_per_token=VALUES, token_bytes=4 * VALUES)
SMALL = KVFormat(
    name="int4", values_per_token=VALUES, token_bytes=4 * VALUES, window=Window(first=2, recent=8, chunk=8),
    chunk_bytes=8 * VALUES // 2 + 4 * VALUES, view_bytes=256,
)  # fmt: skip
DRAFT = KVFormat(name="plain", values_per_token=32, token_bytes=128)


def caches(read_s: float) -> KVCaches:
    one = Estimate.exact(1.0, "measured")
    told = [MeasuredCache(format=PLAIN, perplexity=one, perplexity_ratio=one)]
    told.append(
        MeasuredCache(format=SMALL, perplexity=one, perplexity_ratio=Estimate.exact(1.02, "measured"), read_s=read_s)
    )
    return KVCaches(
        stamp=STAMP, target="a/target", dtype="float32", layers=LAYERS, kv_heads=2, head_dim=64, tensors_sha256="",
        fitted_tokens=1, scored_tokens=1, context_tokens=1, caches=tuple(told), drafts={"draft": DRAFT},
    )  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return trace(tmp_path_factory.mktemp("kv") / "trace.json")


@pytest.fixture(scope="module")
def plan(recorded: Trace) -> KVPlan:
    return planned(recorded, 1e-9, (1, 4, 32))


def planned(recorded: Trace, read_s: float, loads: tuple[int, ...]) -> KVPlan:
    slots = max(prompt.prompt_tokens for prompt in recorded.prompts) + 48
    return plan_caches(
        fit(recorded), cost(), recorded, caches(read_s), kv_bytes=int(5.5 * (slots + 32) * 4 * VALUES), loads=loads,
        new_tokens=48, least_scratch=32, evaluations=60,
    )  # fmt: skip


def test_a_small_cache_wins_where_requests_wait_and_the_plain_one_where_all_fit(plan: KVPlan) -> None:
    found = {(point.load, point.cache): point for point in plan.points}
    assert found[1, "plain"].best and found[4, "plain"].best
    assert found[32, "int4"].best and not found[32, "plain"].best
    assert found[32, "plain"].rows == found[32, "plain"].most_rows < found[32, "int4"].rows
    for (load, _), point in found.items():
        assert point.rows == min(load, point.most_rows) and point.policy is not None


def test_a_cache_that_reads_slowly_never_wins(recorded: Trace) -> None:
    assert all(point.best == (point.cache == "plain") for point in planned(recorded, 1e-3, (1, 32)).points)


def test_rows_are_what_the_bytes_admit_under_the_points_own_policy(recorded: Trace, plan: KVPlan) -> None:
    told = {"plain": PLAIN, "int4": SMALL}
    longest = max(prompt.prompt_tokens for prompt in recorded.prompts) + 48
    for point in plan.points:
        assert point.policy is not None and point.tokens_per_s is not None
        slots = longest + max(32, 1 + point.policy.most_nodes)
        each = told[point.cache].row_bytes(slots) + DRAFT.row_bytes(slots)
        assert (
            point.most_rows == plan.kv_bytes // each == rows_admitted([told[point.cache], DRAFT], plan.kv_bytes, slots)
        )
        window = told[point.cache].window
        assert window is None or point.policy.most_nodes <= window.reach


def test_where_nothing_fits_there_is_no_policy(recorded: Trace) -> None:
    plan = plan_caches(
        fit(recorded), cost(), recorded, caches(0.0), kv_bytes=1000, loads=(2,), new_tokens=48, evaluations=60
    )
    assert [(point.rows, point.policy, point.best) for point in plan.points] == [(0, None, False)] * 2


def test_documents_that_do_not_belong_together_are_refused(recorded: Trace, tmp_path: Path) -> None:
    quantised = cost().model_copy(update={"kv": "int8"})
    with pytest.raises(InvalidInputError, match="plain cache"):
        plan_caches(fit(recorded), quantised, recorded, caches(0.0), kv_bytes=10**6, new_tokens=48)
    other = cost().model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(InvalidInputError, match=r"one dtype.*bfloat16.*reader kv fit --dtype bfloat16"):
        plan_caches(fit(recorded), other, recorded, caches(0.0), kv_bytes=10**6, new_tokens=48)
    with pytest.raises(InvalidInputError, match=r"there are plain, int4"):
        caches(0.0).cache("int3")
    fitted = fit(recorded)
    for bad in ({"workloads": ["odd"]}, {"loads": (0,)}, {"loads": ()}, {"new_tokens": 0}, {"risk": 2.0}):
        options: dict[str, Any] = {"kv_bytes": 10**6, "new_tokens": 48} | bad
        with pytest.raises(InvalidInputError, match=r"workload|loads"):
            plan_caches(fitted, cost(), recorded, caches(0.0), **options)
    path = caches(0.0).write(tmp_path / "kv.json")
    path.write_text(path.read_text().replace('"name": "int4"', '"name": "plain"'))
    with pytest.raises(DocumentError, match="a name each"):
        KVCaches.read(path)


@pytest.mark.slow
def test_the_command_writes_what_the_planner_finds(recorded: Trace, tmp_path: Path) -> None:
    fit(recorded).write(tmp_path / "fit.json")
    cost().write(tmp_path / "cost.json")
    caches(1e-9).write(tmp_path / "kv.json")
    held = trace(tmp_path / "trace.json")
    assert held.fingerprint() == recorded.fingerprint()
    words = ["plan", str(tmp_path / "fit.json"), str(tmp_path / "cost.json"), "--trace", str(tmp_path / "trace.json")]
    words += ["--batch", "2", "--json", "--output", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, [*words, "--kv-bytes", "4000000", "--kv", f"all={tmp_path / 'kv.json'}"])
    assert done.exit_code == 0, done.output
    points = KVPlan.read(tmp_path / "out.json").points
    assert [point.cache for point in points] == ["plain", "int4"]
    for stray in (["--kv", "all"], ["--kv-bytes", "4000000", "--rate", "1"]):
        refused = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "no.json"), *stray])
        assert refused.exit_code == 2 and not (tmp_path / "no.json").exists()
