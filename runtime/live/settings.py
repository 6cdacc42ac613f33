"""What an engine that loads this package is told of its watch: a table ``reader`` in its additional configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reader_theory.errors import InvalidInputError

__all__ = ["LiveSettings", "live_settings"]


class LiveSettings(BaseModel):
    """Of one server.

    Parameters
    ----------
    schedule : path
        File of the schedule: written by who counts, read by who schedules.
    plan : path, optional
        Plan or serving schedule that is followed; without one nothing is counted.
    workload : str, optional
        Of the plan; its only one when left out.
    context : float, optional
        Mean cached tokens of a row, where `kv_tokens` is not given.
    kv_tokens : float, optional
        Capacity of the cache in tokens, as the engine logs it.
    look_s : float
        Seconds between two looks, at the counts and at the file.
    refit_drafts, half_life, margin, rest_s, switch_s, off_loss : float
        As in `Switching`, `Pace` and `AcceptanceEstimator`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: Path
    plan: Path | None = None
    workload: str | None = None
    context: float | None = Field(default=None, gt=0)
    kv_tokens: float | None = Field(default=None, gt=0)
    look_s: float = Field(default=5.0, gt=0)
    refit_drafts: float = Field(default=1e4, ge=1)
    half_life: float = Field(default=3e4, ge=1)
    margin: float = Field(default=0.01, ge=0)
    rest_s: float = Field(default=600.0, ge=0)
    switch_s: float = Field(default=5.0, ge=0)
    off_loss: float = Field(default=0.066, ge=0, lt=1)


def live_settings(additional: object) -> LiveSettings | None:
    """Of an engine's additional configuration; None where it says nothing, so that being installed does nothing.

    Raises
    ------
    InvalidInputError
        If there is a table ``reader`` that is not `LiveSettings`.
    """
    told: Any = additional.get("reader") if isinstance(additional, Mapping) else None
    if told is None:
        return None
    try:
        return LiveSettings.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            "`reader` in the engine's additional configuration must be settings of a watch",
            got=f"{'.'.join(map(str, first['loc'])) or 'the table'}: {first['msg']}",
            fix='For example --additional-config \'{"reader": {"plan": "plan.json", "schedule": "schedule.json"}}\'.',
        ) from None
