"""Tokenizer: byte-level BPE of 4,096 tokens, one for target and draft; ``<|endoftext|>`` separates documents."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
VOCABULARY = 4096
LONGEST_CONTEXT = 2048


def train_tokenizer(texts: Iterable[str], folder: Path) -> Any:
    """Learn the merges from ``texts`` and write an ordinary tokenizer folder; returns the fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet)
    raw.train_from_iterator(texts, trainer)
    return save_tokenizer(raw, folder)


def save_tokenizer(raw: Any, folder: Path) -> Any:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` so that every recent transformers loads them."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=LONGEST_CONTEXT
    )
    return _write(fast, folder)


def add_mask(source: Path, folder: Path) -> Any:
    """Write the tokenizer of `source` with a mask token, numbered after all others, into `folder`."""
    fast = load_tokenizer(source)
    fast.add_special_tokens({"mask_token": MASK})
    return _write(fast, folder)


def _write(fast: Any, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("is_local", "local_files_only"):  # of the folder that it came from
        settings.pop(name, None)
    settings.update(tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=False)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """Fast tokenizer of a folder."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def encode_stream(tokenizer: Any, texts: Iterable[str]) -> NDArray[np.uint16]:
    """Tokens of all ``texts`` in one row, each text followed by the end-of-text token; shape (tokens,)."""
    raw = tokenizer.backend_tokenizer
    end = tokenizer.eos_token_id
    pieces = [np.asarray([*row.ids, end], dtype=np.uint16) for row in raw.encode_batch(list(texts))]
    return np.concatenate(pieces)
