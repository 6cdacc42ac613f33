"""Multi-round rejection of independent siblings: how often each round accepts.

Prefer it for drafters that sample their siblings independently; without replacement accepts no less.
Miao et al. 2024, "SpecInfer: accelerating large language model serving with tree-based speculative inference".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules.laws import as_laws, residual

__all__ = ["acceptance_probability", "round_acceptance"]


def round_acceptance(target: ArrayLike, draft: ArrayLike, draws: int) -> NDArray[Any]:
    r"""Probability that each of n siblings is the one accepted: the rank vector of the rule.

    .. math:: a_i = \beta_i \prod_{j < i} (1 - \beta_j), \quad \beta_i = \sum_v \min(p_i(v), q(v)), \quad
              p_{i+1} \propto (p_i - q)_+

    Where laws do not depend on the path, a tree's node is emitted with the product of these along its path.

    Parameters
    ----------
    target, draft : (V,), each sums to 1
        Laws p and q; object arrays of fractions give fractions.
    draws : int, >= 1
        Siblings drawn from q, repeats kept.

    Returns
    -------
    (draws,) of the same kind

    Examples
    --------
    >>> round_acceptance([0.5, 0.5], [1.0, 0.0], 2).tolist()
    [0.5, 0.0]
    """
    left, law = as_laws(target, "target"), as_laws(draft, "draft")
    require(draws >= 1, "`draws` must be at least 1", got=draws, fix="A node without children accepts nothing.")
    rates: list[Any] = []
    survived: Any = 1
    for _ in range(draws):
        rate = np.minimum(left, law).sum()
        rates.append(survived * rate)
        survived, left = survived * (1 - rate), residual(left, law)
    return np.array(rates, dtype=left.dtype)


def acceptance_probability(target: ArrayLike, draft: ArrayLike, draws: int) -> Any:
    r"""Probability that one of n independent siblings is accepted, :math:`1 - \prod_i (1 - \beta_i)`.

    Parameters and errors are those of `round_acceptance`.
    """
    return round_acceptance(target, draft, draws).sum()
