"""The judge in the engine: what plain decoding by whole forwards gives, greedy where it must be, refused elsewhere."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from proofs_tests.judge.toys import Features, models, plainly_judged, tiny_draft, toy_judge
from proofs_tests.tiny import POLICIES, TREE, generated, random_prompts, tiny_model
from reader_theory.documents import policy_of
from reader_theory.documents.judge import Judge
from reader_theory.errors import DocumentError
from reader_theory.trees import TokenTree
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.load import wrap
from runtime.models.states import check_probe, probe_of

COUNT, DRAFTS = 24, 4
PROMPTS = [each.tokens for each in random_prompts(4)]


def judged(judge: Any, threshold: float, **more: Any) -> SamplingParams:
    parameters = {"judge": judge, "threshold": threshold}
    return SamplingParams(max_new_tokens=COUNT, verification="judge_lossy", rule_parameters=parameters, **more)


def engine(policy: Any = None, *, backend: Literal["eager", "graphs"] = "eager", **options: Any) -> Engine:
    target, draft = models()
    policy = policy_of(TokenTree.chain(DRAFTS)) if policy is None else policy
    return Engine(target, draft, policy=policy, max_batch=4, max_context=128, backend=backend, **options)


@pytest.mark.parametrize("backend", ["eager", "graphs"])
@pytest.mark.parametrize("features", ["difference", "drafted"])
def test_tokens_and_rounds_are_those_of_whole_forwards(features: Features, backend: Literal["eager", "graphs"]) -> None:
    judge = toy_judge(*models(), features)
    thresholds = (0.3, 0.5, 0.7, 0.9)
    requests, expected = [], []
    served = engine(backend=backend)
    for prompt, threshold in zip(PROMPTS, thresholds, strict=True):  # a batch of several thresholds, ragged
        requests.append(served.add(prompt, judged(judge, threshold)))
        expected.append(plainly_judged(prompt, judge, threshold, DRAFTS, COUNT))
    while served.step():
        pass
    assert [(request.output, request.steps) for request in requests] == expected
    greedy = [generated(tiny_model("llama"), prompt, COUNT) for prompt in PROMPTS]
    assert [request.output for request in requests] != greedy, "some mismatch must have been accepted"


@pytest.mark.parametrize("policy", ["off", "chain", "tree", "retrieval", "both"])
@pytest.mark.parametrize("backend", ["eager", "graphs"])
def test_threshold_0_is_greedy_token_for_token_under_any_policy(
    policy: str, backend: Literal["eager", "graphs"]
) -> None:
    served = engine(POLICIES[policy], backend=backend)
    for judge in (toy_judge(*models()), "confidence", "random", "top_k"):
        done = served.generate(PROMPTS, judged(judge, 0.0))
        assert [each.tokens for each in done] == [generated(tiny_model("llama"), p, COUNT) for p in PROMPTS]
        assert {(each.verification, each.lossless) for each in done} == {("judge_lossy", False)}


def test_a_threshold_above_1_takes_every_draft() -> None:
    done = engine().generate(PROMPTS, judged(toy_judge(*models()), 1.01))
    for prompt, each in zip(PROMPTS, done, strict=True):
        draft = generated(tiny_draft(), np.append(prompt, each.tokens[0]), COUNT - 1)
        assert each.tokens[:-1] == [each.tokens[0], *draft][:-1]
        assert each.accepted >= COUNT - 2, "a last token alone is never drafted"


def test_more_is_accepted_at_a_higher_threshold_and_counted_by_depth() -> None:
    judge, rates = toy_judge(*models()), []
    for threshold in (0.0, 0.4, 0.8, 1.01):
        served = engine()
        done = served.generate(PROMPTS, judged(judge, threshold))
        counters = served.counters
        assert sum(counters.accepted["draft"]) == sum(each.accepted for each in done)
        assert counters.rules == {"judge_lossy": sum(each.steps for each in done)}
        rates.append(counters.acceptance("draft")[0])
    assert rates == sorted(rates) and rates[0] < rates[-1] == 1.0


@pytest.mark.parametrize("backend", ["eager", "graphs"])
def test_judged_rows_change_nothing_of_the_rows_beside_them(backend: Literal["eager", "graphs"]) -> None:
    served, judge = engine(policy_of(TREE), backend=backend), toy_judge(*models())
    plain, random = SamplingParams(max_new_tokens=COUNT), judged("random", 0.5, seed=3)
    done = served.generate(PROMPTS, [plain, judged(judge, 0.6), random, plain])
    assert [done[i].tokens for i in (0, 3)] == [generated(tiny_model("llama"), PROMPTS[i], COUNT) for i in (0, 3)]
    for row, params in ((1, judged(judge, 0.6)), (2, random)):
        alone = engine(policy_of(TREE), backend=backend).generate([PROMPTS[row]], [params])[0]
        assert done[row].tokens == alone.tokens


def test_penalties_and_biases_decide_what_the_targets_own_token_is() -> None:
    banned = generated(tiny_model("llama"), PROMPTS[0], COUNT)[1]
    bias = {banned: -1e9}
    want = engine(POLICIES["off"]).generate([PROMPTS[0]], SamplingParams(max_new_tokens=COUNT, logit_bias=bias))[0]
    done = engine().generate([PROMPTS[0]], judged(toy_judge(*models()), 0.0, logit_bias=bias))[0]
    assert done.tokens == want.tokens and banned not in done.tokens


def test_a_bounded_cache_serves_judged_rows() -> None:
    judge = toy_judge(*models())
    whole = engine().generate(PROMPTS, judged(judge, 0.6))
    bounded = engine(kv_tokens=150).generate(PROMPTS, judged(judge, 0.6))
    assert [each.tokens for each in bounded] == [each.tokens for each in whole]


@pytest.mark.parametrize("which", ["target", "draft", "wider", "no draft"])
def test_a_judge_of_another_model_ends_its_request_and_no_other(which: str) -> None:
    target, draft = models()
    other = wrap(tiny_model("llama", seed=7)), wrap(tiny_model("llama", hidden=32, seed=7))
    pair = {"target": (other[0], draft), "draft": (target, other[0]), "wider": (target, other[1])}
    judge = toy_judge(*pair.get(which, (target, draft)))
    served = engine() if which != "no draft" else Engine(target, max_batch=4, max_context=128)
    done = served.generate(PROMPTS[:2], [judged(judge, 0.5), SamplingParams(max_new_tokens=COUNT)])
    role = "target" if which == "target" else "draft"
    assert done[0].finish.startswith(f"error: a judge must be used with the {role} that it was fitted for. Got ")
    assert "judge" in done[0].finish.partition("Got ")[2], "what it is instead, and the way out"
    assert done[1].tokens == generated(tiny_model("llama"), PROMPTS[1], COUNT)


def test_a_model_is_told_by_its_states_in_any_format_of_its_weights() -> None:
    model = tiny_model("llama")
    probe = probe_of(models()[0])
    for other in (wrap(model, "transformers"), wrap(tiny_model("llama").to(torch.float32))):
        check_probe(other, probe, "target")
    check_probe(wrap(tiny_model("llama").to(torch.bfloat16)), probe, "target")


def test_a_judge_file_is_read_and_refused_where_it_is_damaged(tmp_path: Any) -> None:
    path = toy_judge(*models()).write(tmp_path / "judge.json")
    want = engine().generate(PROMPTS[:1], judged(Judge.read(path), 0.6))[0].tokens
    assert engine().generate(PROMPTS[:1], judged(str(path), 0.6))[0].tokens == want
    path.write_text(path.read_text()[:-100])
    with pytest.raises(DocumentError, match=r"judge\.json"):
        judged(str(path), 0.6)


def test_several_drafters_are_told_apart_by_the_judge() -> None:
    target, draft = models()
    other = NeuralDrafter(wrap(tiny_model("llama", hidden=32, seed=9)))
    served = Engine(
        target, drafters={"other": other, "small": NeuralDrafter(draft)}, max_batch=2, max_context=128,
        policy=policy_of(TokenTree.chain(DRAFTS), drafter="other"),
    )  # fmt: skip
    judge = toy_judge(target, draft)
    assert served.backend.judging.drafter_of(judge).name == "small"
    done = served.generate(PROMPTS[:2], judged(judge, 0.0))
    assert [each.tokens for each in done] == [generated(tiny_model("llama"), p, COUNT) for p in PROMPTS[:2]]
    assert all(each.finish == "length" for each in served.generate(PROMPTS[:2], judged(judge, 0.7)))


@pytest.mark.parametrize("backend", ["eager", "graphs"])
def test_steps_without_drafts_pay_nothing_for_their_judge(
    backend: Literal["eager", "graphs"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain decoding beside a judged plan forwarded the draft for features that nothing asked for."""
    served, looked = engine(POLICIES["off"], backend=backend), []
    monkeypatch.setattr(served.backend.judging, "importance", lambda *a, **k: looked.append(a))
    done = served.generate(PROMPTS[:1], judged(toy_judge(*models()), 0.6))
    assert done[0].tokens == generated(tiny_model("llama"), PROMPTS[0], COUNT) and not looked
