"""A step's four parts: drafts of all rows, the target's forward over them, what each row keeps and emits, the commit.

A backend runs them. This file has the one that calls each model as it is; `runtime.engine.graphs` has the one in
static shapes. Greedy, target-only and Gumbel-coupled rows follow the target's own tokens down a tree, whoever drafted
it. Rules that need the law of the draft, and lossy ones, go through their verifier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.rules.base import FollowingRule
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.greedy import Greedy
from reader_theory.rules.judge import JudgeLossy
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.target_only import TargetOnly
from reader_theory.trees import TokenTree, TokenTrees
from runtime.cache.rows import RowCache
from runtime.drafters.base import Drafter, Proposal
from runtime.drafters.parts import Part, proposed
from runtime.engine.judging import Judging, looks_at
from runtime.engine.processors import NoLaw
from runtime.engine.request import Request
from runtime.engine.scheduler import is_out_of_memory
from runtime.kernels.sound import unsound
from runtime.kernels.verify import Walks, verify_greedy, verify_target_only
from runtime.models.base import LanguageModel
from runtime.models.inputs import run_trees

__all__ = [
    "Backend", "Eager", "Verified", "along", "features_of", "first_token", "own_fault", "own_pick", "unsound_logits",
    "walk_rows",
]  # fmt: skip

_SCRATCH = 1024
"""Slots of a row beyond its context at least: nodes, and padding to the widest tree of a batch."""
_TARGET_ONLY, _GREEDY = TargetOnly(), Greedy()


class Verified(NamedTuple):
    """What a step came to: what was offered in the end, each row's walk, and when the target's forward had ended.

    `bad` says of a row that keeps and emits nothing what was wrong with it.
    """

    proposal: Proposal
    walks: Walks
    forwarded: float
    width: float
    bad: Mapping[int, str] = {}
    hidden: torch.Tensor | None = None
    """(B, Q, layers, H) hidden states of the target at the nodes of each row's path, where a drafter reads them."""


class Backend(ABC):
    """Runs the parts of a step.

    Attributes
    ----------
    cache : RowCache
        Of the target; its rows have slots beyond the context, for a whole tree beside the widest of a batch.
    max_batch : int
        Most rows; fewer than were asked for where memory is missing.
    fallbacks : list of str
        What was cut because memory ran out.
    judging : Judging
        What fitted judges ask of the models.
    """

    name: str
    cache: RowCache
    max_batch: int
    fallbacks: list[str]
    judging: Judging

    @abstractmethod
    def check(self, policy: Any) -> None:
        """Refuse a policy that it cannot run."""

    @abstractmethod
    def hold(self, rows: int, slots: int, *, bounded: bool) -> None:
        """Have memory for rows of so many slots: exactly so much where it is bounded."""

    @abstractmethod
    def propose(
        self, parts: tuple[Part, ...], rows: Sequence[Request], spare: list[int], seconds: dict[str, float]
    ) -> Any:
        """Drafts of all rows, for `verify`; adds to `seconds` what each term of the cost took."""

    @abstractmethod
    def verify(self, rows: Sequence[Request], proposal: Any) -> Verified:
        """The target's forward, and what each row keeps and emits."""

    @abstractmethod
    def commit(self, walks: Walks) -> None:
        """Keep what was accepted in the cache."""


