"""Any transformers causal model that takes a 4-D float mask, and how a folder becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reader_theory.errors import InvalidInputError, require
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel, Output

__all__ = ["TransformersModel", "load_transformers"]


class TransformersModel(LanguageModel):
    """Any transformers causal model that takes a 4-D float mask: every family, at transformers' own pace."""

    def __init__(self, model: Any, name: str = "") -> None:
        self.model = model.eval()
        config = model.config.get_text_config()
        self.config = config
        self.vocabulary = int(config.vocab_size)
        self.max_positions = int(getattr(config, "max_position_embeddings", 1 << 20))
        self.layers = int(config.num_hidden_layers)
        self.dtype, self.device = model.dtype, model.device
        self.name = name or config.model_type

    def new_cache(self, rows: int, slots: int) -> RowCache:
        return RowCache(self.layers, rows, slots)

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
        if mask is None:
            mask = torch.zeros((tokens.shape[0], 1, tokens.shape[1], cache.width), dtype=self.dtype, device=self.device)
        out = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=int(last_only),
            output_hidden_states=bool(hidden),
        )
        return Output(out.logits, tuple(out.hidden_states[layer] for layer in hidden) if hidden else ())


def load_transformers(folder: str | Path, dtype: torch.dtype, device: str = "cpu") -> Any:
    """`AutoModelForCausalLM.from_pretrained` for a local folder or a hub name: safetensors only, no remote code."""
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            "`target` and `draft` must be folders or hub names that AutoModelForCausalLM.from_pretrained takes",
            got=f"{str(folder)!r}: {str(error).splitlines()[0]}",
            fix="Check the path; weights must be safetensors, and models that need remote code are not run.",
        ) from error
    require(
        not getattr(model.config, "is_encoder_decoder", False),
        "the model must be a decoder",
        got=f"{type(model).__name__}",
        fix="Choose a causal language model.",
    )
    return model.to(device)
