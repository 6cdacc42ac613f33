"""Named streams of uniforms: one number serves one purpose, whatever else is in the batch.

Each array is keyed by (seed, request, step, stream) in a counter-based generator, so that a request draws the same
numbers alone or among others, and drafting, acceptance and recovery never share one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require

__all__ = ["Stream", "VerifyUniforms", "coupling_uniforms", "stream_uniforms", "verify_uniforms"]

Stream = Literal["drafting", "acceptance", "recovery", "coupling", "remasking"]
STREAMS: dict[Stream, int] = {"drafting": 0, "acceptance": 1, "recovery": 2, "coupling": 3, "remasking": 4}
"""Every stream and its place in the generator's counter."""


@dataclass(frozen=True)
class VerifyUniforms:
    """The uniforms that one verification may read.

    Parameters
    ----------
    acceptance : (N + 1,) in [0, 1)
        One for each node of the draft; decides whether it is kept. The root's is not read.
    recovery : (N + 1,) in [0, 1)
        One for each node; picks the token emitted after it.
    coupling : (D + 1, V) in [0, 1), optional
        One for each depth and token; only the Gumbel-coupled rule reads it, and its drafter read the same.
    """

    acceptance: NDArray[Any]
    recovery: NDArray[Any]
    coupling: NDArray[Any] | None = None

    def at(self, node: int, depth: int) -> Callable[[Stream, int], NDArray[Any]]:
        """Numbers, by stream, of the token after one node, given its depth."""
        noise = self.coupling
        return lambda stream, count: (
            noise[depth] if stream == "coupling" and noise is not None else self.recovery[node : node + count]
        )


def stream_uniforms(
    seed: int, request: int, step: int, stream: Stream, shape: int | tuple[int, ...]
) -> NDArray[np.float64]:
    """Uniforms in [0, 1) of one stream of one request at one step.

    Parameters
    ----------
    seed, request, step : int, in [0, 2**64)
        Whose numbers these are; the same triple gives the same numbers on every machine and in every batch.
    stream : {"drafting", "acceptance", "recovery", "coupling", "remasking"}
        What they are for.
    shape : int or tuple of int
        How many.

    Raises
    ------
    InvalidInputError
        On an unknown stream, or a key outside of 64 bits.

    References
    ----------
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    known = stream in STREAMS
    require(known, "`stream` must be one of " + ", ".join(STREAMS), got=repr(stream), fix="Give each purpose its own.")
    keys = (seed, request, step)
    require(
        all(0 <= key < 2**64 for key in keys),
        "`seed`, `request` and `step` must be in [0, 2**64)",
        got=f"{keys}",
        fix="Number requests and steps from 0.",
    )
    return _generator_at(keys, STREAMS[stream]).random(shape)


class _Engine(threading.local):
    """One generator a thread: setting its state costs a fifth of making a new one."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.bits)
        self.state: Any = self.bits.state


_ENGINE = _Engine()


def _generator_at(keys: tuple[int, int, int], place: int) -> np.random.Generator:
    """The thread's generator, set to the start of one stream: key (seed, request), counter (0, 0, place, step)."""
    seed, request, step = keys
    state = _ENGINE.state
    state["state"]["key"][:] = seed, request
    state["state"]["counter"][:] = 0, 0, place, step
    state["buffer_pos"], state["has_uint32"] = len(state["buffer"]), 0
    _ENGINE.bits.state = state
    return _ENGINE.generator


def verify_uniforms(seed: int, request: int, step: int, nodes: int) -> VerifyUniforms:
    """Acceptance and recovery uniforms for a draft of `nodes` nodes below the root."""
    acceptance = stream_uniforms(seed, request, step, "acceptance", nodes + 1)
    return VerifyUniforms(acceptance, stream_uniforms(seed, request, step, "recovery", nodes + 1))


def coupling_uniforms(seed: int, request: int, position: int, depths: int, vocabulary: int) -> NDArray[np.float64]:
    """(depths, vocabulary) uniforms of the coupling stream, keyed by the position in the text rather than by the step.

    Row d belongs to token `position` + d of the request, so that the text does not depend on how steps cut it up.
    """
    rows = [stream_uniforms(seed, request, position + d, "coupling", vocabulary) for d in range(depths)]
    return np.stack(rows)
