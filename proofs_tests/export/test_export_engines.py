"""An exported schedule, read by the engine's own rule, drafts at every batch what the plan says; else it is refused."""

from __future__ import annotations

import json
import re
import shlex
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from optimizer.export import (
    EXPORTERS,
    engine_format,
    export,
    reserved_kv_slots,
    sglang_flags,
    vllm_flag,
)
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, RETRIEVAL, TREE, entry, plan
from proofs_tests.export.exports import (
    export_sglang,
    export_sglang_dynamic_tree,
    export_tensorrt_llm,
    export_tensorrt_llm_dynamic_tree,
    export_vllm,
    nearest,
)
from reader_theory.documents import Chain, Plan, Policy, policy_of
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError
from reader_theory.trees.tree import TokenTree

LOOKUP = Chain(min_match=1, offset=6, factor=0, max_tokens=6)
LOOKUP_FROM_3 = Chain(min_match=3, offset=6, factor=0, max_tokens=6)
SUFFIX = Chain(min_match=1, offset=0, factor=2.0, max_tokens=8)
CAPPED = RETRIEVAL
BOTH = policy_of(TokenTree.chain(2), RETRIEVAL)


def chains(*lengths: int, batches: tuple[int, ...] = (1, 4, 16)) -> Plan:
    policies = [policy_of(TokenTree.chain(length)) for length in lengths]
    return plan(*(entry(batch, policy) for batch, policy in zip(batches, policies, strict=False)))


def check(engine: str, exported: Any) -> Any:
    Draft202012Validator(engine_format(engine).schema).validate(exported)
    assert json.loads(json.dumps(exported)) == exported, "an export is plain JSON"
    return exported


def vllm_length(config: dict[str, Any], batch: int) -> int:
    """vLLM's rule: inclusive ranges; gaps and the tail carry the length before them on."""
    longest = config.get("num_speculative_tokens", 0)
    schedule = config.get("num_speculative_tokens_per_batch_size", [[1, batch, longest]])
    assert schedule[0][0] == 1
    assert all(before[0] <= before[1] < after[0] for before, after in pairwise(schedule))
    return min(longest, next(k for start, _, k in reversed(schedule) if start <= batch))


def sglang_length(exported: dict[str, Any], batch: int) -> int:
    """SGLang's rule: the greatest key that is at most the batch, the least key below that."""
    if not exported["flags"]:
        return 0
    if exported["adaptive_config"] is None:
        return exported["flags"]["speculative-num-steps"]
    keys = sorted(map(int, exported["adaptive_config"]))
    (length,) = exported["adaptive_config"][str(keys[max(0, bisect_right(keys, batch) - 1)])]["candidate_steps"]
    return length


def tensorrt_length(config: dict[str, Any], batch: int) -> int:
    """TensorRT-LLM's rule: the least key that is at least the batch; nothing above the greatest."""
    schedule = config.get("draft_len_schedule")
    if schedule is None:
        return config.get("max_draft_len", 0)
    keys = sorted(map(int, schedule))
    assert schedule[str(keys[0])] == config["max_draft_len"] == max(schedule.values())
    place = bisect_left(keys, batch)
    return schedule[str(keys[place])] if place < len(keys) else 0


lengths_by_batch = st.lists(st.integers(0, 6), min_size=1, max_size=4)
batch_sets = st.lists(st.integers(1, 40), min_size=4, max_size=4, unique=True).map(lambda b: tuple(sorted(b)))


@given(lengths_by_batch, batch_sets)
def test_vllm_drafts_at_every_batch_what_the_plan_says(lengths: list[int], batches: tuple[int, ...]) -> None:
    made = chains(*lengths, batches=batches)
    config = check("vllm", export_vllm(made, "chat", max_batch=64))
    for batch in range(1, 65):
        assert vllm_length(config, batch) == made.entry("chat", batch).policy.tree.nodes


@given(lengths_by_batch, batch_sets)
def test_sglang_drafts_at_every_batch_what_the_plan_says(lengths: list[int], batches: tuple[int, ...]) -> None:
    made = chains(*lengths, batches=batches)
    exported = check("sglang", export_sglang(made, "chat", algorithm="EAGLE3"))
    for batch in range(1, 65):
        assert sglang_length(exported, batch) == made.entry("chat", batch).policy.tree.nodes


