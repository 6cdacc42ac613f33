"""The backend in static shapes: what a GPU runs as two graph replays, one wait and no allocation a step.

Where every row follows the target's own tokens, and the drafts are a neural draft's static tree, a chain, or both, a
step copies one buffer to the device, drafts (graph 1) while the CPU looks chains up, copies a second buffer, verifies
and commits (graph 2), copies the accepted tokens back and waits for them: the only synchronisation. Any other step is
drafted by its drafters and forwarded in the same buckets (one graph); its rows are verified from the logits. On a CPU
the same code runs without graphs, and gives the tokens that the eager backend gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents import Chain, Static
from reader_theory.errors import InvalidInputError, require
from reader_theory.trees import TokenTree, TokenTrees
from runtime.cache.rows import RowCache
from runtime.drafters.base import Drafter, Proposal
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.parts import Part, after, parts_of, proposed
from runtime.engine.graphs.buckets import Bucket, Buckets, powers_up_to
from runtime.engine.graphs.drafting import StaticDrafting
from runtime.engine.graphs.verifying import StaticLogits, StaticVerifying
from runtime.engine.judging import Judging
from runtime.engine.request import Request
from runtime.engine.step import Backend, Verified, along, features_of, unsound_logits, walk_rows
from runtime.kernels.commit import KVPool
from runtime.kernels.verify import Walks
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill

__all__ = ["Graphs"]

SCRATCH = 256
"""Slots of a row beyond its context: draft nodes and padding."""
FRESH = 32
"""Pending tokens from which the draft takes them in by a prefill."""


class _Queued(NamedTuple):
    """Drafts that lie on the device, with chains that lie here: a proposal once they are verified."""

    names: tuple[str, str, str]
    forwards: tuple[NDArray[np.int64], ...]
    tree: TokenTree
    tokens: torch.Tensor | None
    drafted: list[bool]
    chains: list[NDArray[np.int64]]
    most: int


class _NoRoom(Exception):
    """A bucket did not fit into memory."""

    def __init__(self, bucket: Bucket, why: str) -> None:
        super().__init__(why)
        self.bucket = bucket


class Graphs(Backend):
    """Static shapes, in buckets of rows, nodes and context; a bucket that finds no memory is left out, and said.

    Parameters
    ----------
    target, drafters : LanguageModel, dict of Drafter
        On one device.
    max_batch, max_context : int
        Rows, and tokens of prompt and output a row. Where memory for the rows' caches is missing they are halved.
    contexts : sequence of int, optional
        Context buckets; powers of two from 256 up when left out.

    Attributes
    ----------
    fallbacks : list of str
        What was cut because memory ran out; warned about as well.
    """

    name = "graphs"

    def __init__(
        self,
        target: LanguageModel,
        drafters: Mapping[str, Drafter],
        max_batch: int,
        max_context: int,
        *,
        contexts: Sequence[int] | None = None,
    ) -> None:
        require(
            target.scheme is None,
            "a quantised cache must be run by the eager backend",
            got=f"{target.scheme.name if target.scheme else ''} with static shapes",
            fix='Open the engine with backend="eager".',
        )
        self.target, self.drafters, self.device = target, drafters, target.device
        self.features, self.judging = features_of(drafters), Judging(target, drafters)
        self.max_context, self.fallbacks = max_context, []
        self.slots = max_context + SCRATCH
        sizes = sorted({min(size, self.slots) for size in (*(contexts or powers_up_to(self.slots, 256)), self.slots)})
        self.max_batch = self._open(max_batch)
        stores = [layer for layer in self.cache.stores if layer.is_initialized]
        if not stores:
            prefill(target, self.cache, np.zeros(1, dtype=np.int64), 0)
            self.cache.lengths[0] = 0
            stores = self.cache.stores
        self.pool = KVPool.of([store.keys for store in stores], [store.values for store in stores])  # pyright: ignore
        self.buckets = Buckets(powers_up_to(self.max_batch), powers_up_to(SCRATCH - FRESH), sizes)
        self.graphs: Any = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self._drafting: dict[tuple[int, int, int, int], StaticDrafting] = {}
        self._drafted: dict[tuple[int, int], torch.Tensor] = {}
        self._verifying: dict[tuple[Bucket, int, int], StaticVerifying] = {}
        self._logits: dict[Bucket, StaticLogits] = {}
        self._trees: list[TokenTree] = []
        self._left_out: set[str] = set()
        self._committed = False

    @property
    def recorded(self) -> int:
        """Static shapes that steps have met so far; the step that meets one first records it, and is slow."""
        return len(self._drafting) + len(self._verifying) + len(self._logits)

    # ---- what can be run

    def check(self, policy: Any) -> None:
        most = 1 + policy.most_nodes
        require(
            most <= SCRATCH - FRESH,
            f"a tree must have at most {SCRATCH - FRESH - 1} nodes",
            got=most - 1,
            fix="Plan for fewer nodes.",
        )
        dropped, sizes = self.buckets.dropped, sorted({*self.buckets.nodes, most})
        self.buckets = Buckets(self.buckets.rows, sizes, self.buckets.contexts)
        self.buckets.dropped = dropped
        models = [self.target, *(model for one in self.drafters.values() if (model := one.model) is not None)]
        limit, deepest = min(model.max_positions for model in models), self.max_context + most - 1
        if deepest > limit:  # the depth of a tree is at most its nodes
            parts = parts_of(policy, self.drafters)
            trees = [part.policy.tree for part in parts if isinstance(part.policy, Static)]
            chains = [part.policy.max_tokens for part in parts if isinstance(part.policy, Chain)]
            deepest = self.max_context + max([0, *(tree.depth for tree in trees), *chains])
        require(
            deepest <= limit,
            f"context and depth of the draft must stay within the models' {limit} positions",
            got=deepest,
            fix="Open the engine with a shorter `max_context`.",
        )

    def hold(self, rows: int, slots: int, *, bounded: bool) -> None:
        """Nothing to do: everything lies where it was put when the engine was opened."""

    # ---- drafts

    def propose(
        self, parts: tuple[Part, ...], rows: Sequence[Request], spare: list[int], seconds: dict[str, float]
    ) -> Proposal | _Queued:
        here = (part for part in parts if isinstance(part.drafter, NeuralDrafter) and self._has(part.drafter.model))
        neural = next(here, None)
        others = [part for part in parts if part is not neural]
        chains = all(isinstance(part.policy, Chain) for part in others) and len(others) <= 1
        plain = neural is None and all(part.name == "" for part in others)
        if not (all(row.follows for row in rows) and (chains or plain)):
            return proposed(parts, rows, spare, seconds)
        return self._queue(neural, others[0] if others and not plain else None, rows, spare, seconds)

    def _queue(
        self,
        neural: Part | None,
        other: Part | None,
        rows: Sequence[Request],
        spare: list[int],
        seconds: dict[str, float],
    ) -> _Queued:
        """Queue the draft, and look chains up meanwhile; before it where they say which rows it is for."""
        first: Proposal | None = None
        tokens: torch.Tensor | None = None
        start = perf_counter()
        if neural is not None and neural.skip is None:
            tokens = self._draft(neural, len(rows))
        drafted = perf_counter()
        if other is not None:
            first = other.drafter.propose(other.policy, rows, spare)
            seconds[other.drafter.term] = seconds.get(other.drafter.term, 0.0) + perf_counter() - drafted
        wanted = [neural is not None and left > 0 for left in spare]
        if neural is not None and neural.skip is not None and first is not None:
            free = [SCRATCH if left > 0 else 0 for left in spare]
            wanted = [left > 0 for left in after(first, free, neural.skip)]
        if neural is not None and neural.skip is not None and any(wanted):
            again = perf_counter()
            tokens = self._draft(neural, len(rows))
            drafted += perf_counter() - again
        if neural is not None:
            seconds[neural.drafter.term] = seconds.get(neural.drafter.term, 0.0) + drafted - start
        chains = [np.zeros(0, np.int64)] * len(rows)
        if first is not None:
            counts = first.trees.counts.tolist()
            chains = [first.trees.tokens[row, 1:count] for row, count in enumerate(counts)]
        tree, forwards = TokenTree.empty(), ()
        if neural is not None and tokens is not None:
            assert isinstance(neural.drafter, NeuralDrafter)
            shape = neural.drafter.shape(neural.policy)
            tree, forwards = shape.tree, tuple(np.full(len(rows), size) for size in (1, *shape.inner))
        most = other.policy.max_tokens if other is not None else 0
        names = ("", other.name if other is not None else "", neural.name if neural is not None else "")
        return _Queued(names, forwards, tree, tokens, wanted, chains, most)

    def _has(self, model: LanguageModel) -> bool:
        """Whether drafting is queued: a forward a level here, not a block."""
        return model.device == self.device and not model.block

    def _draft(self, part: Part, rows: int) -> torch.Tensor | None:
        """Tokens of the draft, on the device; None where it finds no memory, now and later."""
        assert isinstance(part.drafter, NeuralDrafter)
        if part.name in self._left_out:
            return None
        try:
            return self._queue_draft(part.drafter, part.drafter.shape(part.policy).tree, rows)
        except torch.OutOfMemoryError as error:
            self._left_out.add(part.name)
            self._drafting.clear()
            self._say(f"drafting does not fit into memory, steps go without: {str(error)[:100]}")
            return None

    def _queue_draft(self, drafter: NeuralDrafter, tree: TokenTree, rows: int) -> torch.Tensor:
        """Queue the draft's levels; (bucket rows, N) tokens on the device."""
        cache = drafter.cache
        for row in range(rows):
            if len(drafter.pending[row]) > FRESH:
                prefill(drafter.model, cache, np.array(drafter.pending[row][:-1], dtype=np.int64), row)
                drafter.pending[row] = drafter.pending[row][-1:]
        counts = np.array([len(pending) for pending in drafter.pending[:rows]])
        fresh = next(size for size in powers_up_to(FRESH) if size >= counts.max())
        longest = int(cache.lengths[:rows].max())
        bucket, _, width = self.buckets.pick(rows, 1, longest + fresh + tree.nodes)
        which = self._place(tree)
        key = (which, bucket, fresh, width)
        if key not in self._drafting:
            tokens = torch.zeros((bucket, len(tree)), dtype=torch.int64, device=self.device)
            tokens = self._drafted.setdefault((which, bucket), tokens)
            self._drafting[key] = StaticDrafting(drafter.model, cache, tree, tokens, fresh, width, self.graphs)
        drafting = self._drafting[key]
        given = drafting.inputs.arrays
        given["fresh"].fill(0)
        given["counts"][:rows], given["counts"][rows:] = counts, 1
        given["lengths"][:rows], given["lengths"][rows:] = cache.lengths[:rows], 0
        for row, pending in enumerate(drafter.pending[:rows]):
            given["fresh"][row, : len(pending)] = pending
        drafting.inputs.upload()
        tokens = drafting.run()
        cache.lengths[:rows] += counts
        drafter.pending[:rows] = [[] for _ in range(rows)]
        return tokens

    def _place(self, tree: TokenTree) -> int:
        """Number of a tree, the same for equal ones; 0 for none."""
        if not tree.nodes:
            return 0
        for number, known in enumerate(self._trees, start=1):
            if known is tree or known == tree:
                return number
        self._trees.append(tree)
        return len(self._trees)

    # ---- verification

    def verify(self, rows: Sequence[Request], proposal: Proposal | _Queued) -> Verified:
        if isinstance(proposal, _Queued):
            return self._within_memory(lambda: self._verify_queued(rows, proposal))
        return self._within_memory(lambda: self._verify_here(rows, proposal))

    def commit(self, walks: Walks) -> None:
        if not self._committed:
            self.cache.commit(walks.path, walks.kept)

    def _verify_here(self, rows: Sequence[Request], proposal: Proposal) -> Verified:
        """One forward in a bucket; rows are verified from the logits."""
        trees, live = proposal.trees, len(rows)
        bucket = self.buckets.pick(live, trees.tokens.shape[1], int(self.cache.lengths[:live].max()))
        if bucket.nodes < trees.tokens.shape[1]:
            proposal = _cut(proposal, bucket.nodes)
        proposal = _padded(proposal, bucket.nodes)
        try:
            if bucket not in self._logits:
                self._logits[bucket] = StaticLogits(self.target, self.cache, bucket, self.graphs, self.features)
            out = self._logits[bucket](proposal.trees, self.cache.lengths[:live])
        except torch.OutOfMemoryError as error:
            raise _NoRoom(bucket, str(error)) from error
        forwarded = perf_counter()
        self._committed = False
        judge = partial(self.judging.importance, rows, proposal.trees, cache=self.cache)
        walks, bad = walk_rows(rows, proposal, out.logits, judge)
        return Verified(proposal, walks, forwarded, bucket.nodes, bad, along(out.hidden, walks.path))

    def _verify_queued(self, rows: Sequence[Request], queued: _Queued) -> Verified:
        """Merge, forward, walk and commit, all on the device."""
        live = len(rows)
        wanted = 1 + max(map(len, queued.chains)) + (queued.tree.nodes if queued.tokens is not None else 0)
        bucket = self.buckets.pick(live, wanted, int(self.cache.lengths[:live].max()))
        try:
            verifying = self._static(bucket, queued)
            self._fill(verifying, rows, queued)
            hidden = verifying.run()
        except torch.OutOfMemoryError as error:
            raise _NoRoom(bucket, str(error)) from error
        verifying.outputs.download()
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        made = {name: array[:live].copy() for name, array in verifying.outputs.arrays.items()}
        bad = {row: f"error: {unsound_logits(rows[row])}" for row in np.flatnonzero(made["unsound"]).tolist()}
        made["kept"][list(bad)] = 0  # the root's entry stays where it is: its next forward writes it anew
        self.cache.lengths[:live] += made["kept"]
        self._committed = True
        trees = TokenTrees(made["tokens"], made["parents"], made["counts"], names=queued.names)
        done = Proposal(replace(trees, sources=_sources(trees, queued.chains)), forwards=queued.forwards)
        walks = Walks(made["path"], made["kept"], made["emitted"])
        return Verified(done, walks, perf_counter(), bucket.nodes, bad, hidden)

    def _static(self, bucket: Bucket, queued: _Queued) -> StaticVerifying:
        key = (bucket, self._place(queued.tree), queued.most)
        if key not in self._verifying:
            drafts = queued.tokens
            assert drafts is None or len(drafts) == bucket.rows, "both halves of a step take the same bucket of rows"
            self._verifying[key] = StaticVerifying(
                self.target,
                self.cache,
                self.pool,
                bucket,
                queued.tree,
                queued.most,
                drafts,
                self.graphs,
                self.features,
            )
        return self._verifying[key]

    def _fill(self, verifying: StaticVerifying, rows: Sequence[Request], queued: _Queued) -> None:
        given, live, nodes = verifying.inputs.arrays, len(rows), verifying.bucket.nodes
        for name, values in (
            ("root", [request.output[-1] for request in rows]),
            ("lengths", self.cache.lengths[:live]),
            ("temperature", [request.params.temperature for request in rows]),
            ("drafted", queued.drafted),
        ):
            given[name][:live], given[name][live:] = values, 0
        given["chain"].fill(-1)
        given["uniforms"].fill(0)
        for row, (request, chain) in enumerate(zip(rows, queued.chains, strict=True)):
            given["chain"][row, : len(chain)] = chain
            start = len(request.output)
            ahead = request.uniforms[start : start + nodes]
            given["uniforms"][row, : len(ahead)] = ahead
        verifying.inputs.upload()

    # ---- memory

    def _within_memory(self, work: Callable[[], Verified]) -> Verified:
        """Do `work`; as long as it finds no memory, leave out the bucket and do it in a smaller one."""
        while True:
            try:
                return work()
            except _NoRoom as error:
                self.buckets.drop(error.bucket)
                for key in [key for key in self._verifying if key[0] == error.bucket]:
                    del self._verifying[key]
                self._logits.pop(error.bucket, None)
                self._say(f"{error.bucket} does not fit into memory: drafts are cut to a smaller one")

    def _open(self, rows: int) -> int:
        while True:
            try:
                self.cache: RowCache = self.target.new_cache(rows, self.slots)
                for name, drafter in self.drafters.items():
                    drafter.open(name, rows, self.slots)
                for cache in (self.cache, *(one.cache for one in self.drafters.values())):
                    if cache is not None:
                        cache.fit(rows, self.slots)
                return rows
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


