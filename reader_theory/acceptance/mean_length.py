"""Mean length: acceptance from nothing but the mean accepted length of a chain, which engines log and users know.

A poor man's model: it knows neither ranks nor depth nor sources, so its interval is widened by what drafts are known
to do beside it. Prefer any model fitted from a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import PathwiseModel, as_probabilities
from reader_theory.acceptance.geometric import chain_tokens_per_step
from reader_theory.acceptance.replay import replay
from reader_theory.documents.policy import policy_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["MeanLength", "alpha_of_mean_length"]

_WIDENING = 0.1


@dataclass(frozen=True, eq=False)
class MeanLength(PathwiseModel):
    """Constant acceptance of rank 0 that gives a chain of `chain` tokens the mean that was seen.

    Parameters
    ----------
    mean_tokens : float, in [1, chain + 1]
        Tokens a step, the correction or bonus token included.
    chain : int, >= 1
        Drafted tokens a step that the mean was seen at.
    """

    name: ClassVar[str] = "mean_length"

    mean_tokens: float
    chain: int

    def __post_init__(self) -> None:
        alpha_of_mean_length(self.mean_tokens, self.chain)

    @property
    def alpha(self) -> float:
        """Acceptance of one drafted token."""
        return alpha_of_mean_length(self.mean_tokens, self.chain)

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        return by_depth_and_rank(np.array([[self.alpha]]), tree)

    def interval(self, length: int) -> Estimate:
        """Tokens a step of a chain of `length`, assumed, with an interval that spans alpha 0.1 lower to 0.1 higher.

        At the length that the mean was seen at the interval is a point; it widens by the distance from it, to its
        full width at half or twice that length.
        """
        far = min(abs(np.log2(max(length, 1) / self.chain)), 1.0) * _WIDENING
        low, value, high = (
            chain_tokens_per_step(float(np.clip(self.alpha + shift, 0, 1)), length) for shift in (-far, 0, far)
        )
        return Estimate(value=value, low=low, high=high, origin="assumed")

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, chain: int = 4) -> Self:
        """The mean that an engine with a chain of this length would have logged on the trace."""
        return cls(replay(trace, policy_of(TokenTree.chain(chain)), workload=workload).tokens_per_step, chain)


def alpha_of_mean_length(mean_tokens: float, chain: int) -> float:
    r"""Solve :math:`(1 - \alpha^{k+1}) / (1 - \alpha) = \tau` for the acceptance of one token.

    Raises
    ------
    InvalidInputError
        If no acceptance in [0, 1] gives such a mean.

    Examples
    --------
    >>> round(alpha_of_mean_length(1.75, 2), 12)
    0.5
    """
    require(
        chain >= 1 and 1 <= mean_tokens <= chain + 1,
        "`mean_tokens` must lie between 1 and `chain` + 1, with `chain` >= 1",
        got=f"{mean_tokens} for a chain of {chain}",
        fix="Count the correction or bonus token: add 1 to a mean of accepted draft tokens.",
    )
    from scipy.optimize import brentq

    if mean_tokens in (1, chain + 1):
        return float(mean_tokens > 1)
    return float(as_probabilities("alpha", brentq(lambda a: chain_tokens_per_step(a, chain) - mean_tokens, 0.0, 1.0)))
