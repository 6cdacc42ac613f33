"""A calibration on a virtual machine whose truth is known: the ratio of steps is right under any pace, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from proofs_tests import virtual
from proofs_tests.documents.documents_examples import STAMP
from proofs_tests.virtual import PLAIN, Clock, VirtualBench
from reader_theory.cost import pace as paces
from reader_theory.cost.pace import smoothed_pace
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Chain, Cost, CostTable, DraftForwards, Policy, Static
from reader_theory.errors import DisturbedMachineError
from reader_theory.trees import TokenTree
from runtime.measure import steady
from runtime.measure.calibrate import Grid, calibrate_bench
from runtime.measure.in_situ import corrected_target
from runtime.measure.steady import Meter

FACTS = {"stamp": STAMP, "device": "virtual", "target": "a/target", "dtype": "float32"}
GRID = Grid((1, 2, 4, 8), (1, 2, 3, 5, 9, 17, 33), (128, 512))
PLANNED: tuple[Policy, ...] = (
    Static.of(TokenTree.chain(3)),
    Static.of(TokenTree.chain(6)),
    Static.of(TokenTree([-1, 0, 0, 1, 1, 2, 3]).by_level()),
    Chain(min_match=1, offset=6.0, factor=0.0, max_tokens=6),
)
PACES = (virtual.steady, virtual.drifting, virtual.jumping)


def _calibrated(bench: VirtualBench, seconds: float = 8.0, grid: Grid = GRID) -> Cost:
    return calibrate_bench(bench, grid, ("draft",), facts=FACTS, seconds=seconds, seed=bench.seed)


def _ratios(bench: VirtualBench, cost: Cost, context: float = 250.0) -> np.ndarray:
    """(cells, 3): relative error of the predicted ratio of plain to drafting seconds, whether inside, and width."""
    rows: list[tuple[float, bool, float]] = []
    for policy in PLANNED:
        width = policy.most_nodes + 1
        asked = {policy.asks: Forwards(DraftForwards().sizes(policy.asked_widths, bench.emits))} if policy.asks else {}
        looked = {"retrieval": Forwards(1.0)} if policy.retrieved else {}
        for batch in (1, 3, 8):
            plain, drafting = (
                sum(bench.step_s(p, batch, w, context).values()) for p, w in ((PLAIN, 1), (policy, width))
            )
            step = StepConditions(
                batch=batch, context=context, tokens=width, forwards={**asked, **looked}, drafting=True
            )  # fmt: skip
            off = cost.model().seconds(StepConditions(batch=batch, context=context))
            told = float(off / cost.model(policy.drafters).seconds(step))
            ratio = cost.ratio_of(policy.drafters)
            assert ratio is not None
            low, high = told * ratio.value / ratio.high, told * ratio.value / ratio.low
            rows.append((told * drafting / plain - 1, low <= plain / drafting <= high, (high - low) / told))
    return np.array(rows)


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: pace.__name__)
def test_ratio_to_plain_decoding_is_predicted_whatever_the_pace(pace: Clock) -> None:
    bench = VirtualBench(pace=pace, seed=1)
    found = _ratios(bench, _calibrated(bench))
    assert abs(found[:, 0].mean()) < 0.03 and np.median(np.abs(found[:, 0])) < 0.06
    assert found[:, 2].max() < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("pace", PACES, ids=lambda pace: pace.__name__)
def test_intervals_of_the_ratio_cover_what_they_claim(pace: Clock) -> None:
    benches = [VirtualBench(pace=pace, seed=seed) for seed in range(20)]
    found = np.concatenate([_ratios(bench, _calibrated(bench)) for bench in benches])
    assert abs(found[:, 0].mean()) < 0.02 and np.median(np.abs(found[:, 0])) < 0.04
    assert found[:, 1].mean() >= 0.9 and found[:, 2].mean() < 0.25


def test_steps_right_after_a_change_of_policy_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain_s() -> float:
        bench = VirtualBench(warm=0.6, seed=2)
        cost = _calibrated(bench, grid=Grid((1, 4), (1, 3, 9), (128, 512)))
        told = float(cost.model().seconds(StepConditions(batch=4, context=250)))
        return told / sum(bench.step_s(PLAIN, 4, 1, 250).values())

    assert plain_s() == pytest.approx(1, abs=0.02)
    monkeypatch.setattr(steady, "STEPS", 4)
    monkeypatch.setattr(steady, "SETTLE", 0)
    assert plain_s() > 1.05


def test_seconds_are_those_of_the_reference_pace() -> None:
    slow, usual = (VirtualBench(pace=pace, seed=3) for pace in (lambda now_s: 1.7, virtual.steady))
    small = Grid((1, 4), (1, 3, 9), (128, 512))
    costs = [_calibrated(bench, grid=small) for bench in (slow, usual)]
    reference = [cost.reference.seconds.value for cost in costs if cost.reference]
    step = [float(cost.model().seconds(StepConditions(batch=4, context=250))) for cost in costs]
    assert reference[0] / reference[1] == pytest.approx(1.7, rel=0.02)
    assert step[0] / step[1] == pytest.approx(1.7, rel=0.02)
    assert costs[0].ratios["draft"].value == pytest.approx(costs[1].ratios["draft"].value, rel=0.05)


def test_a_machine_that_is_elsewhere_half_the_time_is_refused_with_evidence() -> None:
    with pytest.raises(DisturbedMachineError, match=r"must do nothing else.*differ by.*--accept-disturbed"):
        _calibrated(VirtualBench(halts=0.5, seed=4), grid=Grid((1, 4), (1, 2, 3, 5, 9), (128,)))


def test_a_short_trial_is_noted_and_never_refused() -> None:
    bench = VirtualBench(halts=0.5, seed=4)
    cost = _calibrated(bench, seconds=0.5, grid=Grid((1, 4), (1, 2, 3, 5, 9), (128,)))
    assert cost.notes


def _jagged(batch: int, tokens: int, context: float) -> float:
    return {1: 0.0201, 2: 0.044, 3: 0.034, 5: 0.047, 9: 0.038}.get(tokens, 0.05)


def _kernels(batch: int, tokens: int, context: float) -> float:
    return virtual.target_forward(batch, tokens, context) * (1.4 if 2 <= tokens <= 3 else 1.0)


class _OnceDisturbed(VirtualBench):
    """Its forwards are jagged until so many of them have been measured."""

    def forward(self, who: str, point: tuple[int, int, int]) -> float:
        self.asked = getattr(self, "asked", 0) + 1
        self.target = _jagged if self.asked <= 200 else virtual.target_forward
        return super().forward(who, point)


def test_seconds_that_fall_with_tokens_are_measured_again() -> None:
    bench = _OnceDisturbed(seed=5, alone=1.0)
    cost = _calibrated(bench, seconds=4.0, grid=Grid((1,), (1, 2, 3, 5, 9), (128,)))
    assert cost.notes == ()
    assert cost.target_forward.at(1, 2, 128) == pytest.approx(virtual.target_forward(1, 2, 128), rel=0.1)


def test_seconds_that_fall_with_tokens_again_and_again_are_the_kernels() -> None:
    cost = _calibrated(VirtualBench(target=_kernels, seed=6), seconds=4.0, grid=Grid((1,), (1, 2, 3, 5, 9), (128,)))
    assert cost.target_forward.at(1, 3, 128) > 1.2 * cost.target_forward.at(1, 5, 128)


def test_a_still_machine_is_not_divided_by_the_noise_of_its_readings() -> None:
    rng = np.random.default_rng(0)
    found = smoothed_pace(0.02 * np.exp(rng.normal(0, 0.05, 200)))
    assert found.spread < 0.012 and found.noise == pytest.approx(0.05, rel=0.2)


def test_a_jump_is_followed_and_a_stray_reading_is_not() -> None:
    rng = np.random.default_rng(1)
    readings = np.where(np.arange(80) < 40, 1.0, 1.6) * np.exp(rng.normal(0, 0.02, 80))
    readings[20] *= 4
    found = smoothed_pace(readings)
    assert found.at(60) / found.at(10) == pytest.approx(1.6, rel=0.03)
    assert found.at(20) / found.at(10) == pytest.approx(1, abs=0.05)
    assert paces.smoothed_pace([2.0]).reference_s == pytest.approx(2.0)


def test_stretches_go_there_and_back_with_a_reading_on_either_side() -> None:
    meter = Meter(VirtualBench(seed=7))
    policies = PLANNED[:3]
    found = steady.watch(
        meter, ("draft",), policies, batches=(2,), seconds=0.1, rng=np.random.default_rng(0), label="", progress=None
    )
    order = [stretch.policy for stretch in found]
    assert order == order[::-1] and len(order) == 4 * len(policies) + 1
    assert set(order[::2]) == {PLAIN} and set(order[1::2]) == set(policies)
    assert [stretch.reading for stretch in found] == list(range(13)) and len(meter.readings) == 14
    halved = replace(found[0], reading=0).at_pace(smoothed_pace([1.0, 1.0]))
    assert halved.steps[0].timing.step_s == pytest.approx(found[0].steps[0].timing.step_s)


def test_forwards_are_those_of_the_engine_at_every_number_of_tokens() -> None:
    """Each number of tokens has a factor of its own, though plain decoding is seen between all others."""
    bench = VirtualBench(seed=8, kind=0.0, wide=0.06)
    cost = _calibrated(bench, grid=Grid((1, 8), (1, 2, 3, 5, 9, 17, 33), (128, 512)))
    for tokens in (1, 3, 5, 9, 17, 33):
        told = cost.target_forward.at(8, tokens, 250)
        assert told == pytest.approx(virtual.target_forward(8, tokens, 250), rel=0.03), tokens


@pytest.mark.parametrize("apart", [0.0, 0.4], ids=["rows alike", "rows have some in the mean"])
def test_one_step_of_a_number_of_tokens_does_not_move_the_table(apart: float) -> None:
    bench, policy, draws = VirtualBench(seed=3), PLANNED[0], np.random.default_rng(0)
    seen = [
        replace(s, timing=replace(s.timing, width=s.timing.width + apart * draws.uniform(-1, 1)))
        for s in bench.stretch(("draft",), policy, 2, 20)
        if s is not None
    ]
    table = CostTable(
        batch=(2,), tokens=(1, 4, 9), context=(128,), seconds=(((0.01,), (0.02,), (0.04,)),), relative_spread=0.0
    )
    halted = replace(seen[0], timing=replace(seen[0].timing, width=8, target_s=1.0))
    alone = corrected_target(table, seen)
    assert corrected_target(table, [*seen, halted]) == alone
    assert corrected_target(table, [*seen, *[halted] * len(seen)]) != alone


def test_a_number_of_tokens_that_its_stretches_flatter_stays_on_the_line_of_the_others() -> None:
    """A plan takes the number of tokens that looks cheapest; of luck, no more than a third reaches the table."""
    bench = VirtualBench(seed=3, kind=0.0, noise=0.0, warm=0.0)
    chains = [Chain(min_match=1, offset=float(n), factor=0.0, max_tokens=n) for n in (1, 2, 4, 8, 16)]
    seen = [s for chain in chains for s in bench.stretch((), chain, 2, 20) if s is not None]
    lucky = [
        replace(s, timing=replace(s.timing, target_s=0.85 * s.timing.target_s)) if s.timing.width == 9 else s
        for s in seen
    ]
    table = CostTable(
        batch=(2,), tokens=(1, 2, 3, 5, 9, 17), context=(128,), seconds=((((0.02,),) * 6),), relative_spread=0.0
    )
    told, right = (corrected_target(table, steps).at(2, 9, 128) for steps in (lucky, seen))
    assert told == pytest.approx(right, rel=0.15 / 3)