def _cut(proposal: Proposal, nodes: int) -> Proposal:
    """The first nodes of each row: parents come before their children. Drawn drafts are dropped, not cut."""
    trees, laws = proposal.trees, proposal.laws
    counts = np.minimum(trees.counts, nodes)
    if laws is not None:
        counts = np.where([law is not None for law in laws] & (trees.counts > nodes), 1, counts)
        laws = [law if count <= nodes else None for law, count in zip(laws, trees.counts.tolist(), strict=True)]
    return proposal._replace(trees=trees.prune(nodes=counts - 1), laws=laws)


def _padded(proposal: Proposal, nodes: int) -> Proposal:
    """The same with `nodes` columns."""
    trees = proposal.trees
    beyond = ((0, 0), (0, nodes - trees.tokens.shape[1]))
    tokens, parents = np.pad(trees.tokens, beyond), np.pad(trees.parents, beyond, constant_values=-1)
    sources = None if trees.sources is None else np.pad(trees.sources, beyond)
    return proposal._replace(trees=replace(trees, tokens=tokens, parents=parents, sources=sources))


def _sources(trees: TokenTrees, chains: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """1 for the chain's nodes, which come first, 2 for the draft's.

    Where memory cut the tree, nodes were kept by depth and the chain's before others: it reaches as deep as the tree.
    """
    sources = np.where(np.arange(trees.tokens.shape[1]) < trees.counts[:, None], 2, 0)
    sources[:, 0] = 0
    for row, chain in enumerate(chains):
        deepest, depths = 0, [0]
        for parent in trees.parents[row, 1 : int(trees.counts[row])].tolist():
            depths.append(depths[parent] + 1)
            deepest = max(deepest, depths[-1])
        sources[row, 1 : 1 + min(len(chain), deepest)] = 1
    return sources
