"""What the layers of a model see, by its configuration: everything, a window, a chunk; or why it cannot be served.

A query's row of the tree mask names the slots of its own past, in order, so the n-th of them holds position n: windows
and chunks are written into that mask without knowing where in the cache a node lies.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from reader_theory.errors import require

__all__ = ["longest_positions", "masks_by_kind", "refuse_borrowing", "refuse_by_configuration", "sizes_by_kind"]

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
STATES = ("linear_attention", "conv", "hybrid", "hybrid_sliding", "mamba", "recurrent", "moe")
GROWING = ("dynamic", "longrope")
"""Rotations whose frequencies change once a row is longer than the model was trained for."""
WINDOWS = re.compile(r"(^|_)window_(size|len)$")
"""Windows that are not `sliding_window`: baked into a model's own buffers, or counted by it in slots."""
NODES = 1024
"""Slots of scratch behind a row, at most."""


def sizes_by_kind(config: Any) -> dict[str, int | None]:
    """Kinds of the layers, and how many tokens each sees: the last so many, its chunk of so many, or all (None)."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or (SLIDING if window else FULL,))
    sizes = {SLIDING: window, CHUNKED: getattr(config, "attention_chunk_size", None)}
    return {kind: sizes.get(kind) for kind in kinds}


def refuse_borrowing(name: str, config: Any, *, what: str, fix: str) -> None:
    """Raise InvalidInputError where layers read the keys and values of another layer instead of their own."""
    modes = getattr(config, "kv_sharing_modes", None) or ()
    borrowing = [layer for layer, mode in enumerate(modes) if mode and "reuse" in mode]
    require(
        not borrowing,
        f"{what} must be of a model whose layers all have keys and values of their own",
        got=f"{name}, whose layers {borrowing} read those of others",
        fix=fix,
    )


def masks_by_kind(mask: torch.Tensor, sizes: dict[str, int | None], hidden: float, longest: int | None) -> Any:
    """The mask of a model's layers: one tensor where all are of one kind, else one for each kind.

    Parameters
    ----------
    mask : (B, 1, Q, W)
        0 where a query sees a slot.
    sizes
        As `sizes_by_kind` gives them.
    hidden : float
        What hides a slot.
    longest : int or None
        Tokens of the longest past, where known: a window that holds it changes nothing.
    """
    rank: torch.Tensor | None = None
    masks: dict[str, torch.Tensor] = {}
    for kind, size in sizes.items():
        masks[kind] = mask
        if size is None or (longest is not None and longest <= size):
            continue
        if rank is None:
            rank = (mask == 0).cumsum(-1)
        last = rank[..., -1:]
        out = rank <= last - size if kind == SLIDING else (rank - 1) // size != (last - 1) // size
        masks[kind] = mask.masked_fill(out, hidden)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def longest_positions(model: Any) -> int:
    """Tokens that a row may have: as many as there are positions, and what depends on the length by slots sees all of.

    Rotations that change beyond the length trained for, windows under names that no mask here knows, and a temperature
    of attention by slots (Llama 4) are right up to there, and no check at load reaches so far.
    """
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
    for part in _rotations(config):
        if part.get("rope_type") in GROWING:
            trained = part.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            longest = min(longest, int(trained or longest))
    windows = [size for name, size in config.to_dict().items() if WINDOWS.search(name) and isinstance(size, int)]
    if getattr(config, "attn_temperature_tuning", False):
        scale = int(config.floor_scale)
        windows.append(scale - 1 - min(NODES, scale // 2))
    return min([longest, *(size for size in windows if size > 0)])


def _rotations(config: Any) -> list[dict[str, Any]]:
    held = getattr(config, "rope_parameters", None) or {}
    return [held, *(each for each in held.values() if isinstance(each, dict))] if isinstance(held, dict) else []


def refuse_by_configuration(model: Any) -> None:
    """Raise for what this engine cannot serve, with the reason.

    Raises
    ------
    InvalidInputError
        For encoders, for attention to later tokens, for states that cannot be rolled back, for ALiBi, for layers of a
        kind unknown here.
    """
    config = model.config.get_text_config()
    reason = _reason(model, config)
    require(
        reason is None,
        "the model must be a causal decoder whose layers attend to a cache of keys and values by position",
        got=f"{type(model).__name__} ({config.model_type}): {reason}",
        fix="Use transformers' own `generate` for it.",
    )


def _both_ways(*configs: Any) -> str:
    """What a configuration says where its model attends to later tokens; nothing where it is causal."""
    for config in configs:
        if getattr(config, "is_causal", True) is False:
            return "`is_causal: false`"
        both = getattr(config, "use_bidirectional_attention", None)
        if both and both != "vision":
            return f"`use_bidirectional_attention: {both}`".lower()
    return ""


def _reason(model: Any, config: Any) -> str | None:
    kinds = sizes_by_kind(config)
    states = [kind for kind in kinds if kind in STATES]
    unknown = [kind for kind in kinds if kind not in (FULL, SLIDING, CHUNKED)]
    attention = getattr(model.config, "_attn_implementation", None) or "eager"
    reasons = {
        "it is an encoder and a decoder": getattr(model.config, "is_encoder_decoder", False),
        f"it attends to later tokens ({_both_ways(model.config, config)})": _both_ways(model.config, config),
        "it keeps a state that cannot be rolled back": getattr(model, "_is_stateful", False),
        f"layers of kind {', '.join(states)} keep a state that cannot be rolled back": states,
        f"layers of kind {', '.join(unknown)} attend in a way that is not known here": unknown,
        "ALiBi adds the distance between slots, not positions": (
            getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
        ),
        f"its attention is {attention!r}, which takes no mask of a tree: load it with 'sdpa' or 'eager'": (
            attention not in ("sdpa", "eager")
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
