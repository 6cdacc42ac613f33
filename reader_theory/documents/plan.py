"""Plan: what to draft for each workload and batch, with what it predicts, how sure it is, and how far from the best."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.joined import JoinedPolicy
from reader_theory.errors import InvalidInputError, require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

__all__ = ["Candidate", "DraftPolicy", "Plan", "PlanEntry", "Prediction", "RetrievalPolicy"]


class RetrievalPolicy(Frozen):
    """Longest retrieved chain: ``min(max_tokens, floor(offset + factor * match_length))``, 0 below `min_match`."""

    min_match: int = Field(ge=1)
    offset: float = 0.0
    factor: float = Field(ge=0)
    max_tokens: int = Field(ge=1)

    def cap(self, match_length: int) -> int:
        """Longest chain for a match of `match_length` tokens."""
        if match_length < self.min_match:
            return 0
        return max(0, min(self.max_tokens, int(self.offset + self.factor * match_length)))


class DraftPolicy(Frozen):
    """What a step drafts: a tree of the neural draft's ranks, a retrieved chain, both in one trie, or nothing.

    With `joined`, both sources grow one tree by calibrated probability; the tree of ranks, if any, then says where
    the draft is asked, and there is no chain.
    """

    parents: tuple[int, ...] = Field(default=(), description="of the tree's nodes, the root first; empty for no tree")
    ranks: tuple[int, ...] = Field(default=(), description="of the tree's nodes, the root first")
    retrieval: RetrievalPolicy | None = None
    skip_draft_at_match: int | None = Field(
        default=None, description="the neural draft does not run on a row whose match is at least this long"
    )
    joined: JoinedPolicy | None = None

    @model_validator(mode="after")
    def _a_tree(self) -> Self:
        _ = self.tree
        require(
            self.joined is None or (self.retrieval is None and self.skip_draft_at_match is None),
            "a joined policy must have neither a retrieved chain nor a match to skip the draft at",
            got=str(self.retrieval or self.skip_draft_at_match),
            fix="Leave them out: `joined` has retrieval in its tree, and `skip_draft_at` for the draft.",
        )
        highest = max(self.ranks, default=0)
        require(
            self.joined is None or highest < self.joined.candidates,
            "the ranks of a joined policy's tree must be among its `candidates`",
            got=f"rank {highest}",
            fix="Offer more candidates, or take a narrower tree.",
        )
        return self

    @property
    def tree(self) -> TokenTree:
        """The neural draft's tree; the root alone where there is none."""
        return TokenTree(self.parents, self.ranks) if self.parents else TokenTree.empty()

    @property
    def shape(self) -> Literal["off", "chain", "tree"]:
        """``"off"`` drafts nothing; ``"chain"`` never offers siblings; ``"tree"`` may."""
        if self.joined is not None:
            return "tree"
        if not self.parents and self.retrieval is None:
            return "off"
        both = bool(self.parents) and self.retrieval is not None
        return "tree" if both or not self.tree.is_chain else "chain"

    @property
    def drafters(self) -> Literal["off", "draft", "retrieval", "both"]:
        """Who drafts."""
        if (joined := self.joined) is not None:
            return "both" if joined.draft and joined.retrieval else "draft" if joined.draft else "retrieval"
        if self.parents and self.retrieval is not None:
            return "both"
        return "draft" if self.parents else "retrieval" if self.retrieval is not None else "off"

    @property
    def name(self) -> str:
        """Short name, such as ``"tree 12x4 + retrieval"``."""
        parts: list[str] = []
        if self.parents:
            tree = self.tree
            parts.append(f"chain {tree.nodes}" if tree.is_chain else f"tree {tree.nodes}x{tree.depth}")
        if self.retrieval is not None:
            r = self.retrieval
            parts.append(f"retrieval {r.max_tokens} ({r.offset:g}+{r.factor:g}m, m>={r.min_match})")
        if self.joined is not None:
            parts.append(self.joined.name)
        return " + ".join(parts) or "off"

    def forward_sizes(self, pending: float) -> NDArray[np.float64]:
        """Tokens a row of each forward of the draft: the `pending` ones, then the inner nodes of each level."""
        if not self.parents:
            return np.empty(0)
        tree = self.tree
        widths = np.bincount(tree.depths[list(tree.inner)])
        return np.concatenate([[pending], widths[1:]])

    @classmethod
    def of(cls, tree: TokenTree, retrieval: RetrievalPolicy | None = None, skip: int | None = None) -> DraftPolicy:
        """Policy from a tree of the neural draft's ranks."""
        return cls(
            parents=tuple(tree.parents.tolist()) if tree.nodes else (),
            ranks=tuple(tree.ranks.tolist()) if tree.nodes else (),
            retrieval=retrieval,
            skip_draft_at_match=skip,
        )


