"""The engine: continuous batching over a real model, each step drafting, verifying and committing what a plan says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents import Off, Plan, Policy
from reader_theory.errors import InvalidInputError
from reader_theory.rules.streams import Stream, stream_uniforms
from runtime.drafters.neural import CATCH_UP, NeuralDrafter
from runtime.engine.counters import Counters, EngineCounters
from runtime.engine.intake import check_vocabularies, completed, encode, refusal
from runtime.engine.memory import is_out_of_memory, slots_within
from runtime.engine.request import Completion, Request, Streams
from runtime.engine.sampling import SamplingParams
from runtime.engine.scheduler import Scheduler
from runtime.engine.step import Drafting, Drafts
from runtime.engine.timing import KEPT, StepTiming
from runtime.engine.verifying import Layout, lay_out, walk_rows
from runtime.engine.walks import first_token
from runtime.kernels.verify import Walks
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill
from runtime.models.vocabulary import Vocabulary, fingerprint_of
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

if TYPE_CHECKING:
    from runtime.measure.drift import DriftMonitor

__all__ = ["Engine", "PolicyChoice"]

PolicyChoice = Callable[[int, float], Policy]
"""Policy for a number of rows and their mean context in tokens."""

OFF = Off()
_DRAFT_SCRATCH = 1024


class Engine:
    """Serves requests from one target, with drafts from a model, from retrieval, or from both.

    Parameters
    ----------
    target : LanguageModel
        Whose law the output keeps, by the rule that each request asks for (`SamplingParams.verification`).
    draft : LanguageModel, optional
        Needed by policies with a neural tree.
    policy : Policy, Plan, or callable from a number of rows and their mean context to a Policy
        What a step drafts; nothing when left out.
    max_batch : int
        Most requests at once; the others wait.
    max_context : int, optional
        Most tokens of prompt, output and scratch a row; the target's own limit, at most 2048, when left out.
    kv_tokens, kv_bytes : int, optional
        Most token slots, or bytes, that the keys and values of target and draft may take; requests wait until theirs
        fit. No bound but `max_batch` and `max_context` when both are left out.
    monitor : DriftMonitor, optional
        Sees every finished request; a policy that it returns is run from the next step on.
    datastore : Datastore, optional
        Past outputs for grown policies, of the target's tokenizer and within its vocabulary; what the engine itself
        puts out joins only by `Datastore.add`.
    tokenizer : optional
        For prompts given as text, and for `Completion.text`.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        policy: Policy | Plan | PolicyChoice = OFF,
        max_batch: int = 8,
        max_context: int | None = None,
        kv_tokens: int | None = None,
        kv_bytes: int | None = None,
        monitor: DriftMonitor | None = None,
        datastore: Datastore | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.target, self.tokenizer, self.monitor, self.datastore = target, tokenizer, monitor, datastore
        self.max_context = max_context or min(target.max_positions, 2048)
        self.cache = target.new_cache(max_batch, self.max_context)
        self.drafter = None if draft is None else NeuralDrafter(draft, max_batch, self.max_context + _DRAFT_SCRATCH)
        self.drafting = Drafting(self.drafter)
        check_vocabularies(target, draft)
        if datastore is not None:
            datastore.admit(Vocabulary(target.vocabulary, fingerprint_of(tokenizer) if datastore.tokenizer else ""))
        if kv_bytes is not None:
            within = slots_within(kv_bytes, [(target, self.cache), *self._draft_cache])
            kv_tokens = within if kv_tokens is None else min(kv_tokens, within)
        self.scheduler = Scheduler(max_batch, kv_tokens)
        self.rows, self.waiting = self.scheduler.rows, self.scheduler.waiting
        self.use(policy)
        self.timings: deque[StepTiming] = deque(maxlen=KEPT)
        self._counters = Counters()
        self.prefill_s = 0.0
        self._numbers = 0

    @classmethod
    def from_pretrained(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        *,
        plan: Plan | str | Path | None = None,
        workload: str | None = None,
        dtype: str = "float32",
        **options: Any,
    ) -> Engine:
        """An engine over folders or hub names that transformers' `from_pretrained` takes.

        Parameters
        ----------
        target, draft : str or Path
            Causal models with one vocabulary; safetensors, no remote code.
        plan : Plan or path, optional
            Policies by batch and, where it tells them apart, by context; for `workload` (the plan's first when left
            out).
        dtype : str
            Of the target's weights, as torch names it; the draft runs in float32 on a CPU, where it is faster.
        """
        from runtime.models.load import load_model, load_tokenizer

        loaded = Plan.read(plan) if isinstance(plan, str | Path) else plan
        policy = OFF if loaded is None else _schedule_of(loaded, workload)
        small = None if draft is None else load_model(draft, "float32")
        return cls(load_model(target, dtype), small, policy=policy, tokenizer=load_tokenizer(target), **options)

    def use(self, policy: Policy | Plan | PolicyChoice) -> None:
        """Draft by `policy` from the next step on."""
        chosen = _schedule_of(policy) if isinstance(policy, Plan) else policy
        self._policy: PolicyChoice = chosen if callable(chosen) else lambda _rows, _context: chosen
        some = ((rows, context) for rows in range(1, self.max_batch + 1) for context in (1.0, float(self.max_context)))
        self.scheduler.scratch = max(
            CATCH_UP if self.drafter else 1, *(1 + self._policy(*cell).most_nodes for cell in some)
        )

    @property
    def max_batch(self) -> int:
        """Most requests at once."""
        return self.scheduler.max_batch

    @property
    def counters(self) -> EngineCounters:
        """What happened so far: acceptance by depth and source, seconds by term, how requests ended, KV held."""
        return self._counters.reading(
            prefill_s=self.prefill_s,
            finished=dict(self.scheduler.finished),
            kv_tokens=self.scheduler.reserved(self.rows) if self.rows else 0,
            peak_kv_tokens=self.scheduler.peak_tokens,
        )

    def add(
        self,
        prompt: str | ArrayLike,
        params: SamplingParams | None = None,
        *,
        id: str | None = None,
        number: int | None = None,
        uniforms: NDArray[np.float64] | None = None,
        streams: Streams | None = None,
    ) -> Request:
        """Queue a request. One that cannot be served ends at once with its error; the others go on.

        Parameters
        ----------
        prompt : str, or (P,) of int
        params : SamplingParams, optional
            Greedy, 128 tokens when left out.
        number : int, optional
            Which of the seed's streams it draws from; counted up when left out.
        uniforms : (max_new_tokens,) in [0, 1), optional
            Uniform of each output position; drawn from the request's seed when left out.
        streams : callable (stream, step, count) -> (count,) in [0, 1), optional
            Numbers of rules that draw drafts or couple them; steps count from 1, and the coupling stream counts output
            positions from 0. Drawn from the request's seed when left out.
        """
        params, number = params or SamplingParams(), self._numbers if number is None else number
        self._numbers += 1
        if uniforms is None:
            drawn = 0 if params.greedy else params.max_new_tokens
            uniforms = stream_uniforms(params.seed, number, 0, "recovery", drawn)
        tokens = encode(prompt, self.tokenizer)
        request = Request(
            id or str(number), number, tokens, params, uniforms, streams or partial(_stream, params.seed, number)
        )
        request.finish = refusal(request, self.target.vocabulary, self.max_context)
        if request.finish is None and not self.scheduler.fits([request]):
            request.finish = self.scheduler.too_large(request)
        if request.finish is None:
            self.waiting.append(request)
        else:
            self.scheduler.count(request)
        return request

    def cancel(self, request: Request) -> None:
        """End `request` now; what it emitted so far stays with it."""
        if request.done:
            return
        request.finish = "cancelled"
        self.scheduler.drop(request)
        self._leave()

    def generate(
        self, prompts: Sequence[str | ArrayLike], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Serve `prompts` to their end; completions in the order of the prompts."""
        each = [params] * len(prompts) if params is None or isinstance(params, SamplingParams) else params
        requests = [self.add(prompt, chosen) for prompt, chosen in zip(prompts, each, strict=True)]
        while self.step():
            pass
        return [completed(request, self.tokenizer) for request in requests]

    def stream(self, prompt: str | ArrayLike, params: SamplingParams | None = None) -> Iterator[list[int]]:
        """Tokens of one request, a list each step; the request leaves when the iterator is closed."""
        request, sent = self.add(prompt, params), 0
        if request.done:
            raise InvalidInputError("the request must be one that can be served", got=request.finish, fix="Mend it.")
        try:
            while not request.done:
                self.step()
                yield request.output[sent:]
                sent = len(request.output)
        finally:
            self.cancel(request)

    def step(self) -> bool:
        """Admit who waits, then run one decoding step; False when nothing is left to do."""
        self._admit()
        if not self.rows:
            return bool(self.waiting)
        try:
            self._run(self._policy(len(self.rows), self._context))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._shed(error)
        self._leave()
        return bool(self.rows or self.waiting)

    def _run(self, policy: Policy) -> None:
        start, catching_up = perf_counter(), self._draft_prefill_s
        tries, want_draft = self.drafting.retrieve(policy, self.rows, self._spare)
        retrieved_nodes = [len(trie) for trie in tries]
        retrieved = perf_counter()
        drafts = self.drafting.draft(policy, self.rows, tries, want_draft, self._spare)
        drafted = perf_counter()
        layout = lay_out(drafts)
        logits = forward_trees(self.target, self.cache, *layout)
        forwarded = perf_counter()
        walks = self._walk(drafts, layout, logits)
        verified = perf_counter()
        self._counters.rows(self.rows, drafts, retrieved_nodes, walks)
        emitted = self._commit(walks)
        end = perf_counter()
        catching_up = self._draft_prefill_s - catching_up
        self.prefill_s += catching_up
        timing = StepTiming(
            rows=len(drafts),
            emitted=emitted,
            nodes=sum(map(len, drafts)) - len(drafts),
            width=max(map(len, drafts)),
            drafted=bool(want_draft),
            step_s=end - start - catching_up,
            draft_s=drafted - retrieved - catching_up,
            retrieval_s=retrieved - start,
            target_s=forwarded - drafted,
            verify_s=verified - forwarded,
            commit_s=end - verified,
        )
        self.timings.append(timing)
        self._counters.step(timing)

    @property
    def _context(self) -> float:
        """Mean tokens of prompt and output a row."""
        return sum(len(r.prompt) + len(r.output) for r in self.rows) / len(self.rows)

    @property
    def _draft_cache(self) -> list[tuple[LanguageModel, Any]]:
        return [] if self.drafter is None else [(self.drafter.model, self.drafter.cache)]

    @property
    def _draft_prefill_s(self) -> float:
        return 0.0 if self.drafter is None else self.drafter.prefill_s

    def _spare(self, request: Request) -> int:
        """Draft nodes that the request's row has slots for."""
        held = self.cache.slots if self.scheduler.kv_tokens is None else self.cache.held_slots
        return held - len(request.prompt) - len(request.output)

    def _walk(self, drafts: Drafts, layout: Layout, logits: torch.Tensor) -> Walks:
        return walk_rows(self.rows, drafts, layout, logits)

    def _commit(self, walks: Walks) -> int:
        self.cache.commit(walks.path, walks.kept)
        total = 0
        rows = zip(self.rows, walks.kept.tolist(), walks.emitted.tolist(), strict=True)
        for row, (request, accepted, tokens) in enumerate(rows):
            kept = request.emit(tokens[:accepted])
            request.steps += 1
            request.accepted += min(accepted - 1, len(kept))
            total += len(kept)
            self._note(row, request, kept)
        return total

    def _note(self, row: int, request: Request, tokens: list[int]) -> None:
        if request.index is not None:
            request.index.extend(np.array(tokens, dtype=np.int32))
        if self.drafter is not None:
            self.drafter.extend(row, tokens)

    def _admit(self) -> None:
        while (request := self.scheduler.next()) is not None:
            start = perf_counter()
            try:
                self._join(request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._fail(request, error)
            self.prefill_s += perf_counter() - start
            self._leave()
        if self.waiting and not self.rows:  # a policy of more nodes than were planned for when it was queued
            request = self.waiting[0]
            request.finish = self.scheduler.too_large(request)
            self.scheduler.drop(request)

    def _join(self, request: Request) -> None:
        row = len(self.rows)
        self._hold([*self.rows, request])
        self.cache.lengths[row] = 0
        logits = prefill(self.target, self.cache, request.prompt, row)
        first = request.emit([first_token(request, logits)])
        request.index = RetrievalIndex(request.prompt.astype(np.int32), self.datastore)
        if self.drafter is not None:
            self.drafter.join(row, request.prompt)
        self.scheduler.join(request)
        self._note(row, request, first)

    def _hold(self, requests: list[Request]) -> None:
        """Have memory for these: exactly what was reserved where it is bounded, otherwise whatever was held before."""
        rows, slots, bounded = len(requests), self.scheduler.slots(requests), self.scheduler.kv_tokens is not None
        for cache in (self.cache, *(cache for _, cache in self._draft_cache)):
            if bounded:
                cache.fit(rows, min(slots, cache.slots))
            elif rows > cache.held_rows or slots > cache.held_slots:
                cache.fit(max(cache.rows, rows), max(min(slots, cache.slots), cache.held_slots))

    def _fail(self, request: Request, error: Exception) -> None:
        request.finish = f"error: out of memory with {len(self.rows)} others: {str(error).splitlines()[0][:200]}"
        self.scheduler.count(request)

    def _shed(self, error: Exception) -> None:
        """A step ran out of memory before it changed any request: the newest one ends, the others are tried again."""
        newest = max(self.rows, key=lambda request: request.number)
        newest.finish = f"error: out of memory among {len(self.rows)}: {str(error).splitlines()[0][:200]}"
        if self.drafter is not None:
            for row, request in enumerate(self.rows):
                self.drafter.join(row, np.array(request.text, dtype=np.int64))

    def _leave(self) -> None:
        """Take finished requests out; the last row moves into each gap."""
        done = [request for request in self.rows if request.done]
        if not done:
            return
        for source, target in self.scheduler.leave():
            self.cache.move_row(source, target)
            if self.drafter is not None:
                self.drafter.move_row(source, target)
        for request in done if self.monitor is not None else ():
            assert self.monitor is not None
            found = self.monitor.note(request)
            if found is not None:
                self.use(found)


def _stream(seed: int, number: int, stream: Stream, at: int, count: int) -> NDArray[np.float64]:
    return stream_uniforms(seed, number, at, stream, count)


def _schedule_of(plan: Plan, workload: str | None = None) -> PolicyChoice:
    name = workload or plan.workloads[0]
    return lambda rows, context: plan.entry(name, rows, context).policy
