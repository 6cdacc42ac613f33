"""From AcceptanceFit, Cost and Trace to a Plan: the best policy of each workload and batch, and what it will give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from optimizer.certificates import Certificate
from optimizer.forecast import StepForecast, interval, occupancy, step_forecast
from optimizer.head_trade import full_head, head_trade
from optimizer.held_out import Weights, keeps_up, optimism, spreads
from optimizer.policies import certified_tree, unions_of
from optimizer.pool import Pool, limits_of
from optimizer.search import Scorer, climb
from reader_theory.acceptance.intervals import widening
from reader_theory.acceptance.recorded import recorded_grown
from reader_theory.acceptance.replay import ReplayResult, replay_many
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import (
    Candidate,
    Chain,
    Cost,
    Off,
    Plan,
    PlanEntry,
    Policy,
    Prediction,
    Stamp,
    Static,
    Trace,
)
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.plan import RISK
from reader_theory.documents.policy import RETRIEVAL
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.serving.rounds import requests_to_run
from reader_theory.trees import TokenTree

__all__ = ["LONGEST", "Study", "Weighed", "make_plan"]

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

WORTH = 1.05
"""Tokens a step that a policy must surpass: it can gain no more than these, and calibrations err by as much."""
SHOWN, CONSIDERED = 12, 50
SOME = 32
"""Runs of as many prompts as are asked for, drawn of those that were measured, which a prediction takes together."""
TRADED = 4
"""Levels of the chain in which output heads are held against one another."""
TREES_WITH_RETRIEVAL, CHAINS_WITH_TREES, LONGEST = 4, 6, 24
EVALUATIONS = 6000
"""Policies that the search of one workload, batch and context may replay: seconds."""


@dataclass(frozen=True)
class Weighed:
    """A policy with its replay, or with what it did where it was recorded."""

    policy: Policy
    result: ReplayResult


def make_plan(
    fit: AcceptanceFit,
    cost: Cost,
    trace: Trace,
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    contexts: Sequence[int] | None = None,
    workloads: Sequence[str] | None = None,
    drafters: Sequence[str] | None = None,
    max_nodes: int | None = None,
    max_depth: int | None = None,
    new_tokens: int = 96,
    prompts_per_workload: int = 32,
    resamples: int = 1000,
    risk: float = RISK,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Choose, for each workload and batch, the policy with the most tokens a second, off and chains among them.

    Policies are weighed by replaying the trace, which is exact for greedy and target-only verification, under the
    measured cost; grown policies, where the trace recorded some, by what they did on it. A coordinate search goes on
    from the best of a family until nothing gains; what it finds is taken where it holds up on documents held out.
    Choosing the best of many on few prompts flatters the choice; cross-fitting by document measures by how much, and
    the prediction is lowered by it.

    Parameters
    ----------
    fit, cost, trace : documents
        The fit must be of this trace, and the cost of the same target and draft or of a copy with the same outputs.
    contexts : sequence of int, optional
        Contexts up to which entries are made, each weighed by the cost there; acceptance is that of all positions.
        One entry a batch, at the trace's mean context, when left out.
    drafters : sequence of str, optional
        Whom policies may name; all that the cost prices when left out.
    max_nodes, max_depth : int, optional
        Largest neural tree; left out, limits grow until they do not bind, as far as the cost measured.
    new_tokens, prompts_per_workload : int
        Of the measurement that the interval is to cover.
    risk : float, in [0, 1]
        Plain decoding is chosen unless a policy is no faster with at most this chance.
    evaluations : int
        Policies that each entry may replay.

    Raises
    ------
    InvalidInputError
        If the fit is of another trace, a workload is unknown, or the cost does not tell contexts or grown policies.
    """
    require(
        fit.trace == trace.fingerprint(),
        "`fit` must have been made from `trace`",
        got=f"a fit of trace {fit.trace}, and trace {trace.fingerprint()}",
        fix="Fit this trace, or pass the trace that was fitted.",
    )
    require(
        trace.kv == cost.kv,
        "`trace` and `cost` must be of one cache of the target",
        got=f"--kv {trace.kv} in the trace, --kv {cost.kv} in the cost",
        fix="Record and calibrate with the same --kv.",
    )
    require(
        0 <= risk <= 1 and evaluations >= 1,
        "`risk` must lie in [0, 1], and `evaluations` be >= 1",
        got=f"risk {risk}, {evaluations} evaluations",
        fix="Leave both out.",
    )
    _check_contexts(cost, contexts)
    served = cost.of(drafters).as_declared({name: each.forwards for name, each in fit.drafters.items()})
    entries: list[PlanEntry] = []
    trades: list[str] = []
    chosen = list(workloads or trace.workloads)
    cells = list(product(sorted(set(contexts)) if contexts else [None], sorted(set(batches))))
    for number, name in enumerate(chosen):
        study = Study(
            fit, served, trace, name, max_nodes, max_depth, prompts_per_workload, resamples, seed, risk, evaluations
        )
        for place, (context, batch) in enumerate(cells):
            if progress:
                progress("plan", number * len(cells) + place, len(chosen) * len(cells))
            entries.append(study.entry(batch, context))
            trades += study.trades(batch, context)
    return Plan(
        stamp=Stamp.now(seed=seed),
        target=cost.target,
        kv=cost.kv,
        drafters={name: each.model for name, each in served.drafters.items()},
        device=cost.device,
        dtype=cost.dtype,
        temperature=trace.temperature,
        verification="greedy" if trace.temperature == 0 else "target_only",
        fit=fit.fingerprint(),
        cost=cost.fingerprint(),
        prompts_per_workload=prompts_per_workload,
        new_tokens=new_tokens,
        reference=cost.reference,
        risk=risk,
        notes=(*filter(None, (fit.workload(name).warning for name in chosen)), *trades),
        entries=tuple(entries),
    )


