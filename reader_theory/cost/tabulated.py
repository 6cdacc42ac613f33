"""A predicted step as a Cost document: the same tables that a calibration measures, from a configuration and a card.

Prefer `reader calibrate` where the machine is at hand. Measured steps, where there are some, scale the terms
(`calibrate`); what is left of them is met at those points and fades with the distance, so a measured step is what the
document says at that very place. What no configuration tells, they tell alone: what an engine adds to a step, to a
token, to drafting, and whether it drafts row by row. Engines pack the rows of a batch, without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.corrections import MISFIT, calibrate
from reader_theory.cost.step import DRAFT, RETRIEVAL, StepCost
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents.base import Stamp
from reader_theory.documents.cost import Cost, CostTable, DrafterCost
from reader_theory.errors import require
from reader_theory.estimate import Estimate, Origin

__all__ = ["BATCHES", "CONTEXTS", "MeasuredStep", "cost_of_step"]

Floats = NDArray[np.float64]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
NEAR, NUGGET = 1.0, 0.05
"""Logarithm of a factor in size over which a measured residual fades by e, and noise of a point over the residuals'."""
APART = 1.0
"""Distance between a step with drafts and one without, in that logarithm."""
LEAST = 0.1
"""Share of what a forward of the target is predicted to take that it takes at least."""
USUAL = 1024.0
"""Context at which a table's interval is told, where nothing was measured."""
TOLD = 3
"""Measured steps from which on they are asked what a step and a token take, where the sheet only assumes it."""
ADDED, UNKNOWN, ROWS = 0.01, 0.3, 0.5
"""What nobody knows of an engine before its steps: by what share of the fastest it adds to steps, to those with drafts
and by token; its standard deviation, of that step too; and the share of a batch that is drafted row by row."""
_NORMAL = 1.96


@dataclass(frozen=True)
class MeasuredStep:
    """One step that was timed.

    Attributes
    ----------
    batch, context : float
        Rows, and cached tokens of each.
    tokens : float
        Mean tokens a row that the target computed, the root included.
    forwards : float
        Forwards of the drafter, or look-ups; 0 in plain decoding.
    seconds : float
    """

    batch: float
    context: float
    tokens: float
    forwards: float
    seconds: float


def cost_of_step(
    step: StepCost,
    *,
    target: str,
    dtype: str,
    draft: str | None = None,
    looks_up: str | None = None,
    measured: Sequence[MeasuredStep] = (),
    batches: Sequence[int] = BATCHES,
    contexts: Sequence[int] = CONTEXTS,
    max_nodes: int = 32,
    kv_tokens: Mapping[str, int] | None = None,
) -> Cost:
    """Tabulate `step` over batch, tokens and context.

    Parameters
    ----------
    step : StepCost
        With the drafter whose forwards are to be priced, if any.
    target, dtype, draft : str
        What the document calls them.
    looks_up : str, optional
        Name of the drafter that looks past tokens up.
    measured : sequence of MeasuredStep
        Steps of this engine on this card that the prediction is held to.
    batches, contexts : sequences of int
        Axes, to which those of the measured steps are added.
    max_nodes : int
        Tokens a row go to one more than this.
    kv_tokens : mapping, optional
        Tokens that the cache holds, by who drafts.

    Raises
    ------
    InvalidInputError
        If a measured step is not positive and finite, or drafts without a drafter.
    """
    _check(measured, drafts=draft is not None or looks_up is not None)
    scaled, residuals = _held_to(step, measured, DRAFT if draft is not None else RETRIEVAL)
    rows = tuple(sorted({*map(int, batches), *(round(each.batch) for each in measured)}))
    cached = tuple(sorted({*map(int, contexts), *(max(round(each.context), 1) for each in measured)}))
    widest = max([max_nodes + 1, *(int(np.ceil(each.tokens)) for each in measured)])
    tokens = tuple(range(1, widest + 1))
    b, t, c = np.meshgrid(rows, tokens, cached, indexing="ij")
    plain = scaled.model.seconds(StepConditions(batch=b, tokens=t, context=c))
    origin: Origin = "fitted" if measured else "predicted"
    axes: dict[str, Any] = {"batch": rows, "context": cached, "origin": origin}
    held = np.maximum.accumulate(plain * residuals.factor(b * t, c, t > 1), axis=1)  # more tokens take no less
    target_table = CostTable(
        **axes, tokens=tokens, seconds=held.tolist(), relative_spread=_spread(scaled, rows, measured)
    )
    drafters: dict[str, DrafterCost] = {}
    if draft is not None:
        whole, head = _drafting(scaled, b, t, c, plain)
        wide = _drafting_spread(scaled, measured, target_table.relative_spread)
        drafters[DRAFT] = DrafterCost(
            model=draft,
            forward=CostTable(**axes, tokens=tokens, seconds=whole.tolist(), relative_spread=wide),
            head=CostTable(**axes, tokens=tokens, seconds=head.tolist(), relative_spread=wide),
            output=scaled.output_head,
        )  # fmt: skip
    nothing = Estimate.exact(0.0, origin)
    if looks_up is not None:
        row_s = _priced(scaled, "retrieval", scaled.query_s, origin)
        drafters[looks_up] = DrafterCost(term="lookups", row_s=row_s)
    added = _priced(scaled, "drafting", scaled.drafting_s, origin) if drafters else nothing
    half = _NORMAL * (residuals.left if measured else MISFIT)
    closure = Estimate(value=1.0, low=1 / (1 + half), high=1 + half, origin=origin)
    return Cost(
        stamp=Stamp.now(), device=step.device.name, target=target, dtype=dtype, target_forward=target_table,
        packed=True, drafters=drafters, verify_s=nothing, commit_s=nothing, step_overhead_s=added,
        plain_overhead_s=nothing, closure=closure, closures={name: closure for name in ("off", *drafters)},
        kv_tokens=dict(kv_tokens or {}),
    )  # fmt: skip


