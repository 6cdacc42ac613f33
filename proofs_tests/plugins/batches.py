"""Random batches as an engine makes them: requests join, emit, wait, leave and are cut off, and rows close up.

Rows are kept by an input batch with vLLM's own methods: `Rows` here, or vLLM's `InputBatch` itself where it is
installed: ``python -m proofs_tests.plugins.vllm_batches``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Request", "Rows", "Step", "random_steps"]

ROWS, LONGEST, VOCABULARY = 12, 160, 40


@dataclass
class Request:
    """What an engine knows of a request; names as in vLLM's `CachedRequestState`."""

    req_id: str
    prompt_token_ids: list[int]
    output_token_ids: list[int] = field(default_factory=list)
    wanted: int = 30
    prefill_left: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def text(self) -> list[int]:
        return [*self.prompt_token_ids, *self.output_token_ids]


class Rows:
    """The rows of a batch, closed up as vLLM's `InputBatch` does it: the last row fills a hole."""

    def __init__(self) -> None:
        self.token_ids_cpu = np.zeros((ROWS, LONGEST), np.int32)
        self.num_tokens_no_spec = np.zeros(ROWS, np.int32)
        self.req_ids: list[str] = []

    def add_request(self, request: Any) -> int:
        row = len(self.req_ids)
        self.req_ids.append(request.req_id)
        text = [*request.prompt_token_ids, *request.output_token_ids]
        self.token_ids_cpu[row, : len(text)] = text
        self.num_tokens_no_spec[row] = len(text)
        return row

    def remove_request(self, req_id: str) -> None:
        row, last = self.req_ids.index(req_id), len(self.req_ids) - 1
        if row != last:
            self._copy(last, row)
        self.req_ids.pop()

    def condense(self) -> None:
        """Nothing is left to do."""

    def refresh_metadata(self) -> None:
        """There is none."""

    def swap_states(self, one: int, other: int) -> None:
        self.req_ids[one], self.req_ids[other] = self.req_ids[other], self.req_ids[one]
        for array in (self.token_ids_cpu, self.num_tokens_no_spec):
            array[[one, other]] = array[[other, one]]

    def _copy(self, source: int, target: int) -> None:
        self.req_ids[target] = self.req_ids[source]
        count = self.num_tokens_no_spec[source]
        self.token_ids_cpu[target, :count] = self.token_ids_cpu[source, :count]
        self.num_tokens_no_spec[target] = count


@dataclass(frozen=True)
class Step:
    """A batch after its target's forward: what a proposer is asked with.

    Attributes
    ----------
    sampled : list of B lists of int
        As vLLM hands them over: empty for a row whose prompt is still being read.
    requests : list of B Request
        In the order of the rows.
    """

    sampled: list[list[int]]
    requests: list[Request]


def random_steps(
    rows: Any,
    steps: int,
    seed: int,
    drafted: Callable[[], list[list[int]]],
    wrapped: Callable[[Request], Any] = lambda request: request,
) -> Iterator[Step]:
    """Steps of a server under random traffic.

    Parameters
    ----------
    rows : Rows or vllm InputBatch
        Written to before each step is handed out.
    drafted : callable
        What was proposed for the step before, by row; the target accepts some of it.
    wrapped : callable
        A request as `rows` takes it.
    """
    rng = np.random.default_rng(seed)
    running: dict[str, Request] = {}
    waiting: list[Request] = []
    number = 0
    for _ in range(steps):
        kept = dict(zip(list(rows.req_ids), drafted(), strict=False))
        for name in list(running):
            fate = rng.random()
            if fate < 0.02 or len(running[name].output_token_ids) >= running[name].wanted:  # cut off, or at its end
                rows.remove_request(name)
                del running[name]
            elif fate < 0.03:  # preempted: back later with all of its text
                rows.remove_request(name)
                waiting.append(running.pop(name))
        while len(running) < ROWS and (waiting or rng.random() < 0.3):
            request = (
                waiting.pop() if waiting and rng.random() < 0.7 else _newcomer(rng, number, list(running.values()))
            )
            number += 1
            request.prefill_left = int(rng.integers(0, 3))
            running[request.req_id] = request
            rows.add_request(wrapped(request))
        rows.condense()
        if len(running) > 1 and rng.random() < 0.1:
            one, other = rng.choice(len(running), 2, replace=False).tolist()
            rows.swap_states(one, other)
        rows.refresh_metadata()
        sampled = [_emitted(rng, running[name], kept.get(name, [])) for name in rows.req_ids]
        for row, fresh in enumerate(sampled):
            start = int(rows.num_tokens_no_spec[row])
            rows.token_ids_cpu[row, start : start + len(fresh)] = fresh
            rows.num_tokens_no_spec[row] = start + len(fresh)
        yield Step(sampled, [running[name] for name in rows.req_ids])


def _newcomer(rng: np.random.Generator, number: int, others: list[Request]) -> Request:
    """A prompt that repeats itself; at times another request's own, or its whole text."""
    kind = rng.random()
    if others and kind < 0.25:
        prompt = list(others[int(rng.integers(len(others)))].text)[: LONGEST // 2]
    else:
        prompt = _repeating(rng, int(rng.integers(1, 50))).tolist()
    return Request(f"r{number}", prompt, wanted=int(rng.integers(1, 60)))


def _repeating(rng: np.random.Generator, length: int) -> NDArray[np.int64]:
    piece = rng.integers(0, VOCABULARY, max(length // 3, 1))
    return np.resize(np.concatenate([piece, piece[::2]]), length)


def _emitted(rng: np.random.Generator, request: Request, drafts: list[int]) -> list[int]:
    """What the target emits: some of the drafts, then a token of its own."""
    if request.prefill_left > 0:
        request.prefill_left -= 1
        return []
    room = LONGEST - request.num_tokens
    accepted = drafts[: int(rng.integers(0, len(drafts) + 1))]
    text = request.text
    own = text[int(rng.integers(len(text)))] if rng.random() < 0.7 else int(rng.integers(VOCABULARY))
    fresh = [*accepted, own][: max(room, 0)]
    request.output_token_ids += fresh
    if not fresh:
        request.wanted = 0
    return fresh
