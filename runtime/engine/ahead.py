"""The target's law at prefixes that a language asks about: a trie in the scratch slots of each row, in as few forwards.

A trie that is larger than a forward takes is split into pieces; each has the path down to its nodes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch

from runtime.cache.rows import RowCache
from runtime.engine.course import Text
from runtime.engine.processors import NoLaw
from runtime.engine.request import Request
from runtime.engine.step import own_fault
from runtime.models.base import LanguageModel
from runtime.models.inputs import run_trees

__all__ = ["note_law", "note_laws"]

NODES = 256
"""Nodes of a forward over all rows; a row takes 64 at least."""


def note_laws(
    model: LanguageModel,
    cache: RowCache,
    requests: Sequence[Request],
    wanted: Sequence[Sequence[Text]],
    *,
    first_row: int = 0,
    slots: int,
) -> int:
    """Note the target's law after the outputs `wanted` of each request, in its course; how many forwards it took.

    Parameters
    ----------
    requests : sequence of B Request
        Of rows `first_row` + b; what they emitted may be longer than what their row holds.
    slots : int
        Slots that a row may take, its text included.
    """
    held = [int(cache.lengths[first_row + b]) - len(request.prompt) for b, request in enumerate(requests)]
    room = slots - max(int(length) for length in cache.lengths[first_row : first_row + len(requests)])
    asking = max(sum(bool(each) for each in wanted), 1)
    budget = min(max(NODES // asking, 64), room, cache.reach)
    pieces = [
        split_trie([output[base:] for output in outputs], budget) for base, outputs in zip(held, wanted, strict=True)
    ]
    forwards = 0
    for piece in zip_longest(*pieces, fillvalue={}):
        logits = _forward(model, cache, piece, first_row)
        forwards += 1
        for row, (request, nodes) in enumerate(zip(requests, piece, strict=True)):
            if not nodes:
                continue
            base, asked = tuple(request.output[: held[row]]), set(wanted[row])
            places = {(*base, *path): place for path, place in nodes.items() if (*base, *path) in asked}
            note_law(request, list(places), logits[row, list(places.values())])
    return forwards


def note_law(request: Request, outputs: Sequence[Text], logits: torch.Tensor) -> None:
    """Note the sampler's law after some outputs of a request, from (n, V) logits; or what is wrong with them."""
    course, law = request.course, request.sampler_law
    assert course is not None
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        course.fault = NoLaw(
            "logits must be finite, or minus infinity for some of the tokens",
            got="NaN or infinity after a prefix of the language",
            fix="Run the model in a type of more range (bfloat16, float32), and look for NaN among its weights.",
        )
        return
    prompt = request.prompt.tolist()
    prefixes = [[*prompt, *output] for output in outputs] if law.reads_prefix else None
    try:
        with own_fault(request):
            rows = law.log_scores(logits, prefixes).numpy(force=True)
    except NoLaw as error:
        course.fault = error
        return
    for output, scores in zip(outputs, rows, strict=True):
        course.note(output, scores)


def split_trie(paths: Sequence[Text], budget: int) -> Iterator[dict[Text, int]]:
    """Tries of at most `budget` nodes that hold all paths between them: each node's path, and its place, parents first.

    Examples
    --------
    >>> list(split_trie([(1,), (1, 2), (1, 3)], budget=2))
    [{(1,): 0, (1, 2): 1}, {(1,): 0, (1, 3): 1}]
    """
    piece: dict[Text, int] = {}
    for path in sorted(paths):
        fresh = [path[:size] for size in range(1, len(path) + 1) if path[:size] not in piece]
        if piece and len(piece) + len(fresh) > budget:
            yield piece
            piece, fresh = {}, [path[:size] for size in range(1, len(path) + 1)]
        for each in fresh:
            piece[each] = len(piece)
    if piece:
        yield piece


def _forward(model: LanguageModel, cache: RowCache, tries: Sequence[dict[Text, int]], first_row: int) -> torch.Tensor:
    """(B, Q, V) logits after each node of each row's trie."""
    counts = np.array([len(nodes) for nodes in tries], dtype=np.int64)
    tokens = np.zeros((len(tries), int(counts.max())), dtype=np.int64)
    parents = np.full(tokens.shape, -1, dtype=np.int64)
    for row, nodes in enumerate(tries):
        for path, place in nodes.items():
            tokens[row, place], parents[row, place] = path[-1], nodes.get(path[:-1], -1)
    return run_trees(model, cache, tokens, parents, counts, first_row=first_row).logits
