"""Exporter: a plan in the form that one serving engine takes; one class an engine, found by a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from optimizer.export.formats import EngineFormat, engine_format
from optimizer.export.settle import Choice, Family, entries_of, settle, weighed_policies
from reader_theory.documents import Candidate, Plan, PlanEntry, Policy
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError, require
from reader_theory.registry import Registry

__all__ = ["EXPORTERS", "ExportOptions", "Exported", "Exporter", "Settled", "Weigher", "export"]

Weigher = Callable[[PlanEntry, Sequence[Policy]], list[Candidate]]
"""What policies that the plan did not keep would give in an entry's place."""


@dataclass(frozen=True)
class ExportOptions:
    """What a user says of the engine.

    Parameters
    ----------
    method : str, optional
        How the engine runs the draft, in its own word; see `EngineFormat.limits`.
    batch : int
        Which entry, for the engines that take one tree or chain.
    max_batch : int, optional
        The server's largest batch; the largest planned one when left out.
    nearest : bool
        Export the nearest that the engine runs where it cannot run the plan.
    dynamic_tree : bool
        A tree that the engine grows itself, as deep, wide and large as the plan's.
    synthetic : bool
        Have the engine accept by chance, as often at each depth as planned: for its time, before a drafter is trained.
    weigh : Weigher, optional
        Weighs every policy that the engine runs, not only those that the plan kept.
    """

    method: str | None = None
    batch: int = 1
    max_batch: int | None = None
    nearest: bool = False
    dynamic_tree: bool = False
    synthetic: bool = False
    weigh: Weigher | None = None


@dataclass(frozen=True)
class Settled:
    """What is exported of a plan: the family of policies that the whole export obeys, and a choice an entry."""

    plan: Plan
    workload: str
    family: str
    choices: tuple[Choice, ...]

    @property
    def policies(self) -> list[Policy]:
        """Policies from the smallest batch on."""
        return [choice.policy for choice in self.choices]


@dataclass(frozen=True)
class Exported:
    """An export.

    Parameters
    ----------
    engine : str
    config : JSON value
        What the engine takes; empty where the plan drafts nothing.
    notes : tuple of str
        What the engine silently drops or changes, and what it needs besides.
    choices : tuple of Choice
        What runs at each planned batch, and what it is predicted to give; empty for a tree that the engine grows.
    """

    engine: str
    config: Any
    notes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = field(default=())


class Exporter(ABC):
    """One engine. Third parties add one by a class of their own and `EXPORTERS.register`.

    Attributes
    ----------
    name : str
    takes : frozenset of str
        Options of `ExportOptions` beyond ``batch``, ``nearest`` and ``weigh`` that mean something here.
    one_entry : bool
        Whether the engine takes one tree or chain, that of the entry for ``batch``.
    """

    name: ClassVar[str] = ""
    takes: ClassVar[frozenset[str]] = frozenset()
    one_entry: ClassVar[bool] = False

    @property
    def format(self) -> EngineFormat:
        """Field list and constraints, with the version that they are of."""
        return engine_format(self.name)

    @abstractmethod
    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """What the engine runs of `policies`, of which a whole export obeys one family."""

    @abstractmethod
    def write(self, settled: Settled, options: ExportOptions) -> Any:
        """The configuration of what was settled on."""

    def near(self, entry: PlanEntry) -> list[Policy]:
        """Policies that the engine runs and that are like the entry's, though nobody weighed them."""
        return []

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Every policy worth weighing for this engine in the entry's place."""
        return self.near(entry)

    def check(self, plan: Plan, workload: str) -> None:
        """Refuse a plan that has nothing for the engine."""
        plan.entry(workload, 1)

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """What the engine drops or changes of this export, and what it needs besides."""
        return []

    def dynamic_tree(self, plan: Plan, workload: str, options: ExportOptions) -> Any:
        """The configuration of a tree that the engine grows itself within the bounds of the plan's."""
        raise NotImplementedError(f"{self.name} does not take `dynamic_tree`")

    def files(self, config: Any) -> dict[str, Any]:
        """Contents by file suffix: the configuration, and what is written beside it."""
        return {".json": config}

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """What is typed, with the paths of `files`."""
        return f"written to {files['.json']}" if config else _NOTHING


