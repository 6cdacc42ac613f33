"""Tiny random models with a tokenizer and prompts, on disk as `--target` and `--draft` take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 272
TEXT = "for number in range(count): total = total + number; print(total)\n"
WORKLOADS = ("code", "prose")


def tokenizer() -> Any:
    """Byte-level BPE over one sentence: every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def save_model(folder: Path, seed: int, width: int = 32, vocabulary: int = VOCABULARY) -> Path:
    """A random two-layer Llama and the tokenizer, saved into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_pair(folder: Path) -> tuple[Path, Path]:
    """A target and a draft: the target is a larger copy of the draft, so that every draft is right and pays."""
    from runtime.models.house.inflate import inflate

    draft = save_model(folder / "draft", 2, 16)
    inflate(draft, folder / "target", hidden_size=64, layers=8, intermediate_size=128, dtype="float32")
    return folder / "target", draft


def save_prompts(path: Path, per_workload: int = 4) -> Path:
    """Prompts of two workloads, each with a repetition for retrieval to find."""
    rows = [
        {"id": f"{name}-{i}", "workload": name, "text": (TEXT + f"# {name} {i}\n") * (2 + i % 2)}
        for name in WORKLOADS
        for i in range(per_workload)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
