"""Calibration where the sheet is wrong: bandwidth, peak, launches and efficiency are not what the file says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reader_theory.cost.corrections import calibrate
from reader_theory.cost.device import Figure, find_device
from reader_theory.cost.known import known_shape
from reader_theory.cost.roofline import Roofline
from reader_theory.cost.step import StepCost
from reader_theory.cost.terms import StepConditions

SHEET = StepCost(
    known_shape("Llama-3.1-70B"), find_device("H100-SXM"), drafter=known_shape("Llama-3.2-1B"), tensor_parallel=2
)
POINTS = [
    StepConditions.of_levels(batch=batch, context=245.0, level_widths=(1,) * depth)
    for batch in (1.0, 4.0, 16.0, 64.0)
    for depth in (0, 1, 3, 5)
]
SIX = (0, 3, 5, 8, 12, 15)
NOISE = 0.02


def _scaled(figure: Figure, factor: float) -> Figure:
    return figure.model_copy(update={"value": figure.value * factor})


def machine(seed: int) -> StepCost:
    """The truth behind a wrong sheet."""
    rng = np.random.default_rng(seed)
    device = SHEET.device
    wrong = device.model_copy(
        update={
            "bandwidth_bytes_per_s": _scaled(device.bandwidth_bytes_per_s, float(np.exp(rng.normal(-0.1, 0.3)))),
            "bf16_flops_per_s": _scaled(device.bf16_flops_per_s, float(np.exp(rng.normal(-0.1, 0.3)))),
        }
    )
    linear, peak, power = rng.uniform((0.55, 0.4, 2.0), (0.95, 0.8, 5.0)).tolist()
    launch, host, captured = np.exp(rng.normal((0.0, 0.3, 0.3), (0.7, 0.8, 0.7))).tolist()
    scales = np.exp(rng.normal((0.1, 0.0, 0.0), (0.3, 0.5, 0.3))).tolist()
    return replace(
        SHEET, device=wrong, fits=None, linear=Roofline(linear, peak, power, 0.0), launch_s=5e-6 * launch,
        host_s=3e-4 * host, graph_launch_s=1e-6 * captured, split_kv=bool(rng.random() < 0.7),
        scale=dict(zip(("drafter", "all-reduce", "drafter head"), scales, strict=True)),
    )  # fmt: skip


@pytest.mark.slow
def test_intervals_cover_when_the_sheet_is_wrong() -> None:
    """Steps that nobody measured, from one measured step and from six, on 40 machines."""
    for chosen, worst in (((0,), 0.12), ((3,), 0.12), (SIX, 0.06)):
        errors: list[float] = []
        inside: list[bool] = []
        for seed in range(40):
            rng, truth = np.random.default_rng([seed, 1]), machine(seed).model
            seen = [float(truth.seconds(point)) * float(np.exp(rng.normal(0, NOISE))) for point in POINTS]
            found = calibrate(SHEET, [POINTS[i] for i in chosen], [seen[i] for i in chosen]).step.model
            for i in (i for i in range(len(POINTS)) if i not in chosen):
                told = found.estimate(POINTS[i])
                errors.append(abs(told.value / seen[i] - 1))
                inside.append(told.covers(seen[i]))
        assert np.mean(errors) < worst and 0.9 <= np.mean(inside) <= 0.98, (chosen, np.mean(errors), np.mean(inside))
