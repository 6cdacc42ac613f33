r"""What it costs to close the holes of a rectangular cache, and how often to do it.

Every step appends w columns for each of B requests and keeps a of them. Closing the holes every R steps moves the whole
cache; until then attention reads the holes. Per step, in KV bytes k a token:

.. math:: 2 k B L / R + k B (w - a) R / 2, \qquad R^* = 2 \sqrt{L / (w - a)},

an overhead of 2 sqrt((w - a) / L) of the KV that is read. Lengths per row, moving accepted entries only, cost 2 a / L.
"""

from __future__ import annotations

import math

from reader_theory.errors import require

__all__ = ["best_period", "per_row_overhead", "rectangular_bytes_per_step"]


def best_period(context: float, columns: float, kept: float) -> float:
    """Steps between rearrangements that cost least, R* = 2 sqrt(L / (w - a)); infinite when nothing is dropped."""
    _check(context, columns, kept)
    return math.inf if columns <= kept else 2.0 * math.sqrt(context / (columns - kept))


def rectangular_bytes_per_step(
    context: float, columns: float, kept: float, period: float, *, batch: float = 1, kv_bytes: float = 1.0
) -> float:
    """Extra bytes a step of a rectangle rearranged every `period` steps: moves, and holes read.

    Parameters
    ----------
    context, columns, kept : float
        L tokens cached, w columns appended a step, a of them kept.
    period : float, > 0
        Steps between rearrangements.
    batch, kv_bytes : float
        Requests; bytes a token.
    """
    _check(context, columns, kept)
    require(period > 0, "`period` must be positive", got=period, fix="Use `best_period`.")
    return kv_bytes * batch * (2.0 * context / period + (columns - kept) * period / 2.0)


def per_row_overhead(context: float, kept: float) -> float:
    """Extra bytes over KV bytes read when rows keep their length: accepted entries are read and written, 2 a / L."""
    _check(context, kept, kept)
    return 2.0 * kept / context


def _check(context: float, columns: float, kept: float) -> None:
    require(
        context > 0 and 0 < kept <= columns,
        "`context` must be positive and 0 < `kept` <= `columns`",
        got=(context, columns, kept),
        fix="A step keeps at least the root and at most every column.",
    )