class Prediction(Frozen):
    """What the plan says will be measured. Every number is predicted."""

    tokens_per_step: Estimate
    step_s: Estimate
    tokens_per_s: Estimate
    speed_up: Estimate = Field(description="over plain decoding at the same batch on the same engine")
    nodes_per_step: float = Field(description="mean verified draft nodes a row and step")
    terms_s: dict[str, float] = Field(description="mean seconds a step of each named term")


class Candidate(Frozen):
    """One policy that was weighed, and what it was predicted to give."""

    name: str
    tokens_per_step: float
    tokens_per_s: float


class PlanEntry(Frozen):
    """The choice for one workload and batch."""

    workload: str
    batch: int = Field(ge=1)
    context_tokens: int | None = Field(
        default=None, ge=1, description="mean context, in tokens a row, up to which the entry is meant; None for any"
    )
    policy: DraftPolicy
    prediction: Prediction
    price: float = Field(ge=0, description="tokens that one more verified node must bring to pay for its time")
    upper_bound_tokens_per_s: float = Field(description="no policy of the searched family was predicted above this")
    gap: float = Field(ge=0, description="certified gap of the best neural tree under the fit; 0 without a draft")
    solver: str
    certified: bool = Field(description="whether the independent certificate of that tree stands")
    candidates: tuple[Candidate, ...]


class Plan(Document):
    """The document that `plan` writes and an engine runs; validation needs nothing but it and a RunRecord."""

    newest: ClassVar[int] = 1
    kind: Literal["plan"] = "plan"
    schema_version: int = 1
    target: str
    draft: str | None
    device: str
    dtype: str
    temperature: float
    verification: str = Field(description="rule that the prediction is for: greedy or target_only")
    fit: str = Field(description="fingerprint of the AcceptanceFit")
    cost: str = Field(description="fingerprint of the Cost")
    prompts_per_workload: int = Field(
        description="prompts that the prediction's interval allows for in the measurement"
    )
    new_tokens: int
    entries: tuple[PlanEntry, ...]

    @property
    def workloads(self) -> tuple[str, ...]:
        """Workloads that the plan has entries for, in order."""
        return tuple(dict.fromkeys(entry.workload for entry in self.entries))

    def entry(self, workload: str, batch: int, context_tokens: float = 0.0) -> PlanEntry:
        """The entry of `workload` for the smallest planned batch >= `batch`, or the largest there is.

        Where the plan tells contexts apart, only entries of the smallest planned context >= `context_tokens` (or the
        largest there is) are looked at.

        Raises
        ------
        InvalidInputError
            If the plan knows no such workload.
        """
        known = [entry for entry in self.entries if entry.workload == workload]
        require(
            bool(known),
            "`workload` must be one the plan was made for",
            got=f"{workload!r}; the plan has {list(self.workloads)}",
            fix="Choose one of these, or plan again from a trace that records this workload.",
            error=InvalidInputError,
        )
        contexts = sorted({_context(entry) for entry in known})
        context = next((c for c in contexts if c >= context_tokens), contexts[-1])
        here = sorted((e for e in known if _context(e) == context), key=lambda entry: entry.batch)
        return next((e for e in here if e.batch >= batch), here[-1])


def _context(entry: PlanEntry) -> float:
    return math.inf if entry.context_tokens is None else float(entry.context_tokens)
