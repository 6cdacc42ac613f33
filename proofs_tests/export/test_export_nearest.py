"""What engines of today take: the nearest of retrieval drafts, fields are the engine's, what is dropped is said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from optimizer.export import EXPORTERS, ExportOptions, engine_format, export, weigher
from optimizer.plan import make_plan
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, entry, plan
from proofs_tests.export.exports import export_sglang, export_tensorrt_llm, export_transformers, export_vllm
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.documents import Chain, Plan, Policy, Union, policy_of
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError
from reader_theory.trees.tree import TokenTree
from runtime.cli import export as cli
from runtime.cli._shared import guarded

EAGER = Chain(min_match=2, offset=0.0, factor=2.0, max_tokens=16)
LOOKUP = Chain(min_match=1, offset=6, factor=0, max_tokens=6)


def retrieval_plan(policy: Policy = EAGER, batches: tuple[int, ...] = (1,)) -> Plan:
    """A plan without a draft model: retrieval was chosen, and off alone was weighed beside it."""
    found = []
    for batch in batches:
        told = entry(batch, policy, tokens_per_step=3.0, tokens_per_s=140.0)
        kept = tuple(c for c in told.candidates if c.policy in (OFF, policy))
        prediction = told.prediction.model_copy(update={"nodes_per_step": 4.4})
        found.append(told.model_copy(update={"candidates": kept, "prediction": prediction}))
    return plan(*found, draft=None)


def check(engine: str, config: Any) -> Any:
    Draft202012Validator(engine_format(engine).schema).validate(config)
    return config


def test_a_retrieval_plan_is_retrieval_in_every_engine_that_has_some() -> None:
    """Off was weighed at 57 % less; a retrieved chain was not, and is taken before it."""
    made = retrieval_plan()
    sglang = check("sglang", export_sglang(made, nearest=True))["flags"]
    assert (sglang["speculative-algorithm"], sglang["speculative-num-draft-tokens"]) == ("NGRAM", 5)
    tensorrt = check("tensorrt-llm", export_tensorrt_llm(made, nearest=True))
    assert (tensorrt["decoding_type"], tensorrt["max_draft_len"]) == ("NGram", 4)
    assert check("transformers", export_transformers(made, nearest=True))["prompt_lookup_num_tokens"] == 4
    vllm = check("vllm", export_vllm(made, nearest=True))
    assert (vllm["method"], vllm["suffix_decoding_max_spec_factor"]) == ("suffix", 2.0)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "transformers"])
def test_a_retrieval_plan_is_refused_without_nearest_and_the_loss_is_said_to_be_unknown(engine: str) -> None:
    with pytest.raises(UnsupportedByEngineError, match="did not weigh"):
        export(retrieval_plan(), engine, "chat")


def test_suffix_never_gets_a_schedule_which_its_runner_drops() -> None:
    suffix, longer = (Chain(min_match=1, factor=2.0, max_tokens=k) for k in (8, 16))
    mixed = plan(entry(1, longer), entry(8, suffix))
    with pytest.raises(UnsupportedByEngineError):
        export_vllm(mixed)
    alone = export(plan(entry(1, suffix), entry(8, suffix)), "vllm", "chat")
    assert "num_speculative_tokens_per_batch_size" not in alone.config and alone.config["method"] == "suffix"
    assert any("arctic-inference==0.1.1" in note for note in alone.notes)


@pytest.mark.parametrize("method", ["medusa", "mlp_speculator"])
def test_what_vllm_has_removed_is_refused_with_why(method: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"vLLM has removed {method}.*dspark"):
        export_vllm(plan(entry(1, CHAIN_3)), method=method)


def by_batch() -> Plan:
    return plan(entry(1, CHAIN_3), entry(8, policy_of(TokenTree.chain(1))))


@pytest.mark.parametrize("method", ["draft_model", "eagle", "eagle3", "mtp", "dflash", "dspark"])
def test_vllm_takes_every_method_and_says_what_it_drops(method: str) -> None:
    made = export(by_batch(), "vllm", "chat", ExportOptions(method=method))
    check("vllm", made.config)
    assert made.config["num_speculative_tokens_per_batch_size"] == [[1, 1, 3], [2, 8, 1]]
    assert any("data parallelism" in note for note in made.notes)
    assert any("one forward" in note for note in made.notes) == (method in ("dflash", "dspark"))


def test_weights_that_ship_with_the_target_are_not_named() -> None:
    own = plan(entry(1, CHAIN_3), draft="a/target")
    assert check("vllm", export_vllm(own, method="mtp")) == {"method": "mtp", "num_speculative_tokens": 3}
    assert "model" in export_vllm(own, method="eagle3")
    assert check("tensorrt-llm", export_tensorrt_llm(own, method="MTP")) == {
        "decoding_type": "MTP", "max_draft_len": 3, "max_total_draft_tokens": 3,
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", ["STANDALONE", "EAGLE", "EAGLE3", "NEXTN", "DFLASH", "DSPARK"])
def test_sglang_takes_every_algorithm(algorithm: str) -> None:
    flags = check("sglang", export_sglang(plan(entry(1, CHAIN_3)), algorithm=algorithm))["flags"]
    assert flags["speculative-num-draft-tokens"] == 4
    assert flags["speculative-num-steps"] == (1 if algorithm.startswith("D") else 3), "a block is one step"


def test_lengths_by_batch_need_an_adaptive_algorithm() -> None:
    assert export_sglang(by_batch(), algorithm="NEXTN")["adaptive_config"] is not None
    for algorithm in ("STANDALONE", "DFLASH", "DSPARK"):
        with pytest.raises(UnsupportedByEngineError):
            export_sglang(by_batch(), algorithm=algorithm)


def test_sglangs_cap_on_running_requests_is_said_or_lifted() -> None:
    capped = export(plan(entry(1, CHAIN_3)), "sglang", "chat")
    assert any("at 48" in note for note in capped.notes)
    lifted = export(plan(entry(1, CHAIN_3)), "sglang", "chat", ExportOptions(max_batch=128))
    assert check("sglang", lifted.config)["flags"]["max-running-requests"] == 128 and not lifted.notes
    with pytest.raises(InvalidInputError, match="largest planned batch"):
        export(plan(entry(64, CHAIN_3)), "sglang", "chat", ExportOptions(max_batch=32))


def test_ngram_of_tensorrt_llm_takes_the_newest_match_of_its_own_request() -> None:
    config = check("tensorrt-llm", export_tensorrt_llm(plan(entry(1, LOOKUP))))
    assert (config["is_use_oldest"], config["is_public_pool"]) == (False, False)
    alone = check("tensorrt-llm", export_tensorrt_llm(plan(entry(1, LOOKUP)), method="SA"))
    assert alone == {"decoding_type": "SA", "max_draft_len": 6, "max_total_draft_tokens": 6}


def with_automaton(length: int, threshold: int) -> Union:
    chain = Chain(min_match=threshold, offset=length, factor=0, max_tokens=length)
    made = policy_of(TokenTree.chain(length), chain, threshold)
    assert isinstance(made, Union)
    return made


def test_a_draft_that_rests_at_long_matches_is_an_automaton() -> None:
    config = check("tensorrt-llm", export_tensorrt_llm(plan(entry(1, with_automaton(4, 6))), method="Eagle3"))
    assert (config["sa_config"], config["max_draft_len"]) == ({"threshold": 6}, 4)
    with pytest.raises(UnsupportedByEngineError):
        export_tensorrt_llm(plan(entry(1, with_automaton(4, 6))), method="Draft_Target")
    loose = policy_of(TokenTree.chain(4), EAGER, 6)
    told = entry(1, loose, 3.0, 140.0)
    bare = plan(told.model_copy(update={"candidates": told.candidates[-1:]}))
    near = check("tensorrt-llm", export_tensorrt_llm(bare, method="Eagle3", nearest=True))
    assert near["sa_config"] == {"threshold": 6}


def test_the_nearest_of_the_whole_space_is_at_least_that_of_what_the_plan_kept(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.json")
    fitted = fit(recorded)
    made = make_plan(fitted, cost(), recorded, batches=(1, 4), workloads=recorded.workloads[:1], resamples=100)
    weigh = weigher(made, fitted, cost(), recorded)
    workload = made.workloads[0]
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        kept = export(made, engine, workload, ExportOptions(nearest=True)).choices
        whole = export(made, engine, workload, ExportOptions(nearest=True, weigh=weigh)).choices
        assert min(c.share for c in whole) >= min(c.share for c in kept if c.tokens_per_s is not None) - 1e-12
        assert all(choice.tokens_per_s is not None for choice in whole)
    with pytest.raises(InvalidInputError, match="made from"):
        weigher(plan(), fitted, cost(), recorded)


OUTSIDE = """
from optimizer.export import EXPORTERS, EngineFormat, Exporter

