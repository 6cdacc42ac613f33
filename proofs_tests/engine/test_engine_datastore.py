"""An engine takes a datastore of its own vocabulary, and no id beyond it reaches a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.models.load import load_model, load_tokenizer
from runtime.models.vocabulary import fingerprint_of
from runtime.retrieval.datastore import Datastore

TARGET = Path(__file__).parents[2] / "runtime" / "models" / "house" / "target"


def test_a_datastore_that_the_model_cannot_read_is_refused_at_the_door() -> None:
    model, tokenizer = load_model(TARGET), load_tokenizer(TARGET)
    beyond = np.r_[np.arange(10, 20), np.full(30, 60_000)]
    learned = Datastore.build([])
    learned.add(beyond)
    for store in (Datastore.build([beyond] * 3), learned):
        with pytest.raises(InvalidInputError, match="datastore"):
            Engine(model, datastore=store)
    with pytest.raises(InvalidInputError, match="one tokenizer"):
        Engine(model, datastore=Datastore.build([[1, 2]], tokenizer="1234567812345678"), tokenizer=tokenizer)
    own = Datastore.build([[1, 2]], tokenizer=fingerprint_of(tokenizer))
    Engine(model, datastore=own, tokenizer=tokenizer)
    with pytest.raises(InvalidInputError, match="below 4096"):
        own.add(beyond)
