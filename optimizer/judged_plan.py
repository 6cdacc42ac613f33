"""From what a judge gave by threshold and a Cost to a Plan: as many tokens a second as a quality budget allows; LOSSY.

Prefer it only where answers were checked: the curve's task scores are all that bounds what is lost. Lossless chains and
plain decoding are always among the candidates, and such a plan has no judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.terms import Forwards, FunctionTerm, StepConditions, StepModel
from reader_theory.documents import Candidate, Cost, Off, Plan, PlanEntry, Policy, Prediction, Stamp, Static
from reader_theory.documents.judge import QUESTIONS, FrontierPoint, JudgeCurve, Judged, JudgePoint
from reader_theory.documents.plan import JUDGED
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

__all__ = ["frontier_of", "plan_judged"]

FILE, LOSSLESS = "file", "lossless"


@dataclass(frozen=True)
class _Weighed:
    """A point of the curve at a batch; None for plain decoding."""

    point: JudgePoint | None
    batch: int
    policy: Policy
    tokens_per_step: Estimate
    step: Estimate
    terms_s: dict[str, float]
    beyond: dict[str, float]
    within_budget: bool

    @property
    def tokens_per_s(self) -> Estimate:
        return _ratio(self.tokens_per_step.scaled(self.batch), self.step)

    @property
    def judged(self) -> bool:
        return self.point is not None and self.point.judge == FILE

    @property
    def candidate(self) -> Candidate:
        rate = self.tokens_per_s
        return Candidate(
            policy=self.policy, tokens_per_step=self.tokens_per_step.value, tokens_per_s=rate.value,
            spread=(rate.high - rate.low) / (2 * 1.96 * max(rate.value, 1e-30)),
        )  # fmt: skip


def plan_judged(
    curve: JudgeCurve,
    cost: Cost,
    quality_budget: float,
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    drafter: str | None = None,
) -> Plan:
    """The threshold and chain with the most tokens a second whose points lost are, with 95 %, within the budget.

    One threshold serves all batches: that of the largest gain, in the mean over them. Where no judged point beats the
    best lossless one, the plan is lossless and has no judge.

    Parameters
    ----------
    quality_budget : float, >= 0
        Points of task score (of 100) that may be lost against the target's own answers.
    drafter : str, optional
        Of the cost: who drafts; its only one when left out.

    Raises
    ------
    InvalidInputError
        If the budget is negative, or the cost prices no forward of the draft.
    """
    require(
        math.isfinite(quality_budget) and quality_budget >= 0,
        "`quality_budget` must be points of task score, at least 0",
        got=quality_budget,
        fix="2 gives up two answers of a hundred.",
    )
    name = _drafter(curve, cost, drafter)
    wanted = sorted(set(batches))
    weighed = {batch: _weighed(curve, cost, name, batch, quality_budget) for batch in wanted}
    threshold = _best_threshold(weighed)
    chosen = {batch: _chosen(each, threshold) for batch, each in weighed.items()}
    entries = [_entry(chosen[batch], weighed[batch]) for batch in wanted]
    points = [each.point for each in chosen.values() if each.point is not None and threshold is not None]
    frontier = [point for each in weighed.values() for point in _frontier(each)]
    judged = _judged(curve, quality_budget, points, frontier) if points else None
    return Plan(
        stamp=Stamp.now(), target=cost.target, drafters={key: each.model for key, each in cost.drafters.items()},
        device=cost.device, dtype=cost.dtype, temperature=0.0, verification="greedy" if judged is None else JUDGED,
        fit=curve.fingerprint(), cost=cost.fingerprint(), prompts_per_workload=curve.questions,
        new_tokens=curve.new_tokens, notes=_notes(curve, quality_budget, threshold), judged=judged,
        entries=tuple(entries),
    )  # fmt: skip


def frontier_of(
    curve: JudgeCurve, cost: Cost, quality_budget: float, *, batches: Sequence[int], drafter: str | None = None
) -> list[FrontierPoint]:
    """By batch, every threshold of judge and baselines at its best chain, and plain decoding, by tokens a second."""
    name = _drafter(curve, cost, drafter)
    each = (_weighed(curve, cost, name, batch, quality_budget) for batch in sorted(set(batches)))
    return [point for weighed in each for point in _frontier(weighed)]


def _drafter(curve: JudgeCurve, cost: Cost, asked: str | None) -> str:
    """The drafter of the cost that runs the judge's draft model: the one asked for, of that model, or the only one."""
    models = [name for name, each in cost.drafters.items() if each.forward is not None]
    named = [name for name in models if cost.drafters[name].model == curve.draft]
    found = [asked] if asked is not None else named[:1] or models
    require(
        len(found) == 1 and found[0] in models,
        "a judged plan must have a cost of one draft model's forwards, that of the judge",
        got=f"{'drafter ' + repr(asked) if asked else 'none named'}; the cost has forwards of {models or 'none'}",
        fix=f"Calibrate with --draft {curve.draft}, or name its drafter by --drafter.",
    )
    return found[0]


