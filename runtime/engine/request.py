"""A request: its prompt, what it asked for, what it has so far, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.base import At
from reader_theory.rules.greedy import Greedy
from reader_theory.rules.streams import Stream
from reader_theory.rules.target_only import TargetOnly
from runtime.engine.sampling import SamplingParams
from runtime.retrieval.index import RetrievalIndex

__all__ = ["Completion", "Request", "Streams"]

Streams = Callable[[Stream, int, int], NDArray[np.float64]]
"""(stream, step or position, count) -> that many uniforms; the same arguments give the same numbers."""


@dataclass(frozen=True)
class Completion:
    """What a request came to.

    Attributes
    ----------
    tokens : list of int
        Emitted tokens, the stop token included.
    finish : str
        ``"length"``, ``"stop"``, ``"cancelled"`` or ``"error: ..."``.
    steps : int
        Decoding steps; the first token comes from the prompt's forward and is none.
    accepted : int
        Draft tokens emitted.
    verification : str
        Rule that verified its drafts.
    lossless : bool
        Whether that rule keeps the target's law.
    """

    id: str
    prompt_tokens: int
    tokens: list[int]
    finish: str
    steps: int
    accepted: int
    text: str | None = None
    verification: str = "greedy"
    lossless: bool = True


@dataclass(eq=False)
class Request:
    """State of a request while it is served."""

    id: str
    number: int
    prompt: NDArray[np.int64]
    params: SamplingParams
    uniforms: NDArray[np.float64]
    streams: Streams
    output: list[int] = field(default_factory=list)
    index: RetrievalIndex | None = None
    steps: int = 0
    accepted: int = 0
    finish: str | None = None

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.finish is not None

    @cached_property
    def follows(self) -> bool:
        """Whether kernels walk its drafts: greedy without a penalty, or target only on the plain softmax."""
        params, rule = self.params, type(self.params.rule)
        return (rule is TargetOnly and params.plain) or (rule is Greedy and params.repetition_penalty == 1.0)

    @property
    def room(self) -> int:
        """Tokens that it may still emit."""
        return self.params.max_new_tokens - len(self.output)

    @property
    def most_tokens(self) -> int:
        """Tokens that its row holds at the end."""
        return len(self.prompt) + self.params.max_new_tokens

    def numbers_at(self, position: int) -> At:
        """Numbers of an output position, by stream."""
        own = self.uniforms[position : position + 1]
        return lambda stream, count: own if stream == "recovery" else self.streams(stream, position, count)

    @property
    def text(self) -> list[int]:
        """Prompt and output so far."""
        return [*self.prompt.tolist(), *self.output]

    def emit(self, tokens: list[int]) -> list[int]:
        """Append `tokens` up to a stop token or the length; returns those that were appended."""
        stops = self.params.stop_token_ids
        kept = tokens[: self.room]
        if stops:
            end = next((i for i, token in enumerate(kept) if token in stops), None)
            if end is not None:
                kept, self.finish = kept[: end + 1], "stop"
        self.output.extend(kept)
        if self.finish is None and self.room <= 0:
            self.finish = "length"
        return kept

    def completion(self) -> Completion:
        """What it came to."""
        return Completion(
            self.id,
            len(self.prompt),
            list(self.output),
            self.finish or "cancelled",
            self.steps,
            self.accepted,
            verification=self.params.rule.name,
            lossless=self.params.lossless,
        )
