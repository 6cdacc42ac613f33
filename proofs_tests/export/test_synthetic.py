"""Synthetic acceptance: the rates that engines take, and 1 + their sum is what the plan says a step gives."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from optimizer.export import ExportOptions, engine_format, export
from optimizer.imported_plan import plan_imported
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, RETRIEVAL, entry, plan
from proofs_tests.house.test_house_rules import HOUSE
from proofs_tests.plans.plan_examples import cost
from reader_theory.documents import Plan, PlanEntry, Policy, policy_of
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError
from reader_theory.trees.tree import TokenTree

ENGINES = HOUSE / ".venv-engines"
SPECULATIVE = next(iter(ENGINES.glob("lib/python3*/site-packages/vllm/config/speculative.py")), None)


def accepting(
    batch: int, policy: Policy, accepted: tuple[float, ...], tokens_per_step: float | None = None
) -> PlanEntry:
    """An entry whose prediction tells acceptance by depth."""
    found = entry(batch, policy, tokens_per_step or 1 + sum(accepted))
    return found.model_copy(update={"prediction": found.prediction.model_copy(update={"accepted": accepted})})


def exported(engine: str, made: Plan, **options: Any) -> tuple[Any, list[float], tuple[str, ...]]:
    """The configuration, its rates and its notes; the configuration is one that the engine's schema allows."""
    found = export(made, engine, "chat", ExportOptions(synthetic=True, **options))
    Draft202012Validator(engine_format(engine).schema).validate(found.config)
    told = found.config
    if engine == "vllm":
        assert told["rejection_sample_method"] == "synthetic"
        rates = told["synthetic_acceptance_rates"]
        assert len(rates) == told["num_speculative_tokens"], "vLLM refuses another length"
    else:
        rates = [float(rate) for rate in told["spec-synth-rates"].split(",")]
        assert len(rates) == told["spec-draft-n-max"], "llama.cpp refuses another length"
        assert told["spec-type"] == "draft-simple", "a draft model alone drafts nothing there"
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(later <= earlier for earlier, later in pairwise(rates)), "both refuse rates that increase"
    return told, rates, found.notes


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda each: tuple(sorted(each, reverse=True))),
    st.floats(0.5, 1.0),
)
def test_rates_are_legal_and_sum_to_the_tokens_of_a_step(
    engine: str, accepted: tuple[float, ...], lowered: float
) -> None:
    policy = policy_of(TokenTree.chain(len(accepted)))
    tokens = 1 + lowered * sum(accepted)
    rates = exported(engine, plan(accepting(1, policy, accepted, tokens)))[1]
    assert 1 + sum(rates) == pytest.approx(tokens, abs=1e-5)


def test_the_longest_chain_tells_the_rates_and_other_batches_are_noted() -> None:
    short = policy_of(TokenTree.chain(2))
    made = plan(accepting(1, CHAIN_3, (0.8, 0.5, 0.3)), accepting(8, short, (0.85, 0.6)), entry(32, OFF, 1.0, 60.0))
    config, rates, notes = exported("vllm", made)
    assert rates == [0.8, 0.5, 0.3]
    assert config["num_speculative_tokens_per_batch_size"] == [[1, 1, 3], [2, 8, 2], [9, 32, 0]]
    assert any("at batch 8 these rates give 2.300 tokens a step, the plan says 2.450" in note for note in notes)
    assert "means nothing" in notes[0]


def test_a_plan_from_counters_gives_the_rates_of_its_chain() -> None:
    told = ImportedAcceptance.from_reached(
        [1000.0], [[1000.0, 700.0, 420.0]], [[700.0, 420.0, 210.0]], engine="vllm", source="metrics", workload="chat"
    )
    made = plan_imported(told, cost(), batches=(1,), drafter="draft", risk=1.0, max_depth=3)
    chosen = made.entries[0]
    for each in chosen.candidates:
        assert len(each.accepted) == each.policy.most_nodes
        assert 1 + sum(each.accepted) == pytest.approx(each.tokens_per_step, abs=1e-6)
    assert chosen.prediction.accepted == next(c.accepted for c in chosen.candidates if c.policy == chosen.policy)


@pytest.mark.skipif(SPECULATIVE is None, reason="vLLM is not installed in .venv-engines: `make engines`")
def test_the_installed_vllm_takes_the_rates_and_refuses_others() -> None:
    """Its own check, taken out of its source, as the engine applies it."""
    assert SPECULATIVE is not None, "skipped otherwise"
    name = "_resolve_synthetic_acceptance_rates"
    tree = ast.parse(SPECULATIVE.read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    found.decorator_list = []
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([found], []), str(SPECULATIVE), "exec"), scope)
    for accepted in ((0.8, 0.5, 0.3), (1.0, 1.0, 0.0), (0.7, 0.7, 0.7)):
        config, rates, _ = exported("vllm", plan(accepting(1, CHAIN_3, accepted)))
        assert scope[name](config["num_speculative_tokens"], rates, None) == rates
    for bad in ([0.5, 0.6, 0.1], [0.5, 0.4], [1.1, 0.5, 0.2]):
        with pytest.raises(ValueError):
            scope[name](3, bad, None)


def test_look_ups_are_refused_because_no_rate_makes_them_find_a_draft() -> None:
    policy = RETRIEVAL.model_copy(update={"offset": 4.0, "factor": 0.0, "max_tokens": 4})
    with pytest.raises(InvalidInputError, match="drafts that every step has"):
        export(plan(entry(1, policy)), "vllm", "chat", ExportOptions(synthetic=True))


def test_a_plan_without_acceptance_by_depth_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="acceptance by depth"):
        export(plan(entry(1, CHAIN_3)), "llama.cpp", "chat", ExportOptions(synthetic=True))


def test_engines_that_cannot_accept_by_chance_refuse_the_option() -> None:
    with pytest.raises(InvalidInputError, match="--synthetic"):
        export(plan(accepting(1, CHAIN_3, (0.8, 0.5, 0.3))), "sglang", "chat", ExportOptions(synthetic=True))


def test_a_plan_that_drafts_nothing_has_no_rates() -> None:
    found = export(plan(entry(1, OFF, 1.0, 60.0)), "vllm", "chat", ExportOptions(synthetic=True))
    assert found.config == {}


def test_a_plan_of_an_older_version_reads_without_acceptance(tmp_path: Path) -> None:
    path = plan(entry(1, CHAIN_3)).write(tmp_path / "plan.json")
    path.write_text(path.read_text().replace('"accepted":[],', "").replace(',"accepted":[]', ""))
    assert Plan.read(path).entries[0].prediction.accepted == ()
