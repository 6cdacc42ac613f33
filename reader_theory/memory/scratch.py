"""What speculation needs besides weights and KV: logits of a tree, masks, an engine's draft pools, activations."""

from __future__ import annotations

from typing import Literal

from reader_theory.cost.model import ModelShape
from reader_theory.errors import require

__all__ = ["activation_bytes", "draft_pool_tokens", "logit_bytes", "mask_bytes"]


def tree_kv_bytes(tree_tokens: int, batch: int, bytes_per_token: float) -> float:
    """KV of a tree that is not committed yet: every token of every request's tree, root included."""
    return float(tree_tokens * batch) * bytes_per_token


def mask_bytes(tree_tokens: int, batch: int, context: int = 0, *, packed: bool = False) -> float:
    """Bytes of tree masks.

    Parameters
    ----------
    tree_tokens, batch, context : int
        Tokens of a tree (root included), requests, and columns of the context that the mask also covers.
    packed : bool
        A bit an entry, as tree kernels take it, or a float32, as a dense additive mask.
    """
    entries = float(batch * tree_tokens * (context + tree_tokens))
    return entries / 8 if packed else 4 * entries


def logit_bytes(tree_tokens: int, batch: int, vocabulary: int, *, copies: float = 2.0) -> float:
    """Bytes of float32 logits and probabilities for verification; `copies` counts sorts and filters as well."""
    return 4.0 * copies * tree_tokens * batch * vocabulary


def draft_pool_tokens(
    engine: Literal["vllm", "sglang"], batch: int, *, steps: int, top_k: int = 1, draft_tokens: int | None = None
) -> int:
    """Slots that an engine holds back for drafts, by its own formula.

    Parameters
    ----------
    engine : {"vllm", "sglang"}
        vLLM: `steps` lookahead slots a request. SGLang: max(steps top_k, draft tokens), doubled as reserve.
    steps, top_k, draft_tokens : int
        Drafter steps, branches, and tokens verified (root included; steps + 1 when None).
    """
    require(
        batch >= 0 and steps >= 0 and top_k >= 1,
        "`batch` and `steps` must be >= 0 and `top_k` >= 1",
        got=(batch, steps, top_k),
        fix="Pass the engine's own settings.",
    )
    if engine == "vllm":
        return batch * steps
    verified = steps + 1 if draft_tokens is None else draft_tokens
    return 2 * batch * max(steps * top_k, verified)


def activation_bytes(shape: ModelShape, tokens: int, *, tensor_parallel: int = 1) -> float:
    """Peak activations of a forward over `tokens`: residual, normed input, and the widest pair of intermediates."""
    width = max((2 if shape.gated else 1) * shape.intermediate, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    if shape.experts is not None:
        width = max(width, 2 * shape.experts.active * shape.experts.intermediate)
    return 2.0 * tokens * (2 * shape.hidden + 1.5 * width / tensor_parallel)
