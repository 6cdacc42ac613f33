"""Rounds: requests that measure a batch. One with more rows than there are prompts is filled by repeating them."""

from __future__ import annotations

__all__ = ["requests_to_run"]

ROUNDS = 4
"""Requests a row, so that rows are full but for the last stretch."""


def requests_to_run(prompts: int, batch: int) -> int:
    """Requests that a run of `prompts` prompts serves at `batch` rows.

    Examples
    --------
    >>> requests_to_run(32, 8), requests_to_run(3, 8)
    (32, 32)
    """
    return prompts if prompts >= batch else ROUNDS * batch
