"""What speculation needs besides weights and KV: logits of a tree, masks, an engine's draft pools, activations."""

from __future__ import annotations

from reader_theory.cost.model import ModelShape

__all__ = ["activation_bytes", "logit_bytes"]


def logit_bytes(tree_tokens: int, batch: int, vocabulary: int, *, copies: float = 2.0) -> float:
    """Bytes of float32 logits and probabilities for verification; `copies` counts sorts and filters as well."""
    return 4.0 * copies * tree_tokens * batch * vocabulary


def activation_bytes(shape: ModelShape, tokens: int, *, tensor_parallel: int = 1) -> float:
    """Peak activations of a forward over `tokens`: residual, normed input, and the widest pair of intermediates."""
    width = max((2 if shape.gated else 1) * shape.intermediate, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    if shape.experts is not None:
        width = max(width, 2 * shape.experts.active * shape.experts.intermediate)
    return 2.0 * tokens * (2 * shape.hidden + 1.5 * width / tensor_parallel)
