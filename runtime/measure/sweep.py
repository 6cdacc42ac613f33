"""Sweep: measure a grid of trees, chains and off on the real model, to see how far a plan's choice is from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reader_theory.documents import Chain, Grown, Off, Plan, Policy, RunRecord, Static, Union
from reader_theory.documents.policy import DATASTORE, DRAFT
from reader_theory.trees import TokenTree
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.record import Drafts, drafts_of
from runtime.measure.run import Task, measure_cells, planned_tasks
from runtime.models.base import LanguageModel
from runtime.retrieval.datastore import Datastore

__all__ = ["sweep_grid", "sweep_policies"]


def sweep_grid(drafts: Sequence[str] = (DRAFT,), *, datastore: bool = False) -> list[Policy]:
    """Off, chains and trees of each draft, retrieved chains and trees, unions and grown trees: a coarse grid.

    Grown trees take their sources at their word; the plan's own choice brings its maps.
    """
    retrievals = [
        Chain(min_match=1, factor=1.0, max_tokens=8),
        Chain(min_match=2, factor=1.0, max_tokens=16),
        Chain(min_match=2, factor=2.0, max_tokens=24),
        Chain(min_match=4, factor=1.0, max_tokens=16),
        Chain(min_match=1, offset=4.0, factor=0.0, max_tokens=4),
    ]
    grown = [
        Grown(nodes=nodes, price=price, drafter=drafter)
        for drafter in (None, *drafts)
        for nodes, price in ((8, 0.0), (32, 0.2))
    ]
    beside: list[Policy] = [each.model_copy(update={"drafter": DATASTORE}) for each in retrievals]
    beside += [each.model_copy(update={"retrieval": DATASTORE}) for each in grown]
    grid: list[Policy] = [Off(), *retrievals, *grown, *(beside if datastore else ())]
    trees = [
        TokenTree.chain(1),
        TokenTree.chain(2),
        TokenTree.chain(4),
        TokenTree.from_rank_paths([(0,), (1,), (0, 0)]),
        TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]),
        TokenTree.from_rank_paths(
            [
                (0,),
                (1,),
                (2,),
                (3,),
                (0, 0),
                (0, 1),
                (0, 2),
                (1, 0),
                (1, 1),
                (2, 0),
                (0, 0, 0),
                (0, 0, 1),
                (0, 1, 0),
                (1, 0, 0),
                (0, 0, 0, 0),
                (0, 0, 0, 0, 0),
            ]
        ),
    ]
    static = [Static.of(tree) for tree in trees]
    unions = [Union(static=tree, chain=r, skip_at_match=4) for tree in static[2:5] for r in retrievals[1:3]]
    asking: list[Policy] = [*static, *unions]
    return [*grid, *(policy.asking(name) for name in drafts for policy in asking)]


def sweep_policies(
    target: LanguageModel,
    draft: Drafts,
    plan: Plan,
    prompts: Sequence[PromptLike],
    *,
    batches: Sequence[int],
    path: str | Path,
    policies: Sequence[Policy] | None = None,
    repeats: int = 1,
    seed: int = 0,
    datastore: Datastore | None = None,
    progress: Progress | None = None,
) -> RunRecord:
    """Measure the grid, and the plan's own choice among it, for every workload of the plan and batch.

    Every policy is run `repeats` times in turn, so that a slow minute of the machine falls on all of them. A sweep that
    was killed is taken up where it was.
    """
    tasks: list[Task] = []
    for planned in planned_tasks(plan, prompts, batches=batches):
        grid = list(policies or sweep_grid(tuple(drafts_of(draft)), datastore=datastore is not None))
        tasks += [replace(planned, policy=policy) for policy in dict.fromkeys([planned.policy, *grid])]
    return measure_cells(
        target,
        draft,
        tasks,
        prompts,
        path=path,
        new_tokens=plan.new_tokens,
        temperature=plan.temperature,
        dtype=plan.dtype,
        names=(plan.target, plan.drafters),
        repeats=repeats,
        seed=seed,
        plan=plan.fingerprint(),
        datastore=datastore,
        progress=progress,
    )