def _check_contexts(cost: Cost, contexts: Sequence[int] | None) -> None:
    known = cost.target_forward.context
    require(
        not contexts or (len(known) > 1 and min(contexts) >= 1),
        "`contexts` must be >= 1, and the cost measured at two contexts or more",
        got=f"{list(contexts or [])}, a cost at {list(known)}",
        fix="Calibrate with several --context, or leave contexts out.",
    )


class Study:
    """One workload: its replays, shared by all batches and contexts; `make_plan` says what the arguments are."""

    def __init__(
        self,
        fit: AcceptanceFit,
        cost: Cost,
        trace: Trace,
        workload: str,
        max_nodes: int | None = None,
        max_depth: int | None = None,
        test_prompts: int = 32,
        resamples: int = 100,
        seed: int = 0,
        risk: float = RISK,
        evaluations: int = EVALUATIONS,
    ) -> None:
        self.cost, self.trace, self.workload = cost, trace, workload
        self.test_prompts, self.resamples, self.seed, self.level = test_prompts, resamples, seed, fit.level
        self.risk, self.evaluations = risk, evaluations
        fitted = {name: each for name, each in fit.workload(workload).drafters.items() if name in cost.drafters}
        self.ranks = {name: each.rank_depth.table() for name, each in fitted.items() if each.rank_depth is not None}
        lookups = tuple(name for name, each in fitted.items() if each.matched)
        self._start = limits_of(cost, trace, workload, max_nodes, max_depth)
        self.pool = Pool(trace, workload, self.ranks, lookups, self._start)
        self.grown = self._recorded()
        self._cache = {weighed.policy: weighed for weighed in self.grown}
        self.mean_context = float(np.mean(trace.columns["context_tokens"][trace.rows(workload)]))
        self.off = self._weigh([Off()])[0]

    @property
    def chains(self) -> list[Chain]:
        """Rules for retrieved chains that the search begins with."""
        return self.pool.chains

    def entry(self, batch: int, context_tokens: int | None = None) -> PlanEntry:
        """The best policy at `batch` and, where one is given, at so many tokens a row; with its prediction."""
        context = self.mean_context if context_tokens is None else float(context_tokens)
        self.pool.widen(self._start)
        proved = {name: self._certified(name, batch, context) for name in self.ranks}
        scorer = Scorer(
            lambda policies: [self._value(w, batch, context) for w in self._weigh(policies)], self.evaluations
        )
        family = self._family(scorer)
        found = self._search(family, scorer)
        ranked = self._ranked(scorer)
        leaders = self._weights([w for w, _ in ranked[:CONSIDERED]], batch, context)
        among = [*(w for w, _ in ranked[:CONSIDERED]), self._cache[scorer.best(family)]]
        if found not in family and not self._holds_up(among, family, batch, context):
            ranked = [pair for pair in ranked if pair[0].policy in family]
        shrink = 1.0 - optimism(leaders, self.seed)
        best, loss = self._worth(ranked, batch, context, shrink)
        step = self.step(best, batch, context)
        shown, by_drafter = _shown(ranked), _best_by_drafter(ranked)
        told = list({w.policy: w for w, _ in [*shown, *by_drafter.values()]}.values())
        errors = spreads(self._weights(told, batch, context))
        spread = dict(zip((w.policy for w in told), errors, strict=True))
        return PlanEntry(
            workload=self.workload,
            batch=batch,
            context_tokens=context_tokens,
            policy=best.policy,
            prediction=self._predict(best, batch, context, 1.0 if best is self.off else shrink),
            price=self._price(step, best, batch, context),
            upper_bound_tokens_per_s=ranked[0][1],
            gap=max((certificate.gap for certificate in proved.values()), default=0.0),
            solver=f"coordinate search, {len(scorer.known)} policies replayed, {len(self.grown)} grown; trees by "
            "best_first and levels",
            certified=all(certificate.valid for certificate in proved.values()) and not step.beyond,
            certifies=_certifies(proved, len(scorer.known), scorer.spent),
            loss_chance=loss,
            extrapolated=step.beyond,
            binding=self.pool.binding(best.policy),
            candidates=tuple(_candidate(*pair, spread) for pair in shown),
            alternatives={name: _candidate(*pair, spread) for name, pair in by_drafter.items()},
        )

    def trades(self, batch: int, context_tokens: int | None = None) -> list[str]:
        """What each smaller output head gains beside the full one, in a chain that both draft; none without two."""
        full = full_head(self.cost)
        heads = [name for name, each in self.cost.drafters.items() if each.output and each.head and name in self.ranks]
        if full not in heads:
            return []
        context = self.mean_context if context_tokens is None else float(context_tokens)
        chain = TokenTree.chain(min(TRADED, *(self.ranks[name].depth for name in heads)))
        weighed = {name: self._weigh([Static.of(chain, name)])[0] for name in heads}
        whole, told = weighed.pop(full), list[str]()
        for name, each in weighed.items():
            trade = head_trade(self.cost, whole.policy, whole.result, each.policy, each.result, batch, context)
            rates = [self._value(w, batch, context) for w in (each, whole)]
            told.append(
                f"{self.workload}, batch {batch}, {whole.policy.name}: output head of {name} beside that of {full}: "
                f"rho_tau {trade.rho_tau:.3f}, nu {trade.nu:.3f}, kappa {trade.kappa:.3f}: rho_TPS "
                f"{trade.rho_tps:.3f} by the formula, {rates[0] / rates[1]:.3f} by the terms"
            )
        return told

    def _family(self, scorer: Scorer) -> list[Policy]:
        """Policies that nobody searches for: off, fitted trees, chains, the best of both in one trie, recorded ones."""
        trees = [tree for each in self.pool.family.values() for tree in each]
        alone: list[Policy] = [Off(), *trees, *self.chains, *(w.policy for w in self.grown)]
        first = sorted(alone, key=dict(zip(alone, scorer(alone), strict=True)).__getitem__, reverse=True)
        static = [p for p in first if p.kind == "static"]
        best = [p for name in self.ranks for p in [q for q in static if q.drafter == name][:TREES_WITH_RETRIEVAL]]
        unions = unions_of(best, [p for p in first if p.kind == "chain"][:CHAINS_WITH_TREES])
        scorer(unions)
        return [*alone, *unions]

    def _search(self, family: Sequence[Policy], scorer: Scorer) -> Policy:
        """The best that coordinate searches from the family lead to, in limits that grow until they do not bind."""
        kinds = dict.fromkeys(policy.kind for policy in family)
        best = scorer.best(family)
        starts = [best, *(scorer.best(p for p in family if p.kind == kind) for kind in kinds)]
        while True:
            space = self.pool.space
            best = climb([best, *starts], space, scorer)
            wider = self.pool.limits.wider(best)
            if wider == self.pool.limits or scorer.spent:
                return best
            self.pool.widen(wider)
            starts = [best]

    def _weights(self, weighed: Sequence[Weighed], batch: int, context: float) -> Weights:
        return Weights(
            weighed[0].result.tokens.astype(np.float64),
            np.array([w.result.steps for w in weighed], dtype=np.float64),
            np.array([self.step(w, batch, context).step_s for w in weighed]),
            self.trace.documents(weighed[0].result.prompts),
        )

    def _holds_up(self, among: Sequence[Weighed], family: Sequence[Policy], batch: int, context: float) -> bool:
        """Whether what was searched for is no worse than the family's best on documents that neither has seen."""
        known = set(family)
        mine = np.array([w.policy in known for w in among])
        return keeps_up(self._weights(among, batch, context), mine, self.seed)

    def _worth(
        self, ranked: Sequence[tuple[Weighed, float]], batch: int, context: float, shrink: float
    ) -> tuple[Weighed, float]:
        """The first policy whose chance of being no faster than plain decoding is small enough, and that chance.

        It is no slower in a run of as many prompts as are asked for either, in which rows that are done idle.
        """
        for weighed, _ in ranked[:CONSIDERED]:
            if weighed is self.off:
                break
            loss = self._loss_chance(weighed, batch, context)
            if loss <= self.risk and shrink * self._gain(weighed, batch, context) > 1.0:
                return weighed, loss
        return self.off, 0.0

    def _gain(self, weighed: Weighed, batch: int, context: float) -> float:
        """Speed-up of a run."""
        by_rows, plain_rows = (self._by_rows(each, batch, context) for each in (weighed, self.off))
        _, _, rate, plain = self._centre(weighed, by_rows, plain_rows)
        return float(rate / plain)

    def _loss_chance(self, weighed: Weighed, batch: int, context: float) -> float:
        """Chance that a policy is no faster than plain decoding, by the documents recorded and the cost's errors.

        A step that drafts takes no less than one that does not: where a calibration says so, it errs. `WORTH` keeps
        off what gains no more than calibrations err by.
        """
        steps = (self.step(each, batch, context) for each in (weighed, self.off))
        drafted, plain = (
            each.step_s * self._cost_noise(w.policy, each, stream)
            for each, w, stream in zip(steps, (weighed, self.off), (1, 2), strict=True)
        )
        return float(np.mean(self._resampled(weighed) <= np.maximum(drafted / plain, WORTH)))

    def _resampled(self, weighed: Weighed) -> Floats:
        """(resamples,) tokens a step of as many documents as were recorded, drawn anew."""
        documents = self.trace.documents(weighed.result.prompts)
        sums = np.array([np.bincount(documents, each) for each in (weighed.result.tokens, weighed.result.steps)])
        count = sums.shape[1]
        drawn = np.random.default_rng(self.seed + 3).multinomial(count, np.full(count, 1 / count), self.resamples)
        tokens, steps = sums @ drawn.T
        centre, wider = weighed.result.tokens_per_step, np.sqrt(count / max(count - 1, 1))
        return centre + wider * (tokens / steps - centre)

    def ranked(self, batch: int, context: float) -> list[tuple[Weighed, float]]:
        """Every policy that was weighed so far with its tokens a second, fastest first."""
        valued = [(w, self._value(w, batch, context)) for w in self._cache.values()]
        return sorted(valued, key=lambda pair: -pair[1])

    def weighed(self, policy: Policy) -> Weighed:
        """One policy."""
        return self._weigh([policy])[0]

    def prediction(self, policy: Policy, batch: int) -> Prediction:
        """What `policy` will give, chosen or not, at the trace's mean context."""
        return self._predict(self.weighed(policy), batch, self.mean_context, 1.0)

    def step(self, weighed: Weighed, batch: int, context: float) -> StepForecast:
        """What a full step takes."""
        return step_forecast(self.cost, weighed.policy, weighed.result, batch, context)

    def _certified(self, drafter: str, batch: int, context: float) -> Certificate:
        """Certificate of a drafter's best tree, which joins those that are weighed."""
        limits = self.pool.limits
        tree, certificate = certified_tree(
            self.ranks[drafter], self.cost, drafter, batch, context, limits.nodes, limits.depth
        )
        if tree.nodes:
            self.pool.add(Static.of(tree.by_level(), drafter))
        return certificate

    def _recorded(self) -> list[Weighed]:
        """Grown policies of the trace, but for those that ask a draft where the cost has none."""
        recorded = recorded_grown(self.trace, self.workload)
        require(
            not recorded or self.cost.growth_s is not None,
            "`cost` must tell what growing a tree takes, as the trace has grown policies",
            got="a cost without `growth_s`",
            fix="Calibrate again with this version, or record without --grown.",
        )
        priced = {RETRIEVAL, *self.cost.drafters}
        return [Weighed(p, result) for p, result in recorded if priced.issuperset(p.drafters)]

    def _weigh(self, policies: Sequence[Policy]) -> list[Weighed]:
        fresh = [policy for policy in policies if policy not in self._cache]
        replays = replay_many(self.trace, fresh, workload=self.workload, first_position=1)
        self._cache |= {policy: Weighed(policy, result.pooled()) for policy, result in zip(fresh, replays, strict=True)}
        return [self._cache[policy] for policy in policies]

    def _value(self, weighed: Weighed, batch: int, context: float) -> float:
        return batch * weighed.result.tokens_per_step / self.step(weighed, batch, context).step_s

    def _ranked(self, scorer: Scorer) -> list[tuple[Weighed, float]]:
        """What was scored in this cell, fastest first."""
        return sorted(((self._cache[p], rate) for p, rate in scorer.known.items()), key=lambda pair: -pair[1])

    def _predict(self, weighed: Weighed, batch: int, context: float, shrink: float) -> Prediction:
        by_rows, plain_rows = (self._by_rows(each, batch, context) for each in (weighed, self.off))
        draws = self._draws(weighed, by_rows, plain_rows)
        value, spread = self._centre(weighed, by_rows, plain_rows), self._cost_noise(weighed.policy, by_rows[-1], 1)
        apart = self._ratio_noise(weighed.policy, by_rows[-1], plain_rows[-1])
        own = weighed.policy.shape != "off"
        per_step = interval(draws[0], value[0] * (shrink if own else 1.0), self.level)
        step = interval(draws[1] * spread, value[1], self.level)
        rate = interval(draws[2] * spread, value[2] * (shrink if own else 1.0), self.level)
        gain = interval(draws[2] / draws[3] * apart, value[2] / value[3] * shrink, self.level) if own else _one()
        return Prediction(
            tokens_per_step=per_step,
            step_s=step,
            tokens_per_s=rate,
            speed_up=gain,
            nodes_per_step=weighed.result.nodes_per_step,
            terms_s=by_rows[-1].terms_s,
            accepted=tuple(weighed.result.accepted_by_depth.tolist()),
        )

    def _by_rows(self, weighed: Weighed, batch: int, context: float) -> list[StepForecast]:
        """Steps with 1, 2, ..., batch rows."""
        return [self.step(weighed, rows, context) for rows in range(1, batch + 1)]

    def _centre(self, weighed: Weighed, rows: list[StepForecast], plain: list[StepForecast]) -> Floats:
        """What runs of `test_prompts` prompts measure, all together.

        The fewer they are, the more of a run's steps find rows that have come to their end: drafts bring requests to it
        one by one, plain decoding all at once.
        """
        count, asked = len(weighed.result.steps), self.test_prompts
        rng = np.random.default_rng(self.seed)
        some = [rng.permutation(count)[:asked] for _ in range(SOME)] if asked < count else [np.arange(count)]
        served = (self._served(np.resize(each, asked), len(rows)) for each in some)
        return _rates(np.sum([self._run(each, weighed, rows, plain) for each in served], axis=0))

    def _served(self, prompts: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
        """The prompts as a run serves them: repeated where the measurement has fewer than the batch has rows."""
        return np.resize(prompts, requests_to_run(len(prompts), batch)) if self.test_prompts < batch else prompts

    def _draws(self, weighed: Weighed, rows: list[StepForecast], plain: list[StepForecast]) -> Floats:
        """(4, resamples): tokens a step, seconds a step, tokens a second, and those of plain decoding.

        Each draw measures about `test_prompts` new prompts, and carries the error of having fitted on the prompts
        there are. Prompts of one document are drawn together, and what documents differ by is widened for their
        number as in `bootstrap_prompts`.
        """
        rng = np.random.default_rng(self.seed)
        count, batch = len(weighed.result.steps), len(rows)
        documents = self.trace.documents(weighed.result.prompts)
        groups = [np.flatnonzero(documents == each) for each in range(int(documents.max()) + 1)]
        some = max(round(len(groups) * self.test_prompts / count), 1)
        wider = widening(len(groups), self.level) if len(groups) > 1 else 1.0

        def drawn(number: int) -> NDArray[np.int64]:
            return self._served(np.concatenate([groups[int(i)] for i in rng.integers(0, len(groups), number)]), batch)

        centre = self._measure(self._served(np.arange(count), batch), weighed, rows, plain)
        draws: list[Floats] = []
        for _ in range(self.resamples):
            measured = self._measure(drawn(some), weighed, rows, plain)
            fitted = self._measure(drawn(len(groups)), weighed, rows, plain)
            draws.append(centre * (measured / fitted) ** wider)
        return np.array(draws).T

    def _measure(
        self, prompts: NDArray[np.int64], weighed: Weighed, rows: list[StepForecast], plain: list[StepForecast]
    ) -> Floats:
        return _rates(self._run(prompts, weighed, rows, plain))

    def _run(
        self, prompts: NDArray[np.int64], weighed: Weighed, rows: list[StepForecast], plain: list[StepForecast]
    ) -> Floats:
        """A run of these prompts: its tokens, steps of its rows, steps, seconds, and seconds of plain decoding."""
        steps, tokens = weighed.result.steps[prompts], weighed.result.tokens[prompts]
        busy = occupancy(steps, len(rows))[1:]
        idle = occupancy(self.off.result.steps[prompts], len(plain))[1:]
        seconds, plain_s = (
            float(each @ np.array([step.step_s for step in known])) for each, known in ((busy, rows), (idle, plain))
        )
        return np.array([tokens.sum(), steps.sum(), busy.sum(), seconds, plain_s], dtype=np.float64)

    def _cost_noise(self, policy: Policy, step: StepForecast, stream: int) -> Floats:
        """Factors of the seconds. Beyond what was measured these grow by nothing at least, in proportion at most."""
        wide = (_width(self.cost.closure_of(policy.drafters)), self.cost.target_forward.relative_spread / 1.96)
        return self._noise(float(np.linalg.norm([*wide, _far(step)])), stream)

    def _ratio_noise(self, policy: Policy, step: StepForecast, plain: StepForecast) -> Floats:
        """Factors of the seconds over those of plain decoding: at one pace, where so measured."""
        ratio = self.cost.ratio_of(policy.drafters)
        if ratio is None:
            return self._cost_noise(policy, step, 1) / self._cost_noise(self.off.policy, plain, 2)
        return self._noise(float(np.hypot(_width(ratio), _far(step))), 1)

    def _noise(self, wide: float, stream: int) -> Floats:
        return np.exp(np.random.default_rng(self.seed + stream).normal(0.0, wide, self.resamples))

    def _price(self, step: StepForecast, weighed: Weighed, batch: int, context: float) -> float:
        """Tokens that one more node a row must bring: its seconds at the rate that the step earns."""
        nodes = weighed.result.nodes_per_step
        asked = StepConditions(batch=batch, context=context, tokens=np.array([nodes + 1, nodes + 2]), drafting=True)
        slope = max(float(np.diff(self.cost.model(weighed.policy.drafters).seconds(asked))[0]), 0.0)
        return slope * weighed.result.tokens_per_step / step.step_s


def _rates(run: Floats) -> Floats:
    """Tokens a step, seconds a step, tokens a second, and those of plain decoding."""
    tokens, row_steps, steps, seconds, plain_s = run
    return np.array([tokens / row_steps, seconds / steps, tokens / seconds, tokens / plain_s])


def _width(factor: Estimate) -> float:
    """Standard deviation of the logarithm of a factor."""
    return float(np.log(factor.high) - np.log(factor.low)) / (2 * 1.96)


def _far(step: StepForecast) -> float:
    """The same of what lies beyond the measured."""
    return float(np.log(list(step.beyond.values())).sum()) / 1.96


def _shown(ranked: list[tuple[Weighed, float]]) -> list[tuple[Weighed, float]]:
    """The leaders, and always the best of each kind and of each set of drafters, off among them."""
    shown = ranked[:SHOWN]
    kinds = dict.fromkeys(kind for weighed, _ in ranked for kind in _kinds(weighed.policy))
    for kind in kinds:
        first = next(pair for pair in ranked if kind in _kinds(pair[0].policy))
        if first not in shown:
            shown.append(first)
    return shown


def _kinds(policy: Policy) -> tuple[str, ...]:
    if policy.kind == "grown":
        return ("grown",)
    return ("chain", policy.drafted_by) if policy.shape == "chain" else (policy.drafted_by,)


def _best_by_drafter(ranked: list[tuple[Weighed, float]]) -> dict[str, tuple[Weighed, float]]:
    """The first policy that each drafter drafts in, and off."""
    found: dict[str, tuple[Weighed, float]] = {}
    for pair in ranked:
        for name in pair[0].policy.drafters or ("off",):
            found.setdefault(name, pair)
    return found


def _candidate(weighed: Weighed, tokens_per_s: float, spread: Mapping[Policy, float]) -> Candidate:
    return Candidate(
        policy=weighed.policy,
        tokens_per_step=weighed.result.tokens_per_step,
        tokens_per_s=tokens_per_s,
        spread=float(spread[weighed.policy]),
        accepted=tuple(weighed.result.accepted_by_depth.tolist()),
    )


def _certifies(proved: Mapping[str, Certificate], replayed: int, spent: bool) -> str:
    """What is proved and what was only compared; never more."""
    told = [
        f"best tree of {name} under its fitted table: "
        + ("proved" if each.proves_optimal() else f"within {each.gap:.2%}" if each.valid else "not proved")
        for name, each in proved.items()
    ]
    compared = f"the policy: best of {replayed} replayed" + (", the search ended early" if spent else "")
    return "; ".join([*told, compared])


def _one() -> Estimate:
    return Estimate.exact(1.0, "predicted")
