"""What an engine has done so far: drafts offered and accepted by depth and source, and seconds by term."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from reader_theory.documents.base import Frozen
from runtime.drafters.sampled import DrawnDraft
from runtime.engine.request import Request
from runtime.engine.step import Drafts
from runtime.engine.timing import StepTiming
from runtime.kernels.verify import Walks

__all__ = ["Counters", "EngineCounters"]

TERMS = ("draft", "retrieval", "target", "verify", "commit")
_OFFERED_BY = ("", "retrieval", "draft", "both")
"""Names of the sources that a joined tree tells apart."""


class EngineCounters(Frozen):
    """A reading of an engine's counters."""

    steps: int = Field(description="decoding steps")
    row_steps: int = Field(description="rows, summed over the steps")
    emitted: int = Field(description="tokens emitted by those steps")
    offered: dict[str, tuple[int, ...]] = Field(
        description="by source (draft, retrieval, and both in joined trees): drafted nodes at depth 1, 2, ..."
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
        self._later: list[tuple[list[int], int, list[int], Walks, int, int]] = []

    def rows(
        self,
        requests: Sequence[Request],
        drafts: Drafts,
        retrieved: list[int],
        walks: Walks,
    ) -> None:
        """Rows of a step before it is committed; `retrieved` counts each row's nodes from retrieval, root included."""
        for row, (request, draft, count) in enumerate(zip(requests, drafts, retrieved, strict=True)):
            self._rules[request.params.rule.name] += 1
            if len(draft) > 1:
                drawn = isinstance(draft, DrawnDraft)
                told = [] if drawn else draft.sources
                self._later.append((draft.parents, 1 if drawn else count, told, walks, row, request.room))
        if len(self._later) >= 4096:
            self._fold()

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
        """Turn kept rows into counts; put off so that no step waits for it."""
        for parents, retrieved, told, walks, row, room in self._later:
            depths = [0]
            for parent in parents[1:]:
                depths.append(depths[parent] + 1)
            chain_first = ("retrieval" if node < retrieved else "draft" for node in range(len(parents)))
            sources = ["", *(_OFFERED_BY[source] for source in told)] if told else list(chain_first)
            self._offered.update(zip(sources[1:], depths[1:], strict=True))
            path = walks.path[row, 1 : min(walks.kept[row], room + 1)].tolist()
            self._accepted.update((sources[node], depths[node]) for node in path)
        self._later.clear()
