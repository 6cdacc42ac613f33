"""The nearest that an engine runs, for each batch of a plan, with what it loses: without exporting anything."""

from __future__ import annotations

from importlib import import_module

from optimizer.export.formats import engine_format
from optimizer.export.settle import Choice, settle
from reader_theory.documents.plan import Plan

__all__ = ["nearest"]

_ONE_ENTRY = ("transformers", "medusa", "growmap")


def nearest(plan: Plan, engine: str, workload: str, *, batch: int = 1, method: str | None = None) -> list[Choice]:
    """What `engine` would run instead of the plan, entry by entry; `Choice.exact` where it runs the plan itself.

    Parameters
    ----------
    plan : Plan
    engine : str
        One of `ENGINES`.
    workload : str
    batch : int
        For the engines that take one tree or chain only: which entry it is taken from.
    method : str, optional
        How the engine runs the draft. SGLang follows the batch with some algorithms only.

    Returns
    -------
    list of Choice
        Smallest batch first; tokens a step and a second are None where the plan did not weigh the nearest.

    Raises
    ------
    InvalidInputError
        If there is no such engine or workload.
    """
    told = engine_format(engine)
    if engine in _ONE_ENTRY:
        plan = plan.model_copy(update={"entries": (plan.entry(workload, batch),)})
    adaptive = {"adaptive": True} if method in told.limits.get("adaptive_algorithms", ()) else {}
    able = import_module(f"optimizer.export.{engine.replace('-', '_')}").families(plan, workload, **adaptive)
    return settle(plan, workload, told, able, nearest=True)[1]
