"""ImportedAcceptance: what a serving engine counted of its own drafts, as a chain's acceptance by depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen, Stamp
from reader_theory.errors import require
from reader_theory.estimate import Estimate

if TYPE_CHECKING:
    from reader_theory.documents.fit import RankTableFit

__all__ = ["DepthAcceptance", "ImportedAcceptance"]

FloatArray = NDArray[np.float64]
FEWEST_WINDOWS = 5
"""Windows from which the spread between windows is taken instead of the binomial one."""
_LEVEL = 0.95


class DepthAcceptance(Frozen):
    """Acceptance at one depth of a chain, given that everything before it was accepted."""

    depth: int = Field(ge=1)
    reached: float = Field(
        ge=0, description="drafts whose first depth - 1 tokens were accepted and that had a token at this depth"
    )
    accepted: float = Field(ge=0, description="of them, those whose token at this depth was accepted as well")
    conditional: Estimate


class ImportedAcceptance(Document):
    """Acceptance by depth that an engine's metrics or logs tell, in the form that a rank x depth model takes.

    A chain's counters say nothing of ranks below the first, and nothing of depths beyond the engine's own: `depth` is
    the deepest that was counted, and a plan from this document goes no deeper.
    """

    newest: ClassVar[int] = 1
    kind: Literal["imported_acceptance"] = "imported_acceptance"
    schema_version: int = 1
    engine: str = Field(min_length=1, description="which engine or tool counted")
    source: str = Field(description="name of the file that was read")
    model: str | None = Field(default=None, description="the served model's name, where the metrics tell it")
    workload: str = Field(default="default", description="what the counted requests are examples of")
    windows: int = Field(ge=1, description="scrapes, log lines or requests that were told apart")
    drafts: float = Field(ge=0, description="drafts verified: request-steps")
    draft_tokens: float | None = Field(default=None, ge=0, description="tokens drafted in all; None if not counted")
    row_steps: float | None = Field(
        default=None, ge=0, description="decode steps of all requests, without a draft too; None if not counted"
    )
    emitted: float | None = Field(
        default=None, ge=0, description="tokens of these steps, none past a request's end; None if not counted"
    )
    tokens_per_step: Estimate = Field(description="of steps with a draft")
    depths: tuple[DepthAcceptance, ...]
    by_depth: bool = Field(
        default=True, description="counted at each depth; false where one acceptance at every depth is assumed"
    )
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if [each.depth for each in self.depths] != list(range(1, len(self.depths) + 1)):
            raise ValueError("depths must count 1, 2, ... without gaps")
        if any(each.accepted > each.reached * (1 + 1e-9) for each in self.depths):
            raise ValueError("no depth may be accepted more often than it was reached")
        return self

    @property
    def depth(self) -> int:
        """The deepest that was counted; nothing is known past it."""
        return len(self.depths)

    @property
    def coverage(self) -> float:
        """Share of decode steps that had a draft; 1 where steps without one were not counted."""
        return 1.0 if not self.row_steps else min(self.drafts / self.row_steps, 1.0)

    @property
    def shares(self) -> FloatArray:
        """(D,) float64: share of decode steps that accepted 1, 2, ... tokens or more."""
        return np.asarray(self.coverage * np.cumprod(self.table[:, 0]), dtype=np.float64)

    @property
    def accepted_per_row_step(self) -> float:
        """Drafts accepted, over all decode steps."""
        return float(self.shares.sum())

    @property
    def kept(self) -> float:
        """Share of the accepted drafts that lay before their request's end; 1 where tokens were not counted."""
        if self.emitted is None or not self.row_steps or self.accepted_per_row_step <= 0:
            return 1.0
        return float(np.clip((self.emitted / self.row_steps - 1.0) / self.accepted_per_row_step, 0.0, 1.0))

    @property
    def tokens_per_row_step(self) -> float:
        """Of all decode steps: one, and the accepted drafts that were kept."""
        return 1.0 + self.kept * self.accepted_per_row_step

    @property
    def table(self) -> FloatArray:
        """(D, 1) float64: conditional acceptance of the rank-0 candidate by depth."""
        return np.array([[each.conditional.value] for each in self.depths])

    @property
    def rank_depth(self) -> RankTableFit:
        """The same as the rank x depth part of an AcceptanceFit, with one rank and `depth` depths."""
        from reader_theory.documents.fit import RankTableFit

        ends = [(e.conditional.value, e.conditional.low, e.conditional.high) for e in self.depths]
        value, low, high = (tuple((end[i],) for end in ends) for i in range(3))
        return RankTableFit(value=value, low=low, high=high, positions=tuple(round(e.reached) for e in self.depths))

    @classmethod
    def from_counts(cls, survivors: ArrayLike, *, engine: str, source: str, **told: Any) -> ImportedAcceptance:
        r"""From counts of drafts by accepted length, one row a window.

        Parameters
        ----------
        survivors : (W, D + 1) float64, rows non-increasing
            Column 0: drafts in the window; column d: those whose first d tokens were all accepted; NaN from the depth
            on that a window's drafts did not have.
        engine, source : str
        **told
            Other fields: ``model``, ``workload``, ``notes``, ``draft_tokens``, ``row_steps``, ``emitted``.

        Raises
        ------
        InvalidInputError
            If there is no draft, or if more drafts survive a depth than reached it.

        Examples
        --------
        >>> told = ImportedAcceptance.from_counts([[1000, 800, 400]], engine="vllm", source="metrics.txt")
        >>> told.table.tolist(), told.tokens_per_step.value
        ([[0.8], [0.5]], 2.2)
        """
        counts = np.atleast_2d(np.asarray(survivors, dtype=np.float64))
        _check(counts)
        untold = np.isnan(counts)
        reached = np.where(untold[:, 1:], 0.0, counts[:, :-1])
        accepted = np.where(untold[:, 1:], 0.0, counts[:, 1:])
        return cls.from_reached(counts[:, 0], reached, accepted, engine=engine, source=source, **told)

    @classmethod
    def from_reached(
        cls, drafts: ArrayLike, reached: ArrayLike, accepted: ArrayLike, *, engine: str, source: str, **told: Any
    ) -> ImportedAcceptance:
        r"""From what was reached and accepted at each depth, one row a window: drafts may end at any depth.

        Each conditional gets a Jeffreys interval on n / deff trials. With five windows or more, deff is the variance
        between windows over the binomial one, at least 1: tokens of one request are correlated, which the binomial
        interval does not know. With fewer, deff is 1 and a note says so.

        Parameters
        ----------
        drafts : (W,) float64
            Drafts in each window.
        reached, accepted : (W, D) float64
            Drafts that had a token at depth d with all before it accepted, and those of them accepted there too.
        engine, source : str
        **told
            Other fields: ``model``, ``workload``, ``notes``, ``draft_tokens``, ``row_steps``, ``emitted``.

        Raises
        ------
        InvalidInputError
            If there is no draft, or if more were accepted than reached.

        References
        ----------
        Brown, Cai and DasGupta 2001 for Jeffreys; Kish 1965 for the design effect.
        """
        counted = np.asarray(drafts, dtype=np.float64)
        parts = [np.atleast_2d(np.asarray(x, dtype=np.float64))[counted > 0] for x in (reached, accepted)]
        counted = counted[counted > 0]
        _check_reached(counted, *parts)
        deepest = int(np.count_nonzero(parts[0].sum(axis=0)))
        depths = tuple(_depth(d, parts[0][:, d - 1], parts[1][:, d - 1]) for d in range(1, deepest + 1))
        few = (_few_windows(len(counted)),) if len(counted) < FEWEST_WINDOWS else ()
        notes = (*told.pop("notes", ()), *few)
        return cls(
            stamp=Stamp.now(), engine=engine, source=source, windows=len(counted), drafts=float(counted.sum()),
            tokens_per_step=_tokens_per_step(counted, *parts), depths=depths, notes=notes, **told,
        )  # fmt: skip

    @classmethod
    def from_mean_lengths(
        cls, lengths: ArrayLike, weights: ArrayLike, *, depth: ArrayLike, engine: str, source: str, **told: Any
    ) -> ImportedAcceptance:
        """From mean accepted lengths alone (the bonus token counted), assuming one acceptance at every depth.

        Parameters
        ----------
        lengths, weights : (W,) float64
            Mean tokens a step of each window, and the request-steps that it stands for, or fewer.
        depth : int, or (W,) int
            Draft tokens a step, K, of each window: a mean length lies between 1 and K + 1.
        engine, source : str
        **told
            Other fields: ``model``, ``workload``, ``notes``.
        """
        means, weight = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (lengths, weights))
        require(
            means.shape == weight.shape and means.size > 0 and bool((weight > 0).all()),
            "`lengths` and `weights` must be equally many, at least one, with weights above 0",
            got=f"shapes {means.shape} and {weight.shape}",
            fix="Pass one mean length and one weight a log line.",
        )
        drafted = np.broadcast_to(np.asarray(depth, dtype=np.int64), means.shape)
        bad = np.flatnonzero(~((means >= 1) & (means <= drafted + 1)) | (drafted < 1))
        deepest = int(drafted.max())
        require(
            bad.size == 0,
            f"mean accepted lengths must lie between 1 and depth + 1 = {deepest + 1}",
            got=f"{means[bad[:5]].tolist()} in lines {bad[:5].tolist()}, depths {drafted[bad[:5]].tolist()}",
            fix="Pass the number of draft steps that the engine ran with.",
        )
        share = np.array([weight[drafted >= d].sum() for d in range(1, deepest + 1)]) / weight.sum()
        point = _constant_acceptance(float((means * weight).sum() / weight.sum()), share)
        total, top = float(weight.sum()), 1 + float(share.sum())
        shrunk = (point * total + 0.5) / (total + 1)
        spread = _variance(share * shrunk ** np.arange(1, deepest + 1)) / total
        length = _ratio(means * weight, weight, floor=spread, top=top)
        ends = [_constant_acceptance(x, share) for x in (max(length.low, 1), min(length.high, top))]
        alpha = Estimate(value=point, low=min(ends[0], point), high=max(point, ends[1]), origin="fitted")
        depths = tuple(
            DepthAcceptance(
                depth=d, reached=total * share[d - 1] * point ** (d - 1), accepted=total * share[d - 1] * point**d,
                conditional=alpha,
            )
            for d in range(1, deepest + 1)
        )  # fmt: skip
        assumed = "one acceptance at every depth is assumed: a mean length cannot tell depths apart"
        few = (_few_windows(len(means)),) if len(means) < FEWEST_WINDOWS else ()
        return cls(
            stamp=Stamp.now(), engine=engine, source=source, windows=len(means), drafts=total, tokens_per_step=length,
            depths=depths, by_depth=False, notes=(*told.pop("notes", ()), assumed, *few), **told,
        )  # fmt: skip


