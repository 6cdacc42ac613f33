"""Final hidden states: what a model's output head reads after each token, and the model told by them."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents.judge import ModelProbe
from reader_theory.errors import require
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel
from runtime.models.inputs import run_prompt, run_trees

__all__ = ["check_probe", "final_states", "probe_of"]

TOKENS, STRIDE = 16, 7
"""Fixed tokens that a probe is taken after: so many, each so much above the one before."""
DIGITS = 6
_PROBES: WeakKeyDictionary[LanguageModel, ModelProbe] = WeakKeyDictionary()


def final_states(
    model: LanguageModel,
    cache: RowCache,
    tokens: NDArray[np.int64],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    scratch: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    """(B, Q, H) final states after each node of each row's tree, float32; arguments as `run_trees` takes them."""
    layer = _layer(model)
    return run_trees(model, cache, tokens, parents, counts, scratch, hidden=(layer,)).hidden[0].float()


def probe_of(model: LanguageModel) -> ModelProbe:
    """The model's final state after fixed tokens.

    Raises
    ------
    InvalidInputError
        If it gives no final states: a head, or a table of laws.
    """
    if model not in _PROBES:
        layer = _layer(model)
        tokens = (np.arange(TOKENS) * STRIDE + 3) % model.vocabulary
        state = run_prompt(model, model.new_cache(1, TOKENS + 1), tokens, 0, hidden=(layer,)).hidden[0][0, -1]
        rounded = np.round(state.double().numpy(force=True), DIGITS).tolist()
        _PROBES[model] = ModelProbe(vocabulary=model.vocabulary, state=tuple(rounded))
    return _PROBES[model]


def check_probe(model: LanguageModel, probe: ModelProbe, role: str) -> None:
    """Refuse a model that is not the one a judge was made for; its weights may be in another format.

    Raises
    ------
    InvalidInputError
    """
    gap, allowed = probe.gap(probe_of(model)), tolerance(model)
    require(
        gap <= allowed,
        f"a judge must be used with the {role} that it was fitted for",
        got=f"{model.name}, whose final state is {gap:.3g} off where {allowed:.2g} is rounding",
        fix="Pass the models that the judge's file names, or fit one for these with `reader judge mine` and `fit`.",
    )


def tolerance(model: LanguageModel) -> float:
    """Relative gap between two formats of one model's weights."""
    return max(1e-3, 16 * float(torch.finfo(model.dtype).eps))


def _layer(model: LanguageModel) -> int:
    found = model.final_layer
    require(
        found is not None and not model.features,
        "a judge must read models that give their final hidden states",
        got=f"{model.name}, a {type(model).__name__}",
        fix="Use a target and a draft that are models of their own, not a head.",
    )
    assert found is not None
    return found
