"""Grown policies are recorded as the engine runs them, with maps of other prompts, and planned by what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime.measure.replay as grown_replay
from optimizer.forecast import step_forecast
from optimizer.plan import make_plan
from proofs_tests.documents.documents_examples import entry, plan
from proofs_tests.export.exports import export_sglang, export_tensorrt_llm, export_vllm, nearest
from proofs_tests.plans.plan_examples import cost, fit, trace
from proofs_tests.tiny import TinyPrompt, random_prompts, tiny_model
from reader_theory.acceptance.recorded import recorded_grown
from reader_theory.documents import Cost, Grown, GrownRecord, SourceMap, Trace
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError
from reader_theory.estimate import Estimate
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.record import record_trace
from runtime.measure.replay import grown_family, record_grown, replay_grown
from runtime.models.load import wrap

TOKENS = 24
POLICIES = {
    "retrieved": Grown(nodes=6, drafter=None),
    "root only": Grown(nodes=6, candidates=4),
    "dynamic": Grown(nodes=12, levels=2, width=3, candidates=4, draft_price=0.05),
    "priced": Grown(nodes=12, price=0.1, levels=1, candidates=4),
    "rests": Grown(nodes=6, levels=1, candidates=4, skip_draft_at=0.5),
}


def models() -> tuple[Any, Any]:
    return wrap(tiny_model("llama")), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))


def prompts() -> list[TinyPrompt]:
    return random_prompts(4, workload="a", seed=0) + random_prompts(4, workload="b", seed=1)


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["greedy", "sampled"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    chosen = tuple(POLICIES.values())
    record_trace(
        *models(), prompts(), path=path, temperature=request.param, new_tokens=TOKENS, candidates=4, grown=chosen
    )
    return Trace.read(path)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_in_replay_does_what_it_does_in_the_engine(recorded: Trace, name: str) -> None:
    target, draft = models()
    engine = Engine(target, draft, policy=POLICIES[name], max_batch=1, max_context=128)
    params = SamplingParams(temperature=recorded.temperature, max_new_tokens=TOKENS)
    outputs = recorded.columns["token"].reshape(-1, TOKENS).astype(np.int64)
    pairs = [(prompt.tokens, output) for prompt, output in zip(prompts(), outputs, strict=True)]
    steps = replay_grown(draft, POLICIES[name], pairs)
    for number, (prompt, output) in enumerate(pairs):
        engine.timings.clear()
        mine = steps["prompt"] == number
        request = engine.add(prompt, params, number=number)
        while engine.step():
            pass
        assert request.output == output.tolist()
        assert [step.emitted for step in engine.timings] == steps["emitted"][mine].tolist()
        assert [step.nodes for step in engine.timings] == steps["nodes"][mine].tolist()
        assert [step.drafted for step in engine.timings] == (steps["forwards"][mine, 0] > 0).tolist()


def test_a_batch_in_replay_is_its_prompts_alone(recorded: Trace) -> None:
    draft = models()[1]
    outputs = recorded.columns["token"].reshape(-1, TOKENS).astype(np.int64)
    pairs = [(prompt.tokens, output) for prompt, output in zip(prompts(), outputs, strict=True)]
    together = replay_grown(draft, POLICIES["dynamic"], pairs)
    alone = [replay_grown(draft, POLICIES["dynamic"], [pair]) for pair in pairs]
    for name in ("position", "emitted", "nodes", "forwards"):
        np.testing.assert_array_equal(together[name], np.concatenate([one[name] for one in alone]))


def test_steps_are_taken_with_maps_of_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted_on: list[set[int]] = []

    def maps(offered: Any, chosen: np.ndarray) -> tuple[SourceMap, ...]:
        fitted_on.append(set(np.flatnonzero(chosen).tolist()))
        return (SourceMap(offer="draft", score=(0.0, 1.0), acceptance=(0.0, len(fitted_on) / 100)),)

    run_on: list[tuple[set[int], int]] = []

    def replay(draft: Any, policy: Grown, pairs: list[Any], *others: Any) -> Any:
        numbers = {next(i for i, each in enumerate(PAIRS) if each[0] is pair[0]) for pair in pairs}
        run_on.append((numbers, round(policy.maps[0].acceptance[1] * 100) - 1))
        return real(draft, policy, pairs, *others)

    real = replay_grown
    monkeypatch.setattr(grown_replay, "_maps", maps)
    monkeypatch.setattr(grown_replay, "replay_grown", replay)
    some = random_prompts(6, workload="a", seed=0)
    PAIRS = [(prompt.tokens, prompt.tokens[:8]) for prompt in some]
    sourced = [Sourced(p.id, p.workload, p.tokens, f"source {i // 2}") for i, p in enumerate(some)]
    made = record_grown(None, sourced, [output for _, output in PAIRS], [POLICIES["retrieved"]])
    assert fitted_on[0] == set(range(6)), "the plan's maps are fitted on all"
    assert len(run_on) == 2 and run_on[0][0] | run_on[1][0] == set(range(6))
    for numbers, fit_number in run_on:
        assert numbers and not numbers & fitted_on[fit_number]
        assert {number // 2 for number in numbers}.isdisjoint(number // 2 for number in fitted_on[fit_number])
    assert made.maps["a"][0].acceptance[1] == pytest.approx(0.01)


class Sourced(TinyPrompt):
    """A prompt that names its source."""

    def __init__(self, id: str, workload: str, tokens: Any, source: str) -> None:
        super().__init__(id, workload, tokens)
        object.__setattr__(self, "source", source)


def test_a_policy_that_needs_a_draft_is_not_recorded_without_one() -> None:
    with pytest.raises(InvalidInputError, match="models at hand"):
        record_grown(None, prompts(), [p.tokens for p in prompts()], [Grown(nodes=4, retrieval=None)])
    assert all(policy.drafter is None for policy in grown_family(drafted=False))


def test_results_of_a_record_are_sums_over_its_steps(recorded: Trace) -> None:
    columns = recorded.grown["draft"].columns
    for number, (policy, result) in enumerate(recorded_grown(recorded, "b")):
        mine = (columns["policy"] == number) & (columns["prompt"] >= 4)
        assert policy.maps == recorded.grown["draft"].maps["b"]
        assert result.prompts.tolist() == [4, 5, 6, 7]
        assert (result.tokens == TOKENS - 1).all() and result.steps.sum() == mine.sum()
        assert result.verified_nodes.sum() == columns["nodes"][mine].sum()
        assert result.nodes_histogram.sum() == result.accepted_histogram.sum() == mine.sum()
        assert result.forwards_histogram is not None
        sizes = np.arange(result.forwards_histogram.shape[1])
        np.testing.assert_array_equal(result.forwards_histogram @ sizes, columns["forwards"][mine].sum(axis=0))


def priced(**changes: Any) -> Cost:
    grown = {"growth_s": Estimate.exact(2e-5, "measured"), "growth_step_s": 1e-4}
    return cost().model_copy(update=grown | changes)


def test_a_step_costs_its_forwards_its_growth_and_its_widest_row(recorded: Trace) -> None:
    columns, costs = recorded.grown["draft"].columns, priced()
    assert costs.draft_forward is not None
    for number, (policy, result) in enumerate(recorded_grown(recorded, "a")):
        mine = (columns["policy"] == number) & (columns["prompt"] < 4)
        asked, nodes = columns["forwards"][mine], columns["nodes"][mine]
        drafting = [
            (costs.draft_forward.at(1, sizes[sizes > 0], 80.0).sum(), (1 + (sizes > 0).sum()) * (2e-5 + 1e-4))
            for sizes in asked
        ]
        found = step_forecast(costs, policy, result, 1, 80.0)
        drafted = [found.terms_s["draft"], found.terms_s["growth"]]
        assert drafted == pytest.approx(np.mean(drafting, axis=0).tolist())
        assert found.terms_s["target"] == pytest.approx(np.mean(costs.target_forward.at(1, nodes + 1, 80.0)))
        crowd = step_forecast(costs, policy, result, 200, 80.0)
        ran = asked.max(axis=0)
        widest = costs.draft_forward.at(200, ran[ran > 0], 80.0).sum(), (1 + (ran > 0).sum()) * (200 * 2e-5 + 1e-4)
        drafted = [crowd.terms_s["draft"], crowd.terms_s["growth"]]
        assert sum(drafted) == pytest.approx(sum(widest), rel=0.02), "200 rows: some row has the most"


def with_grown(made: Trace, emitted: int, policy: Grown) -> Trace:
    """A trace with a record of one policy that emits so many tokens a step, from 8 nodes and one forward of 3."""
    rows: list[tuple[int, int, int]] = []
    for number, prompt in enumerate(made.prompts):
        for at in range(1, prompt.output_tokens, emitted):
            rows.append((number, at, min(emitted, prompt.output_tokens - at)))
    table = np.array(rows, dtype=np.int32)
    forwards = np.full((len(rows), 1), 3 if policy.drafter else 0, dtype=np.int32)
    columns: dict[str, Any] = {
        "policy": np.zeros(len(rows), np.int32), "prompt": table[:, 0], "position": table[:, 1],
        "emitted": table[:, 2], "nodes": np.full(len(rows), 8, np.int32), "forwards": forwards,
    }  # fmt: skip
    maps = {made.workloads[0]: (SourceMap(offer="both", score=(0.1, 0.9), acceptance=(0.2, 0.8)),)}
    return Trace.in_memory(
        made.columns, stamp=made.stamp, target=made.target, drafters=made.drafters, temperature=made.temperature,
        prompts=made.prompts, grown={"draft": GrownRecord.create(columns, (policy,), maps)},
    )  # fmt: skip


@pytest.mark.parametrize(("emitted", "chosen"), [(6, True), (1, False)])
def test_the_planner_takes_a_grown_policy_where_it_wins(tmp_path: Path, emitted: int, chosen: bool) -> None:
    made = with_grown(trace(tmp_path / "trace.json"), emitted, Grown(nodes=8))
    found = make_plan(fit(made), priced(), made, batches=(1, 4), max_nodes=8, resamples=100).entries
    for each in found:
        assert (each.policy.kind == "grown") == chosen
        assert "grown tree 8 (price 0, draft 0x8)" in {candidate.policy.name for candidate in each.candidates}
        assert "off" in {candidate.policy.name for candidate in each.candidates}
        if each.policy.kind == "grown":
            assert each.policy.maps == made.grown["draft"].maps[made.workloads[0]]
            assert each.prediction.tokens_per_step.value <= emitted
            assert each.prediction.tokens_per_step.low <= each.prediction.tokens_per_step.value
            step = sum(each.prediction.terms_s.values())
            assert each.prediction.terms_s["draft"] > 0 and each.upper_bound_tokens_per_s < each.batch * 6 / step * 1.01


def test_a_cost_that_does_not_price_growth_is_refused(tmp_path: Path) -> None:
    made = with_grown(trace(tmp_path / "trace.json"), 3, Grown(nodes=8))
    with pytest.raises(InvalidInputError, match=r"growing a tree.*Calibrate again"):
        make_plan(fit(made), cost(), made, batches=(1,), resamples=100)


def test_a_policy_with_a_draft_is_left_out_where_the_cost_has_none(tmp_path: Path) -> None:
    alone = priced(drafters={"retrieval": cost().drafters["retrieval"]})
    for policy, there in ((Grown(nodes=8), False), (Grown(nodes=8, drafter=None), True)):
        made = with_grown(trace(tmp_path / "trace.json"), 6, policy)
        (found,) = make_plan(fit(made), alone, made, batches=(1,), resamples=100).entries
        assert (found.policy.kind == "grown") == there


GROWN = Grown(nodes=8, levels=2)


@pytest.mark.parametrize("export", [export_vllm, export_sglang, export_tensorrt_llm])
def test_other_engines_refuse_a_grown_policy_and_name_the_nearest(export: Any) -> None:
    planned = plan(entry(1, GROWN))
    with pytest.raises(UnsupportedByEngineError, match=r"grown tree 8.*nearest that it runs: .*chain 3"):
        export(planned, "chat")
    assert export(planned, "chat", nearest=True), "the chain that was weighed"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "transformers", "medusa", "growmap"])
def test_no_engine_takes_a_grown_policy_for_the_tree_it_does_not_have(engine: str) -> None:
    (choice,) = nearest(plan(entry(1, GROWN)), engine, "chat")
    assert not choice.exact and choice.policy.kind != "grown"
