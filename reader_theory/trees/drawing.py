"""Trees, drawn as SVG in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.trees.tree import TokenTree

__all__ = ["layout", "to_svg"]

FloatArray = NDArray[np.float64]
_ACROSS, _DOWN, _MARGIN, _RADIUS = 34.0, 19.0, 10.0, 7.5
_LOW, _HIGH = np.array([231.0, 238.0, 247.0]), np.array([28.0, 82.0, 143.0])
_OTHER = "#c96a28"


def layout(tree: TokenTree) -> FloatArray:
    """(N + 1, 2) float64: across and down of each node, the root first; a parent is amid its children."""
    place = np.zeros((len(tree), 2))
    place[:, 1] = tree.depths
    children = [sorted(tree.children(node), key=lambda child: int(tree.ranks[child])) for node in range(len(tree))]
    leaves, pending = 0, [(0, False)]
    while pending:
        node, seen = pending.pop()
        if seen:
            place[node, 0] = (place[children[node][0], 0] + place[children[node][-1], 0]) / 2
        elif children[node]:
            pending += [(node, True), *((child, False) for child in reversed(children[node]))]
        else:
            place[node, 0], leaves = leaves, leaves + 1
    return place


def to_svg(tree: TokenTree, probability: ArrayLike | None = None, labels: Sequence[str] | None = None) -> str:
    """The tree as a small SVG picture, on its side: the root at the left, a level a column.

    Parameters
    ----------
    tree : TokenTree
    probability : (N + 1,) float, in [0, 1], optional
        Shades the nodes, and is said in their tooltips.
    labels : sequence of N + 1 str, optional
        Text in the nodes; their ranks when left out.

    Returns
    -------
    str
        An ``<svg>`` element. Nodes of another source than the first node's have a dashed orange rim.
    """
    place = layout(tree)[:, ::-1] * (_ACROSS, _DOWN) + _MARGIN
    width, height = place.max(axis=0) + _MARGIN
    drafted = range(1, len(tree))
    edges = [_edge(place[tree.parents[node]], place[node]) for node in drafted]
    nodes = [_node(tree, node, place[node], _shade(probability, node), labels) for node in drafted]
    x, y = place[0]
    root = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS / 2}" fill="#333"><title>root</title></circle>'
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="8" text-anchor="middle">'
    )
    return "\n".join([head, *edges, root, *nodes, "</svg>"])


def _shade(probability: ArrayLike | None, node: int) -> float | None:
    return None if probability is None else float(np.asarray(probability)[node])


def _edge(start: FloatArray, end: FloatArray) -> str:
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="#b8c0c8"/>'


def _node(tree: TokenTree, node: int, at: FloatArray, shade: float | None, labels: Sequence[str] | None) -> str:
    red, green, blue = (_LOW + (_HIGH - _LOW) * (0.35 if shade is None else shade)).astype(int)
    own = tree.sources[node] == tree.sources[1]
    rim = 'stroke="#33536f"' if own else f'stroke="{_OTHER}" stroke-width="2" stroke-dasharray="3 2"'
    text = labels[node] if labels is not None else str(int(tree.ranks[node]))
    ink = "#fff" if shade is not None and shade > 0.5 else "#123"
    chance = "" if shade is None else f", P = {shade:.3f}"
    title = f"node {node}: {tree.sources[node]}, rank {tree.ranks[node]}, depth {tree.depths[node]}{chance}"
    fill = f"rgb({red},{green},{blue})"
    circle = f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{_RADIUS}" fill="{fill}" {rim}/>'
    caption = f'<text x="{at[0]:.1f}" y="{at[1] + 2.8:.1f}" fill="{ink}">{escape(text)}</text>'
    return f"<g><title>{escape(title)}</title>{circle}{caption}</g>"
