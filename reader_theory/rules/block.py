"""Block verification of a sampled chain: how many tokens it emits, never fewer than chain rejection.

Prefer it wherever a chain is sampled.
Sun et al. 2025, "Block verification accelerates speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.rules.chain import Laws, check_strings
from reader_theory.rules.laws import as_laws

__all__ = ["estimated_tokens", "expected_tokens_of_laws"]


def expected_tokens_of_laws(target: Laws, draft: Laws, length: int, limit: int = 10**6) -> Any:
    r"""Tokens a step, exactly, for small vocabularies.

    .. math:: 1 + \sum_{i=1}^{D} \sum_{x^i} w(x^i), \quad w(x^i) = \min(w(x^{i-1}) p(x_i | x^{i-1}), q(x^i)), \quad w()
    = 1

    w(x^i) is the probability that x^i is drafted and kept: the largest that the joint laws of the two models allow at
    every prefix at once. Chain rejection keeps the product of min(p, q), which is never more.

    Parameters
    ----------
    target, draft : callable
        Law after a string.
    length : int, >= 0
        Tokens drafted.
    limit : int
        Strings that may be visited.
    """
    total: Any = 1
    level: dict[tuple[int, ...], tuple[Any, Any]] = {(): (1, 1)}
    for _ in range(length):
        check_strings(len(level) * len(target(())), limit)
        level = {
            (*text, token): (min(kept * p, drafted * q), drafted * q)
            for text, (kept, drafted) in level.items()
            for token, (p, q) in enumerate(zip(target(text), draft(text), strict=True))
            if p > 0 and q > 0
        }
        total += sum(kept for kept, _ in level.values())
    return total


def estimated_tokens(target: ArrayLike, draft: ArrayLike, samples: int = 10_000, seed: int = 0) -> Estimate:
    r"""Tokens a step for vocabularies of any size, from sampled drafts.

    A draft is kept up to position i with probability :math:`r_i = \min(1, r_{i-1} p_i(x_i) / q_i(x_i))`.

    Parameters
    ----------
    target, draft : (D, V) float64, each row sums to 1
        Laws at each position, not dependent on the path.
    samples : int, >= 2
        Drafts; the interval is the mean's, at 95 %.
    seed : int
    """
    laws, drafts = as_laws(target, "target"), as_laws(draft, "draft")
    same = laws.ndim == 2 and laws.shape == drafts.shape and samples >= 2
    require(
        same,
        "`target` and `draft` must be (D, V) alike, and `samples` >= 2",
        got=f"shapes {laws.shape} and {drafts.shape}, {samples} samples",
        fix="Give one row a position.",
    )
    generator = np.random.default_rng(seed)
    reach, tokens = np.ones(samples), np.ones(samples)
    for p, q in zip(laws, drafts, strict=True):
        drawn = generator.choice(len(q), size=samples, p=q)
        reach = np.minimum(1.0, reach * p[drawn] / q[drawn])
        tokens += reach
    mean, half = float(tokens.mean()), 1.96 * float(tokens.std(ddof=1)) / samples**0.5
    return Estimate(value=mean, low=max(1.0, mean - half), high=min(len(laws) + 1.0, mean + half), origin="predicted")
