"""Settle on what an engine runs: the plan's own choice where it can, the nearest that it can with the loss stated.

An engine's abilities are given as families: one rule each, of which a whole export obeys a single one (a server runs
one method on every batch, say). The nearest is looked for among the candidates that the plan weighed, so its loss is
the plan's own prediction; where the plan did not weigh it, the loss is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimizer.export.formats import EngineFormat
from reader_theory.documents.plan import Plan, PlanEntry
from reader_theory.documents.policy import Policy, policy_of
from reader_theory.errors import UnsupportedByEngineError, require
from reader_theory.trees.tree import TokenTree

__all__ = ["Choice", "Family", "Near", "entries_of", "settle", "weighed_policies"]

Family = Callable[[Policy, int], bool]
"""Whether the family runs a policy in the entry of this number, counted from the smallest batch."""


Near = Callable[[PlanEntry], Sequence[Policy]]
"""Policies of an engine that are like an entry's, the likest first."""


@dataclass(frozen=True)
class Choice:
    """What is exported for one entry of the plan, and what that is predicted to give; None where it was not weighed."""

    entry: PlanEntry
    policy: Policy
    tokens_per_step: float | None
    tokens_per_s: float | None

    @property
    def exact(self) -> bool:
        """Whether it is what the plan chose."""
        return self.policy == self.entry.policy

    @property
    def planned(self) -> tuple[float, float]:
        """Tokens a step and a second of the plan's own choice, weighed as the others were."""
        own = next((each for each in self.entry.candidates if each.policy == self.entry.policy), None)
        told = self.entry.prediction
        return (told.tokens_per_step.value, told.tokens_per_s.value) if own is None else (
            own.tokens_per_step, own.tokens_per_s
        )  # fmt: skip

    @property
    def accepted(self) -> tuple[float, ...]:
        """Share of steps that accept 1, 2, ... tokens or more; empty where the plan does not tell."""
        if self.exact and self.entry.prediction.accepted:
            return self.entry.prediction.accepted
        return next((each.accepted for each in self.entry.candidates if each.policy == self.policy), ())

    @property
    def share(self) -> float:
        """Tokens per second over those of the plan's own choice; those of plain decoding when unknown."""
        if self.exact:
            return 1.0
        if self.tokens_per_s is None:
            return min(1.0, 1.0 / self.entry.prediction.speed_up.value)
        return self.tokens_per_s / self.planned[1]

    @property
    def gives_up(self) -> bool:
        """Whether nothing is drafted where the plan drafts."""
        return self.policy.kind == "off" and self.entry.policy.kind != "off"

    def __str__(self) -> str:
        head = f"batch {self.entry.batch}: {self.entry.policy.name} -> {self.policy.name}"
        if self.tokens_per_s is None or self.tokens_per_step is None:
            return f"{head}, which the plan did not weigh, so its loss is not known"
        per_step, per_s = self.planned
        return (
            f"{head}, {self.tokens_per_step:.3g} tokens a step instead of {per_step:.3g} and "
            f"{self.tokens_per_s:.4g} tokens/s instead of {per_s:.4g} "
            f"({100 * (self.share - 1):+.1f} %)"
        )


def settle(
    plan: Plan, workload: str, engine: EngineFormat, families: Mapping[str, Family], *, near: Near, nearest: bool
) -> tuple[str, list[Choice]]:
    """The family that loses least, and its choice for every entry of `workload`, smallest batch first.

    What nobody weighed counts as plain decoding does, which it is taken before.

    Raises
    ------
    InvalidInputError
        If the plan knows no such workload.
    UnsupportedByEngineError
        If no family runs the plan as it is and `nearest` is false; the message states the nearest and its loss.
    """
    entries = entries_of(plan, workload)
    settled = {name: _choices(entries, family, near) for name, family in families.items()}
    possible = {name: choices for name, choices in settled.items() if choices is not None}
    best = max(possible, key=lambda name: _worth(possible[name]), default=None)
    if best is not None and (nearest or all(choice.exact for choice in possible[best])):
        return best, possible[best]
    wanted = "; ".join(f"batch {entry.batch}: {entry.policy.name}" for entry in entries)
    raise UnsupportedByEngineError(
        f"the plan of {workload!r} must be one that {engine.title} runs: {engine.runs}",
        got=wanted,
        fix=_offer([] if best is None else possible[best]),
    )


