"""How much is lost by the policy that a plan chooses, beside other planners' trees, on texts of known law?

40 scenarios (drafts that decay and cling, copying, documents that differ), each under a staircase and a convex cost. A
planner sees a short trace; what it chose is replayed on 400 other prompts, and held against the best that any search,
the plan's own on those very prompts among them, finds there. Peers, written here from their papers, both on the same
fitted table of ranks: SMART (2604.09731) adds the likeliest node while its gain a second beats the tree's own rate;
CaDDTree (2606.01813) takes tree and budget together, and stops at the first size that is slower than the one before.

    python -m proofs_tests.benchmarks.search [--scenarios 40] [--held 400]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from optimizer.forecast import step_forecast
from optimizer.plan import make_plan
from optimizer.policies import retrieved_chains, unions_of
from optimizer.pool import Pool, limits_of
from optimizer.search import Scorer, climb
from optimizer.solvers.best_first import best_first_order
from proofs_tests.benchmarks._report import write_report
from proofs_tests.plans.scenarios import CONTEXT, OFFERED, Scenario, drawn, step_cost, trace_of
from reader_theory.acceptance import RankTable, fit_acceptance
from reader_theory.acceptance.replay import replay_many
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import Cost, Off, Policy, Static, Trace
from reader_theory.trees import TokenTree

NODES, DEPTH = 32, 8
UNLIMITED = 10**9


def scorer_of(trace: Trace, cost: Cost, batch: int) -> Scorer:
    """Tokens a second of policies by replay of the trace."""

    def values(policies: Sequence[Policy]) -> list[float]:
        results = replay_many(trace, policies, workload="w", first_position=1)
        return [
            batch * result.tokens_per_step / step_forecast(cost, policy, result, batch, float(CONTEXT)).step_s
            for policy, result in zip(policies, results, strict=True)
        ]

    return Scorer(values, UNLIMITED)


def rate(table: RankTable, tree: TokenTree, cost: Cost, batch: int) -> float:
    """Tokens a second of a tree under a fitted table, as the peers know it."""
    asked = StepConditions.of_levels(tree.level_widths.tolist(), batch=batch, context=CONTEXT)
    model = cost.model(("draft",) if tree.nodes else ())
    return batch * float(table.path_probability(tree).sum()) / float(model.seconds(asked))


def smart(table: RankTable, cost: Cost, batch: int) -> Policy:
    """The likeliest node next while its tokens over its seconds beat the rate of the tree so far."""
    order, path = best_first_order(table, NODES, DEPTH)
    chosen, best = 0, rate(table, TokenTree.empty(), cost, batch)
    seconds = batch / best
    for size in range(1, order.nodes + 1):
        tree = order.prune(nodes=size)
        fresh = rate(table, tree, cost, batch)
        longer = batch * float(path[: size + 1].sum()) / fresh
        if float(path[size]) * batch < best * (longer - seconds):
            break
        chosen, best, seconds = size, fresh, longer
    return policy_of(order, chosen)


def caddtree(table: RankTable, cost: Cost, batch: int) -> Policy:
    """At each depth sizes upwards until the rate falls; the best depth."""
    best, found = rate(table, TokenTree.empty(), cost, batch), policy_of(TokenTree.empty(), 0)
    for depth in range(1, DEPTH + 1):
        order, _ = best_first_order(table, NODES, depth)
        last = 0.0
        for size in range(1, order.nodes + 1):
            now = rate(table, order.prune(nodes=size), cost, batch)
            if now < last:
                break
            last = now
            if now > best:
                best, found = now, policy_of(order, size)
    return found


def policy_of(order: TokenTree, size: int) -> Policy:
    """The first `size` nodes, or off."""
    return Static.of(order.prune(nodes=size).by_level()) if size else Off()


def pool_of(trace: Trace, table: RankTable, cost: Cost, copies: bool) -> Pool:
    """What a search of this trace may choose from, twice as wide as a plan begins."""
    lookups = ("retrieval",) if copies else ()
    return Pool(trace, "w", {"draft": table}, lookups, limits_of(cost, trace, "w", 2 * NODES, 2 * DEPTH))


def listed(pool: Pool, score: Scorer) -> Policy:
    """The plan as it was: the best of a list of trees, chains, and both in one trie."""
    trees, chains = list(pool.family["draft"]), retrieved_chains(OFFERED) if pool.chains else []
    trees = [tree for tree in trees if tree.tree.nodes <= NODES and tree.tree.depth <= DEPTH]
    first = sorted(trees, key=lambda p: -score([p])[0])[:8]
    second = sorted(chains, key=lambda p: -score([p])[0])[:12]
    return score.best([Off(), *trees, *chains, *unions_of(first, second)])


def regrets(of: Scenario, seed: int, shape: str, held: int = 400) -> dict[str, Any]:
    """What each planner's choice loses to the best known on held-out prompts."""
    cost, trace, other = step_cost(of, shape), trace_of(of, of.prompts, seed), trace_of(of, held, 10**6 + seed)
    fit = fit_acceptance(trace, depth=DEPTH, resamples=100)
    fitted, copies = fit.workload("w").ranks(), "retrieval" in fit.workload("w").drafters
    assert fitted is not None, "a scenario has a draft"
    table = fitted.table()
    began = time.process_time()
    entry = make_plan(fit, cost, trace, batches=(of.batch,), resamples=100).entries[0]
    planning_s = time.process_time() - began
    seen, unseen = scorer_of(trace, cost, of.batch), scorer_of(other, cost, of.batch)
    chosen: dict[str, Policy] = {
        "plan": entry.policy,
        "list": listed(pool_of(trace, table, cost, copies), seen),
        "SMART": smart(table, cost, of.batch),
        "CaDDTree": caddtree(table, cost, of.batch),
    }
    trees = [chosen["SMART"], chosen["CaDDTree"]]
    family = [Off(), *(Static.of(TokenTree.chain(k)) for k in range(1, DEPTH + 1)), *trees]
    chosen["family"] = seen.best(family)
    leader = max(entry.candidates, key=lambda each: each.tokens_per_s).policy
    space = pool_of(other, table, cost, copies).space
    end = climb([entry.policy, leader, chosen["list"]], space, unseen)
    best = unseen.best([end, *chosen.values(), Off()])
    return {
        "scenario": seed,
        "cost": shape,
        "batch": of.batch,
        "prompts": of.prompts,
        "best": best.name,
        "chosen": {name: policy.name for name, policy in chosen.items()},
        "regret": {name: 1 - unseen([policy])[0] / unseen([best])[0] for name, policy in chosen.items()},
        "binding": entry.binding,
        "predicted": entry.prediction.tokens_per_s.value / unseen([entry.policy])[0],
        "planning_s": planning_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", type=int, default=40)
    parser.add_argument("--held", type=int, default=400)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in ("staircase", "convex"):
        for seed in range(arguments.scenarios):
            rows.append(regrets(drawn(seed), seed, shape, arguments.held))
            told = "  ".join(f"{name} {100 * loss:5.2f} %" for name, loss in rows[-1]["regret"].items())
            print(
                f"{shape:<9} {seed:>2}  {told}  {rows[-1]['planning_s']:.1f} s  {rows[-1]['chosen']['plan']}",
                flush=True,
            )
    summary = {shape: summarised([row for row in rows if row["cost"] == shape]) for shape in ("staircase", "convex")}
    for shape, planners in summary.items():
        for name, told in planners.items():
            print(
                f"{shape:<9} {name:<9} mean {told['mean']:6.2%}  worst {told['worst']:6.2%}  over 3 %: {told['over_3']}"
            )
    print(write_report("search", {"summary": summary, "rows": rows}).name)


def summarised(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and worst regret of each planner, and how often it passes 3 %."""
    lost = {name: np.array([row["regret"][name] for row in rows]) for name in rows[0]["regret"]}
    return {
        name: {"mean": float(each.mean()), "worst": float(each.max()), "over_3": int((each > 0.03).sum())}
        for name, each in lost.items()
    }


if __name__ == "__main__":
    main()