def _frontier(weighed: Sequence[_Weighed]) -> list[FrontierPoint]:
    best: dict[tuple[str, float], _Weighed] = {}
    for each in weighed:
        key = ("off", 0.0) if each.point is None else (each.point.judge, each.point.threshold)
        if key not in best or each.tokens_per_s.value > best[key].tokens_per_s.value:
            best[key] = each
    points = [_frontier_point(name, each, weighed) for (name, _), each in best.items()]
    return sorted(points, key=lambda each: -each.tokens_per_s.value)


def _frontier_point(name: str, each: _Weighed, weighed: Sequence[_Weighed]) -> FrontierPoint:
    point = each.point
    own = next(other.point.score for other in weighed if other.point is not None and other.point.judge == LOSSLESS)
    return FrontierPoint(
        batch=each.batch, judge=name, threshold=0.0 if point is None else point.threshold,
        drafts=0 if point is None else point.drafts, alpha=0.0 if point is None else point.alpha,
        tokens_per_step=each.tokens_per_step, tokens_per_s=each.tokens_per_s,
        score=own if point is None else point.score,
        points_lost=_none() if point is None else point.points_lost, within_budget=each.within_budget,
    )  # fmt: skip


def _weighed(curve: JudgeCurve, cost: Cost, drafter: str, batch: int, budget: float) -> list[_Weighed]:
    points = [None, *curve.points]
    require(
        any(point.judge == LOSSLESS for point in curve.points),
        "a curve must hold the lossless rule beside the judge",
        got=sorted({point.judge for point in curve.points}),
        fix="Make it again with `reader judge curve`.",
    )
    return [_weigh(curve, cost, drafter, batch, budget, point) for point in points]


def _weigh(
    curve: JudgeCurve, cost: Cost, drafter: str, batch: int, budget: float, point: JudgePoint | None
) -> _Weighed:
    context = curve.context_tokens
    conditions = StepConditions(batch=batch, context=context)
    names: tuple[str, ...] = ()
    if point is not None:
        names = (drafter,)
        needed = cost.forwards_of(drafter).sizes([1] * point.drafts, pending=point.tokens_per_step.value)
        conditions = StepConditions(
            batch=batch, context=context, tokens=1 + point.drafts, forwards={drafter: Forwards(needed)}, drafting=True
        )
    model = cost.model(names)
    if point is not None and point.judge == FILE and 0 < point.threshold <= 1:
        model = StepModel((*model.terms, _judge_term(curve, cost, drafter, point)), model.scale)
    if point is None or point.judge == LOSSLESS:
        within = True
    else:
        within = point.judge == FILE and point.points_lost.high <= budget
    return _Weighed(
        point=point,
        batch=batch,
        policy=Off() if point is None else Static.of(TokenTree.chain(point.drafts), drafter),
        tokens_per_step=Estimate.exact(1.0, "assumed") if point is None else point.tokens_per_step,
        step=model.estimate(conditions),
        terms_s={name: float(seconds) for name, seconds in model.parts(conditions).items()},
        beyond=cost.beyond(conditions),
        within_budget=within,
    )


def _judge_term(curve: JudgeCurve, cost: Cost, drafter: str, point: JudgePoint) -> FunctionTerm:
    """What a fitted judge adds: the draft over all that it compares, the target over what it has not forwarded yet."""
    draft = cost.drafters[drafter].forward
    assert draft is not None, "`plan_judged` has looked"

    def seconds(given: StepConditions) -> NDArray[np.float64]:
        looked = draft.at(given.batch, point.drafts + point.looks, given.context)
        if curve.reads_alternatives and point.looks > 0:
            looked = looked + cost.target_forward.at(given.batch, max(point.looks, 1.0), given.context)
        return looked

    wide = max(draft.relative_spread, cost.target_forward.relative_spread)
    return FunctionTerm("judge", seconds, relative_spread=wide)


