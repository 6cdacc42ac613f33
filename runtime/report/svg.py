"""Inline SVG: matplotlib figures and trees as markup that can stand in an HTML page beside others."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from itertools import count
from typing import Any

__all__ = ["COLOURS", "MARKERS", "figure_svg", "tree_svg"]

COLOURS = ("#1c528f", "#c2571a", "#2f7d4f", "#8a3f8f", "#6b6b1f", "#a3324a", "#3c7f8c", "#555555")
"""Told apart in print and by people who do not tell red from green; used in this order, with `MARKERS`."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e6ea", "axes.axisbelow": True,
    "axes.edgecolor": "#8a929b", "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip
_numbers = count()


def figure_svg(
    draw: Callable[..., None], described: str, *, size: tuple[float, float], axes: tuple[int, int] = (1, 1)
) -> str:
    """What ``draw(*axes)`` drew, as an ``<svg>`` that reads `described` to those who cannot see it.

    Parameters
    ----------
    size : (float, float)
        Inches across and down.
    axes : (int, int)
        Rows and columns of axes, handed to `draw` in reading order.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": f"figure {next(_numbers)}"}):
        figure: Any = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(*figure.subplots(*axes, squeeze=False).ravel())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), described)


def tree_svg(svg: str, described: str) -> str:
    """A drawn tree with its description."""
    return _inline(svg, described)


def _inline(svg: str, described: str) -> str:
    """Without prologue, metadata and ids of groups, which would clash with the next figure's."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    label = f'role="img" aria-label="{escape(described, quote=True)}"'
    return re.sub(r"<svg ", f"<svg {label} ", body, count=1).strip()
