"""Who runs and who waits: first come, first served, as long as the keys and values of all who run fit in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from reader_theory.errors import require
from reader_theory.memory import Layout, reserved_tokens
from runtime.engine.request import Request

__all__ = ["Scheduler"]

_DENSE = Layout(kind="rectangular")


class Scheduler:
    """Queue and rows of an engine.

    Rows are dense: each holds as many slots as the longest request among them will need to its end, so that a request
    that runs is never short of memory later. A request behind one that does not fit waits too: none is overtaken.

    Parameters
    ----------
    max_batch : int
        Most rows.
    kv_tokens : int, optional
        Token slots that all rows together may hold, scratch included; no bound when left out.
    """

    def __init__(self, max_batch: int, kv_tokens: int | None = None) -> None:
        require(
            max_batch >= 1 and (kv_tokens is None or kv_tokens >= 2),
            "`max_batch` must be at least 1, and a bound on KV tokens at least 2",
            got=(max_batch, kv_tokens),
            fix="Give room for one row of a prompt and a token.",
        )
        self.max_batch, self.kv_tokens = max_batch, kv_tokens
        self.rows: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.finished: Counter[str] = Counter()
        self.scratch = 1
        self.peak_tokens = 0

    def slots(self, requests: Sequence[Request]) -> int:
        """Slots that each row needs if these run together: prompt, output and scratch of the longest."""
        return max((request.most_tokens for request in requests), default=0) + self.scratch

    def reserved(self, requests: Sequence[Request]) -> int:
        """Token slots that these requests hold together."""
        lengths = [request.most_tokens for request in requests]
        return int(reserved_tokens(_DENSE, lengths, tree_tokens=self.scratch, tokens_per_step=self.scratch))

    def fits(self, requests: Sequence[Request]) -> bool:
        """Whether these requests may run together."""
        allowed = self.kv_tokens is None or self.reserved(requests) <= self.kv_tokens
        return len(requests) <= self.max_batch and allowed

    def next(self) -> Request | None:
        """Take the first waiting request, if it fits beside those that run."""
        if not self.waiting or not self.fits([*self.rows, self.waiting[0]]):
            return None
        return self.waiting.popleft()

    def join(self, request: Request) -> None:
        """Give `request` the next row."""
        self.rows.append(request)
        self.peak_tokens = max(self.peak_tokens, self.reserved(self.rows))

    def leave(self) -> list[tuple[int, int]]:
        """Take finished requests out; the moves (from row, to row) that close the gaps, in order."""
        moves: list[tuple[int, int]] = []
        for row in range(len(self.rows) - 1, -1, -1):
            if self.rows[row].done:
                self.count(self.rows[row])
                last = self.rows.pop()
                if row < len(self.rows):
                    self.rows[row] = last
                    moves.append((len(self.rows), row))
        return moves

    def drop(self, request: Request) -> None:
        """Take a finished request out of the queue, if it still waits there."""
        if request in self.waiting:
            self.waiting.remove(request)
            self.count(request)

    def too_large(self, request: Request) -> str:
        """How a request ends that will never fit."""
        need = self.reserved([request])
        return f"error: prompt, new tokens and scratch must fit in {self.kv_tokens} token slots. Got {need}"

    def count(self, request: Request) -> None:
        """Note how `request` ended."""
        self.finished[(request.finish or "cancelled").partition(":")[0]] += 1
