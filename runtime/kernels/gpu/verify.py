"""GPU twins of verification, one block a row."""

from __future__ import annotations

from typing import Any

from runtime.kernels.gpu import _launch

__all__ = ["verify_greedy", "verify_target_only"]


def verify_target_only(
    logits: Any,
    temperature: Any,
    tokens: Any,
    parents: Any,
    counts: Any,
    uniforms: Any,
    path: Any,
    kept: Any,
    emitted: Any,
) -> None:
    """As the door says, into `path`, `kept` and `emitted`."""
    batch, width, vocabulary = logits.shape
    name = f"verify_target_only_{str(logits.dtype).removeprefix('torch.')}"
    arguments = (logits, temperature, tokens, parents, counts, uniforms, width, vocabulary, path, kept, emitted)
    _launch.launch("verify", name, (batch,), arguments)


def verify_greedy(logits: Any, tokens: Any, parents: Any, counts: Any, path: Any, kept: Any, emitted: Any) -> None:
    """As the door says, into `path`, `kept` and `emitted`."""
    batch, width, vocabulary = logits.shape
    name = f"verify_greedy_{str(logits.dtype).removeprefix('torch.')}"
    _launch.launch("verify", name, (batch,), (logits, tokens, parents, counts, width, vocabulary, path, kept, emitted))
