r"""The drafter's head over the vocabulary: full, truncated to frequent tokens, or of low rank.

A small drafter spends most of its weights on the head. Truncating reads fewer rows and cannot propose the rest; a
low-rank head z = W_up W_down h reads r (d + V) weights and costs some acceptance. A smaller head pays when (SlimSpec)

.. math:: \rho_{TPS} = \rho_\tau \, \frac{1 + \kappa}{1 + \nu \kappa} > 1,

with rho_tau the ratio of tokens a step, kappa the head's share of the step over the rest, nu the head's cost ratio.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from reader_theory.documents.base import Frozen
from reader_theory.errors import require

__all__ = ["DrafterHead", "break_even_acceptance", "throughput_ratio"]


class DrafterHead(Frozen):
    """A head from width `hidden` to `vocabulary` tokens.

    Parameters
    ----------
    kind : {"full", "truncated", "low rank"}
        Every token; the `kept` most frequent; or a product of rank `rank`.
    """

    hidden: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    kind: Literal["full", "truncated", "low rank"] = "full"
    kept: int | None = Field(default=None, ge=1)
    rank: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _sizes(self) -> DrafterHead:
        require(
            (self.kind == "truncated") == (self.kept is not None)
            and (self.kind == "low rank") == (self.rank is not None),
            "`kept` must be given for a truncated head and `rank` for one of low rank, and only there",
            got=(self.kind, self.kept, self.rank),
            fix="Give the one that `kind` needs.",
        )
        return self

    @property
    def weights(self) -> float:
        """Weights read a step: d V, d kept, or r (d + V)."""
        if self.rank is not None:
            return float(self.rank * (self.hidden + self.vocabulary))
        return float(self.hidden * (self.kept or self.vocabulary))

    @property
    def outputs(self) -> int:
        """Logits that the head gives."""
        return self.kept or self.vocabulary

    def bytes_moved(self, rows: Any, bytes_per_weight: float = 2.0) -> Any:
        """Bytes of one call on `rows` positions: weights once, logits written."""
        return bytes_per_weight * self.weights + 2.0 * rows * (self.hidden + self.outputs)

    def flops(self, rows: Any) -> Any:
        """FLOPs of one call on `rows` positions."""
        return 2.0 * rows * self.weights


def throughput_ratio(tokens_ratio: float, head_share: float, cost_ratio: float) -> float:
    """Tokens a second with a smaller head over those with the full one, rho_tau (1 + kappa) / (1 + nu kappa).

    Parameters
    ----------
    tokens_ratio : float
        rho_tau: tokens a step with the smaller head over those with the full one.
    head_share : float
        kappa: seconds of the full head a step over seconds of everything else.
    cost_ratio : float
        nu: seconds of the smaller head over those of the full one.
    """
    require(
        tokens_ratio > 0 and head_share >= 0 and cost_ratio >= 0,
        "`tokens_ratio` must be positive, `head_share` and `cost_ratio` not negative",
        got=(tokens_ratio, head_share, cost_ratio),
        fix="Ratios are of seconds a step and of tokens a step.",
    )
    return tokens_ratio * (1.0 + head_share) / (1.0 + cost_ratio * head_share)


def break_even_acceptance(head_share: float, cost_ratio: float) -> float:
    """Least ratio of tokens a step at which the smaller head still pays: (1 + nu kappa) / (1 + kappa)."""
    return 1.0 / throughput_ratio(1.0, head_share, cost_ratio)
