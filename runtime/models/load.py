"""Load a model behind the engine's interface, with the faster of its two forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from reader_theory.errors import InvalidInputError, require
from runtime.models.base import LanguageModel
from runtime.models.lean import LeanModel, Weights, is_lean
from runtime.models.transformers import TransformersModel, load_transformers

__all__ = ["DTYPES", "load_model", "load_tokenizer", "wrap"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}

Forward = Literal["auto", "lean", "transformers"]


def load_model(
    folder: str | Path, dtype: str = "float32", forward: Forward = "auto", device: str = "cpu"
) -> LanguageModel:
    """A model from a local folder or hub name.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16", "float64"}
    forward : {"auto", "lean", "transformers"}
        "auto" takes the lean forward wherever the family has one.
    """
    require(
        dtype in DTYPES,
        f"`dtype` must be one of {', '.join(DTYPES)}",
        got=repr(dtype),
        fix="Use float32 for exact comparisons, bfloat16 for speed on large models.",
    )
    return wrap(load_transformers(folder, DTYPES[dtype], device), forward, Path(folder).name, weights="take")


def wrap(model: Any, forward: Forward = "auto", name: str = "", *, weights: Weights = "follow") -> LanguageModel:
    """A transformers model behind the engine's interface.

    Parameters
    ----------
    weights : {"follow", "copy", "take"}
        See `LeanModel`: whoever has no other use for the model says "take", and has joined and packed weights.
    """
    lean = forward != "transformers" and is_lean(model)
    if forward == "lean" and not lean:
        raise InvalidInputError(
            "`forward` must be one that the family has", got=f"'lean' for {model.config.model_type}", fix="Use 'auto'."
        )
    return LeanModel(model, name, weights=weights) if lean else TransformersModel(model, name)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer beside a model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))
