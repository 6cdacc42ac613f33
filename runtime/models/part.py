"""Some layers of a model as a model of their own, with the same weights: a target's own draft."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from reader_theory.errors import InvalidInputError, require
from runtime.models.base import LanguageModel
from runtime.models.layers import refuse_borrowing
from runtime.models.lean import LeanModel
from runtime.models.load import wrap
from runtime.models.transformers import TransformersModel

__all__ = ["layer_count", "part_of"]


def layer_count(model: LanguageModel) -> int:
    """Layers of a model that `part_of` can divide.

    Raises
    ------
    InvalidInputError
        If its layers cannot be told apart.
    """
    if isinstance(model, LeanModel):
        return len(model.layers)
    if isinstance(model, TransformersModel):
        refuse_borrowing(model.name, model.config, what="a self-draft", fix="Use another drafter for this family.")
        return len(_decoder(model.model).layers)
    raise InvalidInputError(
        "a self-draft must be of a model whose layers are known",
        got=f"{model.name}, a {type(model).__name__}",
        fix="Load the target with `load_model`.",
    )


def part_of(model: LanguageModel, layers: Sequence[int], *, check: bool = True) -> LanguageModel:
    """A model of these layers alone, between the same embedding and the same head; nothing of its weights is copied.

    Parameters
    ----------
    layers : ints in 0 .. L - 1, rising
    check : bool
        Whether a forward through transformers has to pass its `SelfCheck` first.

    Raises
    ------
    InvalidInputError
        If the layers are none of the model's, or the family's forward does not go through a part of them.
    """
    count = layer_count(model)
    require(
        len(layers) > 0 and all(a < b for a, b in zip((-1, *layers), (*layers, count), strict=True)),
        "`layers` must be layers of the model, at least one, each once and rising",
        got=f"{list(layers)} of {count}",
        fix="Pass, for example, every other one: range(0, L, 2).",
    )
    name = f"{len(layers)} of {count} layers of {model.name}"
    if isinstance(model, LeanModel):
        return model.part(layers, name)
    assert isinstance(model, TransformersModel)
    return wrap(_divided(model.model, layers), "transformers", name, check=check)


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder()
    require(
        len(getattr(decoder, "layers", ())) == model.config.get_text_config().num_hidden_layers,
        "a self-draft must be of a model that lists its layers as `layers`",
        got=type(model).__name__,
        fix="Use another drafter for this family.",
    )
    return decoder


def _divided(model: Any, layers: Sequence[int]) -> Any:
    """A transformers model of some layers: modules of its own around the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    part = copy.deepcopy(model, shared)
    decoder, config = _decoder(part), part.config.get_text_config()
    decoder.layers = type(decoder.layers)([decoder.layers[i] for i in layers])
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]
    for place, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    return part
