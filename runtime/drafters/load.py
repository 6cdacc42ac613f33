"""A draft as a folder becomes a model: a whole model of its own, or a head on the target's hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.drafters.head.checkpoint import is_head, read_facts
from runtime.drafters.head.model import load_head
from runtime.models.base import LanguageModel
from runtime.models.load import load_model
from runtime.models.vocabulary import Vocabulary, check_pair, fingerprint_of

__all__ = ["load_draft"]


def load_draft(folder: str | Path, target: LanguageModel, tokenizer: Any = None) -> LanguageModel:
    """The draft in a folder, or of a hub name, for a target.

    Parameters
    ----------
    tokenizer : optional
        The target's: a head that says which tokenizer it was trained with must have been trained with this one.

    Raises
    ------
    InvalidInputError
        If it is a head for another target.
    """
    if not is_head(folder):
        return load_model(folder, "float32")
    model = load_head(folder, target)
    told = str(read_facts(Path(folder)).get("tokenizer", ""))
    own = fingerprint_of(tokenizer) if told else ""
    check_pair(Vocabulary(target.vocabulary, own), Vocabulary(model.vocabulary, told))
    return model
