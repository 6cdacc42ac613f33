"""From acceptance that an engine counted and a Cost to a Plan: chains of one drafter, and off; no trace, no model.

Prefer `optimizer.plan` where a trace was recorded: counters know one chain, of the ranks below the first nothing, and
nothing past the depth that was drafted, where this plan ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optimizer.forecast import interval
from optimizer.limits import limits_met
from reader_theory.acceptance.runs import RightRuns
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Candidate, Chain, Cost, Off, Plan, PlanEntry, Policy, Prediction, Stamp, Static
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.documents.plan import RISK
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

__all__ = ["ImportedStudy", "drafter_counted", "plan_imported", "plan_of"]

Floats = NDArray[np.float64]
WORTH = 1.05
"""Drafting is chosen from this speed-up on, where the chance that plain decoding is faster is at most the risk."""
SERVED_CONTEXT = 1024
"""Tokens a row where nobody says how long contexts are."""
SUFFIX = "suffix"
"""Name of look-ups whose drafts are as long as their match; others are of one length."""
_NORMAL = 1.96


def plan_imported(
    told: ImportedAcceptance,
    cost: Cost,
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    contexts: Sequence[int] | None = None,
    drafter: str | None = None,
    max_depth: int = 8,
    risk: float = RISK,
    new_tokens: int = 256,
    resamples: int = 1000,
    seed: int = 0,
) -> Plan:
    """Choose the length of the chain that was counted, or nothing, for every batch and context.

    Parameters
    ----------
    told, cost : documents
        The cost prices the drafter that was counted.
    contexts : sequence of int, optional
        Tokens a row; one entry a batch, at `SERVED_CONTEXT`, when left out.
    drafter : str, optional
        Name in the cost; its only one when left out.
    max_depth : int
        Longest chain; never longer than was counted.
    risk : float
        Greatest chance of being slower than plain decoding that is taken.
    new_tokens : int
        Output tokens of the requests planned for.

    Raises
    ------
    InvalidInputError
        If the cost prices no drafter, or several and none is named.
    """
    study = ImportedStudy(told, cost, drafter_counted(cost, drafter), max_depth, resamples, seed, risk)
    places = sorted(set(contexts)) if contexts else [None]
    return plan_of(
        study, [(batch, context) for context in places for batch in sorted(set(batches))], new_tokens=new_tokens
    )


def plan_of(study: ImportedStudy, cells: Sequence[tuple[int, int | None]], *, new_tokens: int) -> Plan:
    """The plan of these batches and contexts."""
    told, cost = study.told, study.cost
    entries = [study.entry(batch, context) for batch, context in cells]
    return Plan(
        stamp=Stamp.now(seed=study.seed), target=cost.target,
        drafters={name: each.model for name, each in cost.drafters.items()}, device=cost.device, dtype=cost.dtype,
        temperature=0.0, verification="greedy", fit=told.fingerprint(), cost=cost.fingerprint(),
        prompts_per_workload=max(told.windows, 1), new_tokens=new_tokens, notes=study.notes, entries=tuple(entries),
    )  # fmt: skip


def drafter_counted(cost: Cost, drafter: str | None) -> str:
    """The drafter of the cost that acceptance was counted of."""
    known = list(cost.drafters)
    require(
        drafter in known if drafter is not None else len(known) == 1,
        "acceptance that was counted must be of one drafter of the cost",
        got=f"{'none named' if drafter is None else repr(drafter)}; the cost prices {known or 'none'}",
        fix="Pass --drafter NAME; `reader cost` and `reader calibrate` take the drafter as --draft.",
    )
    return known[0] if drafter is None else drafter


@dataclass(frozen=True)
class Acceptance:
    """What a chain of one length does: tokens a step, share of steps with a draft, tokens drafted in such a step.

    ``accepted``: (length,) share of all steps that accept 1, 2, ... tokens or more.
    """

    tokens: float
    draws: Floats
    coverage: float
    drafted: float
    accepted: tuple[float, ...] = ()


class ImportedStudy:
    """What a chain of every length would accept, shared by all batches and contexts."""

    def __init__(
        self,
        told: ImportedAcceptance,
        cost: Cost,
        drafter: str,
        max_depth: int,
        resamples: int = 1000,
        seed: int = 0,
        risk: float = RISK,
    ) -> None:
        self.told, self.cost, self.drafter, self.max_depth = told, cost, drafter, max_depth
        self.resamples, self.seed, self.risk = resamples, seed, risk
        self.looks_up = cost.drafters[drafter].term == "lookups"
        self.workload = told.workload

    @cached_property
    def lengths(self) -> list[Acceptance]:
        """Chains of 0, 1, ... tokens, as long as counted and as asked for."""
        runs = RightRuns.of_shares(self.told.shares)
        drawn = RightRuns(_drawn(self.told, runs.goes_on, self.resamples, self.seed))
        found = [Acceptance(1.0, np.ones(self.resamples), 0.0, 0.0)]
        whole, longest = float(runs.tokens_per_step(self.told.depth)), self.told.depth
        counted = self.told.tokens_per_row_step
        for length in range(1, min(self.told.depth, self.max_depth) + 1):
            # what runs cannot express of the counted length is carried over to the others in proportion to theirs
            carried = (counted - 1) / max(whole - 1, 1e-9)
            accepted = np.minimum(runs.shares(length) * carried, 1.0)
            tokens = 1 + (float(runs.tokens_per_step(length)) - 1) * carried
            draws = 1 + (drawn.tokens_per_step(length) - 1) * carried
            cover = float(runs.coverage(length, self.told.coverage, longest))
            found.append(Acceptance(tokens, draws, cover, self._drafted(length), tuple(accepted.tolist())))
        return found

    def _drafted(self, length: int) -> float:
        """Mean tokens of a draft of at most `length`: drafts go on with one chance at every depth."""
        told = self.told
        if told.draft_tokens is None or told.drafts == 0:
            return float(length)
        mean = min(max(told.draft_tokens / told.drafts, 1.0), told.depth)
        if mean >= told.depth * (1 - 1e-6):
            return float(length)
        from scipy.optimize import brentq

        depths = np.arange(told.depth)
        goes_on = float(brentq(lambda g: float((g**depths).sum()) - mean, 0.0, 1.0))
        return float((goes_on ** np.arange(length)).sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan rests on."""
        told = self.told
        only = f"acceptance was counted to depth {told.depth}: no chain is longer, and nothing is known of trees"
        other = "acceptance of a shorter chain than was counted is that of the runs of right tokens behind the counts"
        covered = () if told.row_steps else ("steps without a draft were not counted: every step is taken to have one",)
        return (*told.notes, only, *((other,) if told.depth > 1 else ()), *(covered if self.looks_up else ()))

    def policy(self, length: int) -> Policy:
        """The chain of so many tokens."""
        if length == 0:
            return Off()
        if self.looks_up:
            offset, factor = (0.0, 1.0) if self.drafter == SUFFIX else (float(length), 0.0)
            return Chain(drafter=self.drafter, min_match=1, offset=offset, factor=factor, max_tokens=length)
        return Static.of(TokenTree.chain(length), self.drafter)

    def running(self, length: int, batch: int, context: float) -> float:
        """Rows that run at once of `batch`: those that memory holds."""
        return self.cost.running(batch, context, length, (self.drafter,) if length else ())

    def conditions(self, length: int, rows: float, context: float) -> StepConditions:
        """A step of so many rows, each with a chain of so many tokens."""
        if length == 0:
            return StepConditions(batch=rows, context=context)
        each = self.lengths[length]
        tokens = 1 + each.coverage * each.drafted
        needed = self.cost.forwards_of(self.drafter).sizes(np.ones(length), pending=each.tokens)
        asked = Forwards(1.0) if self.looks_up else Forwards(needed)
        return StepConditions(batch=rows, context=context, tokens=tokens, forwards={self.drafter: asked}, drafting=True)

    def terms(self, length: int, batch: int, context: float) -> Mapping[str, float]:
        """Mean seconds of each term of a full step: of the rows that memory holds."""
        return self.terms_at(length, self._full(length, batch, context), context)

    def _full(self, length: int, batch: int, context: float) -> float:
        return max(self.running(length, batch, context), 1.0)

    def terms_at(self, length: int, rows: float, context: float) -> Mapping[str, float]:
        """Mean seconds of each term of a step of so many rows."""
        drafters = (self.drafter,) if length else ()
        parts = self.cost.model(drafters).parts(self.conditions(length, max(rows, 1.0), context))
        return {name: float(seconds) for name, seconds in parts.items()}

    def rate(self, length: int, batch: int, context: float) -> float:
        """Tokens a second of the whole batch; 0 where memory does not hold one row."""
        rows = self.running(length, batch, context)
        return (rows >= 1) * rows * self.lengths[length].tokens / sum(self.terms(length, batch, context).values())

    def choice(self, batch: int, context: float) -> tuple[int, list[Candidate]]:
        """The best length, 0 where none is worth it, and every one's rate."""
        weighed = [
            Candidate(
                policy=self.policy(k), tokens_per_step=each.tokens, tokens_per_s=self.rate(k, batch, context),
                accepted=each.accepted,
            )
            for k, each in enumerate(self.lengths)
        ]  # fmt: skip
        best = max(range(len(weighed)), key=lambda k: weighed[k].tokens_per_s)
        if best and not self._worth(best, batch, context):
            best = 0
        return best, sorted(weighed, key=lambda each: -each.tokens_per_s)

    def _worth(self, length: int, batch: int, context: float) -> bool:
        plain = self.rate(0, batch, context)
        gain = self.rate(length, batch, context) / plain if plain > 0 else 0.0
        return gain >= WORTH and float(np.mean(self._gains(length, batch, context) < 1)) <= self.risk

    def _gains(self, length: int, batch: int, context: float) -> Floats:
        step, plain = self._steps(length, batch, context), self._steps(0, batch, context)
        rows = self.running(length, batch, context) / self.running(0, batch, context)
        return rows * self.lengths[length].draws * plain / step

    def _steps(self, length: int, batch: int, context: float) -> Floats:
        """(resamples,) seconds of a step: errors of the target's forward are common to all lengths.

        Beyond what was measured seconds grow by nothing at least, in proportion at most.
        """
        terms = self.terms(length, batch, context)
        rng = np.random.default_rng(self.seed)
        target, drafting, beyond = (rng.standard_normal(self.resamples) for _ in range(3))
        drafters = (self.drafter,) if length else ()
        closure = self.cost.closure_of(drafters)
        wide = (np.log(closure.high) - np.log(closure.low)) / (2 * _NORMAL)
        apart = {"off", self.drafter} <= set(self.cost.closures)
        stream = 2 if length and apart else 1
        noise = np.random.default_rng(self.seed + stream).standard_normal(self.resamples)
        forward = self.cost.drafters[self.drafter].forward
        slack = 0.0 if forward is None else forward.relative_spread
        spread = {"target": (target, self.cost.target_forward.relative_spread), self.drafter: (drafting, slack)}
        factors = {name: np.exp(z * s / _NORMAL) for name, (z, s) in spread.items()}
        far = float(np.log(list(self._beyond(length, batch, context).values())).sum()) / _NORMAL
        total = sum(seconds * factors.get(name, 1.0) for name, seconds in terms.items())
        return np.asarray(total * np.exp(wide * noise + far * beyond), dtype=np.float64)

    def _beyond(self, length: int, batch: int, context: float) -> dict[str, float]:
        return self.cost.beyond(self.conditions(length, self._full(length, batch, context), context))

    def entry(self, batch: int, context_tokens: int | None = None, *, length: int | None = None) -> PlanEntry:
        """The choice, or the chain of `length`, at `batch` rows of `context_tokens`, with its prediction."""
        context = float(SERVED_CONTEXT if context_tokens is None else context_tokens)
        best, weighed = self.choice(batch, context)
        best = best if length is None else length
        each, terms = self.lengths[best], self.terms(best, batch, context)
        rate, steps = self.rate(best, batch, context), self._steps(best, batch, context)
        rows = self.running(best, batch, context)
        require(
            rate > 0,
            "memory must hold one row at least",
            got=f"{rows:.2f} rows of {context:.0f} tokens",
            fix="Plan for a shorter --context, or for more memory: `reader cost --tensor-parallel`.",
        )
        plain = self.rate(0, batch, context)
        gain, beyond = rate / plain if plain > 0 else 1.0, self._beyond(best, batch, context)
        policy = self.policy(best)
        return PlanEntry(
            workload=self.workload, batch=batch, context_tokens=context_tokens, policy=policy,
            prediction=Prediction(
                tokens_per_step=interval(each.draws, each.tokens, 0.95),
                step_s=interval(steps, sum(terms.values()), 0.95),
                tokens_per_s=interval(rows * each.draws / steps, rate, 0.95),
                speed_up=interval(self._gains(best, batch, context), gain, 0.95) if best else _one(),
                nodes_per_step=each.coverage * each.drafted, terms_s=dict(terms), accepted=each.accepted,
            ),
            price=self._price(best, batch, context), upper_bound_tokens_per_s=weighed[0].tokens_per_s, gap=0.0,
            solver=f"every chain to depth {len(self.lengths) - 1}, by counted acceptance", certified=False,
            extrapolated=beyond,
            binding=self._binding(policy) + (("memory",) if rows < batch else ()),
            candidates=tuple(weighed),
        )  # fmt: skip

    def _binding(self, policy: Policy) -> tuple[str, ...]:
        counted = self.told.depth
        return limits_met(policy, {self.drafter: counted}, len(self.lengths), self.max_depth, counted)

    def _price(self, length: int, batch: int, context: float) -> float:
        """Tokens that one more drafted token a row must bring."""
        at = self.lengths[length]
        tokens = 1 + at.coverage * at.drafted
        rows = self._full(length, batch, context)
        asked = StepConditions(batch=rows, context=context, tokens=np.array([tokens, tokens + 1]), drafting=True)
        slope = max(float(np.diff(self.cost.model((self.drafter,)).seconds(asked))[0]), 0.0)
        return slope * at.tokens / sum(self.terms(length, batch, context).values())


