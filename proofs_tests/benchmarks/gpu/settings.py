"""What a validation runs: on a card in four minutes, as a rehearsal on a CPU in two, or in a few seconds."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Shape = dict[str, int]

LLAMA_8B: Shape = dict(hidden_size=4096, layers=32, intermediate_size=14336, heads=32, kv_heads=8, head_dim=128)
LLAMA_1B: Shape = dict(hidden_size=2048, layers=16, intermediate_size=8192, heads=32, kv_heads=8, head_dim=64)
SMALL: Shape = dict(hidden_size=512, layers=5, intermediate_size=1024)
SMALLER: Shape = dict(hidden_size=256, layers=3, intermediate_size=512)


@dataclass(frozen=True)
class Settings:
    """Sizes of one validation."""

    name: Literal["card", "rehearsal", "tiny"]
    device: str
    limit_s: float
    big: Shape
    big_draft: Shape
    dtype: str
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: int
    rounds: int
    twin_seeds: int
    copy_bytes: int
    product: int
    new_tokens: int
    prompts: int

    @property
    def on_card(self) -> bool:
        """Whether a GPU is measured."""
        return self.device == "cuda"


CARD = Settings(
    "card", "cuda", 200.0, LLAMA_8B, LLAMA_1B, "bfloat16", (1, 4, 16, 64), (512, 4096), 3, 4, 12, 4 << 30, 8192, 32, 4
)
REHEARSAL = Settings(
    "rehearsal", "cpu", 100.0, SMALL, SMALLER, "float32", (1, 2), (64, 128), 4, 2, 3, 64 << 20, 512, 16, 2
)
SMALLEST: Shape = dict(hidden_size=256, layers=4, intermediate_size=704)
TINY = Settings("tiny", "cpu", 3600.0, SMALLEST, SMALLER, "float32", (1,), (32,), 2, 2, 1, 1 << 20, 64, 6, 1)


@dataclass
class Clock:
    """Seconds left, and how long each part took; what there was no time for, or failed, is named, and the rest goes on.

    `after` is called at the end of every part.
    """

    limit_s: float
    after: Callable[[], object] = lambda: None
    start: float = field(default_factory=time.perf_counter)
    parts_s: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.limit_s - (time.perf_counter() - self.start)

    def part(self, name: str, run: Callable[[], Any], needs_s: float = 0.0) -> Any:
        """What `run` gives, timed; None, and a note, where it fails or fewer than `needs_s` seconds are left."""
        if self.left_s < needs_s:
            self.left_out.append(name)
            return None
        start, found = time.perf_counter(), None
        try:
            found = run()
        except Exception:
            self.failed[name] = traceback.format_exc()
            print(self.failed[name], flush=True)
        self.parts_s[name] = round(time.perf_counter() - start, 2)
        print(f"{name}: {self.parts_s[name]:.1f} s, {self.left_s:.0f} s left", flush=True)
        self.after()
        return found


def wait(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_s(run: Callable[[], Any], device: str, repeats: int = 15) -> float:
    """Median seconds of a call: by events on a card, so that the host's work hides behind the device's."""
    run(), run()
    wait(device)
    times: list[float] = []
    for _ in range(repeats):
        if device == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / 1e3)
        else:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
