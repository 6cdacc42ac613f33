"""Gumbel coupling: target and draft take the winners of races run on the same noise; drafts that agree are kept.

Prefer it where the text must not depend on the drafter, or on how steps cut it up: for given noise it is a function of
the target. Daliri, Musco, Suresh 2025, "Coupling without communication and drafter-invariant speculative decoding".
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.rules.base import Verifier
from reader_theory.rules.draft_law import ROOT, DraftLaw
from reader_theory.rules.greedy import follow
from reader_theory.rules.race import race
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["GumbelCoupled"]


class GumbelCoupled(Verifier):
    """Any tree will do; one whose children are the first finishers of the draft's race is the one that agrees most."""

    name = "gumbel"
    lossless = True
    schemes = frozenset({"coupled", "deterministic"})
    streams = frozenset({"coupling"})

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        depths = _depths(draft)
        noise = uniforms.coupling
        rows = noise is not None and noise.ndim == 2 and len(noise) > max(depths) and noise.shape[1] == target.shape[1]
        require(
            rows,
            "`coupling` must have one row for each depth from the root to the deepest node, one number a token",
            got=f"shape {None if noise is None else noise.shape} for depth {max(depths)} and {target.shape[1]} tokens",
            fix="Draw it with `coupling_uniforms`, and hand the same to the drafter.",
        )
        assert noise is not None
        return follow(draft, lambda node: race(target[node + 1], noise[depths[node + 1]])[0])


def _depths(draft: DraftLaw) -> list[int]:
    """Depth of the root (entry 0) and of each node (entry node + 1)."""
    depths = {ROOT: 0}
    for node, parent in enumerate(draft.parents.tolist()):
        depths[node] = depths[parent] + 1
    return list(depths.values())
