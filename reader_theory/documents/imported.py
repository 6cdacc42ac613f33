"""ImportedAcceptance: what a serving engine counted of its own drafts, as a chain's acceptance by depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen, Stamp
from reader_theory.errors import require
from reader_theory.estimate import Estimate

if TYPE_CHECKING:
    from reader_theory.documents.fit import RankDepthFit

__all__ = ["DepthAcceptance", "ImportedAcceptance"]

FloatArray = NDArray[np.float64]
FEWEST_WINDOWS = 5
"""Windows from which the spread between windows is taken instead of the binomial one."""
_LEVEL = 0.95


class DepthAcceptance(Frozen):
    """Acceptance at one depth of a chain, given that everything before it was accepted."""

    depth: int = Field(ge=1)
    reached: float = Field(ge=0, description="drafts whose first depth - 1 tokens were accepted")
    accepted: float = Field(ge=0, description="of them, those whose token at this depth was accepted as well")
    conditional: Estimate


class ImportedAcceptance(Document):
    """Acceptance by depth that an engine's metrics or logs tell, in the form that a rank x depth model takes.

    A chain's counters say nothing of ranks below the first, and nothing of depths beyond the engine's own.
    """

    newest: ClassVar[int] = 1
    kind: Literal["imported_acceptance"] = "imported_acceptance"
    schema_version: int = 1
    engine: Literal["vllm", "sglang"]
    source: str = Field(description="name of the file that was read")
    windows: int = Field(ge=1, description="scrapes or log lines that were told apart")
    drafts: float = Field(ge=0, description="drafts verified: request-steps")
    tokens_per_step: Estimate
    depths: tuple[DepthAcceptance, ...]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if [each.depth for each in self.depths] != list(range(1, len(self.depths) + 1)):
            raise ValueError("depths must count 1, 2, ... without gaps")
        return self

    @property
    def table(self) -> FloatArray:
        """(D, 1) float64: conditional acceptance of the rank-0 candidate by depth."""
        return np.array([[each.conditional.value] for each in self.depths])

    @property
    def rank_depth(self) -> RankDepthFit:
        """The same as the rank x depth part of an AcceptanceFit, with one rank."""
        from reader_theory.documents.fit import RankDepthFit

        ends = [(e.conditional.value, e.conditional.low, e.conditional.high) for e in self.depths]
        value, low, high = (tuple((end[i],) for end in ends) for i in range(3))
        return RankDepthFit(value=value, low=low, high=high, positions=tuple(round(e.reached) for e in self.depths))

    @classmethod
    def from_counts(
        cls, survivors: ArrayLike, *, engine: Literal["vllm", "sglang"], source: str, notes: tuple[str, ...] = ()
    ) -> ImportedAcceptance:
        r"""From counts of drafts by accepted length, one row a window.

        Each conditional gets a Jeffreys interval on n / deff trials. With five windows or more, deff is the variance
        between windows over the binomial one, at least 1: tokens of one request are correlated, which the binomial
        interval does not know. With fewer, deff is 1 and a note says so.

        Parameters
        ----------
        survivors : (W, D + 1) float64, rows non-increasing
            Column 0: drafts in the window; column d: those whose first d tokens were all accepted.

        Raises
        ------
        InvalidInputError
            If there is no draft, or if more drafts survive a depth than reached it.

        References
        ----------
        Brown, Cai and DasGupta 2001 for Jeffreys; Kish 1965 for the design effect.

        Examples
        --------
        >>> told = ImportedAcceptance.from_counts([[1000, 800, 400]], engine="vllm", source="metrics.txt")
        >>> told.table.tolist(), told.tokens_per_step.value
        ([[0.8], [0.5]], 2.2)
        """
        counts = np.atleast_2d(np.asarray(survivors, dtype=np.float64))
        _check(counts)
        counts = counts[counts[:, 0] > 0]
        total = counts.sum(axis=0)
        depths = tuple(_depth(d, counts, total) for d in range(1, counts.shape[1]) if total[d - 1] > 0)
        few = (_few_windows(len(counts)),) if len(counts) < FEWEST_WINDOWS else ()
        return cls(
            stamp=Stamp.now(), engine=engine, source=source, windows=len(counts), drafts=float(total[0]),
            tokens_per_step=_tokens_per_step(counts, total), depths=depths, notes=(*notes, *few),
        )  # fmt: skip

    @classmethod
    def from_mean_lengths(
        cls,
        lengths: ArrayLike,
        weights: ArrayLike,
        *,
        depth: int,
        engine: Literal["vllm", "sglang"],
        source: str,
        notes: tuple[str, ...] = (),
    ) -> ImportedAcceptance:
        """From mean accepted lengths alone (the bonus token counted), assuming one acceptance at every depth.

        Parameters
        ----------
        lengths, weights : (W,) float64
            Mean tokens a step of each window, and the request-steps it stands for.
        depth : int
            Draft tokens a step, K: a mean length lies between 1 and K + 1.
        """
        means, weight = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (lengths, weights))
        require(
            means.shape == weight.shape and means.size > 0 and bool((weight > 0).all()),
            "`lengths` and `weights` must be equally many, at least one, with weights above 0",
            got=f"shapes {means.shape} and {weight.shape}",
            fix="Pass one mean length and one weight a log line.",
        )
        bad = np.flatnonzero((means < 1) | (means > depth + 1))
        require(
            bad.size == 0,
            f"mean accepted lengths must lie between 1 and depth + 1 = {depth + 1}",
            got=f"{means[bad[:5]].tolist()} in lines {bad[:5].tolist()}",
            fix="Pass the number of draft steps that the engine ran with.",
        )
        length = _ratio(means * weight, weight)
        ends = [_constant_acceptance(x, depth) for x in (length.value, max(length.low, 1), min(length.high, depth + 1))]
        alpha = Estimate(value=ends[0], low=min(ends[:2]), high=max(ends[0], ends[2]), origin="fitted")
        total = float(weight.sum())
        depths = tuple(
            DepthAcceptance(
                depth=d, reached=total * ends[0] ** (d - 1), accepted=total * ends[0] ** d, conditional=alpha
            )
            for d in range(1, depth + 1)
        )
        assumed = "one acceptance at every depth is assumed: a mean length cannot tell depths apart"
        few = (_few_windows(len(means)),) if len(means) < FEWEST_WINDOWS else ()
        return cls(
            stamp=Stamp.now(), engine=engine, source=source, windows=len(means), drafts=total, tokens_per_step=length,
            depths=depths, notes=(*notes, assumed, *few),
        )  # fmt: skip


def _check(counts: FloatArray) -> None:
    require(
        counts.ndim == 2 and counts.shape[1] >= 2 and bool(counts[:, 0].sum() > 0),
        "`survivors` must hold at least one draft and one depth",
        got=f"shape {counts.shape}, {counts[:, 0].sum():g} drafts",
        fix="Read the metrics of a server that speculates, after it has served requests.",
    )
    rising = np.flatnonzero((np.diff(counts, axis=1) > 1e-9).any(axis=1) | (counts < 0).any(axis=1))
    require(
        rising.size == 0,
        "`survivors` must be counts that do not increase with depth",
        got=f"{counts[rising[:3]].tolist()} in windows {rising[:3].tolist()}",
        fix="Pass drafts first, then the drafts whose first 1, 2, ... tokens were accepted.",
    )


def _few_windows(windows: int) -> str:
    return (
        f"{windows} window(s): intervals are binomial and too narrow, since tokens of one request are correlated; "
        f"give {FEWEST_WINDOWS} scrapes or more"
    )


def _depth(depth: int, counts: FloatArray, total: FloatArray) -> DepthAcceptance:
    reached, accepted = counts[:, depth - 1], counts[:, depth]
    return DepthAcceptance(
        depth=depth,
        reached=float(total[depth - 1]),
        accepted=float(total[depth]),
        conditional=_proportion(accepted, reached),
    )


def _proportion(accepted: FloatArray, reached: FloatArray) -> Estimate:
    """Jeffreys interval on the effective number of trials."""
    from scipy.special import betaincinv

    n, a = float(reached.sum()), float(accepted.sum())
    rate = a / n
    effect = max(1.0, _between(accepted, reached) * n / (rate * (1 - rate))) if 0 < rate < 1 else 1.0
    n, a = n / effect, a / effect
    tail = (1 - _LEVEL) / 2
    low, high = (float(betaincinv(a + 0.5, n - a + 0.5, p)) for p in (tail, 1 - tail))
    return Estimate(
        value=rate,
        low=min(low, rate) if rate > 0 else 0.0,
        high=max(high, rate) if rate < 1 else 1.0,
        origin="measured",
    )


def _between(parts: FloatArray, wholes: FloatArray) -> float:
    """Variance of sum(parts) / sum(wholes) from the spread between windows; 0 with too few of them."""
    windows = len(parts)
    if windows < FEWEST_WINDOWS:
        return 0.0
    residual = parts - parts.sum() / wholes.sum() * wholes
    return float(windows / (windows - 1) * (residual**2).sum() / wholes.sum() ** 2)


def _ratio(parts: FloatArray, wholes: FloatArray, floor: float = 0.0) -> Estimate:
    """Ratio of sums with Student's interval between windows, its variance at least `floor`."""
    from scipy.special import stdtrit

    value = float(parts.sum() / wholes.sum())
    enough = len(parts) >= FEWEST_WINDOWS
    quantile = float(stdtrit(len(parts) - 1, (1 + _LEVEL) / 2)) if enough else 1.96
    half = quantile * math.sqrt(max(_between(parts, wholes), floor))
    return Estimate(value=value, low=value - half, high=value + half, origin="measured")


def _tokens_per_step(counts: FloatArray, total: FloatArray) -> Estimate:
    survival = total[1:] / total[0]
    mean = float(survival.sum())
    second = float(((2 * np.arange(1, len(total)) - 1) * survival).sum())
    return _ratio(counts.sum(axis=1), counts[:, 0], floor=max(second - mean**2, 0.0) / float(total[0]))


def _constant_acceptance(length: float, depth: int) -> float:
    """The alpha of 1 + alpha + ... + alpha^K = length."""
    from scipy.optimize import brentq

    return float(brentq(lambda alpha: float(np.polyval(np.ones(depth + 1), alpha)) - length, 0.0, 1.0))
