"""What a verification rule is: what it emits, given uniforms, and how often it accepts what it was offered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.draft_law import SCHEMES, DraftLaw, Scheme
from reader_theory.rules.laws import as_laws
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import Stream, VerifyUniforms

__all__ = ["At", "FollowingRule", "Rule", "Verified", "check_uniforms", "verify_batch", "walk_down"]

At = Callable[[Stream, int], NDArray[Any]]
"""(stream, count) -> that many numbers of that stream which belong to one position."""


@dataclass(frozen=True)
class Verified:
    """What one step emits.

    Parameters
    ----------
    accepted : tuple of int
        Drafted nodes along the accepted path, from the root's child down; not the first nodes in general.
    emitted : tuple of int
        Their tokens, then one that the target chose: a correction or a bonus. Without it after a cut, and after a leaf
        where the rule adds nothing.
    """

    accepted: tuple[int, ...]
    emitted: tuple[int, ...]

    def cut(self, stop_token_ids: Collection[int], room: int) -> Verified:
        """The same step ended by the first stop token, which is kept, or after `room` tokens.

        Examples
        --------
        >>> Verified((1, 4), (5, 2, 9)).cut(stop_token_ids={2}, room=10)
        Verified(accepted=(1, 4), emitted=(5, 2))
        """
        stops = (i + 1 for i, token in enumerate(self.emitted) if token in stop_token_ids)
        end = min(next(stops, len(self.emitted)), max(room, 0))
        return Verified(self.accepted[:end], self.emitted[:end])


@dataclass(frozen=True)
class Rule(ABC):
    """A verification rule; `check_rule` says what the declarations mean. A rule's own fields are its parameters.

    Attributes
    ----------
    name : str
        As it stands in requests, records, plans and reports; a lossy rule's name ends in ``_lossy``.
    lossless : bool
        Whether the emitted string, continued by the target, has exactly the target's law.
    scheme : str
        How drafts are to be drawn for it; ``deterministic`` asks nothing of the draft's law.
    schemes : frozenset of str
        Drafts that the rule verifies, `scheme` among them; all others are refused.
    streams : frozenset of str
        Streams of uniforms that the rule reads.
    decodes : {"sampling", "greedy"}
        Whether the law kept is the target's, or that of its most likely token.
    adds_after_leaf : bool
        Whether a path that is accepted down to a leaf is followed by one more token, a bonus.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]
    scheme: ClassVar[Scheme] = "deterministic"
    schemes: ClassVar[frozenset[Scheme]] = frozenset(SCHEMES)
    streams: ClassVar[frozenset[Stream]] = frozenset()
    decodes: ClassVar[Literal["sampling", "greedy"]] = "sampling"
    adds_after_leaf: ClassVar[bool] = True

    @property
    def parameters(self) -> dict[str, Any]:
        """The rule's own parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def having(self, parameters: Mapping[str, Any]) -> Self:
        """The same rule with some of its parameters changed.

        Raises
        ------
        InvalidInputError
            When it has no parameter of that name, or refuses the value.
        """
        unknown = sorted(set(parameters) - set(self.parameters))
        require(
            not unknown,
            f"parameters of {self.name} must be among: {', '.join(self.parameters) or 'none, it has no parameter'}",
            got=unknown,
            fix="Leave the others out, or choose the rule that has them.",
        )
        return replace(self, **parameters) if parameters else self

    @abstractmethod
    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """Probability that each of some siblings is the one accepted: the rank vector of the rule at one node.

        Parameters
        ----------
        target, draft : (V,), each sums to 1
            Laws p and q; object arrays of fractions give fractions.
        draws : int, >= 1
            Siblings drafted from q as `scheme` says; those of ``deterministic`` are the most likely tokens of q.

        Returns
        -------
        (draws,) of the same kind
        """

    def verify(self, draft: DraftLaw, target: ArrayLike, uniforms: VerifyUniforms) -> Verified:
        """Verify one request's draft.

        Parameters
        ----------
        draft : DraftLaw of N nodes
            What was drafted, and how.
        target : (N + 1, V) float64, or object array of fractions; each row sums to 1
            Law of the target after each node's path, the root's first.
        uniforms : VerifyUniforms
            Numbers of the streams that the rule reads.

        Returns
        -------
        Verified
            The accepted path, and its tokens with one more.

        Raises
        ------
        NotADistributionError
            When a row of `target` is no law.
        InvalidInputError
            When the draft is not one that this rule can verify, or an array has the wrong shape.
        """
        laws = as_laws(target, "target")
        self._check(draft, laws, uniforms)
        return self._verified(draft, *self._walk(draft, laws, uniforms))

    @staticmethod
    def _verified(draft: DraftLaw, path: Sequence[int], last: int | None) -> Verified:
        added = () if last is None else (last,)
        return Verified(tuple(path), (*(int(draft.tokens[node]) for node in path), *added))

    def _check(self, draft: DraftLaw, laws: NDArray[Any], uniforms: VerifyUniforms) -> None:
        require(
            draft.scheme in self.schemes,
            f"`draft` must be one that {self.name} verifies: {', '.join(sorted(self.schemes))}",
            got=f"scheme {draft.scheme!r}",
            fix="Choose the rule by the scheme: target_only verifies any tree.",
        )
        rows = laws.ndim == 2 and len(laws) == len(draft.tree)
        require(
            rows,
            "`target` must have one row for the root and one for each node",
            got=f"shape {laws.shape} for {draft.tree.nodes} nodes",
            fix="Cut padding, and keep the root's law in row 0.",
        )
        draft.check(laws.shape[1])
        check_uniforms("acceptance", uniforms.acceptance, len(draft.tree))
        check_uniforms("recovery", uniforms.recovery, len(draft.tree))
        if "coupling" in self.streams:
            _check_noise(uniforms.coupling, draft.tree.depth, laws.shape[1])

    @abstractmethod
    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int | None]:
        """Accepted nodes from the root's child down, and the token that the target adds, if any."""


