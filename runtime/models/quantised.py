"""A model whose caches hold keys and values in few bits."""

from __future__ import annotations

from copy import copy

from reader_theory.errors import InvalidInputError, require
from runtime.cache.quantised.scheme import Scheme
from runtime.models.base import LanguageModel
from runtime.models.layers import refuse_borrowing, sizes_by_kind
from runtime.models.lean import LeanModel
from runtime.models.transformers import TransformersModel

__all__ = ["quantised"]


def quantised(model: LanguageModel, scheme: Scheme) -> LanguageModel:
    """The same model with caches of this scheme; the weights are the same.

    Its law given a prefix is that of the model over the keys and values that the scheme reads back: whatever drafts,
    its greedy text is its own.

    Raises
    ------
    InvalidInputError
        Where the model's keys are not those that the scheme writes, or its heads cannot be grouped.
    """
    if isinstance(model, LeanModel):
        scheme.check(len(model.layers), model.kv_heads, model.head_dim)
    elif isinstance(model, TransformersModel):
        windows = sorted({str(kind) for kind, size in sizes_by_kind(model.config).items() if size})
        require(
            not windows,
            "a quantised cache must be of a model whose layers see all tokens",
            got=f"{model.name}, with layers of {', '.join(windows)}",
            fix="Leave --kv out for this model.",
        )
        refuse_borrowing(model.name, model.config, what="a quantised cache", fix="Leave --kv out for this model.")
        require(
            not scheme.unturned,
            f"{scheme.name} must be of the Llama family, whose keys are known before their rotary positions",
            got=f"{model.name}, which runs through transformers' own forward",
            fix="Use --kv int8 or --kv int4.",
        )
    else:
        raise InvalidInputError(
            "a quantised cache must be of a model that `load_model` gave",
            got=type(model).__name__,
            fix="Load the target with `load_model`.",
        )
    made = copy(model)
    made.scheme = scheme
    made.new_cache(1, 2)  # heads that cannot be grouped are refused here
    return made