@EXPORTERS.register
class Abacus(Exporter):
    name = "abacus"
    one_entry = True

    @property
    def format(self):
        return EngineFormat("abacus", "1", "a chain", {}, {})

    def families(self, policies, options):
        return {"chain": lambda policy, number: policy.kind == "static" and policy.shape == "chain"}

    def write(self, settled, options):
        return {"beads": settled.policies[0].most_nodes}
"""


def test_an_exporter_is_added_from_one_file_outside(tmp_path: Path) -> None:
    (tmp_path / "abacus.py").write_text(OUTSIDE)
    spec = importlib.util.spec_from_file_location("abacus", tmp_path / "abacus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["abacus"] = module
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(guarded(cli.command))
    try:
        path = plan(entry(1, CHAIN_3)).write(tmp_path / "plan.json")
        done = CliRunner().invoke(app, ["abacus", str(path), "-o", str(tmp_path / "a.json"), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads((tmp_path / "a.json").read_text()) == json.loads(done.output)["export"] == {"beads": 3}
        done = CliRunner().invoke(app, ["abacus", str(path), "--method", "x", "-o", str(tmp_path / "b.json")])
        assert done.exit_code == 2
    finally:
        EXPORTERS._found.pop("abacus")
        sys.modules.pop("abacus")
