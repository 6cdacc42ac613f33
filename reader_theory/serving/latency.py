r"""The latency model's six coefficients, fitted from benchmarks that people have.

A request's mean latency at rate :math:`\lambda` is :math:`L = C_1 / (1 - \lambda C_2)` with

.. math:: C_i = c_{ip} + \frac{g}{E} (c_{iv} + k \, c_{id})

for g tokens generated, E tokens a step and k drafted tokens a step: i = 1 is one request alone, i = 2 what each other
request in the batch adds, p its prefill, v a verification, d a drafted token. Prefer it to measured step tables where
there is no more than a few runs of a load generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.estimate import Estimate

__all__ = ["COEFFICIENTS", "LatencyFit", "LatencyRun", "fit_latency"]

Floats = NDArray[np.float64]
COEFFICIENTS = ("c1p", "c1v", "c1d", "c2p", "c2v", "c2d")
_LEVEL = 0.95
_TOLD_APART = 1e-6


@dataclass(frozen=True)
class LatencyRun:
    """One benchmark at one rate.

    Parameters
    ----------
    rate_per_s : float
        Requests served a second.
    latency_s : float
        *Mean* seconds from a request's arrival to its last token: Little's law knows no median.
    tokens : float
        Mean tokens generated a request, g.
    tokens_per_step : float
        E, from the accepted length that was measured; 1 without drafts.
    drafted : float
        Mean drafted tokens a step, k; 0 without drafts.
    source : str
    """

    rate_per_s: float
    latency_s: float
    tokens: float
    tokens_per_step: float = 1.0
    drafted: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        told = (self.rate_per_s, self.latency_s, self.tokens, self.tokens_per_step, self.drafted)
        right = all(map(math.isfinite, told)) and min(told[:3]) > 0 and self.tokens_per_step >= 1 and self.drafted >= 0
        require(
            right,
            "a run must have a rate, a latency and tokens above 0, at least 1 token a step and 0 drafted ones or more",
            got=f"{told} in {self.source or 'a run'}",
            fix="Pass a finished benchmark.",
        )


@dataclass(frozen=True)
class LatencyFit:
    """The six coefficients in seconds, with intervals.

    Attributes
    ----------
    coefficients : dict of str to Estimate
        By `COEFFICIENTS`; those that the runs cannot tell are left out, and count as 0.
    errors : tuple of float
        Relative error of each run's latency under the fit.
    """

    coefficients: dict[str, Estimate]
    errors: tuple[float, ...]

    def parts(self, tokens: float, tokens_per_step: float = 1.0, drafted: float = 0.0) -> tuple[float, float]:
        """C1 and C2, in seconds."""
        steps = tokens / tokens_per_step
        told = [self.coefficients[n].value if n in self.coefficients else 0.0 for n in COEFFICIENTS]
        row = np.array([1.0, steps, steps * drafted])
        return float(row @ np.array(told[:3])), float(row @ np.array(told[3:]))

    def latency_s(self, rate_per_s: float, tokens: float, tokens_per_step: float = 1.0, drafted: float = 0.0) -> float:
        """Mean latency of a request.

        Raises
        ------
        InvalidInputError
            If the rate is past saturation, 1 / C2.
        """
        first, second = self.parts(tokens, tokens_per_step, drafted)
        require(
            rate_per_s * second < 1,
            "`rate_per_s` must be below saturation, 1 / C2",
            got=f"{rate_per_s:g} requests a second, saturation {1 / second if second else math.inf:.4g}",
            fix="Ask for a lower rate, fewer tokens, or more servers.",
        )
        return first / (1 - rate_per_s * second)


def fit_latency(runs: Sequence[LatencyRun], *, resamples: int = 500, seed: int = 0) -> LatencyFit:
    """Non-negative least squares of relative errors, with bootstrap intervals over runs.

    Multiplied out, :math:`L = C_1 + B C_2` with :math:`B = \\lambda L` in the system: linear in the coefficients.

    Parameters
    ----------
    runs : sequence of LatencyRun
        Below saturation, at several rates; drafted coefficients need runs with drafts of two lengths, or with and
        without.
    resamples : int
        Bootstrap draws.
    seed : int

    Raises
    ------
    InvalidInputError
        If there are fewer runs than coefficients that they could tell, or rates do not differ.
    """
    design, names = _design(runs)
    require(
        len(runs) > len(names) and any(name.startswith("c2") for name in names),
        "there must be more runs than coefficients, at rates and lengths that differ",
        got=f"{len(runs)} run(s), which tell {', '.join(names) or 'nothing'} apart",
        fix="Run the benchmark at more rates, and at two output lengths; four rates do for one.",
        error=InvalidInputError,
    )
    value = _solve(design)
    rng = np.random.default_rng(seed)
    draws: list[Floats] = []
    for _ in range(resamples):
        chosen = rng.integers(0, len(runs), len(runs))
        if np.linalg.matrix_rank(design[chosen], tol=_TOLD_APART) == len(names):
            draws.append(_solve(design[chosen]))
    spread = np.array(draws or [value])
    tails = np.quantile(spread, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    told = {
        name: Estimate(value=v, low=min(low, v), high=max(high, v), origin="fitted")
        for name, v, low, high in zip(names, value.tolist(), *tails.tolist(), strict=True)
    }
    errors = tuple(float(e) for e in design @ value - 1.0)
    return LatencyFit(told, errors)


def _design(runs: Sequence[LatencyRun]) -> tuple[Floats, list[str]]:
    """Rows divided by their latency, and the columns that the runs tell apart."""
    steps = np.array([run.tokens / run.tokens_per_step for run in runs])
    drafted = np.array([run.drafted for run in runs])
    latency = np.array([run.latency_s for run in runs])
    batch = latency * np.array([run.rate_per_s for run in runs])
    alone = np.stack([np.ones_like(steps), steps, steps * drafted], axis=1)
    whole = np.concatenate([alone, alone * batch[:, None]], axis=1) / latency[:, None]
    kept: list[int] = []
    for column in (1, 4, 0, 3, 2, 5):  # verification first: every run has it
        scaled = whole[:, [*kept, column]]
        norms = np.linalg.norm(scaled, axis=0)
        if (norms > 0).all() and np.linalg.matrix_rank(scaled / norms, tol=1e-3) == len(kept) + 1:
            kept.append(column)
    kept.sort()
    return whole[:, kept], [COEFFICIENTS[column] for column in kept]


def _solve(design: Floats) -> Floats:
    from scipy.optimize import nnls

    scale = np.linalg.norm(design, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return np.asarray(nnls(design / scale, np.ones(len(design)))[0] / scale, dtype=np.float64)
