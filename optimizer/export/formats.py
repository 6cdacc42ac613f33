"""What each engine accepts, held as data: one JSON file an engine beside this one, with the version it is of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError, require

__all__ = ["EngineFormat", "engine_format"]


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
        gone: dict[str, str] = self.limits.get("gone", {})
        require(
            value in known,
            f"`{name}` must be one that {self.title} knows",
            got=repr(value),
            fix=f"{gone.get(value, '')} Choose one of {', '.join(known)}.".strip(),
            error=InvalidInputError,
        )
        return value


@lru_cache
def engine_format(engine: str) -> EngineFormat:
    """The format of an engine that this package exports to."""
    path = Path(__file__).with_name(f"{engine.replace('-', '_')}.json")
    require(
        path.is_file(),
        "`engine` must be one whose format is held here",
        got=repr(engine),
        fix="Give an exporter from outside a `format` of its own.",
    )
    return EngineFormat(**json.loads(path.read_text(encoding="utf-8")))