@given(lengths_by_batch, batch_sets)
def test_tensorrt_llm_drafts_at_every_batch_what_the_plan_says(lengths: list[int], batches: tuple[int, ...]) -> None:
    made = chains(*sorted(lengths, reverse=True), batches=batches)
    config = check("tensorrt-llm", export_tensorrt_llm(made, "chat", max_batch=64))
    for batch in range(1, 65):
        assert tensorrt_length(config, batch) == made.entry("chat", batch).policy.tree.nodes


def test_a_schedule_read_by_another_engines_rule_is_caught() -> None:
    """Lower bounds taken for upper bounds: what the shift of keys is for."""
    made = chains(4, 2, 0)
    slots = export_sglang(made, "chat", algorithm="EAGLE")["adaptive_config"]
    assert slots is not None
    misread = {
        "max_draft_len": 4,
        "draft_len_schedule": {key: slot["candidate_steps"][0] for key, slot in slots.items()},
    }
    assert any(tensorrt_length(misread, b) != made.entry("chat", b).policy.tree.nodes for b in range(1, 17))


@pytest.mark.parametrize("policy", [OFF, CHAIN_3, LOOKUP, LOOKUP_FROM_3, SUFFIX])
def test_what_vllm_runs_satisfies_its_fields(policy: Policy) -> None:
    config = check("vllm", export_vllm(plan(entry(1, policy)), "chat"))
    assert config.get("num_speculative_tokens", 0) == max(
        policy.tree.nodes, policy.retrieved.max_tokens if policy.retrieved else 0
    )


def test_vllm_gets_the_retrieval_that_was_planned() -> None:
    ngram = export_vllm(plan(entry(1, LOOKUP_FROM_3)), "chat")
    assert ngram == {"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_min": 3, "prompt_lookup_max": 16}
    suffix = export_vllm(plan(entry(1, SUFFIX)), "chat")
    assert suffix["suffix_decoding_max_spec_factor"] == 2.0
    assert suffix["suffix_decoding_max_tree_depth"] == 8 + 4, "room for the match that earns the longest chain"


def test_the_flags_read_back_as_the_export() -> None:
    config = export_vllm(chains(4, 2, 0), "chat", method="eagle3", max_batch=64)
    flag, value = shlex.split(vllm_flag(config))
    assert (flag, json.loads(value)) == ("--speculative-config", config)
    assert vllm_flag({}) == ""

    exported = export_sglang(chains(4, 2), "chat", algorithm="EAGLE3")
    words = shlex.split(sglang_flags(exported, "a file.json"))
    assert words[words.index("--speculative-adaptive-config") + 1] == "a file.json"
    assert words[words.index("--speculative-num-draft-tokens") + 1] == "5", "SGLang counts the root"
    assert sglang_flags(export_sglang(chains(0), "chat")) == ""


def test_sglang_reserves_by_its_own_formula() -> None:
    exported = export_sglang_dynamic_tree(plan(entry(1, TREE)), "chat", 1)
    assert exported["flags"] is not None
    assert exported["flags"]["speculative-num-draft-tokens"] == TREE.tree.nodes + 1
    assert reserved_kv_slots(exported["flags"]) == 2 * max(3 * 2, 6)
    assert reserved_kv_slots({}) == 0


@pytest.mark.parametrize("policy", [TREE, BOTH, CAPPED])
@pytest.mark.parametrize("export", [export_vllm, export_sglang, export_tensorrt_llm])
def test_what_a_chain_engine_cannot_run_is_refused_with_the_loss(export: Any, policy: Policy) -> None:
    made = plan(entry(1, policy, tokens_per_step=2.5, tokens_per_s=120))
    with pytest.raises(UnsupportedByEngineError) as caught:
        export(made, "chat")
    assert "chain 3, 1.8 tokens a step instead of 2.5 and 90 tokens/s instead of 120 (-25.0 %)" in caught.value.fix
    assert policy.name in caught.value.got
    assert check(engine_of(export), export(made, "chat", nearest=True)) == export(chains(3), "chat")


def engine_of(export: Any) -> str:
    return export.__name__.removeprefix("export_").replace("_", "-")


def test_a_loss_that_was_not_weighed_is_said_to_be_unknown() -> None:
    bare = entry(1, TREE).model_copy(update={"candidates": ()})
    with pytest.raises(UnsupportedByEngineError, match=r"chain 3, which the plan did not weigh.*not known"):
        export_vllm(plan(bare), "chat")
    (choice,) = nearest(plan(bare), "vllm", "chat")
    assert (choice.policy, choice.tokens_per_s, choice.exact) == (CHAIN_3, None, False)


