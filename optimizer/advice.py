"""What would change a plan from counted acceptance: how far acceptance, batch and context are from another choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optimizer.imported_plan import ImportedStudy
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.estimate import Estimate

__all__ = ["Flip", "acceptance_scaled", "flips"]

BATCHES = tuple(int(b) for b in np.unique(np.round(np.geomspace(1, 512, 40))))
CONTEXTS = tuple(int(c) for c in np.unique(np.round(np.geomspace(64, 32768, 28))))
FACTORS = tuple(float(f) for f in np.round(np.linspace(0.5, 1.5, 21), 3))
What = Literal["acceptance", "batch", "context"]


@dataclass(frozen=True)
class Flip:
    """The nearest value of one condition at which another length is better.

    Attributes
    ----------
    what : {"acceptance", "batch", "context"}
        Acceptance is a factor on every counted conditional; batch in rows; context in tokens a row.
    at : float
    becomes : str
        Name of the policy that is chosen there.
    """

    what: What
    at: float
    becomes: str


def flips(study: ImportedStudy, batch: int, context: float) -> list[Flip]:
    """The nearest flips below and above, of each condition alone, as far as it was looked for."""
    chosen = study.choice(batch, context)[0]
    scaled = {factor: acceptance_scaled(study, factor) for factor in FACTORS}
    tries: dict[What, tuple[Sequence[float], float, Callable[[float], int]]] = {
        "acceptance": (FACTORS, 1.0, lambda f: scaled[f].choice(batch, context)[0]),
        "batch": (BATCHES, float(batch), lambda b: study.choice(int(b), context)[0]),
        "context": (CONTEXTS, context, lambda c: study.choice(batch, c)[0]),
    }
    found: list[Flip] = []
    for what, (values, here, choose) in tries.items():
        below = [value for value in values if value < here][::-1]
        above = [value for value in values if value > here]
        for side in (below, above):
            other = next(((value, length) for value in side if (length := choose(value)) != chosen), None)
            if other is not None:
                found.append(Flip(what, float(other[0]), study.policy(other[1]).name))
    return found


def acceptance_scaled(study: ImportedStudy, factor: float) -> ImportedStudy:
    """The study with every counted conditional `factor` times as high, at most 1, and the same share of drafts kept."""
    told = study.told
    depths = tuple(
        each.model_copy(update={"accepted": min(each.accepted * factor, each.reached),
                                "conditional": _scaled(each.conditional, factor)})
        for each in told.depths
    )  # fmt: skip
    fake: ImportedAcceptance = told.model_copy(update={"depths": depths})
    if told.emitted is not None and told.row_steps:
        emitted = told.row_steps * (1.0 + told.kept * fake.accepted_per_row_step)
        fake = fake.model_copy(update={"emitted": emitted})
    return ImportedStudy(fake, study.cost, study.drafter, study.max_depth, study.resamples, study.seed)


def _scaled(each: Estimate, factor: float) -> Estimate:
    ends = (min(end * factor, 1.0) for end in (each.low, each.value, each.high))
    low, value, high = ends
    return each.model_copy(update={"low": low, "value": value, "high": high})
