"""What an engine has done: seconds of each step by term, and drafts offered and accepted by depth and source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from reader_theory.documents.base import Frozen
from reader_theory.trees import TokenTrees
from runtime.drafters.base import Proposal
from runtime.engine.request import Request
from runtime.kernels.verify import Walks

__all__ = ["KEPT", "Counters", "EngineCounters", "StepTiming", "columns_of"]

TERMS = ("draft", "retrieval", "target", "verify", "commit")
KEPT = 1 << 16
"""Latest steps whose timings an engine keeps; its counters have the sums of all."""


@dataclass(slots=True)
class StepTiming:
    """What one decoding step did and where its time went."""

    rows: int
    emitted: int
    nodes: int
    width: float
    drafted: bool
    step_s: float
    draft_s: float
    retrieval_s: float
    target_s: float
    verify_s: float
    commit_s: float


def columns_of(steps: Iterable[StepTiming]) -> dict[str, NDArray[Any]]:
    """One array a field, in step order."""
    steps = list(steps)
    return {
        f.name: np.array(
            [getattr(s, f.name) for s in steps], dtype=np.int32 if f.type in ("int", "bool") else np.float64
        )
        for f in fields(StepTiming)
    }


class EngineCounters(Frozen):
    """A reading of an engine's counters."""

    steps: int = Field(description="decoding steps")
    row_steps: int = Field(description="rows, summed over the steps")
    emitted: int = Field(description="tokens emitted by those steps")
    offered: dict[str, tuple[int, ...]] = Field(
        description="by source (a drafter's name, or both in grown trees): drafted nodes at depth 1, 2, ..."
    )
    accepted: dict[str, tuple[int, ...]] = Field(description="by source: emitted nodes at depth 1, 2, ...")
    seconds: dict[str, float] = Field(description="by term, prefill among them, and whole steps as `step`")
    finished: dict[str, int] = Field(description="requests by how they ended: length, stop, cancelled, error")
    kv_tokens: int = Field(description="token slots held by the requests that run")
    peak_kv_tokens: int
    rules: dict[str, int] = Field(description="row steps by verification rule")

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted a row and step."""
        return self.emitted / max(self.row_steps, 1)

    def acceptance(self, source: str) -> tuple[float, ...]:
        """Share of the nodes of `source` that was emitted, by depth."""
        pairs = zip(self.accepted.get(source, ()), self.offered.get(source, ()), strict=True)
        return tuple(kept / max(offered, 1) for kept, offered in pairs)


class Counters:
    """Counts as steps go by; cheap enough to be always on."""

    def __init__(self) -> None:
        self.steps = self.row_steps = self.emitted = 0
        self._offered: Counter[tuple[str, int]] = Counter()
        self._accepted: Counter[tuple[str, int]] = Counter()
        self._seconds = dict.fromkeys(("step", *TERMS), 0.0)
        self._rules: Counter[str] = Counter()
        self._later: list[tuple[TokenTrees, Walks, list[int]]] = []

    def rows(self, requests: Sequence[Request], proposal: Proposal, walks: Walks, emitted: list[int]) -> None:
        """Rows of a step, and how many tokens each emitted: what lies behind a stop token does not count."""
        for request in requests:
            self.rule(request)
        if proposal.trees.tokens.shape[1] > 1:
            self._later.append((proposal.trees, walks, emitted))  # never the laws: those are as wide as the vocabulary
            if len(self._later) >= 1024:
                self._fold()

    def rule(self, request: Request) -> None:
        """One row of a step."""
        self._rules[request.params.rule.name] += 1

    def step(self, timing: StepTiming) -> None:
        """One step."""
        self.steps += 1
        self.row_steps += timing.rows
        self.emitted += timing.emitted
        seconds = self._seconds
        seconds["step"] += timing.step_s
        seconds["draft"] += timing.draft_s
        seconds["retrieval"] += timing.retrieval_s
        seconds["target"] += timing.target_s
        seconds["verify"] += timing.verify_s
        seconds["commit"] += timing.commit_s

    def reading(self, **others: Any) -> EngineCounters:
        """What was counted so far."""
        self._fold()
        sources = sorted({source for source, _ in self._offered})
        deepest = {source: max(depth for name, depth in self._offered if name == source) for source in sources}
        by_depth = [
            {name: tuple(counts[name, depth + 1] for depth in range(deepest[name])) for name in sources}
            for counts in (self._offered, self._accepted)
        ]
        seconds: dict[str, float] = self._seconds | {"prefill": others.pop("prefill_s")}
        return EngineCounters(
            steps=self.steps,
            row_steps=self.row_steps,
            emitted=self.emitted,
            offered=by_depth[0],
            accepted=by_depth[1],
            seconds=seconds,
            rules=dict(self._rules),
            **others,
        )

    def _fold(self) -> None:
        """Turn kept steps into counts; put off so that no step waits for it."""
        for trees, walks, emitted in self._later:
            names, sources = trees.names, trees.sources
            for row, (count, tokens) in enumerate(zip(trees.counts.tolist(), emitted, strict=True)):
                depths = [0]
                for parent in trees.parents[row, 1:count].tolist():
                    depths.append(depths[parent] + 1)
                told = [1] * count if sources is None else sources[row, :count].tolist()
                path = [node for node in walks.path[row, 1 : tokens + 1].tolist() if node >= 0]
                self._offered.update((names[code], depth) for code, depth in zip(told[1:], depths[1:], strict=True))
                self._accepted.update((names[told[node]], depths[node]) for node in path)
        self._later.clear()
