"""The engine: continuous batching over a real model, each step drafting, verifying and committing what a plan says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents import Off, Plan, Policy
from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.judge import JudgeLossy
from reader_theory.trees import TokenTrees
from runtime.cache.rows import RowCache
from runtime.drafters.base import Drafter
from runtime.drafters.neural import CATCH_UP, NeuralDrafter
from runtime.drafters.parts import Part, parts_of
from runtime.drafters.retrieval import RetrievalDrafter
from runtime.engine.ahead import note_law, note_laws
from runtime.engine.counters import KEPT, Counters, EngineCounters, StepTiming
from runtime.engine.processors import NoLaw
from runtime.engine.request import Completion, Request, Streams
from runtime.engine.sampling import SamplingParams
from runtime.engine.scheduler import Scheduler, formats_of, is_out_of_memory, rows_within, slots_within
from runtime.engine.step import Backend, Eager, features_of, first_token, own_pick
from runtime.kernels.verify import Walks
from runtime.models.base import LanguageModel
from runtime.models.inputs import run_prompt
from runtime.models.vocabulary import Vocabulary, check_pair, fingerprint_of
from runtime.retrieval.datastore import Datastore

__all__ = ["Engine", "PolicyChoice"]

PolicyChoice = Callable[[int, float], Policy]
"""Policy for a number of rows and their mean context in tokens."""

BackendChoice = Literal["eager", "graphs"] | Callable[[LanguageModel, Mapping[str, Drafter], int, int], Backend]
"""``"eager"`` calls models as they are; ``"graphs"`` runs static shapes, as CUDA graphs on a GPU; or one's own."""

OFF = Off()


class Monitor(Protocol):
    """Sees finished requests, and may answer with a policy."""

    def note(self, request: Request) -> Plan | Policy | None:
        """Take in a finished request."""
        ...


