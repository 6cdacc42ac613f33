"""Greedy tree: follow the target's most likely token for as long as the draft holds it.

Prefer it at temperature 0; it reads no uniform, and any draft will do.
Stern, Shazeer, Uszkoreit 2018, "Blockwise parallel decoding for deep autoregressive models".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.base import Verifier
from reader_theory.rules.draft_law import ROOT, SCHEMES, DraftLaw
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["Greedy", "follow"]


def follow(draft: DraftLaw, token_after: Callable[[int], int]) -> tuple[list[int], int]:
    """Follow, from the root, the child that carries the token chosen after each node.

    Parameters
    ----------
    draft : DraftLaw
        Siblings carry distinct tokens.
    token_after : callable
        Token chosen after a node; asked once for each node on the path, -1 being the root.

    Returns
    -------
    list of int, int
        Nodes followed, and the first chosen token that no child carries.
    """
    path: list[int] = []
    node = ROOT
    while True:
        token = token_after(node)
        child = next((child for child in draft.children(node) if draft.tokens[child] == token), None)
        if child is None:
            return path, token
        path.append(child)
        node = child


class Greedy(Verifier):
    """Emits what plain decoding at temperature 0 emits; of equal logits the lowest id, as argmax takes it."""

    name = "greedy"
    lossless = True
    schemes = frozenset(SCHEMES)
    streams = frozenset()
    decodes = "greedy"

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return follow(draft, lambda node: int(np.argmax(target[node + 1])))
