"""Steps of a staircase are found: what is chosen by the table is nearly what is best on the machine."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import pytest

from proofs_tests.documents.documents_examples import STAMP
from proofs_tests.virtual import VirtualBench
from reader_theory.documents import CostTable
from runtime.measure import calibrate
from runtime.measure.calibrate import Grid, calibrate_bench
from runtime.measure.staircase import filled, stairs

DEFAULT = (1, 2, 3, 5, 9, 17, 33)
NODES = np.arange(33)


def padded(tile: int, fixed: float, slope: float) -> Callable[[int, int, float], float]:
    """Seconds by the tile: rows times tokens, padded to a multiple."""

    def seconds(batch: int, tokens: int, context: float) -> float:
        return fixed + slope * tile * ceil(batch * tokens / tile)

    return seconds


def regret(machine: Callable[[int, int, float], float], told: dict[int, float], batch: int) -> list[float]:
    """Share of the best rate that is lost by choosing the number of nodes on the table, for three growths."""
    true = np.array([machine(batch, int(n) + 1, 128) for n in NODES])
    table = np.interp(NODES + 1, sorted(told), [told[t] for t in sorted(told)])
    lost: list[float] = []
    for growth in (0.3, 0.6, 1.0):
        tokens = 1 + growth * np.log1p(NODES)
        lost.append(1 - (tokens / true)[np.argmax(tokens / table)] / (tokens / true).max())
    return lost


def test_choice_on_a_staircase_is_nearly_the_best_where_the_default_grid_is_not() -> None:
    default: list[float] = []
    found: list[float] = []
    counts: list[int] = []
    for tile in (8, 12, 16, 24, 32, 64):
        for batch in (1, 2, 3, 4, 8):
            for fixed, slope in ((0.01, 1e-4), (0.01, 4e-4), (0.004, 4e-4)):
                machine = padded(tile, fixed, slope)
                known = {tokens: machine(batch, tokens, 128) for tokens in DEFAULT}
                told = stairs(known, batch, lambda tokens, m=machine, b=batch: m(b, tokens, 128), most=14)
                default += regret(machine, known, batch)
                found += regret(machine, told, batch)
                counts.append(len(told) - len(known))
    assert np.mean(default) > 0.02 and max(default) > 0.1
    assert np.mean(found) < 0.005 and max(found) < 0.05
    assert np.mean(counts) < 10


def test_a_straight_line_takes_few_points() -> None:
    asked: list[int] = []

    def line(tokens: int) -> float:
        asked.append(tokens)
        return 0.01 + 1e-3 * tokens

    found = stairs({t: 0.01 + 1e-3 * t for t in DEFAULT}, 1, line, most=20)
    assert len(asked) <= 2 * (len(DEFAULT) - 1) and len(found) == len(DEFAULT) + len(set(asked))


@pytest.mark.parametrize("tile", [16, 24])
def test_a_single_step_is_found_exactly(tile: int) -> None:
    machine = padded(tile, 0.01, 4e-4)
    found = stairs({t: machine(1, t, 0) for t in DEFAULT}, 1, lambda t: machine(1, t, 0), most=14)
    assert {tile, tile + 1} <= found.keys()


def test_points_of_one_batch_leave_the_others_on_their_line() -> None:
    seconds = np.array([[[1.0, 2.0], [3.0, 6.0]], [[2.0, 4.0], [4.0, 8.0]]])
    axis, grown = filled(seconds, [1, 9], {(0, 8): 1.0})
    assert axis == [1, 8, 9]
    assert grown[0, :, 0].tolist() == [1, 1, 3] and grown[0, :, 1].tolist() == [2, 2, 6]
    assert grown[1, 1, 0] == pytest.approx(2 + 2 * 7 / 8)


def test_calibration_finds_the_steps_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def table() -> CostTable:
        bench = VirtualBench(target=padded(16, 0.01, 4e-4), kind=0.0, noise=0.01, seed=8, alone=1.0)
        facts = {"stamp": STAMP, "device": "v", "target": "t", "dtype": "float32"}
        grid = Grid((1, 4), DEFAULT, (128, 512))
        return calibrate_bench(bench, grid, ("draft",), facts=facts, seconds=6.0).target_forward

    def worst(found: CostTable) -> float:
        true = np.array([padded(16, 0.01, 4e-4)(1, int(t), 128) for t in range(1, 34)])
        return float(np.max(np.abs(found.at(1, np.arange(1, 34), 128) / true - 1)))

    assert worst(table()) < 0.08
    monkeypatch.setattr(calibrate, "STAIRS", 0.0)
    assert worst(table()) > 0.2
