"""A request: its prompt, what it asked for, what it has so far, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.drafters.suffix_index import SuffixIndex
from runtime.sampling_params import SamplingParams

__all__ = ["Completion", "Request"]


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
    """

    id: str
    prompt_tokens: int
    tokens: list[int]
    finish: str
    steps: int
    accepted: int
    text: str | None = None


@dataclass
class Request:
    """State of a request while it is served."""

    id: str
    number: int
    prompt: NDArray[np.int64]
    params: SamplingParams
    uniforms: NDArray[np.float64]
    output: list[int] = field(default_factory=list)
    index: SuffixIndex | None = None
    steps: int = 0
    accepted: int = 0
    finish: str | None = None

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.finish is not None

    @property
    def room(self) -> int:
        """Tokens that it may still emit."""
        return self.params.max_new_tokens - len(self.output)

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
            self.id, len(self.prompt), list(self.output), self.finish or "cancelled", self.steps, self.accepted
        )
