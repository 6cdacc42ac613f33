"""Acceptance of files, whatever they are: their content tells the form; what is of two servers is never added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError, require
from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.rows import read_text

__all__ = ["acceptance_engines", "read_acceptance"]

_FULL = 0.999
"""Share of full drafts from which the rest is not worth a note."""


def acceptance_engines() -> tuple[str, ...]:
    """Engines and tools whose acceptance can be imported."""
    return tuple(dict.fromkeys(kind.engine for kind in ACCEPTANCE_FORMATS))


def read_acceptance(
    paths: str | Path | Sequence[str | Path],
    *,
    engine: str | None = None,
    only: Mapping[str, str] | None = None,
    depth: int | None = None,
    workload: str | None = None,
) -> ImportedAcceptance:
    """Acceptance by depth from one or more files of a server's metrics, its log, or a tool's records.

    Five windows or more give intervals that know of the correlation between tokens of one request.

    Parameters
    ----------
    paths : path or sequence of paths
        In order of time; a file may hold several scrapes, lines or requests, compressed or not.
    engine : str, optional
        Look for this engine's forms alone.
    only : mapping, optional
        Labels that windows must have, where the files tell of several models, servers or workloads.
    depth : int, optional
        Draft tokens a step, for sources that do not tell.
    workload : str, optional
        What the counted requests are examples of.

    Raises
    ------
    InvalidInputError
        If no file holds a form that is known, if they tell of several servers, or if nothing was drafted.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    texts = [(path.name, read_text(path)) for path in files]
    reader = _reader(texts, engine, depth)
    windows, notes = reader.read(texts)
    told = [window for window in windows if not isinstance(window, Window) or (window.drafts > 0 and window.accepted)]
    chosen = _one_server(told, only or {})
    require(
        bool(chosen),
        "the files must hold acceptance with at least one draft",
        got=f"{len(files)} file(s), {len(windows)} window(s) of {reader.name}, no draft among them"
        + (f" with {dict(only)}" if only else ""),
        fix="Pass the metrics or the log of a server that speculates, after it has served requests.",
    )
    labels = dict(chosen[0].labels)
    facts: dict[str, Any] = {
        "engine": labels.get("exposed_by") or reader.engine,
        "source": ", ".join(path.name for path in files),
        "model": labels.get("model_name") or labels.get("model"),
        "workload": workload or labels.get("subset") or "default",
    }
    counted = [window for window in chosen if isinstance(window, Window)]
    if counted:
        return _of_counts(counted, notes, facts)
    return _of_means([window for window in chosen if isinstance(window, MeanWindow)], notes, facts)


def _reader(texts: Sequence[tuple[str, str]], engine: str | None, depth: int | None) -> AcceptanceFormat:
    kinds = [kind for kind in ACCEPTANCE_FORMATS if engine in (None, kind.engine) or _shared(kind, engine)]
    require(
        bool(kinds),
        "`engine` must be one whose acceptance can be imported",
        got=repr(engine),
        fix=f"Choose one of {', '.join(acceptance_engines())}.",
        error=InvalidInputError,
    )
    for kind in kinds:
        if any(kind().matches(text) for _, text in texts):
            return kind(depth=depth)
    raise InvalidInputError(
        "the files must hold acceptance of drafts, so at least one draft",
        got=f"{', '.join(name for name, _ in texts)}, {sum(len(text) for _, text in texts)} characters without it",
        fix=f"Known forms: {'; '.join(kind.looks for kind in kinds)}.",
    )


def _shared(kind: type[AcceptanceFormat], engine: str | None) -> bool:
    """vLLM's counters are llama.cpp's as well."""
    return kind.name == "counters" and engine == "llama.cpp"


def _one_server(windows: Sequence[Window | MeanWindow], only: Mapping[str, str]) -> list[Window | MeanWindow]:
    chosen = [w for w in windows if all(w.labels.get(key) == value for key, value in only.items())]
    told: dict[str, Mapping[str, str]] = {repr(sorted(w.labels.items())): w.labels for w in chosen}
    if len(told) > 1:
        keys = sorted({key for labels in told.values() for key in labels})
        apart = {key: sorted({labels.get(key, "") for labels in told.values()}) for key in keys}
        differ = {key: values for key, values in apart.items() if len(values) > 1}
        key, values = next(iter(differ.items()))
        raise InvalidInputError(
            "the files must tell of one model, server and workload, which are never added up",
            got=f"{len(told)} told apart by { ({k: v[:8] for k, v in differ.items()}) }",
            fix=f"Choose one, for example --only {key}={values[-1]}.",
        )
    return chosen


def _of_counts(windows: Sequence[Window], notes: tuple[str, ...], facts: dict[str, Any]) -> ImportedAcceptance:
    deepest = max(len(window.accepted) for window in windows)
    reached, accepted = (np.zeros((len(windows), deepest)) for _ in range(2))
    for i, window in enumerate(windows):
        reached[i, : len(window.reached)] = window.reached
        accepted[i, : len(window.accepted)] = window.accepted
    drafts: NDArray[np.float64] = np.array([window.drafts for window in windows])
    told = (*notes, *_notes(windows))
    counted = {
        "draft_tokens": _sum(w.drafted for w in windows),
        "row_steps": _sum(w.row_steps for w in windows),
        "emitted": _sum(w.emitted for w in windows),
    }
    return ImportedAcceptance.from_reached(drafts, reached, accepted, notes=told, **counted, **facts)


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum where every window counted it."""
    found = list(values)
    counted = [value for value in found if value is not None]
    return sum(counted) if len(counted) == len(found) else None


def _notes(windows: Sequence[Window]) -> list[str]:
    notes: list[str] = []
    told = [window for window in windows if window.drafted is not None]
    drafted, drafts = sum(window.drafted or 0.0 for window in told), sum(window.drafts for window in told)
    full = sum(window.drafts * len(window.accepted) for window in told)
    depths = sorted({len(window.accepted) for window in windows})
    if drafted and drafted < _FULL * full:
        notes.append(
            f"drafts held {drafted / drafts:.2f} of {full / drafts:.3g} tokens on average: where a draft ended early, "
            "its next depth counts as rejected, so acceptance at depth is understated"
        )
    if len(depths) > 1:
        notes.append(f"windows of drafts of {', '.join(map(str, depths))} tokens: each tells its own depths alone")
    return notes


def _of_means(windows: Sequence[MeanWindow], notes: tuple[str, ...], facts: dict[str, Any]) -> ImportedAcceptance:
    depths = [window.depth for window in windows]
    require(
        all(depth is not None for depth in depths),
        "the number of draft tokens a step must be known",
        got="mean lengths alone, and nothing that tells how long drafts are",
        fix="Pass --num-steps with the number of tokens that the server drafts (--speculative-num-steps in SGLang, "
        "num_speculative_tokens in vLLM, --draft-max in llama.cpp).",
    )
    told = [depth for depth in depths if depth is not None]
    lengths, weights = [window.length for window in windows], [window.weight for window in windows]
    return ImportedAcceptance.from_mean_lengths(lengths, weights, depth=told, notes=notes, **facts)
