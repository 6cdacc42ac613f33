"""Fitting: a step's time from a third of the points, predicted on the rest, and what a plan made from it loses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks.gpu.models import Pair
from reader_theory.cost.roofline import fit_log, p_norm

P = 2.0
"""Sharpness of the knee; few points leave none to fit it."""
TILE = 64
"""Queries that one block of an attention kernel takes at once."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What a step's time depends on, of a target and a device."""

    weight_bytes: int
    parameters: float
    kv_heads: int
    heads_per_kv: int
    units: int

    @classmethod
    def of(cls, pair: Pair) -> Shape:
        """Of a pair, on the device where it lies."""
        target = pair.target
        on_card = target.device.type == "cuda"
        units = torch.cuda.get_device_properties(target.device).multi_processor_count if on_card else 1
        parameters = pair.weight_bytes / target.embedding.weight.element_size()
        return cls(pair.weight_bytes, parameters, target.kv_heads, target.heads // target.kv_heads, units)


def features(row: Row, shape: Shape) -> tuple[float, float, float, float, float]:
    """Bytes and operations of the products, slots that the busiest unit attends to, levels drafted, and rows.

    The attention kernel walks all slots of a row and head in one block: blocks that are no more than the device's units
    take as long as one, whatever the bandwidth.
    """
    blocks = row["batch"] * shape.kv_heads * np.ceil(shape.heads_per_kv * row["width"] / TILE)
    flops = 2.0 * shape.parameters * row["batch"] * row["width"]
    attended = row["slots"] * float(np.ceil(blocks / shape.units))
    return float(shape.weight_bytes), flops, attended, float(row["levels"]), float(row["batch"])


def fit(rows: list[Row], shape: Shape) -> Any:
    """Seconds of steps as a function of rows: p-norm of two walls, attention, a constant, a price a level and a row."""
    known = np.array([features(row, shape) for row in rows]).T
    seconds = np.array([row["step_s"] for row in rows])
    moved, flops, attended = (float(x.max()) for x in known[:3])
    least, most = float(seconds.min()), float(seconds.max())
    start = np.log([moved / least, flops / most, 0.1 * most / attended, 0.1 * least, 0.05 * least, 0.01 * least])

    def model(x: Any, given: Any = known) -> Any:
        m, f, a, lv, b = given
        bandwidth, rate, slot, constant, level, each = np.exp(x)
        return p_norm(m / bandwidth, f / rate, P) + slot * a + constant + level * lv + each * b

    found = fit_log(model, start, seconds, np.full(6, 6.0))
    return lambda some: model(found, np.array([features(row, shape) for row in some]).T)


def evaluate(rows: list[Row], shape: Shape) -> dict[str, Any]:
    """Held-out error of the step's time; and, by batch and context, the plan's choice against the best measured.

    The plan sees the fitted times and the tokens a step of the even rounds; it is judged by the measured times and the
    tokens a step of the odd ones. Tokens a step are pooled over batches, whose few steps would be noise alone.
    `time_regret` is what a plan loses that knows the tokens a step, by the fitted times alone.
    """
    steps = [row for row in rows if row["policy"] != "forward alone"]
    order = np.random.default_rng(0).permutation(len(steps))
    third = max(len(steps) // 3, 6)
    known, unseen = [steps[i] for i in order[:third]], [steps[i] for i in order[third:]]
    if len(steps) < 9:
        return {"points": len(steps), "why": "too few points to hold some out", "plans": []}
    predict = fit(known, shape)
    errors = np.abs(predict(unseen) / np.array([row["step_s"] for row in unseen]) - 1)
    contexts = sorted({row["context"] for row in steps})
    seen = {c: _accepted([r for r in steps if r["round"] % 2 == 0 and r["context"] == c]) for c in contexts}
    judged = {c: _accepted([r for r in steps if r["round"] % 2 == 1 and r["context"] == c]) for c in contexts}
    cells = [[r for r in steps if (r["batch"], r["context"]) == cell] for cell in _cells(steps)]
    plans = [_plan(cell, predict, seen[cell[0]["context"]], judged[cell[0]["context"]]) for cell in cells]
    return {
        "shape": asdict(shape),
        "points": len(steps),
        "fitted": len(known),
        "median_error": float(np.median(errors)),
        "worst_error": float(errors.max()),
        "tokens_per_step": {"even rounds": seen, "odd rounds": judged},
        "plans": plans,
    }


def _accepted(rows: list[Row]) -> dict[str, float]:
    """Tokens a step of each policy, rows of a batch counted alike."""
    names = dict.fromkeys(row["policy"] for row in rows)
    chosen = {name: [row for row in rows if row["policy"] == name] for name in names}
    return {
        name: float(np.average([r["tokens_per_step"] for r in some], weights=[r["batch"] for r in some]))
        for name, some in chosen.items()
    }


def _cells(rows: list[Row]) -> list[tuple[int, int]]:
    return sorted({(row["batch"], row["context"]) for row in rows})


def _plan(rows: list[Row], predict: Any, seen: dict[str, float], judged: dict[str, float]) -> dict[str, Any]:
    first = [row for row in rows if row["round"] == 0 and row["policy"] in judged]
    batch, times = rows[0]["batch"], dict(zip([row["policy"] for row in first], predict(first), strict=True))
    taken = {name: float(np.median([r["step_s"] for r in rows if r["policy"] == name])) for name in times}
    predicted = {name: batch * seen[name] / float(s) for name, s in times.items()}
    measured = {name: batch * judged[name] / s for name, s in taken.items()}
    informed = {name: batch * judged[name] / float(s) for name, s in times.items()}
    choice, best, by_time = (max(found, key=found.__getitem__) for found in (predicted, measured, informed))
    return {
        "batch": batch,
        "context": rows[0]["context"],
        "choice": choice,
        "best": best,
        "regret": 1 - measured[choice] / measured[best],
        "time_regret": 1 - measured[by_time] / measured[best],
        "predicted_speed_up": predicted[choice] / predicted["off"],
        "measured_speed_up": measured[choice] / measured["off"],
        "predicted_tokens_per_s": predicted,
        "measured_tokens_per_s": measured,
    }
