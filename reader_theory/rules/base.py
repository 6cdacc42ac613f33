"""What a verifier is: a rule that turns a draft and the target's laws into emitted tokens, given uniforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.draft_law import ROOT, DraftLaw, Scheme
from reader_theory.rules.laws import as_laws
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import Stream, VerifyUniforms

__all__ = ["Verified", "Verifier", "verify_batch", "walk_down"]


@dataclass(frozen=True)
class Verified:
    """What one step emits.

    Parameters
    ----------
    accepted : tuple of int
        Nodes along the accepted path, from the root's child down; not a prefix of the nodes in general.
    emitted : tuple of int
        Their tokens, then one that the target chose: a correction or a bonus. Without it after a cut.
    """

    accepted: tuple[int, ...]
    emitted: tuple[int, ...]

    def cut(self, stop_token_ids: Collection[int], room: int) -> Verified:
        """The same step ended by the first stop token, which is kept, or after `room` tokens.

        Examples
        --------
        >>> Verified((0, 3), (5, 2, 9)).cut(stop_token_ids={2}, room=10)
        Verified(accepted=(0, 3), emitted=(5, 2))
        """
        stops = (i + 1 for i, token in enumerate(self.emitted) if token in stop_token_ids)
        end = min(next(stops, len(self.emitted)), max(room, 0))
        return Verified(self.accepted[:end], self.emitted[:end])


class Verifier(ABC):
    """A verification rule; `check_verifier` says what the declarations mean.

    Attributes
    ----------
    name : str
        As it stands in records, plans and reports; a lossy rule's name ends in ``_lossy``.
    lossless : bool
        Whether the emitted string, continued by the target, has exactly the target's law.
    schemes : frozenset of str
        Drafts that the rule verifies; all others are refused.
    streams : frozenset of str
        Streams of uniforms that the rule reads.
    decodes : {"sampling", "greedy"}
        Whether the law kept is the target's, or that of its most likely token.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]
    schemes: ClassVar[frozenset[Scheme]]
    streams: ClassVar[frozenset[Stream]]
    decodes: ClassVar[Literal["sampling", "greedy"]] = "sampling"

    def verify(self, draft: DraftLaw, target: ArrayLike, uniforms: VerifyUniforms) -> Verified:
        """Verify one request's draft.

        Parameters
        ----------
        draft : DraftLaw of N nodes
            What was drafted, and how.
        target : (N + 1, V) float64, or object array of fractions; each row sums to 1
            Law of the target after the prefix (row 0), and after each node's path (row node + 1).
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
        path, last = self._walk(draft, laws, uniforms)
        return Verified(tuple(path), (*(int(draft.tokens[node]) for node in path), last))

    def _check(self, draft: DraftLaw, laws: NDArray[Any], uniforms: VerifyUniforms) -> None:
        require(
            draft.scheme in self.schemes,
            f"`draft` must be one that {self.name} verifies: {', '.join(sorted(self.schemes))}",
            got=f"scheme {draft.scheme!r}",
            fix="Choose the rule by the scheme: target_only verifies any tree.",
        )
        rows = laws.ndim == 2 and len(laws) == len(draft) + 1
        require(
            rows,
            "`target` must have one row for the root and one for each node",
            got=f"shape {laws.shape} for {len(draft)} nodes",
            fix="Cut padding, and keep the root's law in row 0.",
        )
        draft.check(laws.shape[1])
        _check_uniforms("acceptance", uniforms.acceptance, len(draft))
        _check_uniforms("recovery", uniforms.recovery, len(draft) + 1)

    @abstractmethod
    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        """Accepted nodes from the root's child down, and the token that the target adds."""


def verify_batch(
    verifier: Verifier, drafts: Sequence[DraftLaw], targets: Sequence[ArrayLike], uniforms: Sequence[VerifyUniforms]
) -> list[Verified]:
    """Verify a ragged batch; each request is verified as if it were alone."""
    return [verifier.verify(*request) for request in zip(drafts, targets, uniforms, strict=True)]


Round = Callable[[DraftLaw, int, NDArray[Any], NDArray[Any]], tuple[int | None, NDArray[Any]]]
"""(draft, node, target's law there, acceptance uniforms) -> the accepted child, or None and the law left over."""


def walk_down(draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms, decide: Round) -> tuple[list[int], int]:
    """Walk from the root down as long as `decide` accepts a child; then draw from the law that it leaves over."""
    path: list[int] = []
    node = ROOT
    while True:
        child, law = decide(draft, node, target[node + 1], uniforms.acceptance)
        if child is None:
            return path, pick_token(law, uniforms.recovery[node + 1])
        path.append(child)
        node = child


def _check_uniforms(name: str, values: NDArray[Any], count: int) -> None:
    right = np.ndim(values) == 1 and len(values) == count
    inside = right and not bool(np.any(values < 0)) and not bool(np.any(values >= 1))
    if not inside:
        raise InvalidInputError(
            f"`{name}` must hold {count} numbers in [0, 1)",
            got=f"from {np.min(values)} to {np.max(values)}" if right else f"shape {np.shape(values)}",
            fix="Draw them with `verify_uniforms`.",
        )