def test_one_server_runs_one_method() -> None:
    mixed = plan(entry(1, LOOKUP), entry(8, CHAIN_3))
    with pytest.raises(UnsupportedByEngineError, match=r"batch 1: .* -> chain 3, 1.8 tokens"):
        export_vllm(mixed, "chat")
    assert export_vllm(mixed, "chat", nearest=True)["method"] == "draft_model"


def test_standalone_keeps_one_length_at_every_batch() -> None:
    made = chains(3, 2, batches=(1, 8))
    with pytest.raises(UnsupportedByEngineError, match="90 tokens/s"):
        export_sglang(made, "chat", algorithm="STANDALONE")
    flags = export_sglang(made, "chat", algorithm="STANDALONE", nearest=True)["flags"]
    assert flags is not None
    assert flags["speculative-num-steps"] == 3, "the length whose worst batch loses least"


def test_tensorrt_llm_is_longest_at_the_smallest_batch() -> None:
    with pytest.raises(UnsupportedByEngineError):
        export_tensorrt_llm(chains(2, 3), "chat")
    config = check("tensorrt-llm", export_tensorrt_llm(chains(2, 3), "chat", nearest=True))
    assert config.get("draft_len_schedule", {"16": config["max_draft_len"]})["16"] <= config["max_draft_len"]


def test_dynamic_trees_keep_the_engines_bounds() -> None:
    wide = plan(entry(1, policy_of(TokenTree([-1] + [0] * 3 + [1] * 3 + [2] * 3))))
    exported = check("sglang", export_sglang_dynamic_tree(wide, "chat", 1))
    assert exported["flags"]["speculative-num-draft-tokens"] - 1 <= 3 + (2 - 1) * 3**2
    with pytest.raises(UnsupportedByEngineError, match=r"3 \* 2 = 6 nodes"):
        export_tensorrt_llm_dynamic_tree(wide, "chat", 1)
    config = check("tensorrt-llm", export_tensorrt_llm_dynamic_tree(plan(entry(1, TREE)), "chat", 1))
    assert (
        config["max_draft_len"]
        <= config["max_total_draft_tokens"]
        <= config["dynamic_tree_max_topK"] * config["max_draft_len"]
    )
    for refuse in (export_sglang_dynamic_tree, export_tensorrt_llm_dynamic_tree):
        with pytest.raises(UnsupportedByEngineError, match="Export a chain"):
            refuse(plan(entry(1, CHAIN_3)), "chat", 1)


@pytest.mark.parametrize(
    ("engine", "damaged"),
    [
        ("vllm", {"method": "ngram", "num_speculative_tokens": 4}),
        ("vllm", {"method": "eagle3", "model": "m", "num_speculative_tokens": 0}),
        ("vllm", {"method": "eagle3", "model": "m", "num_speculative_tokens": 2, "speculative_token_tree": "[(0,)]"}),
        ("sglang", {"flags": {"speculative-num-draft-tokens": 1}, "adaptive_config": None}),
        ("sglang", {"flags": {}, "adaptive_config": {"0": {"candidate_steps": [1]}}}),
        ("tensorrt-llm", {"decoding_type": "Eagle3"}),
        ("tensorrt-llm", {"decoding_type": "NGram", "max_draft_len": 0}),
    ],
)
def test_the_schema_catches_what_the_engine_would_refuse(engine: str, damaged: Any) -> None:
    with pytest.raises(ValidationError):
        check(engine, damaged)


@pytest.mark.parametrize("engine", EXPORTERS.names)
def test_every_format_names_its_version_and_is_a_schema(engine: str) -> None:
    told = engine_format(engine)
    assert told.engine == engine and re.match(r"\d", told.version)
    Draft202012Validator.check_schema(told.schema)
    (choice, *_) = nearest(plan(entry(1, CHAIN_3)), engine, "chat")
    assert choice.exact


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"sglang.*vllm"):
        export(chains(3), "telepathy", "chat")
    with pytest.raises(InvalidInputError, match="draft_model, eagle"):
        export_vllm(chains(3), "chat", method="telepathy")
    with pytest.raises(InvalidInputError, match="`workload`"):
        export_vllm(chains(3), "poetry")
    with pytest.raises(InvalidInputError, match="must name the draft"):
        export_vllm(plan(entry(1, CHAIN_3), draft=None), "chat")
    with pytest.raises(InvalidInputError, match="largest planned batch"):
        export_vllm(chains(3, 2), "chat", max_batch=2)
