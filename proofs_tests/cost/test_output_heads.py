"""A draft head's output head is a term of its own by size: predicted, measured, and traded against a full one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from optimizer.plan import make_plan
from proofs_tests.cli.test_cli_path import reader
from proofs_tests.drafters.heads import head_for
from proofs_tests.plans import plan_examples as examples
from proofs_tests.tiny import random_prompts, tiny_model
from reader_theory.acceptance import fit_acceptance, simulated_trace
from reader_theory.cost.head import DrafterHead, HeadTrade
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Cost, CostTable, DrafterCost, Trace
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.output_head import chain_s
from runtime.models.house import house_folder
from runtime.models.load import wrap

ASKED = StepConditions(batch=2, context=64, tokens=5, forwards={"full": Forwards([1.0, 1.0, 2.0])}, drafting=True)


def headed(of_full: float = 1.0) -> DrafterCost:
    """The example's drafter, 0.6 of whose forward is its full output head, with one that takes `of_full` of that."""
    whole = examples.cost().drafters["draft"].forward
    assert whole is not None
    full = 0.6 * whole.values
    head, body = full * of_full, whole.values - full
    full_size = DrafterHead(hidden=64, vocabulary=1000)
    output = full_size if of_full == 1 else DrafterHead(hidden=64, vocabulary=1000, kind="low rank", rank=8)
    forward, apart = (
        CostTable.model_validate(whole.model_dump() | {"seconds": each.tolist()}) for each in (body + head, head)
    )
    return DrafterCost(model="a/head", output=output, forward=forward, head=apart)


def two_heads() -> Cost:
    known = examples.cost()
    drafters = {"full": headed(), "slim": headed(0.25), "retrieval": known.drafters["retrieval"]}
    return Cost.model_validate_json(known.model_copy(update={"drafters": drafters}).model_dump_json())


def two_traces(worse: float) -> Trace:
    """The same prompts, on which the slim head misses a share of what the full one has."""
    made = simulated_trace(prompts=12, tokens=48, ranks=(0.6, 0.15, 0.1, 0.05), spread=0.3, seed=5)
    columns = {name: column for name, column in made.columns.items() if not name.startswith("draft_")}
    for name in ("full", "slim"):
        columns |= {f"{name}_{part}": made.columns[f"draft_{part}"] for part in ("rank", "probability", "overlap")}
    lost = np.random.default_rng(0).random(len(columns["prompt"])) < worse
    columns["slim_rank"] = np.where(lost, -1, columns["slim_rank"]).astype(np.int32)
    drafters = {name: made.drafters["draft"] for name in ("full", "slim")} | {"retrieval": made.drafters["retrieval"]}
    fields = {name: getattr(made, name) for name in ("stamp", "target", "temperature", "prompts")}
    return Trace.in_memory(columns, drafters=drafters, **fields)


def test_output_head_and_the_rest_of_a_forward_sum_to_the_forward() -> None:
    cost = two_heads()
    whole = cost.drafters["full"].model_copy(update={"head": None, "output": None})
    plain = cost.model_copy(update={"drafters": cost.drafters | {"full": whole}})
    apart, alone = (each.model(("full",)).parts(ASKED) for each in (cost, plain))
    assert apart["full"] + apart["full head"] == pytest.approx(float(alone["full"]), rel=1e-12)
    assert apart["full head"] == pytest.approx(0.6 * float(alone["full"]), rel=1e-9)
    assert "full head" not in alone
    with pytest.raises(ValueError, match="part of `forward`"):
        DrafterCost.model_validate(
            whole.model_dump() | {"forward": whole.forward, "head": examples.cost().target_forward}
        )


