"""JoinedPolicy: a neural draft and retrieval in one tree, by one scale of probability and one price."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Frozen
from reader_theory.errors import require

__all__ = ["OFFERS", "JoinedPolicy", "SourceMap"]

OFFERS = ("retrieval unasked", "retrieval", "draft", "both")
"""Who offered a token: retrieval where the draft was not asked, or was and did not; the draft; both."""


class SourceMap(Frozen):
    """Monotone map from the raw score of tokens offered so to acceptance; linear between its points."""

    offer: Literal["retrieval unasked", "retrieval", "draft", "both"]
    score: tuple[float, ...] = Field(min_length=1, description="ascending, in [0, 1]")
    acceptance: tuple[float, ...] = Field(min_length=1, description="at each score: ascending, in [0, 1]")

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        rises = all(
            list(values) == sorted(values) and values[0] >= 0 and values[-1] <= 1
            for values in (self.score, self.acceptance)
        )
        require(
            rises and len(self.score) == len(self.acceptance),
            "a map must have as many scores as acceptances, both ascending in [0, 1]",
            got=f"{len(self.score)} scores, {len(self.acceptance)} acceptances",
            fix="Take the maps of `fit_offers`.",
        )
        return self


class JoinedPolicy(Frozen):
    """One tree from retrieval and a neural draft, taken in order of calibrated path probability.

    Retrieval is queried at the root, at the draft's nodes and at its own; the draft at the root and, level by level,
    at the likeliest nodes, whoever offered them. The policy's static tree, where it has one, says instead at which
    ranks the draft is asked.
    """

    nodes: int = Field(ge=1, le=512, description="most nodes a row")
    price: float = Field(default=0.0, ge=0, le=1, description="path probability that a node must pass")
    retrieval: bool = Field(default=True, description="whether retrieval is queried")
    levels: int = Field(default=0, ge=0, description="most draft forwards after the one that takes in emitted tokens")
    width: int = Field(default=8, ge=1, description="most nodes a row in a draft forward")
    draft_price: float = Field(default=0.0, ge=0, le=1, description="path probability below which no node is drafted")
    candidates: int = Field(default=8, ge=1, le=64, description="tokens of the draft's law that are offered")
    skip_draft_at: float | None = Field(
        default=None, description="the draft rests in a step where retrieval alone is this sure of every row's token"
    )
    trust: float = Field(default=0.5, gt=0, description="weight of retrieval's evidence where the draft was asked")
    maps: tuple[SourceMap, ...] = Field(default=(), description="a source without one is taken at its word")

    @property
    def name(self) -> str:
        """Short name, such as ``"joined 32 (price 0.02, draft 4x8)"``."""
        return f"joined {self.nodes} (price {self.price:g}, draft {self.levels}x{self.width})"
