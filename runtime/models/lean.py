"""A short forward for the Llama family (Llama, Qwen2, Qwen3, Mistral), equal to transformers' to rounding.

It joins the projections that read the same input, rotates queries and keys in one complex product (the rows of
their weights are reordered so that the halves of a rotary pair lie side by side), and spends no Python on hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers.activations import SiLUActivation

from reader_theory.errors import require
from runtime.cache.quantised.cache import QuantisedCache
from runtime.cache.rows import RowCache
from runtime.kernels.around import around
from runtime.kernels.attention import Attention, attention
from runtime.models.base import LanguageModel, Output
from runtime.models.linear import AdaptiveLinear, FollowingLinear
from runtime.models.low_bits import Codes, PackedCodes, QuantisedLinear
from runtime.models.memory import give_back, trim
from runtime.models.packing import Packing
from runtime.models.whole import Whole

__all__ = ["LeanModel", "Weights", "is_lean", "rotary_pairs"]

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
ROPES = ("default", "linear", "llama3", "yarn")
PLAIN = (torch.nn.Linear, QuantisedLinear, torch.nn.Embedding, torch.nn.ModuleList, SiLUActivation, torch.nn.SiLU)

Weights = Literal["copy", "follow", "take"]


def is_lean(model: Any) -> bool:
    """Whether `LeanModel` can run this transformers model: its module tree is exactly what it knows."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    windows = set(getattr(config, "layer_types", None) or ())
    sliding = "sliding_attention" in windows or (not windows and getattr(config, "sliding_window", None))
    return (
        config.model_type in FAMILIES
        and config.hidden_act == "silu"
        and rope in ROPES
        and not sliding
        and not getattr(config, "mlp_bias", False)
        and is_untouched(model)
    )


def is_untouched(model: Any) -> bool:
    """Whether a model of these families is made of nothing but its family's own modules and ordinary weights.

    No adapters, no hooks, no replaced forward, no quantised or scaled linears, no parametrised weights.
    """
    family = f"transformers.models.{model.config.model_type}.modeling_{model.config.model_type}"
    types = {type(parameter) for parameter in model.parameters()}
    kinds = {(parameter.dtype, parameter.device) for parameter in model.parameters()}
    return (
        type(model).__module__ == family
        and types == {torch.nn.Parameter}
        and len(kinds) == 1
        and all(_is_plain(module, family) for module in model.modules())
    )


def _is_plain(module: torch.nn.Module, family: str) -> bool:
    held = vars(module)
    return (
        (type(module).__module__ == family or type(module) in PLAIN)
        and not held["_forward_pre_hooks"]
        and all(_captures(hook) for hook in held["_forward_hooks"].values())
        and "forward" not in held
        and set(held["_parameters"]) <= {"weight", "bias"}
    )


def _captures(hook: Any) -> bool:
    """Whether a hook is one that transformers left to hand out hidden states: it changes nothing."""
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


class _Untouched:
    """Whether a model is still what it was when it was wrapped: cheap enough to ask before each forward.

    Hooks are looked for again once any was registered in this process; modules are compared one by one.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.handles = model, RemovableHandle.next_id
        parents: list[dict[str, Any]] = [{"model": model}, *(module._modules for module in model.modules())]
        each = ((held, name, child) for held in parents for name, child in held.items())
        self.children = [(held, name, child, vars(child)) for held, name, child in each if child is not None]

    def check(self) -> None:
        """Raise where a module has been replaced or hooked, or its forward been overridden."""
        odd = [name for held, name, child, own in self.children if held.get(name) is not child or "forward" in own]
        if self.handles != RemovableHandle.next_id and not odd:
            handles = RemovableHandle.next_id
            odd = [] if is_untouched(self.model) else ["hooks"]
            self.handles = self.handles if odd else handles
        require(
            not odd,
            "the model must be as it was when it was wrapped",
            got=f"{', '.join(sorted(set(odd))[:4])} replaced or added since",
            fix="Wrap it again: transformers' own forward then serves it with its adapters and hooks.",
        )


@dataclass(frozen=True)
class _Weight:
    """A norm's weight, where no module is kept for it."""

    weight: torch.Tensor


@dataclass(frozen=True)
class _Layer:
    norm_in: Any
    qkv: AdaptiveLinear | FollowingLinear | PackedCodes
    out: AdaptiveLinear | FollowingLinear | PackedCodes
    norm_mlp: Any
    gate_up: AdaptiveLinear | FollowingLinear | PackedCodes
    down: AdaptiveLinear | FollowingLinear | PackedCodes
    norm_q: Any
    norm_k: Any


