"""The head unrolled over draft steps with the true tokens forced, for all positions of a text at once.

A block is unrolled alike, its later steps being the mask tokens of one forward: these know neither tokens nor states,
and see the entries of step 0 and the masks before them, so that a block cut short drafts what the longer one did.

Entry t of step 0 is the pair (token t + 1, hidden states at t). Step k enters token t + 1 with the state that step
k - 1 left at t - 1; it attends to entries of step 0 up to t - k and to its own draft's steps since: what a chain
drafted from position t - k sees in the engine. After entry t stands the target's law at position t + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from runtime.drafters.head.network import HeadNetwork, rotated

__all__ = ["attended", "projected", "unrolled"]


def unrolled(
    network: HeadNetwork,
    embedding: torch.Tensor,
    tokens: torch.Tensor,
    hidden: torch.Tensor,
    steps: int,
    turns: torch.Tensor,
    look: Callable[[torch.Tensor], None] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step, (B, T - 1, width) normed states and states handed on; entries t >= step alone mean anything.

    Parameters
    ----------
    embedding : (V, width)
        Of the target, or the head's own.
    tokens : (B, T) int64
    hidden : (B, T, layers, target width)
        Hidden states of the target at each token.
    steps : int
    turns : (2, at least T - 1, head_dim)
        From `rotations`.
    look : callable, optional
        Shown each step's attention weights, (B, kv heads, group, T - 1, T - 1 + step): over entries of step 0, and over
        the draft's own steps since.
    """
    entered, states = embedding[tokens[:, 1:]], network.taken(hidden[:, :-1])
    count = entered.shape[1]
    turns = turns[:, :count]
    places = torch.arange(count, device=tokens.device)
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for step in range(steps):
        if step and network.mask_embed is not None:
            entered, states = (each.expand_as(states) for each in network.mask_embed)
        elif step:
            states = _later(states, 1)
        read, residual = network.entered(entered, states)
        q, k, v = projected(network, read, turns)
        keys.append(k)
        values.append(v)
        past = places[None, :] <= places[:, None] - step
        own = [(_later(keys[j], step - j, 2), _later(values[j], step - j, 2)) for j in range(1, step + 1)]
        out, states = network.left(residual, attended(q, keys[0], values[0], past, own, look))
        yield out, states


def projected(
    network: HeadNetwork, read: torch.Tensor, turns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries (B, kv heads, group, n, head_dim), keys and values (B, kv heads, n, head_dim), turned.

    Parameters
    ----------
    read : (B, n, 2 width)
    turns : (2, ..., head_dim)
        Of each of the n, broadcast against (B, heads, n, head_dim).
    """
    shape, attention = network.shape, network.layer.self_attn
    batch, count = read.shape[:2]
    q = attention.q_proj(read).view(batch, count, shape.heads, shape.head_dim).transpose(1, 2)
    k = attention.k_proj(read).view(batch, count, shape.kv_heads, shape.head_dim).transpose(1, 2)
    v = attention.v_proj(read).view(batch, count, shape.kv_heads, shape.head_dim).transpose(1, 2)
    q = rotated(q, turns).unflatten(1, (shape.kv_heads, shape.heads // shape.kv_heads))
    return q, rotated(k, turns), v


def attended(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    past: torch.Tensor,
    own: Sequence[tuple[torch.Tensor, torch.Tensor]],
    look: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """(B, n, heads * head_dim): over step 0's entries of the past, and one entry of each step since.

    Parameters
    ----------
    q : (B, kv heads, group, n, head_dim)
    keys, values : (B, kv heads, m, head_dim)
    past : bool, broadcast against (B, kv heads, group, n, m)
    own : sequence of (keys, values), each (B, kv heads, n, head_dim)
        Of the draft's steps so far, this one among them.
    look : callable, optional
        Shown the weights.
    """
    weights = _weights(q, keys, past, [key for key, _ in own])
    if look is not None:
        look(weights)
    count = keys.shape[2]
    out = torch.einsum("bkgqs,bksd->bkgqd", weights[..., :count], values)
    for place, (_, value) in enumerate(own, start=count):
        out = out + weights[..., place : place + 1] * value.unsqueeze(2)
    return out.flatten(1, 2).transpose(1, 2).flatten(2)


def _weights(q: torch.Tensor, keys: torch.Tensor, past: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, kv heads, group, n, m + steps) weights that sum to 1; arguments as `attended` takes them."""
    scale = q.shape[-1] ** -0.5
    scores = torch.einsum("bkgqd,bksd->bkgqs", q, keys) * scale
    scores = scores.float().masked_fill(~past, torch.finfo(torch.float32).min)
    mine = [(q * key.unsqueeze(2)).sum(-1, keepdim=True) * scale for key in own]
    return torch.cat([scores, *(one.float() for one in mine)], dim=-1).softmax(-1).to(q.dtype)


def _later(x: torch.Tensor, by: int, axis: int = 1) -> torch.Tensor:
    """Moved `by` places later along an axis, zeros before."""
    if by == 0:
        return x
    return torch.cat((torch.zeros_like(x.narrow(axis, 0, by)), x.narrow(axis, 0, x.shape[axis] - by)), dim=axis)