@pytest.mark.parametrize("worse", [0.0, 0.1])
def test_a_plan_trades_output_heads_by_the_formula_and_by_its_terms_alike(worse: float) -> None:
    trace = two_traces(worse)
    plan = make_plan(
        fit_acceptance(trace, resamples=100), two_heads(), trace, batches=[1, 4], resamples=100, evaluations=200
    )
    told = [note for note in plan.notes if "rho_TPS" in note]
    assert len(told) == 2 and all("slim beside that of full" in note for note in told)
    for note in told:
        tau, nu, kappa, formula, terms = map(float, re.findall(r"(?:tau|nu|kappa|TPS|formula,) (\d+\.\d+)", note))
        assert nu == pytest.approx(0.25, abs=0.002)
        assert formula == pytest.approx(HeadTrade(tau, nu, kappa).rho_tps, abs=0.003)
        assert formula == pytest.approx(terms, rel=0.01)
        assert (tau == 1.0) if worse == 0 else (tau < 1.0)


def test_kappa_is_over_the_whole_round_and_not_over_the_drafter() -> None:
    cost = two_heads()
    parts = cost.model(("full",)).parts(ASKED)
    head, rest = float(parts["full head"]), sum(float(each) for name, each in parts.items() if name != "full head")
    assert head / rest < 0.5 * head / float(parts["full"]), "the target's forward is in the round"
    assert HeadTrade(1.0, 0.0, head / rest).rho_tps == pytest.approx((head + rest) / rest)


def test_a_predicted_cost_tells_a_low_rank_head_from_the_full_one(tmp_path: Path) -> None:
    slim = house_folder("smollm2_head")
    config = json.loads((slim / "config.json").read_text())
    del config["rank"]
    (tmp_path / "full.json").write_text(json.dumps(config))
    found = {}
    for name, draft in {"slim": slim / "config.json", "full": tmp_path / "full.json"}.items():
        reader("cost", "--model", "Qwen3-0.6B", "--draft", str(draft), "--batch", "1", "--max-nodes", "4", "-o",
               str(tmp_path / f"{name}_cost.json"))  # fmt: skip
        found[name] = Cost.read(tmp_path / f"{name}_cost.json").drafters["draft"]
    slim_output, full_output = (found[name].output for name in ("slim", "full"))
    assert slim_output is not None and full_output is not None
    assert (slim_output.kind, slim_output.rank, full_output.kind) == ("low rank", 72, "full")
    heads, wholes = ([found[name].head, found[name].forward] for name in ("slim", "full"))
    assert all(each is not None for each in (*heads, *wholes))
    nu = heads[0].values / wholes[0].values  # type: ignore[union-attr]
    assert (nu < 0.35).all() and (nu > slim_output.weights / full_output.weights * 0.8).all()
    rest = [forward.values - head.values for head, forward in (heads, wholes)]  # type: ignore[union-attr]
    np.testing.assert_allclose(rest[0], rest[1], rtol=1e-6)


def test_a_calibration_times_the_output_head_apart() -> None:
    whole = tiny_model("llama")
    drafts = {"slim": head_for(whole, rank=6), "small": wrap(tiny_model("llama", hidden=32, layers=1, seed=1))}
    cost = calibrate_cost(
        wrap(whole), drafts, random_prompts(4), device_name="here", dtype="float32", batches=(1, 2), tokens=(1, 3),
        contexts=(32,),        seconds=0.1,
    )  # fmt: skip
    slim = cost.drafters["slim"]
    assert slim.head is not None and slim.forward is not None and slim.output is not None
    assert (slim.head.values > 0).all() and (slim.head.values < slim.forward.values).all()
    assert (slim.output.kind, slim.output.rank, slim.output.vocabulary) == ("low rank", 6, 64)
    assert cost.drafters["small"].head is None
    assert "slim head" in cost.model(("slim",)).parts(StepConditions(drafting=True))


def test_an_output_head_is_timed_behind_a_forward_of_the_target_as_a_chain_runs_it() -> None:
    """Alone, again and again, its weights lie in the cache, where those of a step's other forwards lie."""
    ran: list[str] = []
    chain_s(lambda: ran.append("head"), lambda: ran.append("target"), in_a_row=3)
    assert ran == ["target", "head", "head", "head"]
