"""The benchmark of a plan over heads: a cut head is the nearest of its rank, and regret is told beside what was run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from proofs_tests.benchmarks.head_plan import of_rank, rivals, summary
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, entry
from proofs_tests.drafters.heads import network_for
from proofs_tests.tiny import tiny_model
from runtime.drafters.head.export import densified

RANK = 6


def test_a_head_cut_to_its_own_rank_is_itself_and_to_a_lower_one_the_nearest() -> None:
    network = network_for(tiny_model("llama"), rank=RANK)
    whole = densified(network).lm_head.weight
    for rank in (RANK, RANK // 2):
        cut = of_rank(network, rank)
        assert cut.shape.rank == rank
        singular = torch.linalg.svdvals(whole)
        left = torch.linalg.matrix_norm(densified(cut).lm_head.weight - whole)
        assert float(left) == pytest.approx(float(singular[rank:].square().sum().sqrt()), abs=1e-4)
        others = {name: each for name, each in cut.state_dict().items() if not name.startswith("lm_head.")}
        assert all(torch.equal(each, network.state_dict()[name]) for name, each in others.items())


def test_the_plan_and_the_best_of_every_drafter_are_run_and_plain_decoding_beside_all() -> None:
    whole = entry(1, CHAIN_3)
    drafts = {each.policy: each for each in whole.candidates}
    told = whole.model_copy(update={"alternatives": {"off": drafts[OFF], "draft": drafts[CHAIN_3]}})
    assert rivals(told) == {"plan": CHAIN_3, "draft": CHAIN_3}
    assert rivals(told.model_copy(update={"policy": OFF})) == {"draft": CHAIN_3}


def _row(predicted: float, measured: float, regret: float, drafters: list[str]) -> dict[str, Any]:
    rival = {"predicted": 2.0, "measured": 1.6, "inside": False, "tokens_a_step": {"predicted": 2.2, "measured": 2.0}}
    return {"drafters": drafters, "predicted": {"value": predicted}, "measured": measured, "regret": regret,
            "inside": True, "rivals": {"r6": rival}}  # fmt: skip


def test_plans_that_are_off_have_regret_and_no_error() -> None:
    told = summary([_row(1.2, 1.5, 0.0, ["r6"]), _row(1.0, 1.0, 0.3, [])])
    assert (told["cells"], told["drafting"], told["inside"]) == (2, 1, 1)
    assert (told["mean_regret"], told["worst_regret"]) == pytest.approx((0.15, 0.3))
    assert (told["median_error"], told["rivals_median_error"]) == pytest.approx((0.2, 0.25))
    assert (told["rivals"], told["rivals_inside"]) == (2, 0)
    of_what = told["rivals_mean_tokens_error"], told["rivals_mean_pace_error"]
    assert of_what == pytest.approx((0.1, 1.25 / 1.1 - 1))
