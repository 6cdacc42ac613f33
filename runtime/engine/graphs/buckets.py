"""Buckets: the few sizes that steps are padded to, so that each is captured once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reader_theory.errors import InvalidInputError, require

__all__ = ["Bucket", "Buckets", "powers_up_to"]


class Bucket(NamedTuple):
    """Rows, nodes a row (the root included) and slots that attention sees."""

    rows: int
    nodes: int
    context: int


def powers_up_to(most: int, least: int = 1) -> tuple[int, ...]:
    """Powers of two from `least` below `most`, and `most` itself.

    Examples
    --------
    >>> powers_up_to(6)
    (1, 2, 4, 6)
    """
    sizes: list[int] = []
    size = least
    while size < most:
        sizes.append(size)
        size *= 2
    return (*sizes, most)


class Buckets:
    """The sizes there are, less those that did not fit into memory.

    Parameters
    ----------
    rows, nodes, contexts : sequences of int, increasing
    """

    def __init__(self, rows: Sequence[int], nodes: Sequence[int], contexts: Sequence[int]) -> None:
        for name, sizes in (("rows", rows), ("nodes", nodes), ("contexts", contexts)):
            require(
                bool(sizes) and list(sizes) == sorted(set(sizes)) and sizes[0] >= 1,
                f"`{name}` must increase, from 1 up",
                got=list(sizes),
                fix="Use `powers_up_to`.",
            )
        self.rows, self.nodes, self.contexts = tuple(rows), tuple(nodes), tuple(contexts)
        self.dropped: list[Bucket] = []

    def pick(self, rows: int, nodes: int, longest: int) -> Bucket:
        """Smallest bucket for `rows` rows of `nodes` nodes and at most `longest` committed tokens.

        Where it was dropped, the one with fewer nodes: a draft is cut then.

        Raises
        ------
        InvalidInputError
            When nothing fits: too many rows or tokens, or not even plain decoding found memory.
        """
        rows = _at_least(self.rows, rows, "rows")
        for size in sorted((n for n in self.nodes if n <= _at_least(self.nodes, nodes, "nodes")), reverse=True):
            bucket = Bucket(rows, size, _at_least(self.contexts, longest + size, "contexts"))
            if not any(bucket.rows >= d.rows and size >= d.nodes and bucket.context >= d.context for d in self.dropped):
                return bucket
        raise InvalidInputError(
            "a step must find memory",
            got=f"none for {rows} rows without drafts after {longest} tokens",
            fix="Open the engine with fewer rows or a shorter context.",
        )

    def drop(self, bucket: Bucket) -> None:
        """Leave out `bucket` and all that are no smaller in any size."""
        self.dropped.append(bucket)


def _at_least(sizes: Sequence[int], size: int, name: str) -> int:
    found = next((each for each in sizes if each >= size), None)
    require(
        found is not None,
        f"`{name}` must hold a size for every step",
        got=f"{size} with a largest of {sizes[-1]}",
        fix="Open the engine with larger buckets.",
    )
    assert found is not None
    return found
