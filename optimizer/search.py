"""Coordinate search over what a policy has: its tree, its chain's caps, and where the draft rests.

Prefer it to any list of candidates: what it scores by, the replay of the trace, is the same, and a list is only its
start. One coordinate is changed at a time, over all its values, until none gains; several starts, since the scores
are no convex function. Cyclic coordinate ascent; Hooke and Jeeves 1961 for pattern search without derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from reader_theory.documents import Chain, Off, Policy, Static, Union

__all__ = ["Scorer", "Space", "climb"]

MATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
OFFSETS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
LEADERS = 16
"""Trees that are tried with every rule near a chain's own."""
SKIPS = (None, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
GAIN = 1e-9


class Scorer:
    """Tokens a second of policies, each worked out once, of so many at most.

    Parameters
    ----------
    values : callable
        Tokens a second of policies, in order.
    evaluations : int
        Policies that may be scored; all beyond count as worthless.

    Attributes
    ----------
    known : dict from Policy to float
        What was scored.
    """

    def __init__(self, values: Callable[[Sequence[Policy]], Sequence[float]], evaluations: int) -> None:
        self.known: dict[Policy, float] = {}
        self._values, self._evaluations = values, evaluations

    @property
    def spent(self) -> bool:
        """Whether no more may be scored."""
        return len(self.known) >= self._evaluations

    def __call__(self, policies: Sequence[Policy]) -> list[float]:
        fresh = [policy for policy in dict.fromkeys(policies) if policy not in self.known]
        fresh = fresh[: max(self._evaluations - len(self.known), 0)]
        self.known |= zip(fresh, self._values(fresh), strict=True)
        return [self.known.get(policy, 0.0) for policy in policies]

    def best(self, policies: Iterable[Policy]) -> Policy:
        """The first of the fastest."""
        asked = list(policies)
        valued = self(asked)
        return asked[max(range(len(asked)), key=valued.__getitem__)]


@dataclass(frozen=True)
class Space:
    """What the search may choose from.

    Attributes
    ----------
    trees : sequence of Static
        Of every drafter; grown where a limit on nodes or depth gave way.
    chains : sequence of Chain
        Whole rules that are tried as they are, before their parts are varied.
    longest : int
        Most tokens that a chain may offer.
    """

    trees: Sequence[Static]
    chains: Sequence[Chain] = field(default=())
    longest: int = 24

    @property
    def coordinates(self) -> tuple[Callable[[Policy], list[Policy]], ...]:
        """What a policy becomes when one of its parts alone is changed, or where the draft rests with its chain."""
        return self._trees, self._chains, self._numbers, self._skips, self._rests

    def _trees(self, policy: Policy) -> list[Policy]:
        _, chain, skip = parts_of(policy)
        return [policy_from(tree, chain, skip) for tree in (None, *self.trees)]

    def _chains(self, policy: Policy) -> list[Policy]:
        tree, _, skip = parts_of(policy)
        return [policy_from(tree, chain, skip) for chain in (None, *self.chains)]

    def _numbers(self, policy: Policy) -> list[Policy]:
        tree, chain, skip = parts_of(policy)
        return [] if chain is None else [policy_from(tree, near, skip) for near in self.near(chain)]

    def _skips(self, policy: Policy) -> list[Policy]:
        tree, chain, _ = parts_of(policy)
        return [] if tree is None or chain is None else [policy_from(tree, chain, skip) for skip in SKIPS]

    def _rests(self, policy: Policy) -> list[Policy]:
        tree, chain, _ = parts_of(policy)
        if tree is None or chain is None:
            return []
        return [policy_from(tree, near, skip) for near in self.near(chain) for skip in (None, near.min_match)]

    def near(self, chain: Chain) -> Iterable[Chain]:
        """Rules that differ from `chain` in one number; each behaviour once."""
        axes = {"min_match": MATCHES, "offset": OFFSETS, "factor": FACTORS, "max_tokens": (*LENGTHS, self.longest)}
        found: dict[tuple[int, ...], Chain] = {_behaviour(chain): chain}
        for name, values in axes.items():
            for value in values:
                if name == "max_tokens" and value > self.longest:
                    continue
                near = chain.model_copy(update={name: value})
                if any(caps := _behaviour(near)):
                    found.setdefault(caps, near)
        return found.values()


def ascend(start: Policy, space: Space, scorer: Scorer) -> Policy:
    """The best policy that one coordinate after the other leads to from `start`; where the scorer is spent, so far.

    Parameters
    ----------
    start : Policy
        Of fixed ranks, a chain, both, or off; a grown policy is its own end.
    space : Space
    scorer : Scorer
        Shared by several starts.
    """
    moved = start.kind != "grown"
    while moved and not scorer.spent:
        moved = False
        for changed in space.coordinates:
            best = scorer.best([start, *changed(start)])
            if scorer.known[best] > scorer.known[start] * (1 + GAIN):
                start, moved = best, True
    return start


def trade(start: Policy, space: Space, scorer: Scorer) -> Policy:
    """The best of the trees that go best with the chain of `start`, each with every rule near it.

    Where seconds have steps, a smaller tree pays only with a longer chain in the same step: two coordinates at once.
    """
    _, chain, skip = parts_of(start)
    if start.kind == "grown" or chain is None:
        return start
    beside = [policy_from(each, chain, skip) for each in (None, *space.trees)]
    leaders = sorted(beside, key=dict(zip(beside, scorer(beside), strict=True)).__getitem__, reverse=True)[:LEADERS]
    pairs = [policy_from(each.fixed, near, skip) for each in leaders for near in space.near(chain)]
    return scorer.best([start, *pairs])


def climb(starts: Iterable[Policy], space: Space, scorer: Scorer) -> Policy:
    """The best that the two lead to from any of `starts`, in turn until neither gains."""
    best = scorer.best([ascend(start, space, scorer) for start in dict.fromkeys(starts)])
    while (traded := trade(best, space, scorer)) != best:
        best = ascend(traded, space, scorer)
    return best


def parts_of(policy: Policy) -> tuple[Static | None, Chain | None, int | None]:
    """Tree, chain and the match at which the draft rests."""
    return policy.fixed, policy.retrieved, policy.skip_at_match if policy.kind == "union" else None


def policy_from(tree: Static | None, chain: Chain | None, skip: int | None) -> Policy:
    """The policy of these parts."""
    if tree is None:
        return Off() if chain is None else chain
    return tree if chain is None else Union(static=tree, chain=chain, skip_at_match=skip)


def _behaviour(chain: Chain) -> tuple[int, ...]:
    """Caps at every match length that a rule tells apart."""
    return tuple(chain.cap(match) for match in range(33))