def _pair_order(head_dim: int) -> torch.Tensor:
    half = torch.arange(head_dim // 2)
    return torch.stack((half, half + head_dim // 2), dim=1).flatten()


def rotary_pairs(outputs: int, head_dim: int) -> torch.Tensor:
    """Order of a projection's outputs that puts those of each head in rotary pairs."""
    return torch.arange(outputs).unflatten(0, (-1, head_dim))[:, _pair_order(head_dim)].flatten()


def _turned_in(dtype: torch.dtype) -> torch.dtype:
    """What queries and keys of a type are turned in: nothing narrower than they are, nor than float32."""
    return torch.promote_types(dtype, torch.float32)


class LeanModel(LanguageModel):
    """Forward of a Llama-family transformers model over the same `RowCache`.

    Keys lie in the cache with rotary pairs side by side: a cache is filled and read by one model.

    Parameters
    ----------
    weights : {"copy", "follow", "take"}
        "copy": joined and packed weights of its own, those of the moment. "follow": the model's weights themselves, as
        they are at each forward, and no copy. "take": joined and packed weights, each in the place of what it was
        made from, which the model no longer has: weights are held once.
    """

    def __init__(self, model: Any, name: str = "", *, adaptive: bool = True, weights: Weights = "copy") -> None:
        config = model.config
        self.config, self.name = config, name or config.model_type
        self.vocabulary, self.max_positions = int(config.vocab_size), int(config.max_position_embeddings)
        self.dtype, self.device = model.dtype, model.device
        self.packs = self.device.type == "cpu"
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.scale = model.model.layers[0].self_attn.scaling
        self.weights: Weights = weights
        self._order = _pair_order(self.head_dim).to(self.device) if weights == "follow" else None
        self._untouched = _Untouched(model) if weights == "follow" else None
        self.rotations = self._rotations(model)
        self.around = around(self.dtype, self.device)
        total = sum(each.numel() * each.element_size() for each in model.parameters())
        options: dict[str, Any] = {"adaptive": adaptive, "spare_bytes": min(1 << 26, max(total // 24, 1 << 23))}
        options["others"] = model.model.embed_tokens.weight.data
        if weights == "follow":
            self.embedding, self.norm = model.model.embed_tokens, model.model.norm
            self.head = FollowingLinear([model.lm_head], adaptive=adaptive)
            self.layers = [self._following(layer, adaptive) for layer in model.model.layers]
            self._whole = None
            return
        self.embedding = _Weight(model.model.embed_tokens.weight.data)
        self.layers = [self._layer(layer, options) for layer in model.model.layers]
        self.norm = _Weight(model.model.norm.weight.data)
        self.head = self._product([model.lm_head], options)
        self._whole = Whole() if self.device.type == "cpu" else None

    def _product(
        self, modules: Sequence[Any], options: dict[str, Any], paired: int = 0
    ) -> AdaptiveLinear | PackedCodes:
        """The product of linear modules side by side, the outputs of the first `paired` in rotary pairs.

        Taken weights are given back where they are packed or joined.
        """
        orders = [
            rotary_pairs(module.out_features, self.head_dim) if i < paired else slice(None)
            for i, module in enumerate(modules)
        ]
        parts = list(zip(modules, orders, strict=True))
        biases = [module.bias.data[order] for module, order in parts if module.bias is not None]
        bias = torch.cat(biases) if biases else None
        if isinstance(modules[0], QuantisedLinear):
            return PackedCodes(Codes.stacked([module.taken().rows(order) for module, order in parts]), bias)
        weights = [module.weight.data[order] for module, order in parts]
        tied = weights[0].data_ptr() == self.embedding.weight.data_ptr()
        made = AdaptiveLinear(weights[0] if len(weights) == 1 else torch.cat(weights), bias, in_rows=tied, **options)
        if self.weights == "take":
            for module in modules:
                if made.weight is None or made.weight.data_ptr() != module.weight.data_ptr():
                    give_back(module.weight.data)
                module.weight = None
            trim()
        return made

    def _following(self, layer: Any, adaptive: bool) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            norm_in=layer.input_layernorm,
            qkv=FollowingLinear([attention.q_proj, attention.k_proj, attention.v_proj], adaptive=adaptive),
            out=FollowingLinear([attention.o_proj], adaptive=adaptive),
            norm_mlp=layer.post_attention_layernorm,
            gate_up=FollowingLinear([mlp.gate_proj, mlp.up_proj], adaptive=adaptive),
            down=FollowingLinear([mlp.down_proj], adaptive=adaptive),
            norm_q=getattr(attention, "q_norm", None),
            norm_k=getattr(attention, "k_norm", None),
        )

    def _layer(self, layer: Any, options: dict[str, Any]) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = self._product([attention.q_proj, attention.k_proj, attention.v_proj], options, paired=2)
        out = self._product([attention.o_proj], options)
        gate_up = self._product([mlp.gate_proj, mlp.up_proj], options)
        down = self._product([mlp.down_proj], options)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        order = _pair_order(self.head_dim)
        norm_q, norm_k = (None if norm is None else _Weight(norm.weight.data[order]) for norm in norms)
        return _Layer(
            norm_in=_Weight(layer.input_layernorm.weight.data),
            qkv=qkv,
            out=out,
            norm_mlp=_Weight(layer.post_attention_layernorm.weight.data),
            gate_up=gate_up,
            down=down,
            norm_q=norm_q,
            norm_k=norm_k,
        )

    def _rotations(self, model: Any) -> torch.Tensor:
        """(positions, 1, head_dim / 2) complex64, complex128 in float64, with the model's own scaling in it."""
        positions = torch.arange(self.max_positions, device=self.device).unsqueeze(0)
        with torch.inference_mode():
            cos, sin = model.model.rotary_emb(torch.zeros((1, 1, 1), device=self.device), position_ids=positions)
        half, wide = self.head_dim // 2, _turned_in(self.dtype)
        return torch.complex(cos[0, :, :half].to(wide), sin[0, :, :half].to(wide)).unsqueeze(1).clone()

    @property
    def final_layer(self) -> int:
        return len(self.layers)

    def part(self, layers: Sequence[int], name: str) -> LeanModel:
        """The same with some of its layers alone; the weights are the same."""
        part = copy(self)
        part.layers, part.name, part.scheme = [self.layers[i] for i in layers], name, None
        part._whole = None if self._whole is None else Whole()
        return part

    def new_cache(self, rows: int, slots: int) -> RowCache:
        if self.scheme is None:
            cache = RowCache(len(self.layers), rows, slots)
        else:
            cache = QuantisedCache(len(self.layers), rows, slots, self.scheme, self.rotations)
        empty = torch.zeros((0, self.kv_heads, 0, self.head_dim), dtype=self.dtype, device=self.device)
        for layer in cache.stores:
            layer.lazy_initialization(empty, empty)
        return cache

    @torch.inference_mode()
    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
        hidden: Sequence[int] = (),
    ) -> Output:
        if self._untouched is not None:
            self._untouched.check()
        batch, queries = tokens.shape
        last_only = last_only and queries > 1
        rows = Packing(cache.counts if self.packs and not last_only else None, batch, queries)
        if self._whole is not None and not last_only:
            found = self._whole(self, tokens, positions, mask, cache, hidden, rows)
            if found is not None:
                return found
        x = self.embedding.weight[rows.pack(tokens.reshape(-1))]
        rotation = self.rotations[rows.pack(positions.reshape(-1))]
        group = self.heads // self.kv_heads
        reader = attention(mask, queries, group, self.scale, dtype=self.dtype, device=self.device)
        before: dict[int, torch.Tensor] = {}
        added: torch.Tensor | None = None
        for i, (layer, store) in enumerate(zip(self.layers, cache.stores, strict=True)):
            x, h = self.around.normed(x, added, layer.norm_in.weight, self.eps)
            if i in hidden:
                before[i] = rows.pad(x.clone() if x.is_cuda else x)
            attended = self._attention(layer, store, h, rotation, reader, rows)
            x, added = self._onto(x, layer.out, attended)
            x, h = self.around.normed(x, added, layer.norm_mlp.weight, self.eps)
            x, added = self._onto(x, layer.down, self.around.gated(layer.gate_up(h)))
        whole = self.final_layer in hidden
        if last_only and not whole:
            x, added = (None if part is None else part.view(batch, queries, -1)[:, -1] for part in (x, added))
            assert x is not None
        x = self.around.normed(x, added, self.norm.weight, self.eps)[1]
        if whole:
            before[self.final_layer] = rows.pad(x)
            x = before[self.final_layer][:, -1] if last_only else x
        logits = self.head(x)
        logits = logits.view(batch, 1, self.vocabulary) if last_only else rows.pad(logits)
        return Output(logits, tuple(before[i] for i in hidden), rows.tokens)

    def _onto(self, x: torch.Tensor, product: Any, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A residual sum: within the product on a GPU, else left to the norm after it."""
        return (product.onto(x, y), None) if x.is_cuda else (x, product(y))

    def _attention(
        self,
        layer: _Layer,
        store: Any,
        h: torch.Tensor,
        rotation: torch.Tensor,
        reader: Attention,
        rows: Packing,
    ) -> torch.Tensor:
        """What the layer's heads read, (tokens, heads * head_dim)."""
        qkv = layer.qkv(h).view(rows.tokens, -1, self.head_dim)
        rotary = self.heads + self.kv_heads
        v = rows.pad(qkv[:, rotary:]).transpose(1, 2)
        q_k = qkv
        if layer.norm_q is not None and layer.norm_k is not None:
            q = functional.rms_norm(qkv[:, : self.heads], (self.head_dim,), layer.norm_q.weight, self.eps)
            k = functional.rms_norm(qkv[:, self.heads : rotary], (self.head_dim,), layer.norm_k.weight, self.eps)
            q_k = torch.cat((q, k), dim=1)
        if self._order is not None:
            q_k = q_k[:, :rotary, self._order]
        flat = q_k.reshape(rows.tokens, -1)
        turned = rows.pad(self.around.turned(flat, rotation, rotary, self.head_dim))
        keys, values = store.update(turned[:, :, self.heads :].transpose(1, 2), v)
        return rows.pack(reader(turned[:, :, : self.heads], keys, values))