def _check(measured: Sequence[MeasuredStep], *, drafts: bool) -> None:
    for number, each in enumerate(measured, 1):
        values = (each.batch, each.tokens, each.seconds)
        require(
            bool(np.isfinite((*values, each.context, each.forwards)).all())
            and min(values) > 0
            and each.tokens >= 1
            and each.batch >= 1
            and min(each.context, each.forwards) >= 0,
            "each measured step must have finite seconds above 0, a batch and tokens of at least 1, a context >= 0",
            got=f"step {number}: {each}",
            fix="Leave out what was not measured; times are of one step.",
        )
        require(
            drafts or each.forwards == 0,
            "measured steps must not draft where no drafter is named",
            got=f"step {number}: {each.forwards:g} forwards of a drafter",
            fix="Name the drafter with --draft, or leave these steps out.",
        )


def _held_to(step: StepCost, measured: Sequence[MeasuredStep], drafter: str) -> tuple[StepCost, _Residuals]:
    """The step with its terms scaled to the measured ones, and what is left of these."""
    if not measured:
        return step, _Residuals(np.zeros((0, 3)), np.zeros(0), 0.0)
    step = _of_an_engine(step, measured, drafter)
    points = [_conditions(each, drafter) for each in measured]
    seconds = np.array([each.seconds for each in measured])
    scaled = calibrate(step, points, seconds).step
    plain = np.array(
        [float(scaled.model.seconds(_conditions(replace(each, forwards=0.0), drafter))) for each in measured]
    )
    drafts = np.array([float(scaled.model.seconds(point)) for point in points]) - plain
    ratio = np.log(np.maximum((seconds - drafts) / plain, LEAST))  # of the target's own, whose table meets the steps
    places = _places(
        np.array([each.batch * each.tokens for each in measured]),
        np.array([each.context for each in measured]),
        np.array([each.forwards > 0 for each in measured]),
    )
    kernel = _kernel(places, places) + NUGGET * np.eye(len(places))
    inverse: Floats = np.asarray(np.linalg.inv(kernel), dtype=np.float64)
    weights: Floats = np.asarray(inverse @ ratio, dtype=np.float64)
    left_out = weights / np.diag(inverse)  # what each point says when it is left out
    known = MISFIT**2 * 4 + float(np.sum(left_out**2))
    return scaled, _Residuals(places, weights, float(np.sqrt(known / (4 + len(ratio)))))


