"""Fitting: a step's time from a third of the points, predicted on the rest, and what a plan made from it loses."""

from __future__ import annotations

from typing import Any

import numpy as np

from proofs_tests.benchmarks.gpu.models import Pair
from reader_theory.cost.roofline import fit_log, p_norm

P = 2.0
"""Sharpness of the knee; few points leave none to fit it."""

Row = dict[str, Any]


def features(row: Row, pair: Pair) -> tuple[float, float, float, float]:
    """Bytes and operations of the target's forward, levels drafted, and rows."""
    tokens = row["batch"] * row["width"]
    moved = pair.weight_bytes + pair.kv_bytes(int(row["batch"] * row["slots"]))
    parameters = pair.weight_bytes / pair.target.embedding.weight.element_size()
    return moved, 2.0 * parameters * tokens, float(row["levels"]), float(row["batch"])


def fit(rows: list[Row], pair: Pair) -> Any:
    """Seconds of steps as a function of rows: p-norm of two walls, a constant, and a price a level and a row."""
    moved, flops, levels, batch = np.array([features(row, pair) for row in rows]).T
    seconds = np.array([row["step_s"] for row in rows])
    least = float(seconds.min())
    start = np.log([moved.max() / least, flops.max() / seconds.max(), 0.1 * least, 0.05 * least, 0.01 * least])

    def model(x: Any, m: Any = moved, f: Any = flops, lv: Any = levels, b: Any = batch) -> Any:
        bandwidth, rate, constant, level, each = np.exp(x)
        return p_norm(m / bandwidth, f / rate, P) + constant + level * lv + each * b

    found = fit_log(model, start, seconds, np.full(5, 6.0))
    return lambda some: model(found, *np.array([features(row, pair) for row in some]).T)


def evaluate(rows: list[Row], pair: Pair) -> dict[str, Any]:
    """Held-out error of the step's time; and, by batch and context, the plan's choice against the best measured.

    The plan sees the fitted times and the tokens a step of round 0; it is judged by the measured times and the tokens a
    step of the later rounds. Tokens a step are pooled over batches and contexts, whose few steps would be noise alone.
    """
    steps = [row for row in rows if row["policy"] != "forward alone"]
    order = np.random.default_rng(0).permutation(len(steps))
    third = max(len(steps) // 3, 6)
    known, unseen = [steps[i] for i in order[:third]], [steps[i] for i in order[third:]]
    if len(steps) < 9:
        return {"points": len(steps), "why": "too few points to hold some out", "plans": []}
    predict = fit(known, pair)
    errors = np.abs(predict(unseen) / np.array([row["step_s"] for row in unseen]) - 1)
    early, late = _accepted([r for r in steps if r["round"] == 0]), _accepted([r for r in steps if r["round"] > 0])
    cells = [[r for r in steps if (r["batch"], r["context"]) == cell] for cell in _cells(steps)]
    plans = [_plan(cell, predict, early, late) for cell in cells]
    return {
        "points": len(steps),
        "fitted": len(known),
        "median_error": float(np.median(errors)),
        "worst_error": float(errors.max()),
        "tokens_per_step": {"round 0": early, "later": late},
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


def _plan(rows: list[Row], predict: Any, early: dict[str, float], late: dict[str, float]) -> dict[str, Any]:
    first = [row for row in rows if row["round"] == 0]
    predicted = {
        row["policy"]: row["batch"] * early[row["policy"]] / float(s)
        for row, s in zip(first, predict(first), strict=True)
    }
    measured = {
        name: rows[0]["batch"] * late[name] / float(np.median([r["step_s"] for r in rows if r["policy"] == name]))
        for name in predicted
    }
    choice, best = max(predicted, key=predicted.__getitem__), max(measured, key=measured.__getitem__)
    return {
        "batch": rows[0]["batch"],
        "context": rows[0]["context"],
        "choice": choice,
        "best": best,
        "regret": 1 - measured[choice] / measured[best],
        "predicted_speed_up": predicted[choice] / predicted["off"],
        "measured_speed_up": measured[choice] / measured["off"],
        "predicted_tokens_per_s": predicted,
        "measured_tokens_per_s": measured,
    }
