"""A serving engine replayed event by event: continuous batching, chunked prefill, paged KV, preemption, speculation.

Prefer it to the closed form when arrivals burst, lengths vary or KV overflows: requests that are preempted wait between
two of their tokens, which no mean-value formula sees. Scheduling follows vLLM's V1 scheduler: running requests first,
in order of admission; the last admitted is preempted when pages run out; the waiting queue is first come, first served.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.serving.result import SimulationResult

__all__ = ["EngineLimits", "StepTime", "Workload", "simulate"]

Array = NDArray[np.float64]
StepTime = Callable[[int, float, float], float]
"""Seconds of a step, given decoding requests, their cached tokens in total, and tokens of prefill in the step."""


class EngineLimits(Frozen):
    """What bounds an engine's batch.

    Parameters
    ----------
    kv_tokens : int
        Capacity of the KV cache in tokens.
    page_tokens : int
        Tokens a page.
    max_requests : int
        Most requests in a step.
    max_step_tokens : int
        Most tokens in a step; prefills are cut into chunks that fit.
    lookahead : int
        KV slots held back for each decoding request beyond its tree.
    prefix_cache : bool
        Whether a preempted request finds its prompt's pages again, so that only its last page is computed anew.
    """

    kv_tokens: int = Field(ge=1)
    page_tokens: int = Field(default=16, ge=1)
    max_requests: int = Field(default=256, ge=1)
    max_step_tokens: int = Field(default=8192, ge=1)
    lookahead: int = Field(default=0, ge=0)
    prefix_cache: bool = True


@dataclass(frozen=True)
class Workload:
    """Requests to serve.

    Parameters
    ----------
    arrivals_s : (n,) float64, non-decreasing
        Times of arrival; under a closed loop, the earliest time each may start.
    prompt_tokens, output_tokens : (n,) float64, >= 1
        Tokens to prefill and to generate.
    concurrency : int, optional
        Closed loop: a request arrives only while fewer than this many are in the system.
    """

    arrivals_s: Array
    prompt_tokens: Array
    output_tokens: Array
    concurrency: int | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.arrivals_s), len(self.prompt_tokens), len(self.output_tokens)}
        fine = len(sizes) == 1 and len(self.arrivals_s) > 0 and bool((np.diff(self.arrivals_s) >= 0).all())
        require(
            fine and bool((self.prompt_tokens >= 1).all() and (self.output_tokens >= 1).all()),
            "`arrivals_s` must be non-decreasing, of the length of both token counts, which must be at least 1",
            got=sorted(sizes),
            fix="Sort the requests by arrival and drop those without tokens.",
        )


def simulate(
    workload: Workload, step_s: StepTime, limits: EngineLimits, *, emitted: ArrayLike = (1.0,), seed: int = 0
) -> SimulationResult:
    """Serve `workload` and record every request and step.

    Parameters
    ----------
    step_s : callable
        Seconds of a step: (decoding requests, cached tokens in total, prefill tokens) -> seconds.
    emitted : (k + 1,) law
        Probability that a step emits 1, 2, ..., k + 1 tokens of a request; (1,) without speculation.
    seed : int
        Seed of the draws of emitted tokens.

    Raises
    ------
    InvalidInputError
        If `emitted` is no law, or a request could never fit in the cache.
    """
    import simpy

    law = np.asarray(emitted, dtype=np.float64)
    require(
        law.ndim == 1 and law.size > 0 and bool((law >= -1e-12).all()) and abs(float(law.sum()) - 1) < 1e-6,
        "`emitted` must be a law over 1, 2, ... tokens a step",
        got=law[:5],
        fix="Differences of the probabilities to reach each position give it.",
    )
    largest = float(np.max(workload.prompt_tokens + workload.output_tokens)) + 2 * law.size + limits.lookahead
    require(
        largest <= limits.kv_tokens // limits.page_tokens * limits.page_tokens,
        "every request must fit in `kv_tokens` alone",
        got=f"{largest:.0f} tokens into {limits.kv_tokens}",
        fix="Drop the request or give more memory.",
    )
    clock = simpy.Environment()
    engine = _Engine(workload, step_s, limits, np.cumsum(law), np.random.default_rng(seed))
    clock.process(engine.run(clock))
    clock.run()
    return engine.result(float(clock.now))


class _Engine:
    """State of one replay; arrays are indexed by request."""

    def __init__(
        self,
        workload: Workload,
        step_s: StepTime,
        limits: EngineLimits,
        cumulative: Array,
        generator: np.random.Generator,
    ) -> None:
        count = len(workload.arrivals_s)
        self.workload, self.step_s, self.limits = workload, step_s, limits
        self.cumulative, self.generator = cumulative, generator
        self.tree = len(cumulative)
        self.free = float(limits.kv_tokens // limits.page_tokens)
        self.cached, self.made, self.pages = np.zeros(count), np.zeros(count), np.zeros(count)
        self.todo = workload.prompt_tokens.astype(np.float64).copy()
        self.scheduled_s, self.first_s, self.finished_s = (np.full(count, np.nan) for _ in range(3))
        self.arrived_s, self.last_s = np.full(count, np.nan), np.zeros(count)
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.next = 0
        self.preemptions = 0
        self.steps: list[tuple[float, float, int, int, int, float, float]] = []
        self.gaps: list[Array] = []

    def run(self, clock: Any) -> Generator[Any, None, None]:
        """The engine's process: admit, step, commit, until every request is finished."""
        count = len(self.workload.arrivals_s)
        while self.next < count or self.running or self.waiting:
            self._arrive(clock.now)
            if not self.running and not self.waiting:
                yield clock.timeout(self.workload.arrivals_s[self.next] - clock.now)
                continue
            prefill = self._schedule(clock.now)
            decoding = np.array([r for r in self.running if self.todo[r] == 0], dtype=np.intp)
            tokens = sum(prefill.values())
            seconds = self.step_s(len(decoding), float(self.cached[decoding].sum()), tokens)
            before = clock.now
            yield clock.timeout(seconds)
            made = self._commit(clock.now, decoding, prefill)
            used = 1 - self.free / (self.limits.kv_tokens // self.limits.page_tokens)
            self.steps.append((before, seconds, len(self.running), len(decoding), len(self.waiting), made, used))
            self._release(clock.now)

    def _arrive(self, now: float) -> None:
        limit = self.workload.concurrency
        while self.next < len(self.todo) and self.workload.arrivals_s[self.next] <= now + 1e-12:
            if limit is not None and len(self.running) + len(self.waiting) >= limit:
                return
            self.arrived_s[self.next] = max(self.workload.arrivals_s[self.next], now if limit else 0.0)
            self.waiting.append(self.next)
            self.next += 1

    def _schedule(self, now: float) -> dict[int, float]:
        """Give pages to running requests, preempting from the tail; then continue and admit prefills."""
        page, room = self.limits.page_tokens, float(self.limits.max_step_tokens)
        preempted = False
        while True:
            rows = np.array(self.running, dtype=np.intp)
            slots = np.where(self.todo[rows] == 0, self.tree + self.limits.lookahead, 0)
            need = np.maximum(np.ceil((self.cached[rows] + slots) / page) - self.pages[rows], 0.0)
            if float(need.sum()) <= self.free:
                break
            preempted = True
            self._preempt(self.running.pop())
        self.pages[rows] += need
        self.free -= float(need.sum())
        room -= float(np.sum(self.todo[rows] == 0)) * self.tree
        chunks: dict[int, float] = {}
        for request in self.running:
            if self.todo[request] > 0 and room > 0:
                chunks[request] = min(float(self.todo[request]), room)
                room -= chunks[request]
        while not preempted and self.waiting and len(self.running) < self.limits.max_requests and room > 0:
            request = self.waiting[0]
            held = np.ceil((self.cached[request] + self.todo[request] + self.limits.lookahead) / page)
            if held > self.free:
                break
            self.waiting.pop(0)
            self.running.append(request)
            self.pages[request], self.free = held, self.free - held
            chunks[request] = min(float(self.todo[request]), room)
            room -= chunks[request]
            if np.isnan(self.scheduled_s[request]):
                self.scheduled_s[request] = now
        return chunks

    def _preempt(self, request: int) -> None:
        self.free += self.pages[request]
        self.pages[request] = 0.0
        whole = self.workload.prompt_tokens[request] + self.made[request]
        kept = whole - whole % self.limits.page_tokens if self.limits.prefix_cache else 0.0
        self.cached[request] = min(kept, max(whole - 1, 0.0))
        self.todo[request] = whole - self.cached[request]
        self.waiting.insert(0, request)
        self.preemptions += 1

    def _commit(self, now: float, decoding: NDArray[np.intp], prefill: dict[int, float]) -> float:
        made = np.zeros(0)
        if len(decoding):
            uniforms: Array = self.generator.random(len(decoding)) * float(self.cumulative[-1])
            drawn: Array = 1.0 + np.searchsorted(self.cumulative, uniforms).astype(np.float64)
            made = np.minimum(drawn, self.workload.output_tokens[decoding] - self.made[decoding])
            self.cached[decoding] += made
            self.made[decoding] += made
            self.gaps.append(now - self.last_s[decoding])
            self.last_s[decoding] = now
        for request, tokens in prefill.items():
            self.cached[request] += tokens
            self.todo[request] -= tokens
            if self.todo[request] == 0:
                if np.isnan(self.first_s[request]):
                    self.first_s[request] = now
                else:
                    self.gaps.append(np.array([now - self.last_s[request]]))
                self.made[request] += 1
                self.last_s[request] = now
        return float(made.sum()) + sum(1 for request in prefill if self.todo[request] == 0)

    def _release(self, now: float) -> None:
        done = [request for request in self.running if self.made[request] >= self.workload.output_tokens[request]]
        for request in done:
            self.free += self.pages[request]
            self.pages[request] = 0.0
            self.finished_s[request] = now
        if done:
            gone = set(done)
            self.running = [request for request in self.running if request not in gone]

    def result(self, end_s: float) -> SimulationResult:
        steps = np.array(self.steps, dtype=np.float64).reshape(-1, 7)
        return SimulationResult(
            end_s=end_s,
            arrived_s=self.arrived_s,
            scheduled_s=self.scheduled_s,
            first_s=self.first_s,
            finished_s=self.finished_s,
            output_tokens=self.workload.output_tokens,
            gaps_s=np.concatenate(self.gaps) if self.gaps else np.zeros(0),
            step_start_s=steps[:, 0],
            step_s=steps[:, 1],
            running=steps[:, 2],
            decoding=steps[:, 3],
            waiting=steps[:, 4],
            emitted=steps[:, 5],
            kv_used=steps[:, 6],
            preemptions=self.preemptions,
        )
