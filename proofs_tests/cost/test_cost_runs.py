"""An engine's step is recovered from runs that it made itself, and its closed loop is replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reader_theory.cost.device import find_device
from reader_theory.cost.known import known_shape
from reader_theory.cost.logged_steps import fit_steps, median_batch, predict_steps, read_load
from reader_theory.cost.speculative import Coefficients, EngineStep
from reader_theory.errors import InvalidInputError
from reader_theory.serving.logged_runs import RunSetting, choose_depth, emitted_law, replay_run

TRUTH = Coefficients(0.95, 0.8, 5.0, 2e-3, 2.0, 3e-5, 0.7, 1.4e-3, 2e-10, 2.0, 5e-3, 1e-4, 2e-3, {"Qwen3-1.7B": 1.1})
ENGINE = EngineStep(known_shape("Qwen3-32B"), find_device("H100-PCIe"), TRUTH)
TOKENS = {0: 1.0, 1: 1.7, 2: 2.2, 3: 2.6, 5: 3.1, 7: 3.3}


def runs(depths: tuple[int, ...]) -> dict[str, Any]:
    """Runs that an engine with known coefficients would log."""
    rows = [(c, k) for k in depths for c in (1, 4, 16, 64, 100)]
    table: dict[str, Any] = {
        "conc": [c for c, _ in rows],
        "k": [k for _, k in rows],
        "eff_batch": [0.95 * c for c, _ in rows],
    }
    table["draft_model"] = ["Qwen3-1.7B" if k else "None" for _, k in rows]
    table |= {"n_req": [10] * len(rows), "in_tok": [1500] * len(rows), "gen_tok": [2000] * len(rows)}
    table["acc_len"] = [TOKENS[k] for _, k in rows]
    load = read_load(table)
    table["median_itl"], table["mean_itl"] = ENGINE.step_s(load) * 1e3, ENGINE.mean_gap_s(load) * 1e3
    return table


@pytest.fixture(scope="module")
def fit() -> Any:
    return fit_steps(runs((0, 1, 3, 5)))


def test_runs_of_other_depths_are_predicted_from_those_of_a_few(fit: Any) -> None:
    unseen = runs((2, 7))
    got = predict_steps(fit, unseen)
    assert np.abs(got.median_s * 1e3 / unseen["median_itl"] - 1).mean() < 0.02
    assert np.abs(got.mean_s * 1e3 / unseen["mean_itl"] - 1).mean() < 0.05
    inside = (got.low_s * 1e3 <= unseen["median_itl"]) & (unseen["median_itl"] <= got.high_s * 1e3)
    assert inside.mean() > 0.8


@pytest.mark.parametrize("cards", [2, 4])
def test_cards_share_the_target_and_wait_for_each_other(cards: int) -> None:
    """A step's reads are divided, two all-reduces a layer are added, the host and the drafter stay as they are."""
    load = read_load(runs((0, 3)))
    one, many = ENGINE.model, replace(ENGINE, tensor_parallel=cards).model
    before, after = ({term.name: term.seconds(load.conditions()) for term in model.terms} for model in (one, many))
    for name in ("target linear", "target attention", "verification"):
        np.testing.assert_allclose(after[name] * cards, before[name], rtol=1e-12)
    for name in ("host", "speculation", "Qwen3-1.7B"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    assert "all-reduce" not in before and (after["all-reduce"] > 0).all()
    assert (after["all-reduce"] < before["target linear"]).all()


def test_runs_on_several_cards_are_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = replace(ENGINE, tensor_parallel=2)
    monkeypatch.setitem(globals(), "ENGINE", truth)
    seen, unseen = runs((0, 1, 3, 5)), runs((2, 7))
    got = predict_steps(fit_steps(seen, tensor_parallel=2), unseen)
    assert np.abs(got.median_s * 1e3 / unseen["median_itl"] - 1).mean() < 0.02


def test_no_card_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="tensor_parallel"):
        replace(ENGINE, tensor_parallel=0)


def test_a_run_that_fills_the_cache_waits_between_its_tokens(fit: Any) -> None:
    reach, tight = (0.77, 0.59, 0.46), 18560
    setting = RunSetting(128, 3, "Qwen3-4B", reach, 146.0, 200.0)
    result = replay_run(fit, setting, requests=512)
    assert result.preemptions > 0
    assert result.effective_batch() > result.mean_running() * 0.95
    assert 0.9 < result.mean_running() / (tight / (146 + 100 + 7 + 8)) < 1.1


def test_off_is_among_the_choices_and_wins_when_nothing_is_accepted(fit: Any) -> None:
    options = {
        0: RunSetting(8, 0, "None", (), 100.0, 50.0),
        3: RunSetting(8, 3, "Qwen3-1.7B", (0.01, 0.0, 0.0), 100.0, 50.0),
    }
    assert choose_depth(fit, options, requests=40)[0] == 0
    options[3] = RunSetting(8, 3, "Qwen3-1.7B", (0.9, 0.8, 0.7), 100.0, 50.0)
    assert choose_depth(fit, options, requests=40)[0] == 3


def test_the_law_of_emitted_tokens_has_the_mean_of_its_reaches() -> None:
    law = emitted_law((0.7, 0.5, 0.3))
    assert law.sum() == pytest.approx(1) and law @ np.arange(1, 5) == pytest.approx(2.5)
    with pytest.raises(InvalidInputError, match="do not grow"):
        emitted_law((0.3, 0.5))


def test_too_few_runs_are_sent_to_calibration() -> None:
    with pytest.raises(InvalidInputError, match="calibrate"):
        fit_steps(runs((0,)))


def test_median_gap_of_a_closed_loop_is_at_more_rows_than_the_mean() -> None:
    """Against counting the gaps: 64 rows for a while, then emptying evenly."""
    for full, tail in ((900, 100), (300, 700), (10, 990)):
        rows = np.concatenate([np.full(full, 64.0), np.linspace(64, 0, tail, endpoint=False)])
        order = np.argsort(rows)
        counted = rows[order][np.searchsorted(np.cumsum(rows[order]), rows.sum() / 2)]
        found = float(median_batch(np.array([64.0]), np.array([rows.mean()]))[0])
        assert found == pytest.approx(counted, rel=0.02) and found >= rows.mean()


def test_a_log_that_tells_latencies_has_the_batch_of_its_median_gap() -> None:
    told = runs((0, 3))
    told |= {"mean_tpot": [20.0] * 10, "mean_ttft": [20.0] * 10}
    assert (read_load(told).running >= read_load(told, at="mean").running).all()
