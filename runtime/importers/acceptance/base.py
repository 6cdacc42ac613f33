"""Acceptance from what servers and tools write: windows of counts, read by one class a format, found in a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from reader_theory.registry import Registry

__all__ = ["ACCEPTANCE_FORMATS", "AcceptanceFormat", "MeanWindow", "Window"]


@dataclass(frozen=True)
class Window:
    """What was counted in one scrape, log line or request.

    Parameters
    ----------
    labels : mapping
        Whose counts these are: model, server, workload. Windows of different labels are never added up.
    drafts : float
        Drafts verified.
    reached, accepted : (D,) float
        Drafts with a token at depth 1, 2, ... after all before it were accepted, and those of them accepted there.
    drafted : float, optional
        Draft tokens in all, which tells whether drafts ended early.
    row_steps : float, optional
        Decode steps of all requests, those without a draft too, which tells how often there was none.
    emitted : float, optional
        Tokens that these gave: of the accepted, none past a request's end.
    """

    labels: Mapping[str, str]
    drafts: float
    reached: Sequence[float]
    accepted: Sequence[float]
    drafted: float | None = None
    row_steps: float | None = None
    emitted: float | None = None

    @classmethod
    def of_survivors(
        cls,
        labels: Mapping[str, str],
        drafts: float,
        survivors: Sequence[float],
        drafted: float | None = None,
        row_steps: float | None = None,
        emitted: float | None = None,
    ) -> Window:
        """From drafts accepted to depth 1, 2, ...; rounding of a log's rates may not raise them again."""
        kept: list[float] = []
        for count in survivors:
            kept.append(min(count, kept[-1] if kept else drafts))
        return cls(labels, drafts, [drafts, *kept[:-1]] if kept else [], kept, drafted, row_steps, emitted)


@dataclass(frozen=True)
class MeanWindow:
    """A mean accepted length alone, the bonus token counted.

    Parameters
    ----------
    labels : mapping
    length : float
    weight : float
        Request-steps that it stands for, or fewer.
    depth : int, optional
        Draft tokens a step; None where the source does not tell.
    """

    labels: Mapping[str, str]
    length: float
    weight: float
    depth: int | None = None


@dataclass(frozen=True)
class AcceptanceFormat(ABC):
    """A form in which acceptance is written down. Third parties add one by `ACCEPTANCE_FORMATS.register`.

    Attributes
    ----------
    name : str
        What an error calls it.
    engine : str
        Whose it is; ``reader import ENGINE`` reads this engine's forms only.
    looks : str
        What is looked for, in words, for error messages.
    """

    name: ClassVar[str] = ""
    engine: ClassVar[str] = ""
    looks: ClassVar[str] = ""

    depth: int | None = field(default=None)
    """Draft tokens a step where the user says so, for sources that do not."""

    @abstractmethod
    def matches(self, text: str) -> bool:
        """Whether a file's text holds this form."""

    @abstractmethod
    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """Windows in order, and notes, of (name, text) of each file in order of time."""


ACCEPTANCE_FORMATS: Registry[type[AcceptanceFormat]] = Registry("acceptance format")
"""Forms in the order in which they are tried."""