class Engine:
    """Serves requests from one target, with drafts from a model, from retrieval, or from both.

    Any thread may call any method: one runs at a time, the others wait. A policy, a monitor or a drafter that the
    engine calls may add and cancel requests and change the policy, from the same thread; it may not call `step` again.

    Parameters
    ----------
    target : LanguageModel
        Whose law the output keeps, by the rule that each request asks for (`SamplingParams.verification`).
    draft : LanguageModel, optional
        Short for a `NeuralDrafter` named ``"draft"``.
    drafters : dict from name to Drafter, optional
        Whom policies may name, beside ``"retrieval"`` and, where there is one, ``"datastore"``, unless one of that name
        is given. They serve this engine only.
    policy : Policy, Plan, or callable from a number of rows and their mean context to a Policy
        What a step drafts; nothing when left out.
    max_batch : int
        Most requests at once; the others wait.
    max_context : int, optional
        Most tokens of prompt, output and scratch a row, 2048 when left out; never more than the target has positions
        for, or its rotations were made for.
    kv_tokens, kv_bytes : int, optional
        Most token slots, or bytes, that the keys and values of target and draft may take; requests wait until theirs
        fit. No bound but `max_batch` and `max_context` when both are left out.
    monitor : Monitor, optional
        Sees every finished request; a policy that it returns is run from the next step on.
    datastore : Datastore, optional
        Past outputs, of the target's tokenizer and within its vocabulary: policies name them ``"datastore"``.
    learn : bool
        Finished outputs join the datastore, each its tenant's own (`add`); rows of several tenants share the batch, and
        never each other's outputs. There is an empty datastore when none is given.
    tokenizer : optional
        For prompts given as text, and for `Completion.text`.
    backend : str or callable
        ``"eager"`` or ``"graphs"``; or a callable (target, drafters, rows, context) that makes one.

    Attributes
    ----------
    timings : deque of StepTiming
        Of the latest steps.
    forwards : tuple of (B,) int64
        Tokens of each row in each forward of a draft that the last step took.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        drafters: Mapping[str, Drafter] | None = None,
        policy: Policy | Plan | PolicyChoice = OFF,
        max_batch: int = 8,
        max_context: int | None = None,
        kv_tokens: int | None = None,
        kv_bytes: int | None = None,
        monitor: Monitor | None = None,
        datastore: Datastore | None = None,
        learn: bool = False,
        tokenizer: Any = None,
        backend: BackendChoice = "eager",
    ) -> None:
        self.target, self.tokenizer, self.monitor = target, tokenizer, monitor
        self.max_context = min(max_context or 2048, target.max_positions + 1)  # the last token needs no position
        datastore = Datastore.build([]) if learn and datastore is None else datastore
        self.drafters = _named(draft, drafters, datastore, learn)
        _check_vocabularies(target, self.drafters)
        self._features = features_of(self.drafters)
        if datastore is not None:
            datastore.admit(Vocabulary(target.vocabulary, fingerprint_of(tokenizer) if datastore.tokenizer else ""))
        self.backend = _backend(backend)(target, self.drafters, max_batch, self.max_context)
        most_rows = None
        if kv_bytes is not None:
            caches = [(model, one.cache) for one in self.drafters.values() if (model := one.model) and one.cache]
            formats = formats_of([(target, self.cache), *caches])
            if target.scheme is None:
                within = slots_within(kv_bytes, formats)
                kv_tokens = within if kv_tokens is None else min(kv_tokens, within)
            else:
                most_rows = rows_within(kv_bytes, formats)
        self.scheduler = Scheduler(self.backend.max_batch, kv_tokens, most_rows)
        self.rows, self.waiting = self.scheduler.rows, self.scheduler.waiting
        self.timings: deque[StepTiming] = deque(maxlen=KEPT)
        self.forwards: tuple[NDArray[np.int64], ...] = ()
        self._counters = Counters()
        self.prefill_s = 0.0
        self._numbers = 0
        self._lock, self._busy = RLock(), False
        self.use(policy)

    @classmethod
    def from_pretrained(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        *,
        plan: Plan | str | Path | None = None,
        workload: str | None = None,
        dtype: str = "float32",
        kv: str = "plain",
        **options: Any,
    ) -> Engine:
        """An engine over folders or hub names that transformers' `from_pretrained` takes.

        Of the model's generation configuration, its end-of-sequence tokens end requests; its temperature, filters and
        penalties are ignored: what a request asks for stands in its `SamplingParams` alone.

        Parameters
        ----------
        target, draft : str or Path
            Causal models with one vocabulary, or a head for a draft; safetensors, no remote code.
        plan : Plan or path, optional
            Policies by batch and, where it tells them apart, by context; for `workload` (the plan's first when left
            out).
        dtype : str
            Of the target's weights, as torch names it; the draft runs in float32 on a CPU, where it is faster.
        kv : str
            Cache of the target's keys and values: ``"plain"``, ``"int8"``, ``"int4"``, or ``"NAME=FILE"`` of one that
            `reader kv fit` made.
        """
        from runtime.cache.quantised.files import scheme_of
        from runtime.drafters.load import load_draft
        from runtime.models.load import load_model, load_tokenizer
        from runtime.models.quantised import quantised

        scheme = scheme_of(kv)
        loaded = Plan.read(plan) if isinstance(plan, str | Path) else plan
        policy = OFF if loaded is None else _schedule_of(loaded, workload)
        big, tokenizer = load_model(target, dtype), load_tokenizer(target)
        small = None if draft is None else load_draft(draft, big, tokenizer)
        big = big if scheme is None else quantised(big, scheme)
        return cls(big, small, policy=policy, tokenizer=tokenizer, **options)

    def use(self, policy: Policy | Plan | PolicyChoice) -> None:
        """Draft by `policy` from the next step on."""
        with self._lock:
            self._use(policy)

    def _use(self, policy: Policy | Plan | PolicyChoice) -> None:
        chosen = _schedule_of(policy) if isinstance(policy, Plan) else policy
        self._policy: PolicyChoice = chosen if callable(chosen) else lambda _rows, _context: chosen
        some = ((rows, context) for rows in range(1, self.max_batch + 1) for context in (1.0, float(self.max_context)))
        policies = list({id(found): found for cell in some for found in (self._policy(*cell),)}.values())
        for each in policies:
            self.backend.check(each)
        least = CATCH_UP if any(one.cache is not None for one in self.drafters.values()) else 1
        self.scheduler.scratch = max(least, *(1 + each.most_nodes for each in policies))
        self._parts: dict[int, tuple[Policy, tuple[Part, ...]]] = {}

    @property
    def cache(self) -> RowCache:
        """The target's."""
        return self.backend.cache

    @property
    def max_batch(self) -> int:
        """Most requests at once."""
        return self.scheduler.max_batch

    @property
    def counters(self) -> EngineCounters:
        """What happened so far: acceptance by depth and source, seconds by term, how requests ended, KV held."""
        with self._lock:
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
        number: int = 0,
        uniforms: ArrayLike | None = None,
        streams: Streams | None = None,
        tenant: str = "",
    ) -> Request:
        """Queue a request. One that cannot be served ends at once with its error; the others go on.

        Parameters
        ----------
        prompt : str, or (P,) of int
        params : SamplingParams, optional
            Greedy, 128 tokens when left out.
        number : int
            Which of the seed's streams it draws from. Left alone, the seed says it all: requests of one seed draw the
            same numbers, whenever they come and whoever runs beside them.
        uniforms : (max_new_tokens,) in [0, 1), optional
            Uniform of each output position; drawn from the request's seed when left out.
        streams : callable (stream, step, count) -> (count,) in [0, 1), optional
            Numbers of rules that draw drafts or couple them; steps count from 1, and the coupling stream counts output
            positions from 0. Drawn from the request's seed when left out.
        tenant : str
            Whose outputs it may draft from, and whose it joins, where the engine learns.
        """
        with self._lock:
            request = Request.of(
                prompt,
                params or SamplingParams(),
                self._numbers,
                id=id,
                stream=number,
                uniforms=uniforms,
                streams=streams,
                tokenizer=self.tokenizer,
                end_tokens=self.target.end_tokens,
                alike=self.target.reads,
                fingerprint=self._fingerprint if params is not None and params.language is not None else "",
            )
            self._numbers += 1
            request.tenant = tenant
            request.finish = request.refusal(self.target.vocabulary, self.max_context) or self._unjudged(request)
            if request.finish is None and not self.scheduler.fits([request]):
                request.finish = self.scheduler.too_large(request)
            if request.finish is None:
                self.waiting.append(request)
            else:
                self.scheduler.count(request)
            return request

    def _unjudged(self, request: Request) -> str | None:
        """How a request ends whose judge is not of this engine's models; None where it is."""
        rule = request.params.rule
        if not isinstance(rule, JudgeLossy) or rule.classifier is None:
            return None
        try:
            self.backend.judging.drafter_of(rule.classifier)
        except InvalidInputError as error:
            return f"error: {error}"
        return None

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self.tokenizer)

    def cancel(self, request: Request) -> None:
        """End `request` now; what it emitted so far stays with it. Within a step, it leaves when the step ends."""
        with self._lock:
            if request.done:
                return
            require(
                self._busy or request in self.rows or request in self.waiting,
                "`request` must be one of this engine's",
                got=f"request {request.id}, which neither runs nor waits here",
                fix="Cancel it where it was added.",
            )
            request.finish = "cancelled"
            self.scheduler.drop(request)
            if not self._busy:
                self._leave()

    def generate(
        self, prompts: Sequence[str | ArrayLike], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Serve `prompts` to their end; completions in the order of the prompts.

        One `params` is that of all: where it samples, equal prompts come to equal texts. Give each a seed of its own
        for texts that differ.
        """
        require(
            not isinstance(prompts, str | bytes),
            "`prompts` must be a list of prompts",
            got=f"one {type(prompts).__name__}",
            fix="Put it in a list.",
        )
        each = [params] * len(prompts) if params is None or isinstance(params, SamplingParams) else list(params)
        require(
            len(each) == len(prompts),
            "`params` must be one, or one for each prompt",
            got=f"{len(each)} for {len(prompts)} prompts",
            fix="Repeat those that several prompts share.",
        )
        requests = [self.add(prompt, chosen) for prompt, chosen in zip(prompts, each, strict=True)]
        left = [request for request in requests if not request.done]
        while left and self.step():
            left = [request for request in left if not request.done]
        return [request.completion(self.tokenizer) for request in requests]

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
        with self._lock:
            require(
                not self._busy,
                "`step` must not be called within a step",
                got="a call by a policy, a monitor or a drafter that the engine had called",
                fix="Let it add or cancel requests, and return.",
            )
            self._busy = True
            try:
                self._admit()
                if self.rows:
                    self._decode()
            finally:
                self._busy = False
            return bool(self.rows or self.waiting)

    def _decode(self) -> None:
        policy = self._policy(len(self.rows), self._context)
        self._leave()  # whom the policy cancelled
        if not self.rows:
            return
        try:
            self._draw_whole()
            self._leave()
            if self.rows:
                self._run(policy)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._shed(error)
        self._leave()

    def _draw_whole(self) -> None:
        """Draw the texts of rows that just joined and look to the end of their language: one trie each, as a whole."""
        waiting = [row for row, request in enumerate(self.rows) if request.logits is not None]
        if not waiting:
            return
        start, first = perf_counter(), waiting[0]
        requests = self.rows[first : waiting[-1] + 1]
        wanted = [self._unknown(request, [()]) if request.logits is not None else [] for request in requests]
        self._note(requests, wanted, first)
        forwarded = perf_counter()
        emitted = sum(self._draw(self.rows[row]) for row in waiting)
        end = perf_counter()
        nodes = [len(each) for each in wanted]
        timing = StepTiming(
            rows=len(waiting),
            emitted=emitted,
            nodes=sum(nodes),
            width=max(nodes),
            drafted=False,
            step_s=end - start,
            draft_s=0.0,
            retrieval_s=0.0,
            target_s=forwarded - start,
            verify_s=end - forwarded,
            commit_s=0.0,
        )
        self.timings.append(timing)
        self._counters.step(timing)

    def _draw(self, request: Request) -> int:
        """Emit a whole text; how many tokens it has."""
        assert request.course is not None
        request.logits = None
        self._counters.rule(request)
        try:
            tokens = request.course.draw(self.target.vocabulary, own_pick(request))
        except InvalidInputError as error:
            request.finish = f"error: {error}"
            return 0
        request.steps += 1
        request.accepted += len(tokens)
        return len(request.emit(tokens))

    def _unknown(self, request: Request, outputs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Outputs of which the target's law must be known to look ahead from `outputs`; none if there are too many."""
        course = request.course
        if course is None:
            return []
        try:
            return list({each: None for output in outputs for each in course.unknown(output)})
        except InvalidInputError as error:
            course.fault = NoLaw(error.rule, got=error.got, fix=error.fix)
            return []

    def _note(self, requests: Sequence[Request], wanted: list[list[tuple[int, ...]]], first_row: int = 0) -> None:
        """Have the target's laws that languages ask about noted."""
        if any(wanted):
            slots = self.cache.held_slots if self.scheduler.bounded else self.cache.slots
            note_laws(self.target, self.cache, requests, wanted, first_row=first_row, slots=slots)

    def _look_ahead(self, rows: Sequence[Request], trees: TokenTrees) -> None:
        """Note what must be known of the target beyond the nodes of each row's tree."""
        wanted: list[list[tuple[int, ...]]] = []
        for row, request in enumerate(rows):
            outputs: list[tuple[int, ...]] = []
            if request.constrained:
                outputs.append(tuple(request.output))
                parents, tokens = trees.parents[row].tolist(), trees.tokens[row].tolist()
                for node in range(1, int(trees.counts[row])):
                    outputs.append((*outputs[parents[node]], tokens[node]))
            wanted.append(self._unknown(request, outputs))
        self._note(rows, wanted)

    def _run(self, policy: Policy) -> None:
        start, catching_up, rows = perf_counter(), self._draft_prefill_s, self.rows
        seconds = {"retrieval": 0.0}
        spare = self._spare()
        offered = self.backend.propose(self._parts_of(policy), rows, spare, seconds)
        drafted = perf_counter()
        if any(request.constrained for request in rows):
            self._look_ahead(rows, offered.trees)
        proposal, walks, forwarded, width, bad, hidden = self.backend.verify(rows, offered)
        verified = perf_counter()
        self.forwards, count = proposal.forwards, len(rows)
        self.backend.commit(walks)
        each = self._take(walks, hidden)
        emitted = sum(each)
        self._counters.rows(rows, proposal, walks, each)
        for row, why in bad.items():
            self._void(row, why)
        end = perf_counter()
        catching_up = self._draft_prefill_s - catching_up
        self.prefill_s += catching_up
        timing = StepTiming(
            rows=count,
            emitted=emitted,
            nodes=int(proposal.trees.counts.sum()) - count,
            width=width,
            drafted=bool(proposal.forwards),
            step_s=end - start - catching_up,
            draft_s=drafted - start - seconds["retrieval"] - catching_up,
            retrieval_s=seconds["retrieval"],
            target_s=forwarded - drafted,
            verify_s=verified - forwarded,
            commit_s=end - verified,
        )
        self.timings.append(timing)
        self._counters.step(timing)

    def _parts_of(self, policy: Policy) -> tuple[Part, ...]:
        """Who drafts by `policy`, remembered: a policy's hash takes longer than the rest."""
        found = self._parts.get(id(policy))
        if found is None:
            if len(self._parts) >= 256:
                self._parts.clear()
            found = self._parts[id(policy)] = (policy, parts_of(policy, self.drafters))
        return found[1]

    @property
    def _context(self) -> float:
        """Mean tokens of prompt and output a row."""
        return sum(len(r.prompt) + len(r.output) for r in self.rows) / len(self.rows)

    @property
    def _draft_prefill_s(self) -> float:
        return sum(drafter.prefill_s for drafter in self.drafters.values())

    def _spare(self) -> list[int]:
        """Draft nodes that each row has slots for, also beside the widest tree of the batch."""
        cache, lengths = self.cache, [request.length for request in self.rows]
        if not self.scheduler.bounded:
            spare = [cache.slots - length for length in lengths]
        else:  # within memory that was bounded, a policy may ask for more than its rows were planned for
            spare = [max(cache.held_slots - max(lengths), 0)] * len(lengths)
        spare = [min(most, cache.reach) for most in spare]
        return [0 if request.suspect else most for request, most in zip(self.rows, spare, strict=True)]

    def _take(self, walks: Walks, hidden: torch.Tensor | None) -> list[int]:
        """Hand each row what it emitted; how many tokens of it count."""
        each: list[int] = []
        rows = zip(self.rows, walks.kept.tolist(), walks.emitted.tolist(), strict=True)
        for row, (request, accepted, tokens) in enumerate(rows):
            if not accepted or request.done:
                each.append(0)
                continue
            kept = request.emit(tokens[:accepted])
            request.steps += 1
            added = request.params.rule.adds_after_leaf
            nodes = accepted - 1 if added else int((walks.path[row] > 0).sum())
            request.accepted += min(nodes, len(kept))
            request.suspect = False
            each.append(len(kept))
            for drafter in self.drafters.values():
                drafter.extend(row, kept, self._read(drafter, None if hidden is None else hidden[row, : len(kept)]))
        return each

    def _read(self, drafter: Drafter, hidden: torch.Tensor | None) -> torch.Tensor | None:
        """The hidden states that a drafter asks for, of (n, layers, H) of all that any asks for."""
        if hidden is None or not drafter.features:
            return None
        return hidden[:, [self._features.index(layer) for layer in drafter.features]]

    def _void(self, row: int, why: str) -> None:
        """A row's step came to nothing: once it is tried again, without drafts and on clean memory; then it ends."""
        request = self.rows[row]
        if request.suspect:
            request.finish = why
        request.suspect = True
        self._clean(row)
        for drafter in self.drafters.values():
            _seat_again(drafter, row, request)

    def _clean(self, row: int) -> None:
        """Leave nothing in a row's slots that is not a number: masked slots count where they are NaN."""
        caches = (self.cache, *(drafter.cache for drafter in self.drafters.values()))
        for cache in caches:
            if cache is not None:
                cache.clean(row, int(self.cache.lengths[row]) if cache is self.cache else 0)

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
        row, bounded = len(self.rows), self.scheduler.bounded
        slots = self.scheduler.slots([*self.rows, request])
        self.backend.hold(row + 1, slots, bounded=bounded)
        self.cache.lengths[row] = 0
        out = run_prompt(self.target, self.cache, request.prompt, row, hidden=self._features)
        if not bool(torch.isfinite(out.logits.amax())):  # of what a row before left in its slots, or its own
            self.cache.lengths[row] = 0
            self._clean(row)
            out = run_prompt(self.target, self.cache, request.prompt, row, hidden=self._features)
        first: list[int] = []
        try:
            if request.whole:
                request.logits = out.logits[0, -1]
                note_law(request, [()], out.logits[0, -1:])
            else:
                self._note([request], [self._unknown(request, [()])], row)
                first = request.emit([first_token(request, out.logits[0, -1])])
        except NoLaw as error:
            request.finish = f"error: {error}"
            self.cache.lengths[row] = 0
            self._clean(row)
            self.scheduler.count(request)
            return
        hidden = torch.stack(out.hidden, dim=2)[0] if out.hidden else None
        for drafter in self.drafters.values():
            drafter.serve(request.tenant)
            drafter.join(row, request.prompt, self._read(drafter, hidden))
        self.scheduler.join(request)
        last = None if hidden is None else hidden[-1:]
        for drafter in self.drafters.values() if first else ():
            drafter.extend(row, first, self._read(drafter, last))

    def _fail(self, request: Request, error: Exception) -> None:
        request.finish = f"error: out of memory with {len(self.rows)} others: {str(error).splitlines()[0][:200]}"
        self.scheduler.count(request)

    def _shed(self, error: Exception) -> None:
        """A step ran out of memory before it changed any request: the newest one ends, the others are tried again."""
        newest = max(self.rows, key=lambda request: request.number)
        newest.finish = f"error: out of memory among {len(self.rows)}: {str(error).splitlines()[0][:200]}"
        for drafter in self.drafters.values():
            for row, request in enumerate(self.rows if drafter.cache is not None else ()):
                _seat_again(drafter, row, request)

    def _leave(self) -> None:
        """Take finished requests out; the last row moves into each gap."""
        while done := [request for request in self.rows if request.done]:
            for source, target in self.scheduler.leave():
                self.cache.move_row(source, target)
                for drafter in self.drafters.values():
                    drafter.move(source, target)
            for request in done:
                for drafter in self.drafters.values() if request.finish in ("length", "stop") else ():
                    drafter.learn(request.tenant, request.output)
            if self.monitor is not None:
                self._tell(self.monitor, done)

    def _tell(self, monitor: Monitor, done: list[Request]) -> None:
        """Hand finished requests to the monitor; whom it cancels leaves with the next look at the rows."""
        held, self._busy = self._busy, True
        try:
            for request in done:
                found = monitor.note(request)
                if found is not None:
                    self._use(found)
        finally:
            self._busy = held


def _seat_again(drafter: Drafter, row: int, request: Request) -> None:
    """Have `drafter` take in a request's tokens once more, as its tenant's."""
    drafter.serve(request.tenant)
    drafter.again(row, np.array(request.text, dtype=np.int64))


def _named(
    draft: LanguageModel | None, drafters: Mapping[str, Drafter] | None, datastore: Datastore | None, learn: bool
) -> dict[str, Drafter]:
    """All drafters of an engine, by name."""
    given = dict(drafters or {})
    require(
        draft is None or "draft" not in given,
        '`drafters` must not name a "draft" beside `draft`',
        got=", ".join(given),
        fix="Leave one of them out.",
    )
    if draft is not None:
        given["draft"] = NeuralDrafter(draft)
    if "retrieval" not in given:
        given["retrieval"] = RetrievalDrafter()
    if datastore is not None and "datastore" not in given:
        given["datastore"] = RetrievalDrafter(datastore, learn=learn)
    return given


def _backend(chosen: BackendChoice) -> Callable[[LanguageModel, Mapping[str, Drafter], int, int], Backend]:
    if chosen == "graphs":
        from runtime.engine.graphs.backend import Graphs

        return Graphs
    require(
        callable(chosen) or chosen == "eager",
        '`backend` must be "eager", "graphs" or a callable that makes one',
        got=repr(chosen),
        fix="Leave it out for the eager one.",
    )
    return chosen if callable(chosen) else Eager


def _check_vocabularies(target: LanguageModel, drafters: Mapping[str, Drafter]) -> None:
    for drafter in drafters.values():
        if drafter.model is not None:
            check_pair(Vocabulary(target.vocabulary), Vocabulary(drafter.model.vocabulary))


def _schedule_of(plan: Plan, workload: str | None = None) -> PolicyChoice:
    name = workload or plan.workloads[0]
    return lambda rows, context: plan.entry(name, rows, context).policy
