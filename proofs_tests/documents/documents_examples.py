"""Small documents of every kind, for tests that need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import (
    DRAFTER_COLUMNS,
    RUN_COLUMNS,
    TRACE_COLUMNS,
    Candidate,
    Chain,
    Comparison,
    Cost,
    CostTable,
    Document,
    DrafterCost,
    Grown,
    GrownRecord,
    Off,
    Plan,
    PlanEntry,
    Policy,
    Prediction,
    RequestRecord,
    RunCell,
    RunRecord,
    SourceMap,
    Stamp,
    Static,
    Trace,
    TraceDrafter,
    TracePrompt,
    Validation,
    policy_of,
)
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.documents.serving_schedule import OperatingPoint, ScheduleCell, ServingSchedule
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

DRAFTERS = {
    "draft": TraceDrafter(kind="model", model="a/draft", candidates=2),
    "retrieval": TraceDrafter(kind="lookups"),
}
STAMP = Stamp(made_at="2026-01-01T00:00:00+00:00", machine="a machine", cores=2, python="3.11.7", versions={}, seed=1)
RETRIEVAL = Chain(min_match=3, offset=1.0, factor=2.0, max_tokens=8)
CHAIN_3 = policy_of(TokenTree.chain(3))
TREE = policy_of(TokenTree([-1, 0, 0, 1, 1, 3]))
OFF = Off()
MAPS = (SourceMap(offer="both", score=(0.1, 0.9), acceptance=(0.2, 0.95)),)
GROWN = Grown(nodes=8, levels=2, skip_draft_at=0.7, maps=MAPS)


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=0.9 * value, high=1.1 * value, origin="predicted")


def entry(
    batch: int, policy: Policy, tokens_per_step: float = 2.0, tokens_per_s: float = 100.0, workload: str = "chat"
) -> PlanEntry:
    """An entry that weighed "off", chains of 2 and 3 and the policy itself."""
    weighed = {OFF: (1.0, 60.0), policy_of(TokenTree.chain(2)): (1.7, 85.0), CHAIN_3: (1.8, 90.0)}
    weighed[policy] = (tokens_per_step, tokens_per_s)
    return PlanEntry(
        workload=workload,
        batch=batch,
        policy=policy,
        prediction=Prediction(
            tokens_per_step=estimate(tokens_per_step),
            step_s=estimate(tokens_per_step / tokens_per_s),
            tokens_per_s=estimate(tokens_per_s),
            speed_up=estimate(tokens_per_s / 60),
            nodes_per_step=float(policy.tree.nodes),
            terms_s={"target": tokens_per_step / tokens_per_s},
        ),
        price=0.01,
        upper_bound_tokens_per_s=tokens_per_s,
        gap=0.0,
        solver="exhaustive",
        certified=True,
        candidates=tuple(Candidate(policy=p, tokens_per_step=t, tokens_per_s=s) for p, (t, s) in weighed.items()),
    )


def plan(*entries: PlanEntry, draft: str | None = "a/draft", **changes: Any) -> Plan:
    drafters = {"draft": draft, "retrieval": None} if draft else {"retrieval": None}
    fields: dict[str, Any] = {
        "stamp": STAMP, "target": "a/target", "drafters": drafters, "device": "cpu", "dtype": "float32",
        "temperature": 0.0, "verification": "greedy", "fit": "f" * 16, "cost": "c" * 16, "prompts_per_workload": 8,
        "new_tokens": 64,
        "entries": entries or (entry(1, CHAIN_3),),
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def trace_columns(rows: int = 6) -> dict[str, NDArray[Any]]:
    own = [f"{name}_{column}" for name, each in DRAFTERS.items() for column in DRAFTER_COLUMNS[each.kind]]
    columns: dict[str, NDArray[Any]] = {name: np.zeros(rows, dtype=np.int32) for name in (*TRACE_COLUMNS, *own)}
    columns["position"] = np.arange(rows, dtype=np.int32)
    columns["draft_probability"] = np.tile(np.array([0.6, 0.3], dtype=np.float32), (rows, 1))
    columns["draft_overlap"] = columns["target_probability"] = np.full(rows, 0.5, dtype=np.float32)
    return columns


def grown_record(path: Path) -> GrownRecord:
    """Two steps of two policies on the one prompt."""
    steps = {"policy": [0, 0, 1, 1], "prompt": [0] * 4, "position": [1, 3, 1, 4], "emitted": [2, 3, 3, 2]}
    columns = {name: np.array(values, dtype=np.int32) for name, values in steps.items()}
    columns |= {"nodes": np.array([4, 3, 8, 8], np.int32), "forwards": np.array([[0], [0], [1], [3]], np.int32)}
    policies = (Grown(nodes=4, drafter=None), Grown(nodes=8))
    return GrownRecord.create(columns, policies, {"chat": MAPS}, path)


def trace(path: Path) -> Trace:
    prompts = (TracePrompt(id="p0", workload="chat", prompt_tokens=4, output_tokens=6),)
    grown = grown_record(path.with_suffix(".grown.parquet"))
    return Trace.create(
        path, trace_columns(), stamp=STAMP, target="a/target", temperature=0.0, drafters=DRAFTERS,
        prompts=prompts, grown={"draft": grown},
    )  # fmt: skip


def cost() -> Cost:
    grid = (((0.010, 0.011), (0.012, 0.014)), ((0.011, 0.012), (0.015, 0.018)))
    table = CostTable(batch=(1, 4), tokens=(1, 8), context=(16, 256), seconds=grid, relative_spread=0.05)
    small = Estimate(value=1e-4, low=9e-5, high=1.1e-4, origin="measured")
    return Cost(
        stamp=STAMP, device="cpu", target="a/target", dtype="float32", target_forward=table,
        drafters={"retrieval": DrafterCost(term="lookups", row_s=small)}, verify_s=small, commit_s=small,
        step_overhead_s=small, plain_overhead_s=small, closure=Estimate.exact(1.0, "measured"),
    )  # fmt: skip


def run_columns(steps: int) -> dict[str, NDArray[Any]]:
    """Ones, of cell 0, in the kinds of number that a run writes."""
    columns = {name: np.ones(steps, np.float64 if name.endswith("_s") else np.int32) for name in RUN_COLUMNS}
    return columns | {"cell": np.zeros(steps, np.int32)}


CHAIN = Static.of(TokenTree.chain(3))


def run_record(path: Path) -> RunRecord:
    cell = RunCell(
        workload="chat", batch=1, policy=CHAIN, prompts=1, output_tokens=8, steps=4, row_steps=4, decode_s=0.1,
        decode_s_spread=(0.1, 0.1), prefill_s=0.01,
    )  # fmt: skip
    request = RequestRecord(id="p0", cell=0, prompt_tokens=4, output_tokens=8, steps=4, accepted=3, finish="length")
    return RunRecord.create(
        path, run_columns(4), stamp=STAMP, target="a/target", drafters={"draft": "a/draft"}, device="cpu",
        dtype="float32", temperature=0.0, verification="greedy", lossless=True, plan=None, new_tokens=8, cells=(cell,),
        requests=(request,),
    )  # fmt: skip


def validation() -> Validation:
    row = Comparison(
        workload="chat",
        batch=1,
        policy=CHAIN,
        quantity="tokens_per_step",
        predicted=estimate(2.0),
        measured=2.1,
    )
    return Validation(stamp=STAMP, plan="p" * 16, record="r" * 16, comparisons=(row,))


def imported() -> ImportedAcceptance:
    told = ImportedAcceptance.from_counts([[100, 80, 40]], engine="vllm", source="metrics.txt")
    return told.model_copy(update={"stamp": STAMP})


def schedule() -> ServingSchedule:
    cell = ScheduleCell(
        workload="chat", context=64, batch=4, policy=CHAIN_3, tokens_per_step=estimate(2.0), step_s=0.02,
        tokens_per_s=400.0, speed_up=1.6, price=0.05, gap=0.0,
    )  # fmt: skip
    full = cell.model_copy(
        update={"batch": 64, "policy": None, "tokens_per_step": None, "step_s": None, "tokens_per_s": 0.0}
    )
    point = OperatingPoint(
        workload="chat", context=64, sustained=True, batch=4, running=2.5, latency_s=1.2, seconds_per_token=0.01,
        capacity_per_s=6.0, off_capacity_per_s=4.0, off_from_batch=None, stops_paying_per_s=None,
    )  # fmt: skip
    return ServingSchedule(
        stamp=STAMP, target="a/target", drafters={"draft": "a/draft", "retrieval": None}, device="cpu", dtype="float32",
        temperature=0.0, fit="f" * 16,
        cost="c" * 16, rate_per_s=2.0, slo_s=0.05, output_tokens=64.0, prompt_tokens=32.0, kv_tokens=None,
        solver="best_first", cells=(cell, full), points=(point,),
    )  # fmt: skip


def written(folder: Path) -> dict[str, tuple[Path, Document]]:
    """One document of every kind but the fit, written into `folder`, by kind."""
    made: dict[str, tuple[Path, Document]] = {
        "trace": (folder / "trace.json", trace(folder / "trace.json")),
        "run_record": (folder / "run.json", run_record(folder / "run.json")),
    }
    flat = (
        cost(),
        plan(entry(1, TREE), entry(4, policy_of(TREE.tree, RETRIEVAL)), entry(8, GROWN)),
        validation(),
        imported(),
        schedule(),
    )
    for document in flat:
        made[document.kind] = (document.write(folder / f"{document.kind}.json"), document)
    return made
