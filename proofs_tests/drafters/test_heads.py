"""A head drafts, in the engine, what its definition says: from the target's hidden states of committed tokens alone.

And whatever it drafts, greedy text is the target's own and sampled text has the target's law.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.drafters.heads import KINDS, Checked, Defined, checked_run, head_for, network_for
from proofs_tests.tiny import POLICIES, TREE, generated, random_prompts, tiny_model
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.acceptance.replay import replay
from reader_theory.documents import Grown, Trace, policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.rules.exact import Forks, outcome_law
from reader_theory.trees import TokenTree
from runtime.drafters import sampled
from runtime.drafters.head.cache import HeadCache
from runtime.drafters.head.export import densified
from runtime.drafters.head.model import HeadModel
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.offered import DEPTH
from runtime.engine import step as step_module
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.record import trace_of
from runtime.models.load import wrap

PROMPTS = [prompt.tokens for prompt in random_prompts(6)]
LENGTHS = (12, 5, 17, 9, 3, 11)
"""So different that requests leave and others join while drafts go on, three rows at most."""
CHAIN = TokenTree.chain(3)
DEEP = TokenTree.from_rank_paths([(r,) for r in range(30)] + [(r, s) for r in range(30) for s in range(10)])
WIDE = TokenTree.from_rank_paths([(rank,) for rank in range(40)] + [(0, 0), (1, 0), (2, 0)])


def plain_texts() -> list[list[int]]:
    whole = tiny_model("llama")
    return [generated(whole, prompt, length) for prompt, length in zip(PROMPTS, LENGTHS, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tree", [CHAIN, TREE], ids=["chain", "tree"])
def test_head_drafts_what_its_definition_says_in_a_ragged_batch(kind: str, tree: TokenTree) -> None:
    texts, looked = checked_run(Engine, policy_of(tree), PROMPTS, LENGTHS, **KINDS[kind])
    assert texts == plain_texts()
    assert looked > 60


def test_head_drafts_what_its_definition_says_where_drafts_are_accepted() -> None:
    whole = tiny_model("llama")
    head = head_for(whole)
    drafter = Checked(head, Defined(whole, head))
    engine = Engine(wrap(whole), drafters={"draft": drafter}, policy=policy_of(WIDE), max_batch=2, max_context=160)
    requests = [engine.add(prompt, SamplingParams(max_new_tokens=14)) for prompt in PROMPTS[:3]]
    while engine.step():
        pass
    assert [r.output for r in requests] == [generated(whole, prompt, 14) for prompt in PROMPTS[:3]]
    assert sum(request.accepted for request in requests) > 6


@pytest.mark.parametrize("backend", ["eager", "graphs"])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("block", [0, 3])
def test_greedy_text_is_the_targets_own_whatever_the_head(name: str, backend: Any, block: int) -> None:
    whole = tiny_model("llama")
    engine = Engine(
        wrap(whole), head_for(whole, block=block), policy=POLICIES[name], max_batch=3, max_context=96, backend=backend
    )
    done = engine.generate(PROMPTS, [SamplingParams(max_new_tokens=length) for length in LENGTHS])
    assert [list(one.tokens) for one in done] == plain_texts()


def test_graphs_backend_accepts_what_the_eager_one_does() -> None:
    whole, seen = tiny_model("llama"), []
    for backend in ("eager", "graphs"):
        engine = Engine(
            wrap(whole), head_for(whole), policy=policy_of(WIDE), max_batch=3, max_context=96, backend=backend
        )
        pairs = zip(PROMPTS, LENGTHS, strict=True)
        requests = [engine.add(prompt, SamplingParams(max_new_tokens=length)) for prompt, length in pairs]
        while engine.step():
            pass
        seen.append([request.steps for request in requests])
    assert seen[0] == seen[1]
    assert sum(seen[0]) < sum(LENGTHS) - len(LENGTHS) - 6, "drafts were accepted"


@pytest.mark.parametrize("block", [0, 2, 3, 5])
def test_head_grows_trees_with_retrieval(block: int) -> None:
    whole = tiny_model("llama")
    grown = Grown(nodes=12, price=0.001, drafter="draft", retrieval="retrieval", levels=2, width=2, draft_price=0.001)
    engine = Engine(wrap(whole), head_for(whole, block=block), policy=grown, max_batch=3, max_context=96)
    done = engine.generate(PROMPTS, [SamplingParams(max_new_tokens=length) for length in LENGTHS])
    assert [list(one.tokens) for one in done] == plain_texts()


# ---- what a recording says


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_ranks_are_the_heads_own_at_every_depth(kind: str) -> None:
    whole = tiny_model("llama")
    head = head_for(whole, **KINDS[kind])
    defined, target, prompts = Defined(whole, head), wrap(whole), random_prompts(2)
    prompts[1] = replace(prompts[1], tokens=prompts[1].tokens[:1])
    outputs = [np.array(generated(whole, prompt.tokens, 10)) for prompt in prompts]
    trace = trace_of(target, {"head": head}, prompts, outputs, candidates=6)
    told = trace.drafters["head"]
    block = KINDS[kind].get("block", 0)
    assert (told.kind, told.candidates, told.forwards.kind) == ("block", 6, "block" if block else "levels")
    assert trace.columns["head_rank"].shape[1] == (block or DEPTH)
    for row, (number, at) in enumerate(zip(trace.columns["prompt"], trace.columns["position"], strict=True)):
        text, true = [*prompts[number].tokens.tolist(), *outputs[number].tolist()], outputs[number].tolist()
        begun = len(text) - len(true) + at
        for depth, rank in enumerate(trace.columns["head_rank"][row]):
            if at + depth >= len(true) or begun < 2:
                assert rank == -1
                continue
            order = torch.argsort(defined.logits(text[:begun], true[at : at + depth]), descending=True).tolist()
            expected = order.index(true[at + depth])
            assert rank == (expected if expected < 6 else -1)


@pytest.mark.parametrize("tree", [CHAIN, DEEP, TREE], ids=["chain", "deep", "tree"])
@pytest.mark.parametrize("block", [0, 3])
def test_replay_of_a_heads_trace_is_what_the_engine_does_step_for_step(tree: TokenTree, block: int) -> None:
    whole, prompts = tiny_model("llama"), random_prompts(5)
    head, target, policy = head_for(whole, block=block), wrap(whole), policy_of(tree)
    engine = Engine(target, head, policy=policy, max_batch=3, max_context=128)
    requests = [engine.add(prompt.tokens, SamplingParams(max_new_tokens=24)) for prompt in prompts]
    while engine.step():
        pass
    trace = trace_of(target, head, prompts, [np.array(r.output) for r in requests], candidates=40)
    assert [r.steps for r in requests] == replay(trace, policy, first_position=1).steps.tolist()


def test_plan_of_a_head_goes_no_deeper_than_its_recording() -> None:
    whole, prompts = tiny_model("llama"), random_prompts(6)
    head, target = head_for(whole), wrap(whole)
    outputs = [np.array(generated(whole, prompt.tokens, 24)) for prompt in prompts]
    trace = trace_of(target, head, prompts, outputs, candidates=40)
    fit = fit_acceptance(trace, depth=12, resamples=100)
    table = fit.workloads[0].drafters["draft"].rank_depth
    assert table is not None and len(table.value) <= DEPTH
    with pytest.raises(InvalidInputError, match="no deeper than the block"):
        replay(trace, policy_of(TokenTree.chain(DEPTH + 1)))


# ---- sampled text


def _law_of_text(whole: Any, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
    law = {}
    for text in product(range(whole.config.vocab_size), repeat=length):
        with torch.no_grad():
            logits = whole(torch.tensor([[*prompt, *text]])).logits[0].double()
        laws = logits.softmax(-1)[len(prompt) - 1 : -1]
        law[text] = float(torch.prod(laws[torch.arange(length), torch.tensor(text)]))
    return law


def _small() -> Any:
    import transformers as tf

    torch.manual_seed(3)
    config = tf.LlamaConfig(
        vocab_size=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return tf.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().double()


def gap_to_the_law(rule: str, tree: TokenTree, **changes: Any) -> float:
    whole, prompt, length = _small(), [1, 2, 0], 3
    head = head_for(whole, **changes)
    params = SamplingParams(temperature=1.0, max_new_tokens=length, verification=rule)
    engine = Engine(wrap(whole), head, policy=policy_of(tree), max_batch=1, max_context=32)

    def run(forks: Forks) -> tuple[int, ...]:
        uniforms = forks.uniforms(length)
        request = engine.add(prompt, params, uniforms=uniforms, streams=lambda *key: forks.uniforms(key[-1]))
        while engine.step():
            pass
        return tuple(request.output)

    made = {text: float(share) for text, share in outcome_law(run).items() if share}
    law = _law_of_text(whole, prompt, length)
    return sum(abs(made.get(text, 0.0) - law.get(text, 0.0)) for text in made.keys() | law.keys()) / 2


PAIR = TokenTree.from_rank_paths([(0,), (1,)])


@pytest.mark.parametrize(("rule", "tree"), [("chain", TokenTree.chain(2)), ("block", TokenTree.chain(2)),
                                            ("multi_round", PAIR), ("without_replacement", PAIR)])  # fmt: skip
@pytest.mark.parametrize("kind", [{}, {"draft_vocabulary": 2}, {"block": 2}], ids=["whole", "trimmed", "block"])
def test_sampled_text_has_the_targets_law_whatever_the_head(rule: str, tree: TokenTree, kind: dict[str, Any]) -> None:
    assert gap_to_the_law(rule, tree, **kind) < 1e-4


def test_a_map_to_the_targets_tokens_that_ids_take_and_laws_do_not_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sampled.draw_drafts

    def laws_unmapped(*args: Any) -> list[Any]:
        found = drawn(*args)
        rolled = [None if one.law is None else np.roll(one.law, 1, axis=1) for one in found]
        return [replace(one, law=law, drawn_with=None) for one, law in zip(found, rolled, strict=True)]

    monkeypatch.setattr("runtime.drafters.neural.draw_drafts", laws_unmapped)
    with pytest.raises(InvalidInputError, match="Declare the law that was sampled"):
        gap_to_the_law("chain", TokenTree.chain(2), draft_vocabulary=2)


# ---- planted bugs


def _unwalked(hidden: Any, path: Any) -> Any:
    return None if not hidden else torch.stack(tuple(hidden), dim=2)


def _off_by_one(give: Any, self: Any, row: int, start: int, states: torch.Tensor) -> None:
    give(self, row, start, torch.cat((states[:1], states[:-1])) if len(states) > 1 else states)


def _stale(give: Any, self: Any, row: int, start: int, states: torch.Tensor) -> None:
    drafted = self.states[row, start + len(states) - 1].clone()
    give(self, row, start, states)
    if start and len(states) > 1:
        self.states[row, start + len(states) - 1] = drafted


def _keeps_rows(move: Any, self: Any, source: int, target: int) -> None:
    states, known = self.states[target].clone(), int(self.known[source])
    move(self, source, target)
    self.states[target, :known] = states[:known]


@pytest.mark.parametrize("bug", ["rejected nodes", "off by one", "stale", "wrong row"])
@pytest.mark.parametrize("kind", ["post", "block"])
def test_a_planted_bug_in_the_features_is_caught(bug: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "rejected nodes":
        monkeypatch.setattr(step_module, "along", _unwalked)
    elif bug == "wrong row":
        monkeypatch.setattr(HeadCache, "move_row", _Planted(_keeps_rows, HeadCache.move_row))
    else:
        planted = _off_by_one if bug == "off by one" else _stale
        monkeypatch.setattr(HeadCache, "give", _Planted(planted, HeadCache.give))
    with pytest.raises(AssertionError, match="by definition"):
        checked_run(Engine, policy_of(WIDE), PROMPTS, LENGTHS, **KINDS[kind])


def test_masks_that_are_kept_as_if_committed_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    catch_up = NeuralDrafter._catch_up  # pyright: ignore[reportPrivateUsage]

    def kept(self: NeuralDrafter, rows: int, reach: Any = (), masks: Any = None) -> Any:
        found = catch_up(self, rows, reach, masks)
        self.cache.lengths[:rows] += masks
        return found

    monkeypatch.setattr(NeuralDrafter, "_catch_up", kept)
    with pytest.raises(AssertionError, match="by definition"):
        checked_run(Engine, policy_of(CHAIN), PROMPTS, LENGTHS, **KINDS["block"])


def test_a_recording_that_takes_the_first_depth_for_all_is_caught() -> None:
    """What a trace of a head said once: replayed, it is not what the engine does."""
    whole, prompts = tiny_model("llama"), random_prompts(5)
    head, target, policy = head_for(whole), wrap(whole), policy_of(DEEP)
    engine = Engine(target, head, policy=policy, max_batch=3, max_context=128)
    requests = [engine.add(prompt.tokens, SamplingParams(max_new_tokens=24)) for prompt in prompts]
    while engine.step():
        pass
    trace = trace_of(target, head, prompts, [np.array(r.output) for r in requests], candidates=40)
    columns, ranks = dict(trace.columns), trace.columns["draft_rank"]
    later = [np.append(ranks[depth:, 0], np.full(depth, -1)) for depth in range(ranks.shape[1])]
    columns["draft_rank"] = np.stack(later, axis=1).astype(np.int32)
    fields = {name: getattr(trace, name) for name in ("stamp", "target", "temperature", "prompts", "drafters")}
    flat = Trace.in_memory(columns, **fields)
    assert [r.steps for r in requests] != replay(flat, policy, first_position=1).steps.tolist()


class _Planted:
    """A method whose body is a planted one."""

    def __init__(self, planted: Any, sound: Any) -> None:
        self.planted, self.sound = planted, sound

    def __get__(self, instance: Any, owner: Any) -> Any:
        return partial(self.planted, self.sound, instance)


@pytest.mark.parametrize("rank", [5, 16, 17])
def test_an_output_head_of_any_rank_gives_its_own_logits_and_lies_in_memory_once(rank: int) -> None:
    whole = tiny_model("llama")
    network = network_for(whole, rank=rank)
    states = torch.randn(3, network.shape.width)
    with torch.no_grad():
        wanted = network.lm_head(states)
    head = HeadModel(network, whole.get_input_embeddings().weight)
    torch.testing.assert_close(head.logits_of(states), wanted, rtol=0, atol=1e-5)
    up = head.network.lm_head.up.weight
    assert up.shape == (network.shape.vocabulary, rank)
    if head.head[1].weight is not None:
        assert up.untyped_storage().data_ptr() == head.head[1].weight.untyped_storage().data_ptr()
    torch.testing.assert_close(densified(head.network).lm_head(states), wanted, rtol=0, atol=1e-5)
