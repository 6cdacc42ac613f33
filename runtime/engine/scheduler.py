"""Who runs and who waits: first come, first served, as long as the keys and values of all who run fit in memory.

And memory as an engine meets it: how many token slots a budget in bytes buys, and what running out looks like.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from reader_theory.errors import require
from reader_theory.memory import KVFormat, Layout, reserved_tokens, rows_admitted, token_capacity
from runtime.cache.rows import RowCache, compact
from runtime.engine.request import Request
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill

__all__ = ["Scheduler", "formats_of", "is_out_of_memory", "rows_within", "slots_within"]

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
    most_rows : callable (slots) -> int, optional
        Rows of so many slots that fit in a budget of bytes, where a row's bytes are not so much a slot.
    """

    def __init__(
        self, max_batch: int, kv_tokens: int | None = None, most_rows: Callable[[int], int] | None = None
    ) -> None:
        require(
            max_batch >= 1 and (kv_tokens is None or kv_tokens >= 2),
            "`max_batch` must be at least 1, and a bound on KV tokens at least 2",
            got=(max_batch, kv_tokens),
            fix="Give room for one row of a prompt and a token.",
        )
        self.max_batch, self.kv_tokens, self.most_rows = max_batch, kv_tokens, most_rows
        self.rows: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.finished: Counter[str] = Counter()
        self.scratch = 1
        self.peak_tokens = 0

    @property
    def bounded(self) -> bool:
        """Whether memory bounds who runs together."""
        return self.kv_tokens is not None or self.most_rows is not None

    def slots(self, requests: Sequence[Request]) -> int:
        """Slots that each row needs if these run together: prompt, output and scratch of the longest."""
        return max((request.most_tokens for request in requests), default=0) + self._scratch(requests)

    def reserved(self, requests: Sequence[Request]) -> int:
        """Token slots that these requests hold together."""
        lengths = [request.most_tokens for request in requests]
        scratch = self._scratch(requests)
        return int(reserved_tokens(_DENSE, lengths, tree_tokens=scratch, tokens_per_step=scratch))

    def _scratch(self, requests: Sequence[Request]) -> int:
        """Of every row: rows beside one whose judge reads the target's own tokens too need room for these."""
        return self.scratch * (2 if any(request.judged for request in requests) else 1)

    def fits(self, requests: Sequence[Request]) -> bool:
        """Whether these requests may run together."""
        allowed = self.kv_tokens is None or self.reserved(requests) <= self.kv_tokens
        room = self.most_rows is None or len(requests) <= self.most_rows(self.slots(requests))
        return len(requests) <= self.max_batch and allowed and room

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
        for request in self.rows:
            if request.done:
                self.count(request)
        return compact(self.rows, lambda request: request.done)

    def drop(self, request: Request) -> None:
        """Take a finished request out of the queue, if it still waits there."""
        if request in self.waiting:
            self.waiting.remove(request)
            self.count(request)

    def too_large(self, request: Request) -> str:
        """How a request ends that will never fit."""
        need = self.reserved([request])
        within = "the bytes of the cache" if self.kv_tokens is None else f"{self.kv_tokens} token slots"
        return f"error: prompt, new tokens and scratch must fit in {within}. Got {need}"

    def count(self, request: Request) -> None:
        """Note how `request` ended."""
        self.finished[(request.finish or "cancelled").partition(":")[0]] += 1


def formats_of(models: Sequence[tuple[LanguageModel, RowCache]]) -> list[KVFormat]:
    """The bytes that each model's cache takes."""
    for model, cache in models:
        if not cache.kv_bytes_per_token():
            prefill(model, cache, np.zeros(1, dtype=np.int64), 0)
            cache.lengths[0] = 0
    return [cache.format for _, cache in models]


def slots_within(kv_bytes: int, formats: Sequence[KVFormat]) -> int:
    """Token slots that `kv_bytes` hold when each model keeps its own keys and values of every token as they are."""
    each = sum(one.token_bytes for one in formats)
    require(
        kv_bytes >= 2 * each,
        "`kv_bytes` must hold the keys and values of at least two tokens",
        got=f"{kv_bytes} bytes where a token takes {each}",
        fix="Give what is left of the device's memory after weights and activations.",
    )
    return token_capacity(kv_bytes, each, page_tokens=1)


def rows_within(kv_bytes: int, formats: Sequence[KVFormat]) -> Callable[[int], int]:
    """How many rows `kv_bytes` hold, by their slots, when some cache is quantised."""
    shared = sum(one.shared_bytes for one in formats)
    require(
        kv_bytes > shared,
        "`kv_bytes` must hold what a quantised cache needs for all rows",
        got=f"{kv_bytes} bytes, and {shared} of predictors and grids",
        fix="Give more bytes, or use --kv int8 or --kv int4, which need none.",
    )
    return partial(rows_admitted, formats, kv_bytes)


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that an allocation failed, on the host or on a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
