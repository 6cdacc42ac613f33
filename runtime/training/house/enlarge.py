"""Enlarge: the tensors of a model of one shape, placed in a model of a larger one so that the function stays.

The residual stream keeps its first coordinates and is zero beyond them, because nothing writes there: embeddings,
output and down projections have zero rows. Whatever reads from the zeros, or is read by nobody, may be anything.
"""

from typing import Any


def head_dim_of(config: Any) -> int:
    """Coordinates of a head, also where the configuration leaves them implicit."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class Enlarger:
    """Copies the tensors of one shape into those of another; the new ones hold noise already."""

    def __init__(self, old: Any, new: Any) -> None:
        import torch

        self.old, self.new = old, new
        self.width, self.norm_scale = old.hidden_size, (old.hidden_size / new.hidden_size) ** 0.5
        old_dim, dim = head_dim_of(old), new.head_dim
        step, half = dim // old_dim, torch.arange(old_dim // 2)
        self.pairs = torch.cat([half * step, half * step + dim // 2])  # where a head's coordinates keep their frequency
        self.score_scale = step**0.5  # softmax divides by sqrt(head_dim)
        old_group = old.num_attention_heads // old.num_key_value_heads
        new_group = new.num_attention_heads // new.num_key_value_heads
        self.q_heads = [h // old_group * new_group + h % old_group for h in range(old.num_attention_heads)]
        self.kv_heads = list(range(old.num_key_value_heads))

    def model(self, source: Any, target: Any) -> None:
        """Embedding, layers, last norm and, where it is not tied, the head."""
        self._padded_columns(source.model.embed_tokens.weight, target.model.embed_tokens.weight)
        if not self.new.tie_word_embeddings:
            target.lm_head.weight[:, : self.width].copy_(source.lm_head.weight)
        self._norm(source.model.norm, target.model.norm)
        for new_layer, old_layer in zip(target.model.layers, source.model.layers, strict=False):
            self._layer(old_layer, new_layer)
        for identity in target.model.layers[len(source.model.layers) :]:
            for norm in (identity.input_layernorm, identity.post_attention_layernorm):
                norm.weight.fill_(self.norm_scale)
            identity.self_attn.o_proj.weight.zero_()
            identity.mlp.down_proj.weight.zero_()

    def _layer(self, old: Any, new: Any) -> None:
        self._norm(old.input_layernorm, new.input_layernorm)
        self._norm(old.post_attention_layernorm, new.post_attention_layernorm)
        self._attention(old.self_attn, new.self_attn)
        for name in ("gate_proj", "up_proj"):
            weight = getattr(old.mlp, name).weight
            getattr(new.mlp, name).weight[: weight.shape[0], : self.width].copy_(weight)
        down = old.mlp.down_proj.weight
        new.mlp.down_proj.weight.zero_()
        new.mlp.down_proj.weight[: self.width, : down.shape[1]].copy_(down)

    def _attention(self, old: Any, new: Any) -> None:
        rows = self._rows(self.q_heads, self.pairs)
        for head in self.q_heads:  # the added coordinates of an old head must not score: their queries are zero
            new.q_proj.weight[head * self.new.head_dim : (head + 1) * self.new.head_dim].zero_()
        new.q_proj.weight[rows, : self.width] = (old.q_proj.weight * self.score_scale).to(new.q_proj.weight.dtype)
        for name in ("k_proj", "v_proj"):
            weight = getattr(new, name).weight
            weight[self._rows(self.kv_heads, self.pairs), : self.width] = getattr(old, name).weight.to(weight.dtype)
        new.o_proj.weight.zero_()
        new.o_proj.weight[: self.width, rows] = old.o_proj.weight.to(new.o_proj.weight.dtype)

    def _rows(self, heads: list[int], places: Any) -> Any:
        import torch

        return torch.cat([head * self.new.head_dim + places for head in heads])

    def _norm(self, old: Any, new: Any) -> None:
        new.weight.fill_(self.norm_scale)
        new.weight[: self.width].copy_(old.weight * self.norm_scale)

    def _padded_columns(self, old: Any, new: Any) -> None:
        new.zero_()
        new[:, : self.width].copy_(old)
