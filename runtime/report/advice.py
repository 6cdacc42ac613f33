"""What a report says beyond its documents: what to paste, what it costs in memory, what would change the answer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Advice", "Changed", "Memory", "Paste"]


@dataclass(frozen=True)
class Paste:
    """What an engine takes for one workload.

    Parameters
    ----------
    engine : str
        With its version.
    workload, text : str
        The command line, or the JSON where there is none.
    loses : str
        What it loses against the plan; empty where it runs the plan as it is.
    notes : tuple of str
    """

    engine: str
    workload: str
    text: str
    loses: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """One thing that takes memory, in bytes; or what fits, in words."""

    what: str
    size: str


@dataclass(frozen=True)
class Changed:
    """The best choice under one changed condition.

    Parameters
    ----------
    workload, condition, policy : str
    speed_up : float
        Over plain decoding, predicted.
    same : bool
        Whether it is the plan's own choice.
    """

    workload: str
    condition: str
    policy: str
    speed_up: float
    same: bool


@dataclass(frozen=True)
class Advice:
    """All of it, of one plan."""

    paste: tuple[Paste, ...] = ()
    memory: tuple[Memory, ...] = ()
    changed: tuple[Changed, ...] = ()
