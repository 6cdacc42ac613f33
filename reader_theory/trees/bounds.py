"""What no tree and no verifier can beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, NotADistributionError, require

__all__ = [
    "emitted_entropy_nats",
    "entropy_bound_tokens",
    "entropy_nats",
    "rank_bound_tokens",
    "transport_bound",
    "transport_program",
    "tunstall_growth",
]

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


def emitted_entropy_nats(path_probability: FloatArray, entropies: FloatArray) -> float:
    r"""Entropy of the emitted string of any deterministic tree: :math:`\sum_v P(v) H(p(\cdot | v))`, the root included.

    Parameters
    ----------
    path_probability : (N + 1,) float64
        Of the nodes, the root's 1 first.
    entropies : (N + 1,) float64, in nats
        Of the target's next-token law after each node.
    """
    return float(np.dot(path_probability, entropies))


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


def transport_bound(target: FloatArray, draft: FloatArray, drafts: int = 1) -> float:
    r"""Probability that any one-step verifier can accept one of n i.i.d. drafts.

    .. math:: \alpha^* = 1 + \min_A\,[p(A) - q(A)^n]

    :math:`p(A) - x^n` is concave in :math:`(p(A), q(A))`, so that prefixes in order of p / q suffice: O(V log V).

    Parameters
    ----------
    target, draft : (V,) float64, each sums to 1
    drafts : int, >= 1

    Returns
    -------
    float
        In [0, 1]; 1 - TV(p, q) when one token is drafted.

    References
    ----------
    Sun et al. 2023 (SpecTr); Hu et al. 2025, on the dual over subsets.

    Examples
    --------
    >>> round(transport_bound(np.array([0.5, 0.5]), np.array([0.9, 0.1])), 12)
    0.6
    """
    from reader_theory.rules.transport import optimal_acceptance

    return float(optimal_acceptance(_law("target", target), _law("draft", draft), drafts))


def transport_program(target: FloatArray, offers: Mapping[tuple[int, ...], float]) -> float:
    """The same bound as a linear program over couplings, for any law of offered tuples; loads cvxpy. For tiny cases.

    Parameters
    ----------
    target : (V,) float64, sums to 1
    offers : mapping of tuple of int to float, sums to 1
        Probability of each tuple of drafted tokens.
    """
    import cvxpy

    cp: Any = cvxpy

    target = _law("target", target)
    tuples, weights = list(offers), _law("offers", np.array(list(offers.values())))
    held = np.array([[token in offer for token in range(len(target))] for offer in tuples], dtype=np.float64)
    coupling = cp.Variable(held.shape, nonneg=True)
    marginals = [cp.sum(coupling, axis=1) == weights, cp.sum(coupling, axis=0) == target]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(held, coupling))), marginals)
    value = problem.solve(solver=cp.HIGHS)
    if problem.status != cp.OPTIMAL:
        raise InvalidInputError("the transport program must be solvable", got=problem.status, fix="Check both laws.")
    return float(value)


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
