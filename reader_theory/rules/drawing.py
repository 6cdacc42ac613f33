"""Draw a draft from a law, sibling by sibling, in one of the ways that a verifier can undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules.draft_law import DRAWN, DraftLaw, Scheme
from reader_theory.rules.laws import without_token
from reader_theory.rules.pick import pick_token
from reader_theory.trees import TokenTree

__all__ = ["draw_children", "draw_draft"]


def draw_children(law: NDArray[Any], uniforms: ArrayLike, scheme: Scheme) -> list[int]:
    """Tokens of siblings drawn from one law, one a uniform; fewer where the law runs out of tokens.

    Parameters
    ----------
    law : (V,) float64 or object
        Law q at their parent.
    uniforms : (k,) in [0, 1)
        Numbers of the drafting stream.
    scheme : {"chain", "iid", "without_replacement"}
        How siblings follow each other.

    Examples
    --------
    >>> draw_children(np.array([0.5, 0.5, 0.0]), [0.1, 0.1, 0.1], "without_replacement")
    [0, 1]
    """
    require(scheme in DRAWN, "`scheme` must be one that draws", got=repr(scheme), fix=f"Use one of {sorted(DRAWN)}.")
    tokens: list[int] = []
    for uniform in np.asarray(uniforms):
        if not np.any(law > 0):
            break
        tokens.append(pick_token(law, uniform))
        law = without_token(law, tokens[-1]) if scheme == "without_replacement" else law
    return tokens


def draw_draft(
    tree: TokenTree, scheme: Scheme, law: Callable[[tuple[int, ...]], NDArray[Any]], uniforms: NDArray[Any]
) -> DraftLaw:
    """Draw a draft of the shape of `tree`; a node that its parent's law cannot fill is left out with all below it.

    Parameters
    ----------
    tree : TokenTree
        Shape, a function of the prefix only.
    scheme : {"chain", "iid", "without_replacement"}
        How siblings are drawn.
    law : callable
        Law q after the tokens of a path, the empty path being the root.
    uniforms : (N + 1,) in [0, 1)
        One a node, from the drafting stream; the root's is not read.
    """
    paths: dict[int, tuple[int, ...]] = {0: ()}
    rows: list[NDArray[Any]] = []
    for parent in tree.inner:
        if parent not in paths:
            continue
        children = tree.children(parent)
        rows.append(law(paths[parent]))
        tokens = draw_children(rows[-1], uniforms[children], scheme)
        paths |= {node: (*paths[parent], token) for node, token in zip(children, tokens, strict=False)}
    kept = sorted(paths)
    tokens = [0, *(paths[node][-1] for node in kept[1:])]
    parents = [-1, *(kept.index(int(tree.parents[node])) for node in kept[1:])]
    return DraftLaw(TokenTree(parents, tokens=tokens), scheme, np.array(rows), uniforms[kept])
