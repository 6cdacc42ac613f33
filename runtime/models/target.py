"""A causal language model as the engine sees it: tokens, positions and a mask in, logits out, a row cache beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from reader_theory.errors import InvalidInputError, require
from runtime.cache.rows import RowCache

__all__ = ["LanguageModel", "TransformersModel", "hidden_value", "load_transformers"]


@lru_cache
def hidden_value(dtype: torch.dtype) -> float:
    """What the mask adds to a score that must not count: finite, so that no row becomes NaN, and within float32."""
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


class LanguageModel(ABC):
    """A model with forwards over a `RowCache`.

    A float mask (not a boolean one) is used throughout: transformers' eager attention takes a boolean mask
    silently wrong.
    """

    vocabulary: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device
    name: str

    @abstractmethod
    def new_cache(self, rows: int, slots: int) -> RowCache:
        """An empty cache for at most `rows` rows of `slots` tokens."""

    @abstractmethod
    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
    ) -> torch.Tensor:
        """Logits after each token, given what its mask row lets it see; `cache.begin` has been called.

        Parameters
        ----------
        tokens, positions : (B, Q) int64
        mask : (B, 1, Q, W) of the model's dtype, or None where Q is 1 and every slot is seen
            0 for a slot that counts, `hidden_value` for one that does not; W is the width that `begin` returned.
        cache : RowCache
            Written in the slots that `begin` named.
        last_only : bool
            Only those after the last token, as a prompt needs.

        Returns
        -------
        (B, Q, V), or (B, 1, V) with `last_only`, of the model's dtype
        """


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
    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
    ) -> torch.Tensor:
        if mask is None:
            mask = torch.zeros((tokens.shape[0], 1, tokens.shape[1], cache.width), dtype=self.dtype, device=self.device)
        out = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=int(last_only),
        )
        return out.logits


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
