"""Shapes of the house models, as ordinary Llama configurations."""

from collections.abc import Mapping
from typing import Any

from runtime.training.house.tokenizer import LONGEST_CONTEXT, VOCABULARY

TARGET = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
DRAFT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
INTERMEDIATE = {256: 704, 128: 384}
MASKED_INTERMEDIATE = 640
"""MLP units of the diffusion model: the target's but for its least, so that it ships in 8 MB."""
Shape = Mapping[str, int]


def fresh_model(shape: Shape, seed: int) -> Any:
    """Untrained model of a shape, float32, weights from ``seed``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        intermediate_size=INTERMEDIATE[shape["hidden_size"]],
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        max_position_embeddings=LONGEST_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        rms_norm_eps=1e-5,
    )
    config.update(dict(shape))
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def masked_config(causal: Any) -> Any:
    """Configuration of the diffusion model beside the causal one that it is trained from."""
    from transformers import LlamaConfig

    told = causal.to_dict() | {
        "vocab_size": causal.vocab_size + 1,
        "intermediate_size": MASKED_INTERMEDIATE,
        "is_causal": False,
        "mask_token_id": causal.vocab_size,
        "shifted_logits": True,
    }
    return LlamaConfig(**told)
