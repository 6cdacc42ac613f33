"""Forwards whose every operation is compiled, however fast this machine's own are."""

from __future__ import annotations

import pytest
import torch

from runtime.kernels.attention import CompiledAttention, attention
from runtime.kernels.product import Streamed, streamed
from runtime.models import linear
from runtime.models.products import ROW_BUCKETS, STREAMED, Choice


def only_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the streamed product for every weight, and for codes of any number of rows, as where there are no tiles.

    Skips where torch's threads are none that compiled code runs on.
    """
    made = attention(None, 1, 1, 1.0, dtype=torch.float32, device=torch.device("cpu"))
    if streamed() is None or not isinstance(made, CompiledAttention):
        pytest.skip("torch's threads are not GNU's here")
    monkeypatch.setattr(linear, "choose", lambda *a, **k: Choice((STREAMED,) * len(ROW_BUCKETS)))
    monkeypatch.setattr(Streamed, "has_tiles", False)
