"""Where a head starts: from the target's own last layer, and from the best output head of its rank.

``svd`` keeps the main directions of the target's output head; ``weighted_svd`` those of its logits on hidden states
that were seen (reduced-rank regression), which never errs more on them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from reader_theory.errors import require
from runtime.drafters.head.network import HeadNetwork

__all__ = ["Initial", "factors", "start_from"]

Initial = Literal["svd", "weighted_svd"]


def factors(weight: torch.Tensor, rank: int, seen: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Down (rank, d) and up (V, rank) with ``up @ down`` nearest to `weight` (V, d).

    Parameters
    ----------
    seen : (n, d), optional
        Hidden states: nearest in the outputs on these, in the least squares sense. In the weights when left out.

    References
    ----------
    Izenman 1975, Reduced-rank regression for the multivariate linear model.
    """
    wide = weight.double()
    root = torch.eye(wide.shape[1], dtype=torch.float64, device=wide.device)
    if seen is not None:
        moments = seen.double().T @ seen.double() / len(seen)
        values, vectors = torch.linalg.eigh(moments)
        root = vectors * values.clamp_min(0.0).sqrt() @ vectors.T
    gram = root @ (wide.T @ wide) @ root
    values, vectors = torch.linalg.eigh(gram)
    kept, spread = vectors[:, -rank:].flip(1), values[-rank:].flip(0).clamp_min(1e-30).sqrt()
    left = wide @ root @ kept / spread
    even = spread.sqrt()
    return ((left.T @ wide) / even[:, None]).to(weight.dtype), (left * even).to(weight.dtype)


@torch.no_grad()
def start_from(network: HeadNetwork, target: Any, initial: Initial = "svd", seen: torch.Tensor | None = None) -> None:
    """Fill a head's weights from a transformers target whose last layer has the head's shape.

    Parameters
    ----------
    target : transformers causal model
    seen : (n, d), optional
        Normed hidden states before the target's output head, for ``weighted_svd``.
    """
    require(
        initial != "weighted_svd" or seen is not None,
        '`initial` "weighted_svd" must be given hidden states',
        got="none",
        fix='Pass `seen`, or take "svd".',
    )
    shape, base = network.shape, getattr(target, "model", target)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    last = base.layers[-1] if hasattr(base, "layers") else None
    weight = target.get_output_embeddings().weight.data.float()
    if last is not None and shape.width == shape.target_width:
        _copy_layer(network, last)
        network.norm.weight.copy_(base.norm.weight)
    if shape.width == shape.target_width:
        late = shape.target_width * (len(shape.layers) - 1)
        network.fc.weight[:, late:] += torch.eye(shape.width, device=network.fc.weight.device)
    if network.embed_tokens is not None:
        small, _ = _embedded(target.get_input_embeddings().weight.data.float(), shape.width)
        network.embed_tokens.weight.copy_(small)
    if network.ids is not None:
        weight = weight[network.ids]
    _fill_output(network, weight, initial, seen)


def _fill_output(network: HeadNetwork, weight: torch.Tensor, initial: Initial, seen: torch.Tensor | None) -> None:
    head: Any = network.lm_head
    if network.shape.rank is not None and network.shape.width == weight.shape[1]:
        down, up = factors(weight, network.shape.rank, seen if initial == "weighted_svd" else None)
        head.down.weight.copy_(down)
        head.up.weight.copy_(up)
    elif network.shape.rank is None:
        small, _ = _embedded(weight, network.shape.width)
        head.weight.copy_(small)


def _embedded(weight: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in fewer dimensions, by the main directions; as they are where the width is the same."""
    if width == weight.shape[1]:
        return weight, torch.eye(width)
    down, up = factors(weight, width)
    return up, down


def _copy_layer(network: HeadNetwork, last: Any) -> None:
    """The target's last layer reads the state; what reads the token starts near nothing."""
    layer, width = network.layer, network.shape.width
    for name in ("q_proj", "k_proj", "v_proj"):
        theirs, ours = getattr(last.self_attn, name, None), getattr(layer.self_attn, name).weight
        if theirs is not None and theirs.weight.shape == ours[:, width:].shape:
            ours[:, width:] = theirs.weight
    pairs = [
        (layer.self_attn.o_proj, getattr(last.self_attn, "o_proj", None)),
        *((getattr(layer.mlp, name), getattr(last.mlp, name, None)) for name in ("gate_proj", "up_proj", "down_proj")),
        (layer.hidden_norm, getattr(last, "input_layernorm", None)),
        (layer.post_attention_layernorm, getattr(last, "post_attention_layernorm", None)),
    ]
    for ours, theirs in pairs:
        if theirs is not None and theirs.weight.shape == ours.weight.shape:
            ours.weight.copy_(theirs.weight)
