"""Measured steps: a table with a row a step, and results of ``vllm bench serve``, whose median gap is a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reader_theory.cost.tabulated import MeasuredStep
from reader_theory.errors import InvalidInputError, require
from runtime.importers.rows import csv_rows, json_values, read_text

__all__ = ["read_bench_steps", "read_measured_steps"]

_COLUMNS = "batch, context, seconds (or ms), and drafts (tokens drafted a row) or tokens where steps drafted"


def read_measured_steps(path: str | Path, *, looks_up: bool = False) -> list[MeasuredStep]:
    """Steps of a CSV table under a head.

    Parameters
    ----------
    path : path
        Columns: ``batch``, ``context``, ``seconds`` or ``ms``; ``drafts``, tokens drafted a row; ``tokens``, those that
        the target computed, one more than the drafts when left out.
    looks_up : bool
        Whether drafts are looked up, once a step; else each token is a forward of the drafter.

    Raises
    ------
    InvalidInputError
        If a column is missing, or a value is no number that can be; the message names the row.
    """
    name, text = Path(path).name, read_text(path)
    rows = csv_rows(name, text)
    require(
        bool(rows),
        "measured steps must be a table under a head",
        got=f"no row in `{name}`",
        fix=f"Columns: {_COLUMNS}.",
    )
    return [_step(row.where, row.value, looks_up) for row in rows]


def _step(where: str, row: Mapping[str, Any], looks_up: bool) -> MeasuredStep:
    given = {str(key).strip().lower(): value for key, value in row.items()}
    missing = [name for name in ("batch", "context") if name not in given]
    missing += [] if "seconds" in given or "ms" in given else ["seconds"]
    require(not missing, f"{where} must have the columns of a step", got=f"no {', '.join(missing)}",
            fix=f"Columns: {_COLUMNS}.")  # fmt: skip
    seconds = _number(where, given, "seconds") if "seconds" in given else _number(where, given, "ms") / 1e3
    drafts = _number(where, given, "drafts") if "drafts" in given else 0.0
    tokens = _number(where, given, "tokens") if "tokens" in given else 1.0 + drafts
    batch, context = _number(where, given, "batch"), _number(where, given, "context")
    good = batch >= 1 and context >= 0 and tokens >= 1 and drafts >= 0 and seconds > 0
    require(
        good,
        f"{where} must have a batch and tokens of at least 1, a context and drafts of at least 0, and seconds above 0",
        got=dict(given),
        fix="Leave out what was not measured.",
    )
    return MeasuredStep(batch, context, tokens, min(drafts, 1.0) if looks_up else drafts, seconds)


def _number(where: str, row: Mapping[str, Any], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    require(
        math.isfinite(value) and abs(value) < 1e12,
        f"`{name}` of {where} must be a number",
        got=repr(row[name])[:80],
        fix="Write plain numbers, such as 8 or 0.0123.",
    )
    return value


def read_bench_steps(paths: Sequence[str | Path], *, looks_up: bool = False) -> list[MeasuredStep]:
    """A step a result: the median gap between outputs, at the mean batch of the run.

    Parameters
    ----------
    paths : sequence of paths
        JSON of ``vllm bench serve --save-result``.

    Raises
    ------
    InvalidInputError
        If a file holds no such result.
    """
    found: list[MeasuredStep] = []
    for path in map(Path, paths):
        results = [row.value for row in json_values(path.name, read_text(path)) or () if isinstance(row.value, dict)]
        steps = [step for result in results if (step := _bench(result, looks_up)) is not None]
        if not steps:
            raise InvalidInputError(
                "each file must hold a result of `vllm bench serve` with its median gap, tokens and requests",
                got=f"none in `{path.name}`",
                fix="Run it with --save-result --percentile-metrics ttft,tpot,itl,e2el.",
            )
        found += steps
    return found


def _bench(result: Mapping[str, Any], looks_up: bool) -> MeasuredStep | None:
    served, gap = _told(result, "completed"), _told(result, "median_itl_ms") / 1e3
    prompt, output = (_told(result, name) for name in ("total_input_tokens", "total_output_tokens"))
    if min(served, gap, output) <= 0:
        return None
    drafts, drafted = _told(result, "spec_decode_num_drafts"), _told(result, "spec_decode_draft_tokens")
    length = drafted / drafts if drafts > 0 else 0.0
    running = _told(result, "request_throughput") * _told(result, "mean_e2el_ms") / 1e3
    batch = running or _told(result, "max_concurrency") or 1.0
    context = (prompt + output / 2) / served
    return MeasuredStep(max(batch, 1.0), context, 1 + length, min(length, 1.0) if looks_up else length, gap)


def _told(result: Mapping[str, Any], name: str) -> float:
    value = result.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    return float(value) if 0 < value < 1e15 else 0.0