class Eager(Backend):
    """Calls each model as it is, in shapes that follow the rows."""

    name = "eager"

    def __init__(
        self, target: LanguageModel, drafters: Mapping[str, Drafter], max_batch: int, max_context: int
    ) -> None:
        self.target, self.max_batch, self.max_context, self.fallbacks = target, max_batch, max_context, []
        self.features, self.judging = features_of(drafters), Judging(target, drafters)
        self.cache = target.new_cache(max_batch, max_context + _SCRATCH)
        for name, drafter in drafters.items():
            drafter.open(name, max_batch, max_context + _SCRATCH)
        self.caches = [self.cache, *(cache for one in drafters.values() if (cache := one.cache) is not None)]

    def check(self, policy: Any) -> None:
        for cache in self.caches:  # memory is taken when it is needed
            cache.slots = max(cache.slots, self.max_context + 2 * (1 + policy.most_nodes))
        require(
            policy.most_nodes <= self.cache.reach,
            "a policy's drafts must fit in the buffer of the target's cache",
            got=f"{policy.name}, up to {policy.most_nodes} nodes; the buffer takes {self.cache.reach}",
            fix="Plan with --max-nodes no larger, or open the cache with a larger buffer.",
        )

    def hold(self, rows: int, slots: int, *, bounded: bool) -> None:
        for cache in self.caches:
            if bounded:
                cache.fit(rows, min(slots, cache.slots))
            elif rows > cache.held_rows or slots > cache.held_slots:
                cache.fit(max(cache.rows, rows), max(min(slots, cache.slots), cache.held_slots))

    def propose(
        self, parts: tuple[Part, ...], rows: Sequence[Request], spare: list[int], seconds: dict[str, float]
    ) -> Proposal:
        return proposed(parts, rows, spare, seconds)

    def verify(self, rows: Sequence[Request], proposal: Proposal) -> Verified:
        trees = proposal.trees
        judged = trees.tokens.shape[1] > 1 and any(looks_at(request) is not None for request in rows)
        final = (self.target.final_layer or 0,) if judged else ()
        out = run_trees(self.target, self.cache, *trees.arrays, hidden=(*self.features, *final))
        forwarded, count = perf_counter(), len(self.features)
        judge = partial(
            self.judging.importance, rows, trees, cache=self.cache, states=out.hidden[-1] if final else None
        )
        walks, bad = walk_rows(rows, proposal, out.logits, judge)
        width = trees.tokens.shape[1] if out.computed is None else out.computed / len(rows)
        return Verified(proposal, walks, forwarded, width, bad, along(out.hidden[:count], walks.path))

    def commit(self, walks: Walks) -> None:
        self.cache.commit(walks.path, walks.kept)


def features_of(drafters: Mapping[str, Drafter]) -> tuple[int, ...]:
    """Layers of the target whose hidden states some drafter reads, rising."""
    return tuple(sorted({layer for drafter in drafters.values() for layer in drafter.features}))


def along(hidden: Sequence[torch.Tensor], path: Any) -> torch.Tensor | None:
    """(B, Q, layers, H) hidden states at the nodes of (B, Q) paths, of (B, Q, H) ones a layer at all nodes."""
    if not hidden:
        return None
    whole = torch.stack(tuple(hidden), dim=2)
    nodes = torch.as_tensor(path, device=whole.device).clamp(min=0)
    return whole[torch.arange(len(whole), device=whole.device).unsqueeze(1), nodes]


# ---- what each row keeps and emits


def walk_rows(
    requests: Sequence[Request], proposal: Proposal, logits: torch.Tensor, judge: Judge
) -> tuple[Walks, Mapping[int, str]]:
    """Path and emitted tokens of each row, as NumPy arrays, and rows that have none; (B, Q, V) logits after each node.

    Rows that follow the target's own tokens, most likely or drawn from a plain softmax, are walked by one kernel.
    Those that a fitted judge verifies are looked at by `judge` together.
    """
    trees, laws = proposal.trees, proposal.laws
    compiled = [r.follows and (laws is None or laws[row] is None) for row, r in enumerate(requests)]
    if not any(compiled):
        walks = Walks(*(np.full(shape, -1) for shape in (trees.tokens.shape, len(requests), trees.tokens.shape)))
    elif all(request.params.greedy for request in requests):
        walks = _greedy(trees, logits)
    else:
        walks = _drawn(requests, trees, logits)
    bad: dict[int, str] = {}
    if any(compiled):
        found = unsound(logits, walks)
        bad = {row: f"error: {unsound_logits(requests[row])}" for row in found if compiled[row]}
    others = [row for row, done in enumerate(compiled) if not done]
    read: dict[int, _Read] = {}
    for row in others:
        with _noted(bad, row):
            read[row] = _read(requests[row], trees, row, laws[row] if laws else None, logits[row])
    told = _told(requests, read, judge)
    for row in read:
        with _noted(bad, row):
            path, emitted = _walk(requests[row], trees, row, read[row], logits[row], told.get(row))
            walks.kept[row] = len(emitted)
            walks.path[row, : len(path)], walks.emitted[row, : len(emitted)] = path, emitted
    for row in bad:
        walks.kept[row] = 0
    return walks, bad


