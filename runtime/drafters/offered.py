"""What a drafter offers at every position of a finished output: the ranks that plans are made from, for any drafter.

A drafter that is asked anew at every node (`DraftForwards.kind` ``levels``) is asked for its first candidates at each
position: an accepted path is the true prefix, so that those decide every depth. Any other is asked for all depths at
once where a step could start: a block for several candidates of each depth, one without forwards for its chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Static, TraceDrafter
from reader_theory.rules.draft_law import Scheme
from reader_theory.trees import TokenTree
from runtime.drafters.base import Drafter

__all__ = ["DEPTH", "KnownRow", "described", "offered_ranks"]

DEPTH = 8
"""Levels that are recorded of a drafter whose ranks are of their own at every depth."""


@dataclass
class KnownRow:
    """A row of a greedy request that emits what it is told."""

    prompt: list[int]
    room: int = 64
    output: list[int] = field(default_factory=list)
    steps: int = 0
    scheme: Scheme = "deterministic"
    reads_prefix: bool = False
    constrained: bool = False

    @property
    def text(self) -> list[int]:
        return [*self.prompt, *self.output]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    def streams(self, stream: str, step: int, count: int) -> NDArray[np.float64]:
        return np.full(count, 0.5)

    def lies_within(self, tokens: Sequence[int]) -> bool:
        return True

    def law(self, logits: Any, prefixes: Sequence[Sequence[int]] | None) -> Any:
        return logits


def described(drafter: Drafter, model: str | None, candidates: int) -> TraceDrafter:
    """How a trace tells of a drafter that is recorded by `offered_ranks`."""
    kind: Literal["model", "block"] = "model" if drafter.takes.kind == "levels" else "block"
    ranked = 1 if drafter.takes.kind == "lookup" else candidates
    return TraceDrafter(kind=kind, model=model, candidates=ranked, forwards=drafter.takes)


def offered_ranks(
    make: Callable[[], Drafter], name: str, prompt: NDArray[np.int64], output: NDArray[np.int64], candidates: int
) -> dict[str, NDArray[np.generic]]:
    """Columns of a trace, as `DRAFTER_COLUMNS` has them: at each position, where the target's tokens are among those
    that the drafter offers.

    Parameters
    ----------
    make : callable
        A new drafter, not opened.
    prompt, output : (P,), (T,) int64
    candidates : int
        K: tokens of each depth that are asked for.
    """
    drafter = make()
    told = described(drafter, None, candidates)
    anew, depth = told.kind == "model", 1 if told.kind == "model" else DEPTH
    policy = Static.of(_comb(depth, told.candidates), name)
    drafter.open(name, 1, len(prompt) + len(output) + policy.most_nodes + 2)
    rank = np.full((len(output), depth), -1, dtype=np.int32)
    share = np.zeros((len(output), told.candidates), dtype=np.float32)
    row, text = KnownRow(prompt[:-1].tolist(), depth + 1, prompt[-1:].tolist()), output.tolist()
    drafter.join(0, prompt[:-1])
    drafter.extend(0, row.output)
    for at, token in enumerate(text):
        levels = _spine(drafter.propose(policy, [row], [policy.most_nodes]).trees[0], depth, told.candidates)
        share[at, : len(levels[0])] = 1 / max(len(levels[0]), 1)
        for d, (offered, true) in enumerate(zip(levels, text[at:], strict=False)):
            rank[at, d] = offered.index(true) if true in offered else -1
        row.output, row.steps = [*row.output, token], row.steps + 1
        drafter.extend(0, [token])
    columns: dict[str, NDArray[np.generic]] = {"rank": rank[:, 0] if anew else rank, "probability": share}
    return columns | ({"overlap": np.full(len(output), np.nan, dtype=np.float32)} if anew else {})


def _comb(depth: int, candidates: int) -> TokenTree:
    """So many children below the root, and below the first of every level."""
    return TokenTree.from_rank_paths([(0,) * d + (rank,) for d in range(depth) for rank in range(candidates)])


def _spine(tree: TokenTree, depth: int, candidates: int) -> list[list[int]]:
    """By depth, the tokens below the first node of the level above."""
    assert tree.tokens is not None, "a proposal holds trees of known tokens"
    levels, node, tokens = list[list[int]](), 0, tree.tokens.tolist()
    while node >= 0 and len(levels) < depth:
        children = tree.children(node)[:candidates]
        levels.append([tokens[child] for child in children])
        node = children[0] if children else -1
    return [*levels, *[list[int]()] * (depth - len(levels))]