def _of_an_engine(step: StepCost, measured: Sequence[MeasuredStep], drafter: str) -> StepCost:
    """The step with the terms that no configuration tells, as little known as they are before the measured steps."""
    fastest = min(measured, key=lambda each: each.seconds)
    told: dict[str, float] = {}
    spread = dict.fromkeys(("drafting", "step", "tokens"), _NORMAL * UNKNOWN / ADDED) | {"drafter rows": 2 * _NORMAL}
    if drafts := [each for each in measured if each.forwards]:
        told["drafting_s"] = ADDED * fastest.seconds
        told["row_by_row"] = ROWS if drafter == DRAFT and max(each.batch for each in drafts) > 1 else 0.0
    if len(measured) >= TOLD and step.origin_of("target linear") == "assumed":
        told["token_s"] = ADDED * fastest.seconds / (fastest.batch * fastest.tokens)
        told["step_s"] = ADDED * fastest.seconds
        spread |= {"drafter": _NORMAL, "drafter head": _NORMAL}
    return replace(step, spread={**step.spread, **spread}, **told)


def _conditions(each: MeasuredStep, drafter: str) -> StepConditions:
    forwards = {drafter: Forwards(1.0, each.forwards)} if each.forwards else {}
    return StepConditions(
        batch=each.batch, context=each.context, tokens=each.tokens, forwards=forwards, drafting=each.forwards > 0
    )


@dataclass(frozen=True)
class _Residuals:
    """Log of measured over predicted, by size and whether drafts: met where it was measured, nothing far from there."""

    places: Floats
    weights: Floats
    left: float

    def factor(self, tokens: Floats, context: Floats, drafts: NDArray[np.bool_]) -> Floats:
        """What predicted seconds are multiplied by."""
        if not len(self.weights):
            return np.ones(np.shape(tokens))
        asked = _places(np.asarray(tokens, dtype=np.float64), np.asarray(context, dtype=np.float64), drafts)
        found = _kernel(asked.reshape(-1, 3), self.places) @ self.weights
        return np.exp(found).reshape(np.shape(tokens))


def _places(tokens: Floats, context: Floats, drafts: NDArray[np.bool_]) -> Floats:
    apart = APART * drafts.astype(np.float64)
    return np.stack([np.log(tokens), 0.5 * np.log(np.maximum(context, 1.0)), apart], axis=-1)


def _kernel(first: Floats, second: Floats) -> Floats:
    from scipy.spatial.distance import cdist

    return np.exp(-cdist(first, second, metric="cityblock") / NEAR)


def _drafting(step: StepCost, b: Floats, t: Floats, c: Floats, plain: Floats) -> tuple[Floats, Floats]:
    """Seconds that one forward of the drafter over `t` tokens a row adds to a step, and those of its output head."""
    asked = StepConditions(batch=b, tokens=t, context=c, forwards={DRAFT: Forwards(t[..., None])})
    whole = np.maximum(step.model.seconds(asked) - plain, 1e-9)
    return whole, np.clip(step.model.parts(asked)["drafter head"], 1e-10, whole)


def _priced(step: StepCost, term: str, seconds: float, origin: Origin) -> Estimate:
    """Seconds of a term that has one number, scaled as the step is, and how far they are known."""
    value, wide = seconds * step.scale.get(term, 1.0), min(step.spread_of(term), 1.0)
    return Estimate(value=value, low=value * (1 - wide), high=value * (1 + wide), origin=origin)


def _spread(step: StepCost, batches: Sequence[int], measured: Sequence[MeasuredStep]) -> float:
    """Relative half-width of plain steps' 95 % intervals, the middle one over the batches of a table."""
    context = float(np.median([each.context for each in measured])) if measured else USUAL
    asked = [step.model.estimate(StepConditions(batch=batch, context=context)) for batch in batches]
    return float(np.median([(told.high - told.value) / told.value for told in asked if told.value > 0]))


def _drafting_spread(step: StepCost, measured: Sequence[MeasuredStep], target: float) -> float:
    """The same of what drafting adds, where that of the target's forward is `target`.

    Steps tell their sum, and not its parts: what is added is as wide as is needed for steps to be as wide as they are.
    """
    drafts = [each for each in measured if each.forwards]
    if step.covariance is None or not drafts:
        return min(step.spread_of("drafter"), 1.0)
    wide: list[float] = []
    for each in drafts:
        whole = step.model.estimate(_conditions(each, DRAFT))
        forward = float(step.model.seconds(_conditions(replace(each, forwards=0.0), DRAFT)))
        left = max((whole.high - whole.value) ** 2 - (target * forward) ** 2, 0.0)
        wide.append(left**0.5 / max(whole.value - forward, 1e-12))
    return min(max(float(np.median(wide)), target), 1.0)
