"""The engine in static shapes: what a GPU runs as two graph replays, one wait and no allocation a step.

A step copies one buffer to the device, drafts (graph 1) while the CPU retrieves and extends its indices, copies a
second buffer, verifies and commits (graph 2), copies the accepted tokens back and waits for them: the only
synchronisation. On a CPU the same code runs without graphs, and gives the tokens that `Engine` gives.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents import Off, Policy
from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.streams import stream_uniforms
from reader_theory.trees import TokenTree
from runtime.engine.graphs.buckets import Bucket, Buckets, powers_up_to
from runtime.engine.graphs.drafting import StaticDrafting
from runtime.engine.graphs.verifying import StaticVerifying
from runtime.engine.request import Completion, Request
from runtime.engine.sampling import SamplingParams
from runtime.engine.timing import KEPT, StepTiming
from runtime.engine.walks import first_token
from runtime.kernels.commit import KVPool
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill
from runtime.retrieval.index import RetrievalIndex

__all__ = ["GraphEngine"]

_Parts = tuple[dict[tuple[int, int, int], StaticDrafting], dict[tuple[Bucket, bool], StaticVerifying]]

SCRATCH = 256
"""Slots of a row beyond its context: draft nodes and padding."""
FRESH = 32
"""Pending tokens from which the draft takes them in by a prefill."""


class GraphEngine:
    """Serves requests at temperature 0 or from the plain softmax, without loss, in static shapes.

    Parameters
    ----------
    target : LanguageModel
    draft : LanguageModel, optional
        On the target's device.
    policy : Policy
        A tree of the draft's ranks, a retrieved chain, both, or nothing. Grown policies are left to `Engine`.
    max_batch, max_context : int
        Rows, and tokens of prompt and output a row. Where memory for the rows' cache is missing they are halved.
    contexts : sequence of int, optional
        Context buckets; powers of two from 256 up when left out.

    Attributes
    ----------
    fallbacks : list of str
        What was cut because memory ran out; warned about as well.
    timings : list of StepTiming
        ``target_s`` holds the whole of verification: graph 2 cannot be taken apart from outside.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        policy: Policy | None = None,
        max_batch: int = 8,
        max_context: int = 1024,
        contexts: Sequence[int] | None = None,
    ) -> None:
        self.target, self.draft, self.device = target, draft, target.device
        self.max_context, self.fallbacks = max_context, list[str]()
        self.slots = max_context + SCRATCH
        sizes = sorted({min(size, self.slots) for size in (*(contexts or powers_up_to(self.slots, 256)), self.slots)})
        self.cache, self.draft_cache, self.max_batch = self._caches(max_batch)
        stores = [layer for layer in self.cache.stores if layer.is_initialized]
        if not stores:
            prefill(target, self.cache, np.zeros(1, dtype=np.int64), 0)
            stores = self.cache.stores
        self.pool = KVPool.of([store.keys for store in stores], [store.values for store in stores])  # pyright: ignore
        self.buckets = Buckets(powers_up_to(self.max_batch), (1,), sizes)
        self.graphs: Any = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self.rows, self.waiting = list[Request](), deque[Request]()
        self.pending: list[list[int]] = []
        self.timings, self.prefill_s = deque[StepTiming](maxlen=KEPT), 0.0
        self._numbers = 0
        self._parts: dict[Policy, _Parts] = {}
        self._drafted: dict[tuple[Policy, int], torch.Tensor] = {}
        self.use(policy or Off())

    def use(self, policy: Policy) -> None:
        """Draft by `policy` from the next step on."""
        require(
            policy.kind != "grown",
            "`policy` must be a tree of ranks, a chain, or both",
            got=policy.name,
            fix="Run grown policies by `Engine`.",
        )
        self.policy = policy
        self.tree = policy.tree.by_level() if policy.fixed is not None and self.draft is not None else TokenTree.empty()
        self.chain = policy.retrieved.max_tokens if policy.retrieved else 0
        most = len(self.tree) + self.chain
        require(
            most <= SCRATCH - FRESH,
            f"a tree must have at most {SCRATCH - FRESH - 1} nodes",
            got=most - 1,
            fix="Plan for fewer nodes.",
        )
        deepest = self.max_context + max(self.tree.depth, self.chain)
        limit = min(model.max_positions for model in (self.target, self.draft) if model is not None)
        require(
            deepest <= limit,
            f"context and depth of the draft must stay within the models' {limit} positions",
            got=deepest,
            fix="Open the engine with a shorter `max_context`.",
        )
        kept = self.buckets.dropped
        self.buckets = Buckets(self.buckets.rows, powers_up_to(most), self.buckets.contexts)
        self.buckets.dropped = kept
        self._drafting, self._verifying = self._parts.setdefault(policy, ({}, {}))

    def generate(
        self, prompts: Sequence[ArrayLike], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Serve `prompts` to their end; completions in the order of the prompts."""
        each = [params or SamplingParams()] * len(prompts) if not isinstance(params, Sequence) else params
        requests = [self.add(prompt, chosen) for prompt, chosen in zip(prompts, each, strict=True)]
        while self.step():
            pass
        return [request.completion() for request in requests]

    def add(self, prompt: ArrayLike, params: SamplingParams) -> Request:
        """Queue a request.

        Raises
        ------
        InvalidInputError
            When it asks for filters or penalties, is empty, is too long, or holds what is no token.
        """
        tokens, number = np.asarray(prompt, dtype=np.int64).reshape(-1), self._numbers
        self._numbers += 1
        plain = params.plain and params.rule.name in ("greedy", "target_only")
        require(plain, "requests must be greedy or of the plain softmax", got=params, fix="Use `Engine`.")
        most = self.max_context - params.max_new_tokens
        inside = 0 < len(tokens) < most and int(tokens.min()) >= 0 and int(tokens.max()) < self.target.vocabulary
        require(
            inside,
            f"a prompt must have 1 to {most - 1} tokens of the vocabulary",
            got=f"{len(tokens)} tokens",
            fix="Open the engine with a longer `max_context`, or cut the prompt.",
        )
        uniforms = stream_uniforms(params.seed, number, 0, "recovery", 0 if params.greedy else params.max_new_tokens)
        request = Request(str(number), number, tokens, params, uniforms, partial(_no_stream, number))
        self.waiting.append(request)
        return request

    # ---- one step

    def step(self) -> bool:
        """Admit who waits, then run one decoding step; False when nothing is left to do."""
        self._admit()
        if not self.rows:
            return bool(self.waiting)
        start = perf_counter()
        drafted = [not self._skips(request) for request in self.rows] if self.tree.nodes else [False] * len(self.rows)
        drafts = self._draft() if any(drafted) else None
        queued = perf_counter()
        chains = [self._chain(request) for request in self.rows]
        retrieved = perf_counter()
        emitted, nodes, width = self._within_memory(lambda: self._verify(drafts, drafted, chains))
        verified = perf_counter()
        total = sum(self._take(row, tokens) for row, tokens in enumerate(emitted))
        end = perf_counter()
        self.timings.append(
            StepTiming(
                rows=len(self.rows),
                emitted=total,
                nodes=nodes,
                width=width,
                drafted=drafts is not None,
                step_s=end - start,
                draft_s=queued - start,
                retrieval_s=retrieved - queued,
                target_s=verified - retrieved,
                verify_s=0.0,
                commit_s=end - verified,
            )
        )
        self._leave()
        return bool(self.rows or self.waiting)

    def _skips(self, request: Request) -> bool:
        skip = self.policy.skip_at_match if self.policy.kind == "union" else None
        return skip is not None and _index(request).match_length >= skip

    def _chain(self, request: Request) -> NDArray[np.int32]:
        chain = self.policy.retrieved
        index = _index(request)
        cap = 0 if chain is None else min(chain.cap(index.match_length), request.room - 1)
        return index.chain(cap) if cap > 0 else np.zeros(0, np.int32)

    def _draft(self) -> torch.Tensor | None:
        """Tokens of the draft, on the device; None, and no more drafting by this policy, where it finds no memory."""
        try:
            return self._queue_draft()
        except torch.OutOfMemoryError as error:
            self.tree = TokenTree.empty()
            self._drafting.clear()
            self._say(f"drafting does not fit into memory, steps go without: {str(error)[:100]}")
            return None

    def _queue_draft(self) -> torch.Tensor:
        """Queue the draft's levels; (bucket rows, N) tokens on the device."""
        assert self.draft is not None and self.draft_cache is not None
        cache = self.draft_cache
        for row, pending in enumerate(self.pending):
            if len(pending) > FRESH:
                prefill(self.draft, cache, np.array(pending[:-1], dtype=np.int64), row)
                self.pending[row] = pending[-1:]
        counts = np.array([len(pending) for pending in self.pending])
        fresh = next(size for size in powers_up_to(FRESH) if size >= counts.max())
        longest = int(cache.lengths[: len(counts)].max())
        rows, _, width = self.buckets.pick(len(counts), 1, longest + fresh + self.tree.nodes)
        key = (rows, fresh, width)
        if key not in self._drafting:
            tokens = torch.zeros((rows, len(self.tree)), dtype=torch.int64, device=self.device)
            tokens = self._drafted.setdefault((self.policy, rows), tokens)
            self._drafting[key] = StaticDrafting(self.draft, cache, self.tree, tokens, fresh, width, self.graphs)
        drafting = self._drafting[key]
        given = drafting.inputs.host
        given["fresh"].zero_()
        given["counts"].fill_(1)
        given["lengths"].zero_()
        given["counts"][: len(counts)] = torch.from_numpy(counts)
        given["lengths"][: len(counts)] = torch.from_numpy(cache.lengths[: len(counts)])
        for row, pending in enumerate(self.pending):
            given["fresh"][row, : len(pending)] = torch.tensor(pending)
        drafting.inputs.upload()
        tokens = drafting.run()
        cache.lengths[: len(counts)] += counts
        self.pending = [[] for _ in self.pending]
        return tokens

    def _verify(
        self, drafts: torch.Tensor | None, drafted: list[bool], chains: list[NDArray[np.int32]]
    ) -> tuple[list[list[int]], int, int]:
        """Tokens that each row emits, draft nodes verified, and the nodes that rows were padded to."""
        live = len(self.rows)
        wanted = 1 + max(map(len, chains)) + (self.tree.nodes if drafts is not None else 0)
        longest = int(self.cache.lengths[:live].max())
        bucket = self.buckets.pick(live, wanted, longest)
        try:
            verifying = self._static(bucket, drafts)
            self._fill(verifying, drafted, chains)
            verifying.run()
        except torch.OutOfMemoryError as error:
            raise _NoRoom(bucket, str(error)) from error
        verifying.outputs.download()
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        made = {name: tensor.numpy() for name, tensor in verifying.outputs.host.items()}
        kept, nodes = made["kept"][:live], made["nodes"][:live]
        self.cache.lengths[:live] += kept
        tokens = [made["emitted"][row, : kept[row]].tolist() for row in range(live)]
        return tokens, int(nodes.sum()), bucket.nodes

    def _static(self, bucket: Bucket, drafts: torch.Tensor | None) -> StaticVerifying:
        key = (bucket, drafts is not None)
        if key not in self._verifying:
            tree = self.tree if drafts is not None else TokenTree.empty()
            assert drafts is None or len(drafts) == bucket.rows, "both halves of a step take the same bucket of rows"
            self._verifying[key] = StaticVerifying(
                self.target, self.cache, self.pool, bucket, tree, self.chain, drafts, self.graphs
            )
        return self._verifying[key]

    def _fill(self, verifying: StaticVerifying, drafted: list[bool], chains: list[NDArray[np.int32]]) -> None:
        given, live = verifying.inputs.host, len(self.rows)
        for name in ("root", "lengths", "temperature", "drafted", "uniforms"):
            given[name].zero_()
        given["chain"].fill_(-1)
        given["lengths"][:live] = torch.from_numpy(self.cache.lengths[:live])
        for row, (request, chain) in enumerate(zip(self.rows, chains, strict=True)):
            given["root"][row] = request.output[-1]
            given["temperature"][row] = request.params.temperature
            given["drafted"][row] = int(drafted[row])
            given["chain"][row, : len(chain)] = torch.from_numpy(chain.astype(np.int64))
            ahead = request.uniforms[len(request.output) :][: verifying.bucket.nodes]
            given["uniforms"][row, : len(ahead)] = torch.from_numpy(ahead)
        verifying.inputs.upload()

    def _take(self, row: int, tokens: list[int]) -> int:
        request = self.rows[row]
        kept = request.emit(tokens)
        request.steps += 1
        request.accepted += min(len(tokens) - 1, len(kept))
        self._note(row, kept)
        return len(kept)

    def _note(self, row: int, tokens: list[int]) -> None:
        _index(self.rows[row]).extend(np.array(tokens, dtype=np.int32))
        if self.draft is not None:
            self.pending[row].extend(tokens)

    # ---- memory

    def _within_memory(self, work: Callable[[], Any]) -> Any:
        """Do `work`; as long as it finds no memory, leave out the bucket and do it in a smaller one."""
        while True:
            try:
                return work()
            except _NoRoom as error:
                self.buckets.drop(error.bucket)
                for key in [key for key in self._verifying if key[0] == error.bucket]:
                    del self._verifying[key]
                self._say(f"{error.bucket} does not fit into memory: drafts are cut to a smaller one")

    def _caches(self, rows: int) -> tuple[Any, Any, int]:
        while True:
            try:
                cache = self.target.new_cache(rows, self.slots)
                cache.fit(rows, self.slots)
                small = None if self.draft is None else self.draft.new_cache(rows, self.slots)
                if small is not None:
                    small.fit(rows, self.slots)
                return cache, small, rows
            except torch.OutOfMemoryError as error:
                if rows == 1:
                    raise InvalidInputError(
                        "a cache of one row must fit into memory", got=str(error), fix="Use a shorter `max_context`."
                    ) from error
                self._say(f"a cache of {rows} rows does not fit into memory: {rows // 2} rows")
                rows //= 2

    def _say(self, message: str) -> None:
        self.fallbacks.append(message)
        warnings.warn(message, ResourceWarning, stacklevel=3)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- joining and leaving

    def _admit(self) -> None:
        while self.waiting and len(self.rows) < self.max_batch:
            start, request, row = perf_counter(), self.waiting.popleft(), len(self.rows)
            self.cache.lengths[row] = 0
            logits = prefill(self.target, self.cache, request.prompt, row)
            first = request.emit([first_token(request, logits)])
            request.index = RetrievalIndex(request.prompt.astype(np.int32))
            if self.draft_cache is not None and self.draft is not None:
                self.draft_cache.lengths[row] = 0
                prefill(self.draft, self.draft_cache, request.prompt, row)
            self.rows.append(request)
            self.pending.append([])
            self._note(row, first)
            self.prefill_s += perf_counter() - start
            self._leave()

    def _leave(self) -> None:
        for row in range(len(self.rows) - 1, -1, -1):
            if self.rows[row].done:
                last, pending = self.rows.pop(), self.pending.pop()
                if row < len(self.rows):
                    for cache in (self.cache, self.draft_cache):
                        if cache is not None:
                            cache.move_row(len(self.rows), row)
                    self.rows[row], self.pending[row] = last, pending


class _NoRoom(Exception):
    """A bucket did not fit into memory."""

    def __init__(self, bucket: Bucket, why: str) -> None:
        super().__init__(why)
        self.bucket = bucket


def _index(request: Request) -> RetrievalIndex:
    assert request.index is not None, "an admitted request has its index"
    return request.index


def _no_stream(number: int, *args: Any) -> NDArray[np.float64]:
    raise AssertionError(f"request {number}: target-only verification draws from no other stream")