def unsound_logits(request: Request) -> NoLaw:
    """What is wrong with a request whose logits are no law's."""
    return NoLaw(
        "logits must be finite, or minus infinity for some of the tokens",
        got=f"NaN or infinity after {request.length} tokens, where {request.params.rule.name} reads them",
        fix="Run the model in a type of more range (bfloat16, float32), and look for NaN among its weights.",
    )


def _check_sound(request: Request, logits: torch.Tensor) -> None:
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise unsound_logits(request)


def _greedy(trees: TokenTrees, logits: torch.Tensor) -> Walks:
    if not logits.is_cuda:
        return verify_greedy(logits, *trees.arrays, trusted=True)
    return _fetched(verify_greedy(logits, *(torch.from_numpy(x).to(logits.device) for x in trees.arrays)))


def _drawn(requests: Sequence[Request], trees: TokenTrees, logits: torch.Tensor) -> Walks:
    """Each node reads the uniform of the output position that follows it; rows that are walked otherwise, none."""
    temperature = np.array([request.params.temperature for request in requests], dtype=np.float64)
    uniforms = np.zeros(trees.tokens.shape)
    for row, (request, parents) in enumerate(zip(requests, trees.parents.tolist(), strict=True)):
        if request.follows and not request.params.greedy:
            positions = [len(request.output)]
            for parent in parents[1:]:
                positions.append(positions[parent] + 1 if parent >= 0 else 0)
            uniforms[row] = request.uniforms[np.minimum(positions, len(request.uniforms) - 1)]
    if not logits.is_cuda:
        return verify_target_only(logits, temperature, *trees.arrays, uniforms, trusted=True)
    there = [torch.from_numpy(x).to(logits.device) for x in (temperature, *trees.arrays, uniforms)]
    return _fetched(verify_target_only(logits, *there))


def _fetched(walks: Walks) -> Walks:
    return Walks(*(x.cpu().numpy() for x in walks))


_Path = tuple[list[int], list[int]]
"""Accepted nodes, the root first, and the tokens that the row emits: the cache keeps as many entries."""

_Read = tuple[DraftLaw, NDArray[Any]] | None
"""A row's draft and the laws after its nodes; None for a rule that follows the target's tokens."""

Judge = Callable[[Mapping[int, Sequence[int]]], Mapping[int, NDArray[np.float64]]]
"""From the target's own tokens after each node of some rows to P(important) of these nodes."""


@contextmanager
def _noted(bad: dict[int, str], row: int) -> Generator[None]:
    """Logits that are no law's are the fault of that row alone."""
    try:
        yield
    except NoLaw as error:
        bad[row] = f"error: {error}"


def _told(requests: Sequence[Request], read: Mapping[int, _Read], judge: Judge) -> Mapping[int, NDArray[np.float64]]:
    """P(important) of the nodes of rows that a fitted judge verifies; all of them where its threshold decides alone.

    A row without drafts has nothing to be judged: plain steps pay nothing for their rule.
    """
    judged = {row: each for row, each in read.items() if each is not None and requests[row].judged}
    looked = [row for row, (law, _) in judged.items() if len(law.tree) > 1 and looks_at(requests[row]) is not None]
    asked = {row: judged[row][1].argmax(-1).tolist() for row in looked}
    return {row: np.ones(len(each[1])) for row, each in judged.items()} | dict(judge(asked) if asked else {})


