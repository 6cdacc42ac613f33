"""Models and prompts: the house target and draft, and their function-preserving inflations, made on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_tests.benchmarks.gpu.settings import Settings
from runtime.measure.prompts import house_prompts
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.house.prompt import HouseModel
from runtime.models.lean import LeanModel
from runtime.models.load import load_tokenizer
from runtime.models.transformers import load_transformers

SPARE = 4096
"""Positions beyond the longest context."""


@dataclass(frozen=True)
class Pair:
    """A target with its draft, and transformers' own target."""

    name: str
    target: LeanModel
    draft: LeanModel
    plain: object

    @property
    def weight_bytes(self) -> int:
        """Bytes that a forward reads whatever the batch: all weights but the embedding's table."""
        model = self.plain
        total = sum(p.numel() * p.element_size() for p in model.parameters())  # pyright: ignore
        tied = bool(self.target.config.tie_word_embeddings)
        table = self.target.embedding.weight
        return total if tied else total - table.numel() * table.element_size()

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the target's keys and values."""
        target = self.target
        each = 2 * len(target.layers) * target.kv_heads * target.head_dim * target.embedding.weight.element_size()
        return each * tokens


def house_pair(settings: Settings) -> Pair:
    """The house target and draft."""
    target = _load("target", settings)
    return Pair("house", _wrap(target, settings, "house"), _wrap(_load("draft", settings), settings, "draft"), target)


def big_pair(settings: Settings, small_draft: bool) -> Pair:
    """The inflated target, drafted by the house draft or by its inflation."""
    target = inflate(house_folder("target"), None, dtype=settings.dtype, device=settings.device, **settings.big)
    draft = (
        _load("draft", settings)
        if small_draft
        else inflate(house_folder("draft"), None, dtype=settings.dtype, device=settings.device, **settings.big_draft)
    )
    return Pair("inflated", _wrap(target, settings, "inflated"), _wrap(draft, settings, "draft"), target)


def with_draft(pair: Pair, settings: Settings) -> Pair:
    """The same target with the inflated draft."""
    draft = inflate(house_folder("draft"), None, dtype=settings.dtype, device=settings.device, **settings.big_draft)
    return Pair("inflated, inflated draft", pair.target, _wrap(draft, settings, "inflated draft"), pair.plain)


def prompts(settings: Settings, context: int, count: int) -> list[NDArray[np.int64]]:
    """`count` prompts of `context` tokens, each of several texts that no other has at that place."""
    texts = _texts()
    rng = np.random.default_rng(context)
    made: list[NDArray[np.int64]] = []
    for _ in range(count):
        parts = [texts[i] for i in rng.permutation(len(texts))]
        joined = np.concatenate(parts)
        while len(joined) < context:
            joined = np.concatenate([joined, joined])
        made.append(joined[:context])
    return made


@cache
def _texts() -> list[NDArray[np.int64]]:
    tokenizer = load_tokenizer(house_folder("target"))
    return [prompt.tokens for prompt in house_prompts(None, "test", tokenizer, limit=64)]


def _load(which: HouseModel, settings: Settings) -> object:
    return load_transformers(house_folder(which), getattr(torch, settings.dtype), settings.device)


def _wrap(model: object, settings: Settings, name: str) -> LeanModel:
    config = model.config  # pyright: ignore
    config.max_position_embeddings = max(config.max_position_embeddings, settings.contexts[-1] + SPARE)
    return LeanModel(model, name, adaptive=False)
