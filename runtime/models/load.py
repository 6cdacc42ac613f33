"""Load a model behind the engine's interface, with the faster of its two forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from reader_theory.errors import InvalidInputError, require
from runtime.models.base import LanguageModel
from runtime.models.check import SelfCheck
from runtime.models.layers import refuse_by_configuration
from runtime.models.lean import LeanModel, Weights, is_lean
from runtime.models.low_bits import QUANTISED, drop_codes, quantise
from runtime.models.transformers import TransformersModel, load_transformers

__all__ = ["DTYPES", "load_model", "load_tokenizer", "wrap"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}

Forward = Literal["auto", "lean", "transformers"]

_passed: WeakKeyDictionary[Any, set[bool]] = WeakKeyDictionary()
"""Forwards, lean or not, in which a model has passed its check."""


def load_model(
    folder: str | Path, dtype: str = "float32", forward: Forward = "auto", device: str = "cpu", *, check: bool = True
) -> LanguageModel:
    """A model from a local folder or hub name.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16", "float64", "int8", "int4"}
        The last two quantise the weights of linear layers on the CPU, and compute the rest in bfloat16: see `quantise`.
        The target is then the quantised model.
    forward : {"auto", "lean", "transformers"}
        "auto" takes the lean forward wherever the family has one.
    check : bool
        Whether the model has to pass its `SelfCheck` first.
    """
    known = (*DTYPES, *QUANTISED)
    require(
        dtype in known,
        f"`dtype` must be one of {', '.join(known)}",
        got=repr(dtype),
        fix="Use float32 for exact comparisons, bfloat16 for speed on large models, int8 for speed on a CPU.",
    )
    model = load_transformers(folder, DTYPES.get(dtype, torch.bfloat16), device)
    if dtype in QUANTISED:
        quantise(model, dtype)
    return wrap(model, forward, Path(folder).name, weights="take", check=check)


def wrap(
    model: Any, forward: Forward = "auto", name: str = "", *, weights: Weights = "follow", check: bool = True
) -> LanguageModel:
    """A transformers model behind the engine's interface.

    Parameters
    ----------
    weights : {"follow", "copy", "take"}
        See `LeanModel`: whoever has no other use for the model says "take", and has joined and packed weights.
    check : bool
        Whether the model has to pass its `SelfCheck` first; once for a model.

    Raises
    ------
    InvalidInputError
        For a model that cannot be served, with the reason.
    """
    refuse_by_configuration(model)
    lean = forward != "transformers" and is_lean(model)
    if forward == "lean" and not lean:
        raise InvalidInputError(
            "`forward` must be one that the family has", got=f"'lean' for {model.config.model_type}", fix="Use 'auto'."
        )
    passed = _passed.setdefault(model, set())
    trial = SelfCheck(model) if check and lean not in passed else None
    wrapped = LeanModel(model, name, weights=weights) if lean else TransformersModel(model, name)
    wrapped.end_tokens = _end_tokens(model)
    if trial is not None:
        trial.compare(wrapped)
        passed.add(lean)
    drop_codes(model)
    return wrapped


def _end_tokens(model: Any) -> tuple[int, ...]:
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = getattr(model.config.get_text_config(), "eos_token_id", None)
    return () if found is None else tuple(found) if isinstance(found, list | tuple) else (int(found),)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer beside a model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))