_NOTHING = "the plan drafts nothing: run the engine without speculation"

EXPORTERS: Registry[type[Exporter]] = Registry("exporter")
"""Engines that plans are exported to."""


def export(plan: Plan, engine: str, workload: str, options: ExportOptions | None = None) -> Exported:
    """A plan in the form that `engine` takes.

    The plan's entry for the smallest planned batch >= b serves a batch of b.

    Parameters
    ----------
    plan : Plan
    engine : str
        Name in `EXPORTERS`.
    workload : str
    options : ExportOptions, optional

    Raises
    ------
    InvalidInputError
        If there is no such engine or workload, or an option means nothing to the engine.
    UnsupportedByEngineError
        If the engine cannot run the plan and ``nearest`` is false; the message states the nearest and its loss.
    """
    asked = options or ExportOptions()
    require(
        plan.judged is None,
        "a plan with a judge must be run by this package's engine",
        got=f"{plan.verification}, for {engine}",
        fix="Plan without a judge: no other engine verifies by one.",
        error=UnsupportedByEngineError,
    )
    exporter = EXPORTERS[engine]()
    _check(exporter, asked)
    exporter.check(plan, workload)
    if asked.dynamic_tree:
        return Exported(engine, exporter.dynamic_tree(plan, workload, asked), (_GROWN,))
    settled = settled_on(plan, exporter, workload, asked)
    config = exporter.write(settled, asked)
    notes = exporter.notes(settled, asked) if config else []
    return Exported(engine, config, tuple(notes), settled.choices)


_GROWN = "the engine grows its own tree: the plan's tokens a step are not a prediction for it"


def settled_on(plan: Plan, exporter: Exporter, workload: str, options: ExportOptions) -> Settled:
    """The family that loses least of those that the exporter runs, and its choices."""
    if exporter.one_entry:
        plan = plan.model_copy(update={"entries": (plan.entry(workload, options.batch),)})
    if options.weigh is not None:
        entries = [_widened(entry, exporter, options.weigh) for entry in entries_of(plan, workload)]
        plan = plan.model_copy(update={"entries": tuple(entries)})
    entries = entries_of(plan, workload)
    policies = [*weighed_policies(plan, workload), *(policy for entry in entries for policy in exporter.near(entry))]
    families = exporter.families(dict.fromkeys(policies), options)
    family, choices = settle(plan, workload, exporter.format, families, near=exporter.near, nearest=options.nearest)
    return Settled(plan, workload, family, tuple(choices))


def _widened(entry: PlanEntry, exporter: Exporter, weigh: Weigher) -> PlanEntry:
    known = [candidate.policy for candidate in entry.candidates]
    fresh = [policy for policy in dict.fromkeys(exporter.space(entry)) if policy not in known]
    return entry.model_copy(update={"candidates": (*entry.candidates, *weigh(entry, fresh))})


def _check(exporter: Exporter, options: ExportOptions) -> None:
    """Refuse an option that the engine has no use for, rather than ignore it."""
    given = {
        "method": options.method is not None,
        "max_batch": options.max_batch is not None,
        "dynamic_tree": options.dynamic_tree,
        "synthetic": options.synthetic,
    }
    for name, told in given.items():
        takers = [kind.name for kind in EXPORTERS if name in kind.takes]
        require(
            not told or name in exporter.takes,
            f"`--{name.replace('_', '-')}` must be left out for {exporter.name}",
            got=f"`--{name.replace('_', '-')}`, which is for {', '.join(takers)}",
            fix="Leave it out.",
            error=InvalidInputError,
        )
