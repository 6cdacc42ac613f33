"""A number that says where it comes from and how far to trust it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Estimate", "Origin"]

Origin = Literal["measured", "fitted", "assumed", "predicted", "bound"]


class Estimate(BaseModel):
    """A value with its interval, level and origin.

    Parameters
    ----------
    value : float
        Point estimate, in the unit that the field's name carries.
    low, high : float
        Ends of the interval; equal to `value` when nothing is known about its spread.
    origin : {"measured", "fitted", "assumed", "predicted", "bound"}
        How the number was come by.
    level : float
        Coverage that the interval claims.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    origin: Origin
    level: float = 0.95

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if not (math.isfinite(self.value) and self.low <= self.high and 0 < self.level < 1):
            raise ValueError(
                f"an estimate needs a finite value, low <= high and a level between 0 and 1, "
                f"got {self.low}, {self.value}, {self.high} at {self.level}"
            )
        return self

    @classmethod
    def exact(cls, value: float, origin: Origin) -> Estimate:
        """An estimate whose interval is the point itself."""
        return cls(value=value, low=value, high=value, origin=origin)

    def covers(self, measured: float) -> bool:
        """Whether `measured` lies inside the interval, ends included."""
        return self.low <= measured <= self.high

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit; a negative `factor` swaps the ends."""
        low, high = sorted((self.low * factor, self.high * factor))
        return self.model_copy(update={"value": self.value * factor, "low": low, "high": high})

    def widened(self, factor: float) -> Estimate:
        """The same value, its interval `factor` times as wide either way."""
        return self.model_copy(update={"low": self.low / factor, "high": self.high * factor})

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