def entries_of(plan: Plan, workload: str) -> list[PlanEntry]:
    """Entries of `workload`, smallest batch first.

    Raises
    ------
    UnsupportedByEngineError
        If there are several of one batch, by context: no engine told of here follows it.
    """
    plan.entry(workload, 1)
    found = sorted((entry for entry in plan.entries if entry.workload == workload), key=lambda entry: entry.batch)
    contexts = [entry.context_tokens for entry in found]
    require(
        len({entry.batch for entry in found}) == len(found),
        "a plan for another engine must have one entry a batch",
        got=f"entries by context too: {contexts}",
        fix="Plan again without --context, or with the one context that is served.",
        error=UnsupportedByEngineError,
    )
    return found


def _offer(choices: list[Choice]) -> str:
    if not choices:
        return "There is no near one; plan again with a family of policies that it runs."
    told = "; ".join(str(choice) for choice in choices if not choice.exact)
    return f"The nearest that it runs: {told}. Pass `nearest=True` (`--nearest`) to export that."


def _worth(choices: list[Choice]) -> tuple[bool, float, float, int]:
    """Exact before near; then the larger worst share, the larger sum of shares, and who gives up drafting less."""
    shares = [choice.share for choice in choices]
    dropped = sum(choice.gives_up for choice in choices)
    return all(choice.exact for choice in choices), min(shares), sum(shares), -dropped


def _choices(entries: list[PlanEntry], family: Family, near: Near) -> list[Choice] | None:
    found = [_best(entry, number, family, near) for number, entry in enumerate(entries)]
    choices = [choice for choice in found if choice is not None]
    return choices if len(choices) == len(entries) else None


def _best(entry: PlanEntry, number: int, family: Family, near: Near) -> Choice | None:
    """The plan's own policy, else the fastest that the family runs; what is like it though nobody weighed it, last.

    A grown policy is no family's: its tree is another at every step.
    """
    if entry.policy.kind != "grown" and family(entry.policy, number):
        told = entry.prediction
        return Choice(entry, entry.policy, told.tokens_per_step.value, told.tokens_per_s.value)
    weighed = [choice for choice in _weighed(entry) if choice.policy.kind != "grown" and family(choice.policy, number)]
    known = [choice.policy for choice in weighed]
    alike = [policy for policy in (*near(entry), _spine(entry.policy)) if policy not in known]
    unknown = [Choice(entry, policy, None, None) for policy in alike if family(policy, number)]
    found = [*weighed, *unknown[:1]]
    return max(found, key=lambda choice: (choice.share, not choice.gives_up), default=None)


def _weighed(entry: PlanEntry) -> Iterator[Choice]:
    for candidate in entry.candidates:
        yield Choice(entry, candidate.policy, candidate.tokens_per_step, candidate.tokens_per_s)


def weighed_policies(plan: Plan, workload: str) -> list[Policy]:
    """Every policy of `workload` that was chosen or weighed, or is a tree's spine."""
    found: dict[Policy, None] = {}
    for entry in entries_of(plan, workload):
        found |= dict.fromkeys([entry.policy, *(choice.policy for choice in _weighed(entry)), _spine(entry.policy)])
    return [policy for policy in found if policy.kind != "grown"]


def _spine(policy: Policy) -> Policy:
    """The chain of first candidates in a policy's tree; off where the tree is another at every step."""
    tree, node, length = TokenTree.empty() if policy.kind == "grown" else policy.tree, 0, 0
    while (first := [child for child in tree.children(node) if tree.ranks[child] == 0]) != []:
        node, length = first[0], length + 1
    return policy_of(TokenTree.chain(length))
