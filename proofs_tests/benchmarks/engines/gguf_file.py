"""A Llama's or Qwen 2's transformers folder as a GGUF of float32, whose law is the folder's: nothing is rounded.

Without a tokenizer: whoever uses it passes token ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

__all__ = ["write_gguf"]

ARCHITECTURES = ("llama", "qwen2")
"""By the name that transformers and llama.cpp both use; the first has its rotary pairs side by side there."""


def write_gguf(folder: Path, path: Path) -> Path:
    """Write the model in `folder`, of one safetensors file, to `path`; gives `path`."""
    import gguf

    told = json.loads((folder / "config.json").read_text())
    kind = told["model_type"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"one of {', '.join(ARCHITECTURES)} is needed, and {folder} holds {kind}")
    layers, heads = told["num_hidden_layers"], told["num_attention_heads"]
    kv_heads = told.get("num_key_value_heads", heads)
    width = told.get("head_dim") or told["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(told["max_position_embeddings"])
    writer.add_embedding_length(told["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(told["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(_rope_base(told))
    writer.add_layer_norm_rms_eps(told["rms_norm_eps"])
    writer.add_vocab_size(told["vocab_size"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), layers)
    for name, tensor in load_file(next(folder.glob("*.safetensors"))).items():
        if name == "lm_head.weight" and told.get("tie_word_embeddings"):
            continue
        weight = tensor.to(torch.float32).numpy()
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            weight = _rotated_in_pairs(weight, heads if ".q_proj." in name else kv_heads)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _rope_base(told: dict[str, Any]) -> float:
    return float((told.get("rope_parameters") or told).get("rope_theta", 10000.0))


def _rotated_in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head in llama.cpp's order: rotary pairs side by side, not half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