class FollowingRule(Rule):
    """A rule that follows the target's own tokens down any tree, for as long as a child carries the next one."""

    @abstractmethod
    def next_token(self, law: Any, numbers: At) -> int:
        """The target's own token at a position: a function of its law there and of that position's numbers.

        Parameters
        ----------
        law : (V,) float64, sums to 1
            Whatever has the same order will do (logits, say) for a rule that decodes greedily.
        numbers : callable
            Numbers of the position, of the streams that the rule declares: one of ``recovery``, V of ``coupling``.
        """

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        path, emitted = draft.tree.follow(
            lambda path: self.next_token(target[path[-1]], uniforms.at(path[-1], len(path) - 1))
        )
        return path[1:], emitted[-1]


def verify_batch(
    rule: Rule, drafts: Sequence[DraftLaw], targets: Sequence[ArrayLike], uniforms: Sequence[VerifyUniforms]
) -> list[Verified]:
    """Verify a ragged batch; each request is verified as if it were alone."""
    return [rule.verify(*request) for request in zip(drafts, targets, uniforms, strict=True)]


Round = Callable[[DraftLaw, int, NDArray[Any], NDArray[Any]], tuple[int | None, NDArray[Any]]]
"""(draft, node, target's law there, acceptance uniforms) -> the accepted child, or None and the law left over."""


def walk_down(draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms, decide: Round) -> tuple[list[int], int]:
    """Walk from the root down as long as `decide` accepts a child; then draw from the law that it leaves over."""
    path: list[int] = []
    node = 0
    while True:
        child, law = decide(draft, node, target[node], uniforms.acceptance)
        if child is None:
            return path, pick_token(law, uniforms.recovery[node])
        path.append(child)
        node = child


def _check_noise(noise: NDArray[Any] | None, depth: int, vocabulary: int) -> None:
    rows = noise is not None and noise.ndim == 2 and len(noise) > depth and noise.shape[1] == vocabulary
    require(
        rows,
        "`coupling` must have one row for each depth from the root to the deepest node, one number a token",
        got=f"shape {None if noise is None else noise.shape} for depth {depth} and {vocabulary} tokens",
        fix="Draw it with `coupling_uniforms`, and hand the same to the drafter.",
    )


def check_uniforms(name: str, values: NDArray[Any], count: int) -> None:
    """Refuse what is not `count` numbers in [0, 1)."""
    right = np.ndim(values) == 1 and len(values) == count
    inside = right and not bool(np.any(values < 0)) and not bool(np.any(values >= 1))
    if not inside:
        raise InvalidInputError(
            f"`{name}` must hold {count} numbers in [0, 1)",
            got=f"from {np.min(values)} to {np.max(values)}" if right else f"shape {np.shape(values)}",
            fix="Draw them with `verify_uniforms`.",
        )
