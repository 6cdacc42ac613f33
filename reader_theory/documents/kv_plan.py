"""KVPlan: which cache of a target's keys and values pays at which load, and what it costs in perplexity."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.policy import Policy
from reader_theory.estimate import Estimate

__all__ = ["KVPlan", "KVPoint"]


class KVPoint(Frozen):
    """One cache under one load."""

    workload: str
    load: int = Field(ge=1, description="requests that want to run at once")
    cache: str = Field(description="as `--kv` names it")
    bits: float = Field(description="bits a value of what is quantised")
    most_rows: int = Field(ge=0, description="requests that the bytes admit together, under this point's policy")
    rows: int = Field(ge=0, description="requests that run together")
    policy: Policy | None = Field(description="None where not even one request fits")
    tokens_per_s: Estimate | None = Field(description="of all rows together, predicted")
    perplexity_ratio: Estimate = Field(description="over the plain cache, measured by `reader kv fit`")
    best: bool = Field(description="no cache was predicted more tokens a second under this load")


class KVPlan(Document):
    """What `reader plan --kv-bytes` writes."""

    made_by: ClassVar[str] = "reader plan --kv-bytes"
    kind: Literal["kv_plan"] = "kv_plan"
    schema_version: int = 1
    target: str
    device: str
    kv_bytes: int = Field(gt=0, description="what keys and values of target and drafts may take")
    new_tokens: int
    fit: str = Field(description="fingerprint of the AcceptanceFit")
    cost: str = Field(description="fingerprint of the Cost, of the plain cache")
    caches: str = Field(description="fingerprint of the KVCaches")
    notes: tuple[str, ...] = ()
    points: tuple[KVPoint, ...]
