"""The stages agree: a replay of the trace is what the engine does, and a plan is held against its run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optimizer.plan import make_plan
from proofs_tests.tiny import POLICIES, TinyPrompt, random_prompts, tiny_model
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.acceptance.replay import replay
from reader_theory.documents import Chain, Cost, Grown, Plan, RunRecord, Static, Trace, Union
from reader_theory.documents.policy import DATASTORE
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from reader_theory.validate import validate
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.record import record_trace, trace_of
from runtime.measure.replay import replay_grown
from runtime.measure.run import run_plan
from runtime.measure.sweep import sweep_policies
from runtime.models.base import LanguageModel
from runtime.models.load import wrap
from runtime.retrieval.datastore import Datastore

TOKENS = 24


def _models() -> tuple[LanguageModel, LanguageModel]:
    return wrap(tiny_model("llama")), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))


def _prompts(seed: int) -> list[TinyPrompt]:
    return random_prompts(4, workload="a", seed=seed) + random_prompts(4, workload="b", seed=seed + 1)


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["greedy", "sampled"])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    return record_trace(*_models(), _prompts(0), path=path, temperature=request.param, new_tokens=TOKENS, candidates=4)


@pytest.fixture(scope="module")
def cost() -> Cost:
    return calibrate_cost(
        *_models(),
        _prompts(0),
        device_name="test",
        dtype="float32",
        batches=(1, 2),
        tokens=(1, 4, 9),
        contexts=(32, 64),
        seconds=0.2,
    )


@pytest.fixture(scope="module")
def plan(trace: Trace, cost: Cost) -> Plan:
    fit = fit_acceptance(trace, depth=4, resamples=100)
    return make_plan(
        fit, cost, trace, batches=(1, 2), max_nodes=8, new_tokens=TOKENS, prompts_per_workload=4, resamples=100
    )


@pytest.mark.parametrize("name", POLICIES)
def test_replay_of_a_trace_is_what_the_engine_does_step_for_step(trace: Trace, name: str) -> None:
    policy = POLICIES[name]
    target, draft = _models()
    engine = Engine(target, draft, policy=policy, max_batch=2, max_context=128)
    params = SamplingParams(temperature=trace.temperature, max_new_tokens=TOKENS)
    done = [engine.add(prompt.tokens, params, number=number) for number, prompt in enumerate(_prompts(0))]
    while engine.step():
        pass
    predicted = replay(trace, policy, first_position=1)
    assert [request.steps for request in done] == predicted.steps.tolist()
    assert [len(request.output) - 1 for request in done] == predicted.tokens.tolist()
    assert done[0].output == trace.columns["token"][:TOKENS].tolist()


@pytest.fixture(scope="module")
def store(trace: Trace) -> Datastore:
    """Every second output, and half of each other: a prefix of what follows is known, and then it is not."""
    columns, texts = trace.columns, []
    for number in range(len(trace.prompts)):
        output = columns["token"][columns["prompt"] == number]
        texts.append(output if number % 2 else output[: len(output) // 2])
    return Datastore.build(texts)


LOOKED_UP = Chain(drafter=DATASTORE, min_match=1, offset=1.0, factor=1.0, max_tokens=6)
BESIDE = {
    "chain": LOOKED_UP,
    "chain and tree": Union(static=Static.of(TokenTree.from_rank_paths([(0,), (1,), (0, 0)])), chain=LOOKED_UP),
    "tree": Grown(nodes=6, drafter=None, retrieval=DATASTORE),
    "tree with the draft": Grown(nodes=6, levels=1, candidates=4, retrieval=DATASTORE),
}


@pytest.mark.parametrize("name", BESIDE)
def test_replay_beside_a_datastore_is_what_the_engine_does_step_for_step(
    trace: Trace, store: Datastore, name: str
) -> None:
    policy, prompts, (target, draft) = BESIDE[name], _prompts(0), _models()
    outputs = [trace.columns["token"][trace.columns["prompt"] == n].astype(np.int64) for n in range(len(prompts))]
    engine = Engine(target, draft, policy=policy, max_batch=2, max_context=128, datastore=store)
    params = SamplingParams(temperature=trace.temperature, max_new_tokens=TOKENS)
    done = [engine.add(prompt.tokens, params, number=number) for number, prompt in enumerate(prompts)]
    while engine.step():
        pass
    assert [request.output for request in done] == [output.tolist() for output in outputs]
    if isinstance(policy, Grown):
        steps = replay_grown(draft, policy, [(p.tokens, o) for p, o in zip(prompts, outputs, strict=True)], store)
        predicted = np.bincount(steps["prompt"]).tolist()
    else:
        beside = trace_of(target, draft, prompts, outputs, temperature=trace.temperature, candidates=4, datastore=store)
        predicted = replay(beside, policy, first_position=1).steps.tolist()
    assert [request.steps for request in done] == predicted
    assert sum(predicted) < sum(len(output) - 1 for output in outputs), "some drafts are right"


def test_plan_run_and_validation_close_the_loop(trace: Trace, plan: Plan, tmp_path: Path) -> None:
    record = run_plan(*_models(), plan, _prompts(10), path=tmp_path / "run.json", repeats=2)
    checked = validate(Plan.read(plan.write(tmp_path / "plan.json")), RunRecord.read(tmp_path / "run.json"))
    compared = {c.quantity for c in checked.comparisons}
    drafting = any(entry.policy.shape != "off" for entry in plan.entries)
    assert compared == {"tokens_per_step", "step_s", "tokens_per_s"} | ({"speed_up"} if drafting else set())
    assert len(checked.of("tokens_per_step")) == 4
    expected = "greedy_identical" if trace.temperature == 0 else "sampled"
    assert {cell.lossless for cell in record.cells} == {expected}
    assert all(row.measured >= 1 for row in checked.of("tokens_per_step"))
    for number, cell in enumerate(record.cells):
        requests = [request for request in record.requests if request.cell == number]
        assert sum(cell.accepted.values()) == sum(request.accepted for request in requests)
        assert sum(cell.offered.values()) == record.columns["nodes"][record.columns["cell"] == number].sum()


@pytest.mark.parametrize("rule", ["block", "typical_lossy"])
def test_a_record_names_its_rule_and_its_loss(plan: Plan, tmp_path: Path, rule: str) -> None:
    alone = plan.model_copy(update={"entries": tuple(entry for entry in plan.entries if entry.batch == 1)})
    record = run_plan(
        *_models(), alone, _prompts(10), path=tmp_path / "run.json", temperature=1.0, verification=rule,
        compare_plain=False,
    )  # fmt: skip
    assert (record.verification, record.lossless) == (rule, rule != "typical_lossy")


def test_a_plan_always_weighs_off_and_a_chain(plan: Plan) -> None:
    for entry in plan.entries:
        names = [candidate.policy.name for candidate in entry.candidates]
        assert "off" in names and any(name.startswith(("chain", "retrieval")) for name in names)
        best = max(candidate.tokens_per_s for candidate in entry.candidates)
        assert entry.upper_bound_tokens_per_s == best


def test_a_fit_of_another_trace_is_refused(trace: Trace, cost: Cost) -> None:
    fit = fit_acceptance(trace, depth=2, resamples=100).model_copy(update={"trace": "0" * 16})
    with pytest.raises(InvalidInputError, match="must have been made from `trace`"):
        make_plan(fit, cost, trace)


def test_a_sweep_measures_the_plans_own_choice_and_off(trace: Trace, cost: Cost, tmp_path: Path) -> None:
    fit = fit_acceptance(trace, depth=2, resamples=100)
    plan = make_plan(fit, cost, trace, batches=(1,), max_nodes=4, new_tokens=TOKENS, resamples=100, workloads=["a"])
    policies = [POLICIES["off"], POLICIES["chain"]]
    record = sweep_policies(
        *_models(), plan, _prompts(10), batches=(2,), path=tmp_path / "sweep.json", policies=policies
    )
    names = {cell.policy for cell in record.cells}
    assert {*policies, plan.entry("a", 2).policy} == names


def test_calibrated_tables_cover_the_grid_and_are_positive(cost: Cost) -> None:
    assert cost.target_forward.values.shape == (2, 3, 2)
    assert cost.draft_forward is not None
    assert cost.closure.low <= cost.closure.value <= cost.closure.high
    assert np.all(cost.target_forward.at([1, 2], [1, 20], 50) > 0)
