"""What no tree can beat; what no one-step rule can is `reader_theory.rules.transport`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import NotADistributionError, require

__all__ = ["entropy_bound_tokens", "entropy_nats", "rank_bound_tokens", "tunstall_growth"]

FloatArray = NDArray[np.float64]
_SLACK = 1e-9


def entropy_nats(law: FloatArray) -> float:
    """Entropy of a law over tokens, (V,) float64, in nats."""
    law = _law("law", law)
    held = law[law > 0]
    return float(-(held * np.log(held)).sum())


def entropy_bound_tokens(entropy: float, nodes: int, vocabulary: int) -> float:
    r"""Tokens a step that no deterministic tree of N nodes exceeds on an i.i.d. target.

    .. math:: H \tau \le \log(N (V - 1) + V)

    N nodes leave N (V - 1) + V strings that a step can emit, and the emitted string has entropy :math:`H \tau`.

    Parameters
    ----------
    entropy : float, > 0, in nats
    nodes : int, >= 0
    vocabulary : int, >= 1
    """
    require(
        entropy > 0 and math.isfinite(entropy) and nodes >= 0 and vocabulary >= 1,
        "`entropy` must be above 0, `nodes` >= 0 and `vocabulary` >= 1",
        got=f"{entropy}, {nodes} and {vocabulary}",
        fix="A target without entropy accepts every right draft: its bound is nodes + 1.",
    )
    return math.log(nodes * (vocabulary - 1) + vocabulary) / entropy


def tunstall_growth(law: FloatArray, nodes: int) -> tuple[float, float]:
    r"""Interval that holds the tokens a step of the best N-node tree on an i.i.d. target.

    .. math:: \log(M p_{min}) / H \le \tau \le \log(M) / H, \quad M = N (V - 1) + V

    The best tree is Tunstall's: its M leaves are within a factor :math:`1 / p_{min}` of one another.

    Parameters
    ----------
    law : (V,) float64, entries > 0 that sum to 1
    nodes : int, >= 0

    References
    ----------
    Tunstall 1967; Jelinek and Schneider 1972.
    """
    law = _law("law", law)
    smallest = float(law.min())
    require(
        smallest > 0,
        "`law` must have no token of probability 0",
        got=f"0 at token {int(law.argmin())}",
        fix="Leave such tokens out: they are never emitted.",
    )
    high = entropy_bound_tokens(entropy_nats(law), nodes, len(law))
    return max(1.0, high + math.log(smallest) / entropy_nats(law)), high


def rank_bound_tokens(ranks: FloatArray) -> float:
    """Tokens a step that no tree exceeds when the draft's candidates hold the token with probability s: 1 / (1 - s)."""
    total = float(np.sum(ranks))
    require(
        bool(np.all(np.asarray(ranks) >= 0)) and total <= 1 + _SLACK,
        "`ranks` must be >= 0 and sum to at most 1",
        got=f"sum {total:.6g}, minimum {float(np.min(ranks)):.6g}",
        fix="Ranks are distinct tokens: pass the probability of each, not its cumulative sum.",
    )
    return 1 / (1 - total) if total < 1 else math.inf


def _law(name: str, law: FloatArray) -> FloatArray:
    law = np.asarray(law, dtype=np.float64)
    sound = law.ndim == 1 and law.size > 0 and bool(np.all(law >= 0)) and abs(float(law.sum()) - 1) <= _SLACK
    require(
        sound,
        f"`{name}` must be a law: entries >= 0 that sum to 1 within {_SLACK:g}",
        got=f"shape {law.shape}, minimum {float(np.min(law, initial=0)):.6g}, sum {float(law.sum()):.9g}",
        fix="If these are logits, pass `scipy.special.softmax(logits)`; if float32, normalise in float64 first.",
        error=NotADistributionError,
    )
    return law
