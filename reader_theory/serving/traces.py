"""Arrivals to replay: public traces as CSV, Poisson arrivals, and clients in a closed loop."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.serving.simulator import Workload

__all__ = ["closed_loop", "poisson_arrivals", "read_trace"]

COLUMNS = (
    ("arrived_at", "num_prefill_tokens", "num_decode_tokens", 1.0),
    ("timestamp_ms", "input_length", "output_length", 1e-3),
    ("arrival_s", "input_toks", "output_toks", 1.0),
)
"""Arrival, prompt and output columns of the Azure, Mooncake and serving-run tables, and arrival's unit in seconds."""
MORE = "Ask for at least one request."


def read_trace(path: str | Path, *, first: int | None = None, rate_scale: float = 1.0) -> Workload:
    """Read a trace (CSV, gzip or not) in the columns of Azure 2023, of Mooncake, or of logged serving runs.

    Parameters
    ----------
    first : int, optional
        Keep only so many requests.
    rate_scale : float
        Compress time by this factor.
    """
    require(rate_scale > 0, "`rate_scale` must be positive", got=rate_scale, fix="2 doubles the load.")
    place = Path(path)
    try:
        text = gzip.decompress(place.read_bytes()).decode() if place.suffix == ".gz" else place.read_text()
    except OSError as error:
        raise InvalidInputError("`path` must be a readable CSV", got=str(error), fix="Check the path.") from None
    rows = list(csv.DictReader(text.splitlines()))[:first]
    for arrival, prompt, output, unit in COLUMNS:
        if rows and arrival in rows[0]:
            table = np.array([[float(row[name]) for name in (arrival, prompt, output)] for row in rows])
            order = np.argsort(table[:, 0], kind="stable")
            arrivals = (table[order, 0] - table[order[0], 0]) * unit / rate_scale
            return Workload(arrivals, np.maximum(table[order, 1], 1), np.maximum(table[order, 2], 1))
    raise InvalidInputError(
        "the trace must have the columns of a known format",
        got=sorted(rows[0]) if rows else "no rows",
        fix=f"Rename its columns to {COLUMNS[0][:3]}.",
    )


def poisson_arrivals(
    rate_per_s: float, count: int, prompt_tokens: ArrayLike, output_tokens: ArrayLike, *, seed: int = 0
) -> Workload:
    """`count` Poisson arrivals; token counts are scalars or are drawn with replacement from the given samples."""
    require(rate_per_s > 0 and count >= 1, "`rate_per_s`, `count` must be positive", got=(rate_per_s, count), fix=MORE)
    generator = np.random.default_rng(seed)
    arrivals = np.cumsum(generator.exponential(1 / rate_per_s, count))
    return Workload(arrivals, _drawn(prompt_tokens, count, generator), _drawn(output_tokens, count, generator))


def closed_loop(
    concurrency: int, count: int, prompt_tokens: ArrayLike, output_tokens: ArrayLike, *, seed: int = 0
) -> Workload:
    """`count` requests of clients that keep `concurrency` of them in flight."""
    require(
        concurrency >= 1 and count >= 1, "`concurrency` and `count` must be positive", got=(concurrency, count), fix=""
    )
    generator = np.random.default_rng(seed)
    prompts, outputs = _drawn(prompt_tokens, count, generator), _drawn(output_tokens, count, generator)
    return Workload(np.zeros(count), prompts, outputs, concurrency)


def _drawn(sample: ArrayLike, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    values = np.atleast_1d(np.asarray(sample, dtype=np.float64))
    return np.full(count, values[0]) if values.size == 1 else generator.choice(values, count)