def _check(counts: FloatArray) -> None:
    require(
        counts.ndim == 2 and counts.shape[1] >= 2 and bool(np.nansum(counts[:, 0]) > 0),
        "`survivors` must hold at least one draft and one depth",
        got=f"shape {counts.shape}, {np.nansum(counts[:, 0]):g} drafts",
        fix="Read the metrics of a server that speculates, after it has served requests.",
    )
    untold = np.isnan(counts)
    falling = np.where(untold[:, 1:], 0.0, np.diff(counts, axis=1)) <= 1e-9
    right = falling.all(axis=1) & (np.nan_to_num(counts) >= 0).all(axis=1) & ~untold[:, 0]
    right &= (np.diff(untold.astype(int), axis=1) >= 0).all(axis=1) & ~np.isinf(counts).any(axis=1)
    rising = np.flatnonzero(~right)
    require(
        rising.size == 0,
        "`survivors` must be counts that do not increase with depth",
        got=f"{counts[rising[:3]].tolist()} in windows {rising[:3].tolist()}",
        fix="Pass drafts first, then the drafts whose first 1, 2, ... tokens were accepted.",
    )


def _check_reached(drafts: FloatArray, reached: FloatArray, accepted: FloatArray) -> None:
    require(
        reached.shape == accepted.shape and len(reached) == len(drafts) and reached.size > 0 and reached.sum() > 0,
        "`reached` must hold at least one draft and one depth",
        got=f"shapes {reached.shape} and {accepted.shape}, {drafts.sum():g} drafts",
        fix="Read the metrics of a server that speculates, after it has served requests.",
    )
    bad = np.flatnonzero(~((accepted >= 0) & (accepted <= reached + 1e-9) & np.isfinite(reached)).all(axis=1))
    require(
        bad.size == 0,
        "no depth may be accepted more often than it was reached",
        got=f"{accepted[bad[:3]].tolist()} of {reached[bad[:3]].tolist()} in windows {bad[:3].tolist()}",
        fix="Pass the counts as the engine gives them.",
    )


