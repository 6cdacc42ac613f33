"""The engine: continuous batching over a real model, each step drafting, verifying and committing what a plan says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents import DraftPolicy, Plan
from reader_theory.errors import InvalidInputError, require
from reader_theory.trees import DraftTree
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.suffix_index import SuffixIndex
from runtime.drafters.trie import DraftTrie
from runtime.models.inputs import forward_trees, prefill
from runtime.models.target import LanguageModel
from runtime.picker import pick
from runtime.request import Completion, Request
from runtime.sampling_params import SamplingParams
from runtime.timing import StepTiming
from runtime.verification.streams import stream_uniforms

__all__ = ["Engine", "PolicyChoice"]

PolicyChoice = Callable[[int], DraftPolicy]
"""Policy for a number of rows."""

OFF = DraftPolicy()


@lru_cache(maxsize=256)
def _tree_of(policy: DraftPolicy) -> tuple[DraftTree, list[int]]:
    tree = policy.tree.by_level()
    return tree, tree.parents.tolist()


class Engine:
    """Serves requests from one target, with drafts from a model, from retrieval, or from both.

    Parameters
    ----------
    target : LanguageModel
        Whose law the output keeps: greedily or by target-only verification, without loss.
    draft : LanguageModel, optional
        Needed by policies with a neural tree.
    policy : DraftPolicy, or callable from a number of rows to one
        What a step drafts; nothing when left out.
    max_batch : int
        Most requests at once; the others wait.
    max_context : int, optional
        Most tokens of prompt, output and scratch a row; the target's own limit, at most 2048, when left out.
    tokenizer : optional
        For prompts given as text, and for `Completion.text`.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        policy: DraftPolicy | PolicyChoice = OFF,
        max_batch: int = 8,
        max_context: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.target, self.tokenizer, self.max_batch = target, tokenizer, max_batch
        self.max_context = max_context or min(target.max_positions, 2048)
        self.cache = target.new_cache(max_batch, self.max_context)
        self.drafter = None if draft is None else NeuralDrafter(draft, max_batch, self.max_context)
        _check_vocabularies(target, draft)
        self.use(policy)
        self.rows: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.timings: list[StepTiming] = []
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
            Policies by batch, for `workload` (the plan's first when left out).
        dtype : str
            Of the target's weights, as torch names it; the draft runs in float32 on a CPU, where it is faster.
        """
        from runtime.models.load import load_model, load_tokenizer

        loaded = Plan.read(plan) if isinstance(plan, str | Path) else plan
        policy: DraftPolicy | PolicyChoice = OFF
        if loaded is not None:
            name = workload or loaded.workloads[0]
            policy = lambda rows: loaded.entry(name, rows).policy  # noqa: E731
        small = None if draft is None else load_model(draft, "float32")
        return cls(load_model(target, dtype), small, policy=policy, tokenizer=load_tokenizer(target), **options)

    def use(self, policy: DraftPolicy | PolicyChoice) -> None:
        """Draft by `policy` from the next step on."""
        self._policy: PolicyChoice = policy if callable(policy) else lambda _rows: policy

    # ---- requests

    def add(
        self,
        prompt: str | ArrayLike,
        params: SamplingParams | None = None,
        *,
        id: str | None = None,
        number: int | None = None,
        uniforms: NDArray[np.float64] | None = None,
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
        """
        params, number = params or SamplingParams(), self._numbers if number is None else number
        self._numbers += 1
        if uniforms is None:
            drawn = 0 if params.greedy else params.max_new_tokens
            uniforms = stream_uniforms(params.seed, number, 0, "recovery", drawn)
        tokens = self._encode(prompt)
        request = Request(id or str(number), number, tokens, params, uniforms)
        request.finish = self._refusal(tokens, params)
        if request.finish is None:
            self.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """End `request` now; what it emitted so far stays with it."""
        if request.done:
            return
        request.finish = "cancelled"
        if request in self.waiting:
            self.waiting.remove(request)
        self._leave()

    def generate(
        self, prompts: Sequence[str | ArrayLike], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Serve `prompts` to their end; completions in the order of the prompts."""
        each = [params] * len(prompts) if params is None or isinstance(params, SamplingParams) else params
        requests = [self.add(prompt, chosen) for prompt, chosen in zip(prompts, each, strict=True)]
        while self.step():
            pass
        return [self._finished(request) for request in requests]

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

    # ---- one step

    def step(self) -> bool:
        """Admit who waits, then run one decoding step; False when nothing is left to do."""
        self._admit()
        if not self.rows:
            return bool(self.waiting)
        start, catching_up = perf_counter(), self._draft_prefill_s
        policy = self._policy(len(self.rows))
        tries, want_draft = self._retrieve(policy)
        retrieved = perf_counter()
        self._draft(policy, tries, want_draft)
        drafted = perf_counter()
        logits = self._verify_forward(tries)
        forwarded = perf_counter()
        walks = self._walk(tries, logits)
        verified = perf_counter()
        emitted = self._commit(walks)
        end = perf_counter()
        catching_up = self._draft_prefill_s - catching_up
        self.prefill_s += catching_up
        self.timings.append(
            StepTiming(
                rows=len(tries),
                emitted=emitted,
                nodes=sum(map(len, tries)) - len(tries),
                width=max(map(len, tries)),
                drafted=bool(want_draft),
                step_s=end - start - catching_up,
                draft_s=drafted - retrieved - catching_up,
                retrieval_s=retrieved - start,
                target_s=forwarded - drafted,
                verify_s=verified - forwarded,
                commit_s=end - verified,
            )
        )
        self._leave()
        return bool(self.rows or self.waiting)

    @property
    def _draft_prefill_s(self) -> float:
        return 0.0 if self.drafter is None else self.drafter.prefill_s

    def _retrieve(self, policy: DraftPolicy) -> tuple[list[DraftTrie], list[int]]:
        """A trie a row with its retrieved chain, and the rows on which the neural draft is to run."""
        tries = [DraftTrie(request.output[-1]) for request in self.rows]
        neural = list(range(len(self.rows))) if policy.parents and self.drafter else []
        if policy.retrieval is not None:
            for request, trie in zip(self.rows, tries, strict=True):
                cap = min(policy.retrieval.cap(_index(request).match_length), request.room - 1)
                if cap > 0:
                    trie.add_chain(_index(request).chain(cap).tolist())
        skip = policy.skip_draft_at_match
        if skip is not None:
            neural = [row for row in neural if _index(self.rows[row]).match_length < skip]
        return tries, neural

    def _draft(self, policy: DraftPolicy, tries: list[DraftTrie], want: list[int]) -> None:
        if not want or self.drafter is None:
            return
        tree, parents = _tree_of(policy)  # pyright: ignore[reportArgumentType]
        tokens = self.drafter.propose(len(tries), tree)
        for row in want:
            tries[row].add_tree(tokens[row].tolist(), parents)

    def _verify_forward(self, tries: list[DraftTrie]) -> torch.Tensor:
        counts = np.array([len(trie) for trie in tries], dtype=np.int64)
        tokens = np.zeros((len(tries), int(counts.max())), dtype=np.int64)
        parents = np.full(tokens.shape, -1, dtype=np.int64)
        for row, trie in enumerate(tries):
            tokens[row, : counts[row]] = trie.tokens
            parents[row, : counts[row]] = trie.parents
        return forward_trees(self.target, self.cache, tokens, parents, counts)

    def _walk(self, tries: list[DraftTrie], logits: torch.Tensor) -> list[tuple[list[int], list[int]]]:
        """Path and emitted tokens of each row."""
        best = logits.argmax(-1).tolist() if any(_argmax_only(r.params) for r in self.rows) else []
        walks: list[tuple[list[int], list[int]]] = []
        for row, (request, trie) in enumerate(zip(self.rows, tries, strict=True)):
            if _argmax_only(request.params):
                picked = best[row]
                walks.append(trie.follow(lambda path, picked=picked: picked[path[-1]]))
            else:
                walks.append(trie.follow(_sampler(request, trie, logits[row])))
        return walks

    def _commit(self, walks: list[tuple[list[int], list[int]]]) -> int:
        total = 0
        for row, (request, (path, tokens)) in enumerate(zip(self.rows, walks, strict=True)):
            self.cache.commit(row, path)
            kept = request.emit(tokens)
            request.steps += 1
            request.accepted += min(len(path) - 1, len(kept))
            total += len(kept)
            self._note(row, request, kept)
        return total

    def _note(self, row: int, request: Request, tokens: list[int]) -> None:
        if request.index is not None:
            request.index.extend(np.array(tokens, dtype=np.int32))
        if self.drafter is not None:
            self.drafter.extend(row, tokens)

    # ---- joining and leaving

    def _admit(self) -> None:
        while self.waiting and len(self.rows) < self.max_batch:
            request = self.waiting.popleft()
            start, row = perf_counter(), len(self.rows)
            self.cache.lengths[row] = 0
            logits = prefill(self.target, self.cache, request.prompt, row)
            uniform = float(request.uniforms[0]) if len(request.uniforms) else 0.0
            first = request.emit([pick(logits, request.params, request.prompt.tolist(), uniform)])
            request.index = SuffixIndex(request.prompt.astype(np.int32))
            if self.drafter is not None:
                self.drafter.join(row, request.prompt)
            self.rows.append(request)
            self._note(row, request, first)
            self.prefill_s += perf_counter() - start
            self._leave()

    def _leave(self) -> None:
        """Take finished requests out; the last row moves into each gap."""
        for row in range(len(self.rows) - 1, -1, -1):
            if self.rows[row].done:
                last = self.rows.pop()
                if row < len(self.rows):
                    self.cache.move_row(len(self.rows), row)
                    if self.drafter is not None:
                        self.drafter.move_row(len(self.rows), row)
                    self.rows[row] = last

    # ---- checks

    def _encode(self, prompt: str | ArrayLike) -> NDArray[np.int64]:
        if isinstance(prompt, str):
            require(
                self.tokenizer is not None,
                "a prompt given as text must come with a tokenizer",
                got="a str, and an engine without one",
                fix="Pass `tokenizer=`, or token ids.",
            )
            prompt = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return np.asarray(prompt, dtype=np.int64).reshape(-1)

    def _refusal(self, tokens: NDArray[np.int64], params: SamplingParams) -> str | None:
        if not len(tokens):
            return "error: the prompt must have at least one token"
        bad = np.flatnonzero((tokens < 0) | (tokens >= self.target.vocabulary))
        if len(bad):
            return f"error: token ids must be in [0, {self.target.vocabulary}). Got {tokens[bad[0]]} at {bad[0]}"
        need = len(tokens) + params.max_new_tokens
        if need >= self.max_context:
            return f"error: prompt and new tokens must stay below {self.max_context}. Got {need}"
        return None

    def _finished(self, request: Request) -> Completion:
        done = request.completion()
        if self.tokenizer is None:
            return done
        from dataclasses import replace

        return replace(done, text=self.tokenizer.decode(done.tokens))


def _index(request: Request) -> SuffixIndex:
    assert request.index is not None, "an admitted request has its index"
    return request.index


def _argmax_only(params: SamplingParams) -> bool:
    return params.greedy and params.repetition_penalty == 1.0


def _sampler(request: Request, trie: DraftTrie, logits: torch.Tensor) -> Callable[[list[int]], int]:
    prefix, emitted = (request.prompt.tolist() if not request.params.plain else []), len(request.output)

    def draw(path: list[int]) -> int:
        position = min(emitted + len(path) - 1, len(request.uniforms) - 1)
        before = [*prefix, *request.output, *(trie.tokens[node] for node in path[1:])]
        uniform = float(request.uniforms[position]) if len(request.uniforms) else 0.0
        return pick(logits[path[-1]], request.params, before, uniform)

    return draw


def _check_vocabularies(target: LanguageModel, draft: LanguageModel | None) -> None:
    require(
        draft is None or draft.vocabulary == target.vocabulary,
        "`target` and `draft` must share one vocabulary",
        got=f"{target.vocabulary} and {draft.vocabulary if draft else 0} tokens",
        fix="Choose a draft trained with the target's tokenizer, or plan for retrieval alone.",
    )
