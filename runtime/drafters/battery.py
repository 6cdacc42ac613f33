"""What the words of `Drafter` mean, as checks that run on any of them: yours too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from reader_theory.errors import InvalidInputError
from runtime.drafters.base import Drafter, Proposal
from runtime.drafters.offered import KnownRow

__all__ = ["check_drafter"]

ROWS, SLOTS = 3, 512


def check_drafter(make: Callable[[], Drafter], policy: Any, vocabulary: int, *, seed: int = 0) -> None:
    """Check that what a drafter offers is what it says, and depends on a row's own text only.

    Trees hang below the last token, within slots and room, parents first, siblings distinct, tokens of the vocabulary.
    A row's tree is the same alone or among others, whatever row it is in or was moved to, and however its text came.
    It takes the forwards that it declares.

    Parameters
    ----------
    make : callable
        A new drafter, not opened.
    policy : Policy
        One that names it.

    Raises
    ------
    InvalidInputError
        At the first promise that is broken.
    """
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, vocabulary, size).tolist() * 2 for size in (6, 3, 9)]
    together, rows = _opened(make), [KnownRow(text) for text in texts]
    for row, each in enumerate(rows):
        together.join(row, np.array(each.prompt, dtype=np.int64))
        _emit(together, row, each, [each.prompt[0]])
    for turn in range(4):
        spare = [int(rng.integers(0, 9)) for _ in rows]
        proposal = together.propose(policy, rows, spare)
        _check_forwards(together, policy, proposal)
        for row, each in enumerate(rows):
            _check_tree(proposal, row, each, spare[row], vocabulary)
            _check_alone(make, policy, each, spare[row], proposal, row)
        if turn == 1:  # the first row leaves, and the last one takes its place
            together.move(len(rows) - 1, 0)
            rows = [rows[-1], *rows[1:-1]]
        for row, each in enumerate(rows):
            _emit(together, row, each, rng.integers(0, vocabulary, 1 + turn % 3).tolist())
            each.room -= 1


def _opened(make: Callable[[], Drafter]) -> Drafter:
    drafter = make()
    drafter.open("checked", ROWS, SLOTS)
    return drafter


def _emit(drafter: Drafter, row: int, text: KnownRow, tokens: list[int]) -> None:
    text.output += tokens
    drafter.extend(row, tokens)


def _nodes(proposal: Proposal, row: int) -> tuple[list[int], list[int]]:
    count = int(proposal.trees.counts[row])
    return proposal.trees.tokens[row, :count].tolist(), proposal.trees.parents[row, :count].tolist()


def _check_tree(proposal: Proposal, row: int, text: KnownRow, spare: int, vocabulary: int) -> None:
    tokens, parents = _nodes(proposal, row)
    depths = [0]
    for node, parent in enumerate(parents[1:], start=1):
        _require(0 <= parent < node, "parents must come before their nodes", parents)
        depths.append(depths[parent] + 1)
    _require(tokens[0] == text.output[-1] and parents[0] == -1, "node 0 must be the last token of the text", tokens)
    _require(len(tokens) - 1 <= max(spare, 0), f"a row of {spare} slots must get no more nodes", len(tokens) - 1)
    _require(max(depths) < text.room, f"a row that may emit {text.room} tokens must get no deeper tree", max(depths))
    _require(all(0 <= token < vocabulary for token in tokens), "tokens must be in the vocabulary", tokens)
    siblings = list(zip(parents, tokens, strict=True))
    _require(len(set(siblings)) == len(siblings), "siblings must carry distinct tokens", siblings)


def _check_forwards(drafter: Drafter, policy: Any, proposal: Proposal) -> None:
    """As many forwards as `takes` says, for a tree of this shape: what plans charge."""
    if proposal.trees.tokens.shape[1] == 1:
        return
    declared = drafter.takes.sizes(policy.asked_widths)
    most = 0 if drafter.takes.kind == "lookup" else len(declared)
    rule = f"a drafter must take the forwards that it declares: {drafter.takes!r}"
    _require(len(proposal.forwards) == most, f"{rule}, {most} for {policy.name!r}", len(proposal.forwards))
    for size, forward in list(zip(declared, proposal.forwards, strict=False))[1:]:
        _require(int(forward.max()) <= size or drafter.takes.kind != "levels", f"{rule}, of {size:g} tokens", forward)


def _check_alone(
    make: Callable[[], Drafter], policy: Any, text: KnownRow, spare: int, proposal: Proposal, row: int
) -> None:
    alone, twin = _opened(make), KnownRow(text.text[:-1], text.room)
    alone.join(0, np.array(twin.prompt, dtype=np.int64))
    _emit(alone, 0, twin, text.text[-1:])
    expected = _nodes(alone.propose(policy, [twin], [spare]), 0)
    found = _nodes(proposal, row)
    _require(found == expected, "a tree must depend on its row's text alone", f"{found} in row {row}, alone {expected}")


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise InvalidInputError(rule, got=str(got), fix="Mend the drafter: `Drafter` says what it promises.")
