"""What each engine accepts, held as data: one JSON file an engine beside this one, with the version it is of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError, require

__all__ = ["ENGINES", "EngineFormat", "engine_format"]

ENGINES = ("vllm", "sglang", "tensorrt-llm", "transformers", "medusa", "growmap")


@dataclass(frozen=True)
class EngineFormat:
    """Field list and constraints of one engine.

    Attributes
    ----------
    engine, version : str
        Which engine, and the version that the fields and constraints are those of.
    runs : str
        What it can run, in words, for error messages.
    limits : dict
        Named limits and choices that the exporter applies.
    schema : dict
        JSON schema of what the exporter writes.
    """

    engine: str
    version: str
    runs: str
    limits: dict[str, Any]
    schema: dict[str, Any]

    @property
    def title(self) -> str:
        """Engine and version, such as ``"vllm 0.33"``."""
        return f"{self.engine} {self.version}"

    def choice(self, name: str, value: str, allowed: str) -> str:
        """`value`, if it is among ``limits[allowed]``.

        Raises
        ------
        InvalidInputError
            Naming what the engine knows, otherwise.
        """
        known: list[str] = self.limits[allowed]
        require(
            value in known,
            f"`{name}` must be one that {self.title} knows",
            got=repr(value),
            fix=f"Choose one of {', '.join(known)}.",
            error=InvalidInputError,
        )
        return value


@lru_cache
def engine_format(engine: str) -> EngineFormat:
    """The format of `engine`, one of `ENGINES`."""
    require(
        engine in ENGINES,
        "`engine` must be one that plans are exported to",
        got=repr(engine),
        fix=f"Choose one of {', '.join(ENGINES)}.",
    )
    path = Path(__file__).with_name(f"{engine.replace('-', '_')}.json")
    return EngineFormat(**json.loads(path.read_text(encoding="utf-8")))
