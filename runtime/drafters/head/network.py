"""The weights of a head, by the names that EAGLE-3 checkpoints give them, and the pieces of its forward.

Inference (`runtime.drafters.head.model`) and training (`runtime.drafters.head.unrolled`) put the same pieces together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from runtime.drafters.head.shape import HeadShape

__all__ = ["HeadNetwork", "rotated", "rotations"]


def _called(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return norm(x)


class _Attention(nn.Module):
    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        d, one = shape.width, shape.head_dim
        self.q_proj = nn.Linear(2 * d, shape.heads * one, bias=False)
        self.k_proj = nn.Linear(2 * d, shape.kv_heads * one, bias=False)
        self.v_proj = nn.Linear(2 * d, shape.kv_heads * one, bias=False)
        self.o_proj = nn.Linear(shape.heads * one, d, bias=False)


class _Norm(nn.RMSNorm):
    """In the type of its weight, which is wider than its input's where training casts products; in one operator so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class _Mlp(nn.Module):
    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = _Attention(shape), _Mlp(shape)
        self.input_layernorm = _Norm(shape.width, shape.eps)
        self.hidden_norm = _Norm(shape.width, shape.eps)
        self.post_attention_layernorm = _Norm(shape.width, shape.eps)


class _LowRank(nn.Module):
    """``up(down(x))``: rank x width, then vocabulary x rank."""

    def __init__(self, width: int, rank: int, vocabulary: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, vocabulary, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


class HeadNetwork(nn.Module):
    """A head's weights.

    Attributes
    ----------
    ids : (draft vocabulary,) int64 or None
        The target's token of each of its own, increasing; None where it names them all.
    mask_embed : (2, width) or None
        Of a block: what stands for a token not known yet, and for the state before it.
    """

    ids: torch.Tensor | None
    mask_embed: nn.Parameter | None
    lm_head: Any

    def __init__(self, shape: HeadShape, ids: torch.Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        count = len(shape.layers)
        self.fc = nn.Linear(count * shape.target_width, shape.width, bias=False)
        self.fc_norm = (
            nn.ModuleList(_Norm(shape.target_width, shape.eps) for _ in range(count)) if shape.fc_norm else None
        )
        self.input_norm = _Norm(count * shape.target_width, shape.eps) if shape.norm_before_fc else None
        self.layers = nn.ModuleList([_Layer(shape)])
        self.norm = _Norm(shape.width, shape.eps)
        self.lm_head = (
            nn.Linear(shape.width, shape.draft_vocabulary, bias=False)
            if shape.rank is None
            else _LowRank(shape.width, shape.rank, shape.draft_vocabulary)
        )
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width) if shape.own_embedding else None
        self.mask_embed = nn.Parameter(torch.zeros(2, shape.width)) if shape.block else None
        self.register_buffer("ids", ids, persistent=False)

    @property
    def layer(self) -> Any:
        """Its one layer."""
        return self.layers[0]

    def taken(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., layers, target width) hidden states of the target -> (..., width) states to draft from."""
        joined = hidden.flatten(-2)
        if self.input_norm is not None:
            joined = self.input_norm(joined)
        if self.fc_norm is not None:
            parts = [norm(part) for norm, part in zip(self.fc_norm, hidden.unbind(-2), strict=True)]
            joined = torch.cat(parts, dim=-1)
        return self.fc(joined)

    def entered(
        self, embedded: torch.Tensor, states: torch.Tensor, *, by: Callable[[Any, torch.Tensor], torch.Tensor] = _called
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention reads, (..., 2 width), and what the layer adds to, of embedded tokens and states.

        ``by(norm, x)`` is the norm of x.
        """
        layer = self.layer
        normed = by(layer.hidden_norm, states)
        read = torch.cat((by(layer.input_layernorm, embedded), normed), dim=-1)
        return read, normed if self.shape.norm_before_residual else states

    def left(self, residual: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normed state that logits are made of, and the state handed on, of what attention gave."""
        layer = self.layer
        x = residual + layer.self_attn.o_proj(attended)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        out = self.norm(x)
        return out, out if self.shape.norm_output else x


def rotations(shape: HeadShape, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(2, count, head_dim) cosines and sines of positions 0 .. count - 1, float32, as transformers has them."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=shape.heads * shape.head_dim,
        num_attention_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rope_parameters=dict(shape.rope),  # pyright: ignore[reportArgumentType]
    )
    made = LlamaRotaryEmbedding(config)
    with torch.inference_mode():
        cos, sin = made(torch.zeros((1, 1, 1)), torch.arange(count)[None])
    return torch.stack((cos[0].float(), sin[0].float())).to(device).clone()


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(..., head_dim) queries or keys turned by cosines and sines, (2, ..., head_dim), that fit their shape."""
    first, second = x.chunk(2, dim=-1)
    return x * turns[0].to(x.dtype) + torch.cat((-second, first), dim=-1) * turns[1].to(x.dtype)