def _few_windows(windows: int) -> str:
    return (
        f"{windows} window(s): intervals are binomial and too narrow, since tokens of one request are correlated; "
        f"give {FEWEST_WINDOWS} scrapes or more"
    )


def _depth(depth: int, reached: FloatArray, accepted: FloatArray) -> DepthAcceptance:
    return DepthAcceptance(
        depth=depth,
        reached=float(reached.sum()),
        accepted=float(accepted.sum()),
        conditional=_proportion(accepted, reached),
    )


def _proportion(accepted: FloatArray, reached: FloatArray) -> Estimate:
    """Jeffreys interval on the effective number of trials."""
    from scipy.special import betaincinv

    accepted, reached = accepted[reached > 0], reached[reached > 0]
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


def _ratio(parts: FloatArray, wholes: FloatArray, *, floor: float, top: float) -> Estimate:
    """Ratio of sums with Student's interval between windows, its variance at least `floor`; within 1 and `top`."""
    from scipy.special import stdtrit

    value = float(parts.sum() / wholes.sum())
    enough = len(parts) >= FEWEST_WINDOWS
    quantile = float(stdtrit(len(parts) - 1, (1 + _LEVEL) / 2)) if enough else 1.96
    half = quantile * math.sqrt(max(_between(parts, wholes), floor))
    ends = max(value - half, min(1.0, value)), min(value + half, max(top, value))
    return Estimate(value=value, low=ends[0], high=ends[1], origin="measured")


def _tokens_per_step(drafts: FloatArray, reached: FloatArray, accepted: FloatArray) -> Estimate:
    """Mean accepted length with the bonus token; its variance is at least that of independent drafts."""
    total = float(drafts.sum())
    shrunk = (accepted.sum(axis=0) + 0.5) / (total + 1)
    return _ratio(drafts + accepted.sum(axis=1), drafts, floor=_variance(shrunk) / total, top=1.0 + accepted.shape[1])


def _constant_acceptance(length: float, share: FloatArray) -> float:
    """The alpha of 1 + sum of share[d] alpha^(d + 1) = length, where share[d] of the drafts have depth d + 1."""
    from scipy.optimize import brentq

    polynomial = [*share[::-1], 1.0]
    return float(brentq(lambda alpha: float(np.polyval(polynomial, alpha)) - length, 0.0, 1.0))


def _variance(survival: FloatArray) -> float:
    """Variance of one draft's accepted length, from the shares whose first 1, 2, ... tokens are accepted."""
    mean = float(survival.sum())
    return max(float(((2 * np.arange(1, len(survival) + 1) - 1) * survival).sum()) - mean**2, 0.0)
