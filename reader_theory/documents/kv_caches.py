"""KVCaches: the caches that a target can have, with their bits, their bytes, and what each costs in perplexity."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.errors import DocumentError, InvalidInputError, require
from reader_theory.estimate import Estimate
from reader_theory.memory.quantised import KVFormat

__all__ = ["KVCaches", "MeasuredCache"]


class MeasuredCache(Frozen):
    """One kind of cache of a target."""

    format: KVFormat
    layers: tuple[tuple[int, int], ...] = Field(
        default=(), description="bits a number of keys and of values in each layer; empty where --kv NAME says it all"
    )
    predicted: bool = Field(default=False, description="whether layers are predicted from those before")
    perplexity: Estimate = Field(description="on held-out text, given at least `context_tokens`")
    perplexity_ratio: Estimate = Field(description="over that of the plain cache, on the same text")
    read_s: float = Field(
        default=0.0, ge=0, description="seconds a step spends for each cached token more than with the plain cache"
    )

    @property
    def name(self) -> str:
        """As ``--kv`` has it."""
        return self.format.name


class KVCaches(Document):
    """What `reader kv fit` found; predictors lie beside it in a file of tensors."""

    made_by: ClassVar[str] = "reader kv fit"
    kind: Literal["kv_caches"] = "kv_caches"
    schema_version: int = 1
    target: str
    dtype: str
    layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    tensors_sha256: str = Field(description="of the file of tensors beside the document; empty where there is none")
    fitted_tokens: int = Field(ge=0)
    scored_tokens: int = Field(ge=0, description="tokens of the perplexity")
    context_tokens: int = Field(ge=0, description="least context of a scored token")
    caches: tuple[MeasuredCache, ...] = Field(min_length=1, description="the plain one first")
    drafts: dict[str, KVFormat] = Field(
        default_factory=dict[str, KVFormat], description="what drafts that keep keys and values take, by name"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [cache.name for cache in self.caches]
        wrong = [each.name for each in self.caches if len(each.layers) not in (0, self.layers)]
        require(
            len(set(names)) == len(names) and names[0] == "plain" and not wrong,
            "`caches` must begin with the plain one, have a name each, and bits for every layer of the target",
            got=f"{names}; {len(wrong)} with other layers than {self.layers}",
            fix="Make the document again with `reader kv fit`.",
            error=DocumentError,
        )
        return self

    def cache(self, name: str) -> MeasuredCache:
        """The cache of a name.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        found = {each.name: each for each in self.caches}
        if name not in found:
            raise InvalidInputError(
                "`--kv` must name a cache that was fitted",
                got=f"{name!r}; there are {', '.join(found)}",
                fix="Name one of them, or fit again with other --bits.",
            )
        return found[name]
