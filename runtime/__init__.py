"""What happens: models, drafters, verification, cache, kernels and the engine that runs a plan."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.engine.engine import Engine
    from runtime.engine.sampling import SamplingParams

__all__ = ["Engine", "SamplingParams"]

_HOMES = {"Engine": "runtime.engine.engine", "SamplingParams": "runtime.engine.sampling"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
