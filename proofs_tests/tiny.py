"""Tiny models of every family, with random weights sharp enough that greedy decoding has no ties."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents import Chain, Off, policy_of
from reader_theory.trees import TokenTree

VOCABULARY = 64
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2", "mistral")

TREE = TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
RETRIEVAL = Chain(min_match=1, offset=2, factor=2, max_tokens=8)
POLICIES = {
    "off": Off(),
    "chain": policy_of(TokenTree.chain(3)),
    "tree": policy_of(TREE),
    "retrieval": RETRIEVAL,
    "both": policy_of(TREE, RETRIEVAL),
    "both, draft left out on long matches": policy_of(TREE, RETRIEVAL, skip=2),
}


@dataclass(frozen=True)
class TinyPrompt:
    """A prompt as the stages take it."""

    id: str
    workload: str
    tokens: NDArray[np.int64]


def tiny_model(family: str, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """A random transformers model of a family, in float32; one's own, to be changed without anybody else seeing it."""
    return deepcopy(_tiny_model(family, hidden, layers, seed))


@cache
def _tiny_model(family: str, hidden: int, layers: int, seed: int) -> Any:
    import transformers as tf

    shape: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    if family == "gpt2":
        config: Any = tf.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=hidden,
            n_layer=layers,
            n_head=4,
            n_positions=512,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
        )
    elif family == "mistral":
        config = tf.MistralConfig(**shape, sliding_window=None)
    else:
        config = {"llama": tf.LlamaConfig, "qwen2": tf.Qwen2Config, "qwen3": tf.Qwen3Config}[family](**shape)
    torch.manual_seed(seed)
    return tf.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def random_prompts(count: int, *, workload: str = "random", seed: int = 0, repeat: bool = True) -> list[TinyPrompt]:
    """Ragged prompts; every second one repeats a passage, so that retrieval has something to find."""
    rng = np.random.default_rng(seed)
    prompts: list[TinyPrompt] = []
    for i in range(count):
        tokens = rng.integers(0, VOCABULARY, int(rng.integers(4, 30)))
        if repeat and i % 2:
            tokens = np.concatenate([tokens, tokens[: len(tokens) // 2]])
        prompts.append(TinyPrompt(f"{workload}-{seed}-{i}", workload, tokens.astype(np.int64)))
    return prompts


def generated(model: Any, prompt: NDArray[np.int64], count: int) -> list[int]:
    """What transformers' own greedy generate gives."""
    ids = torch.from_numpy(prompt)[None]
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()
