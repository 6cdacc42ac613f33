"""What a head is trained on, by what the user names: text files as they are, prompts for the target to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.models.base import LanguageModel
from runtime.models.text import encode_chat
from runtime.training.heads.asking import library_questions
from runtime.training.heads.texts import Texts, read_texts
from runtime.training.heads.writing import Turns, openings, turns_of, write

__all__ = ["Material", "gathered_texts"]

PROMPT_FILES = (".json", ".jsonl", ".gz", ".parquet", ".csv")
LIBRARY = 600
"""Questions about the standard library, where no prompts are named."""


@dataclass(frozen=True)
class Material:
    """How much text, and how it is made.

    Attributes
    ----------
    tokens : int
        That the target is to write.
    length : int
        Of a row.
    rows : int
        Written at once.
    """

    tokens: int = 100_000
    length: int = 512
    rows: int = 32
    seed: int = 0


def gathered_texts(
    model: LanguageModel,
    tokenizer: Any,
    data: Sequence[Path],
    material: Material,
    tell: Callable[[str, int, int], None],
) -> Texts:
    """Text files among `data` in rows, and what the target writes to the prompts among them.

    Without any `data` the prompts are the shipped ones that are for fitting, and questions about Python's standard
    library; where the tokenizer has no chat template, the house prompts, which the target goes on from.

    Raises
    ------
    InvalidInputError
        If a file is neither text nor prompts.
    """
    prompts = [path for path in data if path.name.lower().endswith(PROMPT_FILES)]
    plain = [path for path in data if path not in prompts]
    parts: list[Texts] = []
    if plain:
        parts.append(read_texts(plain, tokenizer, material.length))
    if prompts or not data:
        parts.append(_written(model, tokenizer, prompts, material, tell))
    return _joined(parts)


def _joined(parts: list[Texts]) -> Texts:
    """All of them, documents numbered apart."""
    moved, start = list[Texts](), 0
    for part in parts:
        moved.append(Texts(part.tokens, part.roles, part.documents + start, part.heats))
        start += int(part.documents.max(initial=-1)) + 1
    return Texts.joined(moved)


def _written(
    model: LanguageModel,
    tokenizer: Any,
    files: Sequence[Path],
    material: Material,
    tell: Callable[[str, int, int], None],
) -> Texts:
    turns, rng = turns_of(tokenizer), np.random.default_rng(material.seed)
    asked = _prompts(tokenizer, files, turns, material.seed)
    rounds = max(1, -(-material.tokens // (material.rows * material.length)))
    parts: list[Texts] = []
    for number in range(rounds):
        begun = openings(asked, turns, material.rows, material.length * 2 // 3, rng)
        done = number * material.length
        parts.append(
            write(
                model,
                begun,
                turns,
                material.length,
                seed=material.seed + number,
                tell=lambda at, of, done=done: tell("write text", done + at, rounds * of),
            )
        )
    return Texts.joined(parts)


def _prompts(tokenizer: Any, files: Sequence[Path], turns: Turns | None, seed: int) -> list[NDArray[np.int64]]:
    from runtime.measure.prompts import house_prompts, public_prompts, read_prompts

    if files:
        return [each.tokens for path in files for each in read_prompts(path, tokenizer, workloads=None, limit=None)]
    if turns is None:
        return [each.tokens for each in house_prompts(None, "fit", tokenizer, None)]
    questions = [
        encode_chat(tokenizer, [{"role": "user", "content": text}]) for text in library_questions(LIBRARY, seed)
    ]
    return [*(each.tokens for each in public_prompts("fit", tokenizer)), *questions]