def first_token(request: Request, logits: torch.Tensor) -> int:
    """The token after the prompt, from (V,) logits."""
    return _token_after(request, logits, request.prompt.tolist(), 0)


def _read(request: Request, trees: TokenTrees, row: int, law: DraftLaw | None, logits: torch.Tensor) -> _Read:
    """A row's draft and laws, given (Q, V) logits after each node, the root first; Q is at least the draft's nodes."""
    tree, rule = trees[row], request.params.rule
    if law is None and not isinstance(rule, FollowingRule) and "deterministic" in rule.schemes:
        law = DraftLaw(tree, "deterministic")
    if law is None:
        return None
    prefixes = _prefixes(request.text, tree) if request.reads_prefix else None
    nodes = len(law.tree)
    _check_sound(request, logits[:nodes])
    with own_fault(request):
        return law, request.read_law(logits[:nodes], prefixes).numpy(force=True)


def _walk(
    request: Request,
    trees: TokenTrees,
    row: int,
    read: _Read,
    logits: torch.Tensor,
    importance: NDArray[np.float64] | None,
) -> _Path:
    """Walk one row's draft."""
    rule = request.params.rule
    if read is None:
        tree = trees[row]
        return tree.follow(_own_token(request, tree, logits))
    law, laws = read
    nodes, step = len(law.tree), request.steps + 1
    if importance is not None and isinstance(rule, JudgeLossy):
        verified = rule.judged(law, laws, importance)
    else:
        uniforms = VerifyUniforms(request.streams("acceptance", step, nodes), request.streams("recovery", step, nodes))
        verified = rule.verify(law, laws, uniforms)
    return [0, *verified.accepted], list(verified.emitted)


def _own_token(request: Request, tree: TokenTree, logits: torch.Tensor) -> Callable[[list[int]], int]:
    assert tree.tokens is not None, "the engine's trees have tokens"
    text, tokens = request.text if request.reads_prefix else [], tree.tokens.tolist()
    emitted, last = len(request.output), request.params.max_new_tokens - 1

    def token(path: list[int]) -> int:
        before = [*text, *(tokens[node] for node in path[1:])]
        return _token_after(request, logits[path[-1]], before, min(emitted + len(path) - 1, last))

    return token


def _token_after(request: Request, logits: torch.Tensor, text: list[int], position: int) -> int:
    """The target's own token at an output position: a function of the prefix and of that position's numbers."""
    _check_sound(request, logits)
    with own_fault(request):
        law = request.token_law.scores(logits, text)
    return own_pick(request)(law, position)


def own_pick(request: Request) -> Callable[[Any, int], int]:
    """The target's own token from its (V,) law at an output position: by the request's rule and numbers."""
    rule = request.params.rule
    follows = rule if isinstance(rule, FollowingRule) else _GREEDY if rule.decodes == "greedy" else _TARGET_ONLY
    return lambda law, position: follows.next_token(law, request.numbers_at(position))


@contextmanager
def own_fault(request: Request) -> Generator[None]:
    """What the request's own processors raise ends that request alone."""
    try:
        yield
    except NoLaw:
        raise
    except Exception as error:
        if not request.params.processors or is_out_of_memory(error):
            raise
        raise NoLaw(
            "`processors` must turn logits into logits",
            got=f"{type(error).__name__}: {error}",
            fix="Mend the processor, or leave it out of the request.",
        ) from error


def _prefixes(text: list[int], tree: TokenTree) -> list[list[int]]:
    """Text before each node's successor, the root's first."""
    assert tree.tokens is not None, "the engine's trees have tokens"
    found: list[list[int]] = [text]
    for token, parent in zip(tree.tokens.tolist()[1:], tree.parents.tolist()[1:], strict=True):
        found.append([*found[parent], token])
    return found