def _best_threshold(weighed: dict[int, list[_Weighed]]) -> float | None:
    """The judged threshold with the largest mean gain over the best lossless point; None where none gains."""
    gains: dict[float, float] = {}
    for each in weighed.values():
        base = _best([one for one in each if not one.judged and one.within_budget]).tokens_per_s.value
        allowed = {one.point.threshold for one in each if one.point and one.judged and one.within_budget}
        for threshold in allowed:
            rate = _best(_at(each, threshold)).tokens_per_s.value
            gains[threshold] = gains.get(threshold, 0.0) + max(rate / base - 1, 0.0)
    best = max(gains, key=lambda threshold: gains[threshold], default=None)
    return best if best is not None and gains[best] > 0 else None


def _at(weighed: Sequence[_Weighed], threshold: float) -> list[_Weighed]:
    judged = (each for each in weighed if each.judged and each.within_budget)
    return [each for each in judged if each.point is not None and each.point.threshold == threshold]


def _best(weighed: Sequence[_Weighed]) -> _Weighed:
    return max(weighed, key=lambda each: each.tokens_per_s.value)


def _chosen(weighed: Sequence[_Weighed], threshold: float | None) -> _Weighed:
    """The best lossless point, or the best at the threshold: whichever is faster. A judge without drafts is greedy."""
    lossless = [each for each in weighed if not each.judged and each.within_budget]
    if threshold is None:
        return _best(lossless)
    return _best([*_at(weighed, threshold), *(each for each in lossless if each.point is None)])


def _entry(each: _Weighed, weighed: Sequence[_Weighed]) -> PlanEntry:
    plain = next(one for one in weighed if one.point is None)
    rate, allowed = each.tokens_per_s, [one for one in weighed if one.within_budget]
    gain = Estimate.exact(1.0, "predicted") if each.point is None else _ratio(rate, plain.tokens_per_s)
    drafts = 0 if each.point is None else each.point.drafts
    return PlanEntry(
        workload=QUESTIONS, batch=each.batch, policy=each.policy,
        prediction=Prediction(
            tokens_per_step=each.tokens_per_step, step_s=each.step, tokens_per_s=rate, speed_up=gain,
            nodes_per_step=float(drafts), terms_s=each.terms_s,
        ),
        price=0.0, upper_bound_tokens_per_s=_best(allowed).tokens_per_s.value, gap=0.0,
        solver="every point of the curve", certified=False, certifies="compared: the points of the curve, no others",
        extrapolated=each.beyond, candidates=tuple(one.candidate for one in sorted(allowed, key=_slowness)),
    )  # fmt: skip


def _slowness(each: _Weighed) -> float:
    return -each.tokens_per_s.value


def _judged(
    curve: JudgeCurve, budget: float, points: Sequence[JudgePoint], frontier: Sequence[FrontierPoint]
) -> Judged:
    worst = max(points, key=lambda point: point.points_lost.high)
    return Judged(
        judge=curve.judge, fingerprint=curve.fingerprint_of_judge, threshold=worst.threshold, quality_budget=budget,
        score=worst.score, points_lost=worst.points_lost,
        frontier=tuple(frontier),
    )  # fmt: skip


def _notes(curve: JudgeCurve, budget: float, threshold: float | None) -> tuple[str, ...]:
    counted = f"tokens a step and scores are those of {curve.questions} questions that no fit saw"
    if threshold is None:
        return (counted, f"no judged point within {budget:g} points beats the best lossless one: the plan is lossless")
    return (counted, f"LOSSY: the text is not the target's; up to {budget:g} points of task score are given up")


def _ratio(above: Estimate, below: Estimate) -> Estimate:
    """A quotient of independent estimates: relative half-widths add in squares."""
    value = above.value / below.value
    up = math.hypot(above.high / above.value - 1, 1 - below.low / below.value)
    down = math.hypot(1 - above.low / above.value, below.high / below.value - 1)
    return Estimate(value=value, low=value * max(1 - down, 0.0), high=value * (1 + up), origin="predicted")


def _none() -> Estimate:
    return Estimate.exact(0.0, "assumed")