def _drawn(told: ImportedAcceptance, centre: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, D) chances of runs to go on, as uncertain as the counted conditionals and their mean length.

    Depths share what the interval of the mean length has above that of independent depths: requests differ.
    """
    from scipy.special import betaincinv, ndtr

    rng = np.random.default_rng(seed)
    own, common = rng.standard_normal((resamples, told.depth)), rng.standard_normal((resamples, 1))
    half = np.array([(each.conditional.high - each.conditional.low) / (2 * _NORMAL) for each in told.depths])
    rate = told.table[:, 0]
    trials = np.clip(rate * (1 - rate) / np.maximum(half, 1e-4) ** 2, 1.0, 1e8)
    a, b = trials * centre + 0.5, trials * (1 - centre) + 0.5
    wanted = (told.tokens_per_step.high - told.tokens_per_step.low) / (2 * _NORMAL)
    drawn = own
    for shared in (0.0, 0.25, 0.5, 0.75, 1.0):
        normal = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        drawn = np.asarray(cast(Any, betaincinv)(a, b, cast(Any, ndtr)(normal)), dtype=np.float64)
        if float(np.std(np.cumprod(drawn, axis=1).sum(axis=1))) >= wanted:
            break
    return drawn


def _one() -> Estimate:
    return Estimate.exact(1.0, "predicted")
