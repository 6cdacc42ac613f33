r"""The drafter's head over the vocabulary: full, truncated to frequent tokens, or of low rank.

A small drafter spends most of its weights on the head. Truncating reads fewer rows and cannot propose the rest; a
low-rank head z = W_up W_down h reads r (d + V) weights and costs some acceptance. A smaller head pays when (SlimSpec)

.. math:: \rho_{TPS} = \rho_\tau \, \frac{1 + \kappa}{1 + \nu \kappa} > 1,

with rho_tau the ratio of tokens a step, kappa the full head's seconds over those of the rest of the whole round, nu the
smaller head's seconds over the full one's. `HeadTrade` is that formula; its kappa comes from seconds, as weights alone
say nothing of the rest of a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from reader_theory.documents.base import Frozen
from reader_theory.errors import require

__all__ = ["DrafterHead", "HeadTrade"]


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

    @property
    def shown(self) -> str:
        """In a few words."""
        small = {"low rank": f"rank {self.rank}", "truncated": f"{self.kept} tokens"}
        return small.get(self.kind, "full")


@dataclass(frozen=True)
class HeadTrade:
    """What a smaller output head gains and costs beside a full one in the same round.

    Attributes
    ----------
    rho_tau : float
        Tokens a step over those of the full head.
    nu, kappa : float
        The smaller head's seconds over the full one's, and the full one's over the rest of the whole round.

    Examples
    --------
    >>> round(HeadTrade(rho_tau=1.0, nu=0.13, kappa=0.75).rho_tps, 3)
    1.595
    """

    rho_tau: float
    nu: float
    kappa: float

    @property
    def rho_tps(self) -> float:
        """Tokens a second over those of the full head."""
        return self.rho_tau * (1.0 + self.kappa) / (1.0 + self.nu * self.kappa)
