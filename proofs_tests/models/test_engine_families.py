"""Greedy output of the engine is the target's own, token for token, whatever drafts and however many rows."""

from __future__ import annotations

from functools import cache

import pytest

from proofs_tests.tiny import FAMILIES, POLICIES, generated, random_prompts, tiny_model
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.lean import LeanModel, is_lean
from runtime.models.load import wrap

TOKENS = 24


@cache
def _expected(family: str) -> list[list[int]]:
    return [generated(tiny_model(family), prompt.tokens, TOKENS) for prompt in random_prompts(5)]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_output_equals_generate_for_each_family(family: str, policy: str, batch: int) -> None:
    target = wrap(tiny_model(family))
    draft = wrap(tiny_model(family, hidden=32, layers=1, seed=1))
    engine = Engine(target, draft, policy=POLICIES[policy], max_batch=batch, max_context=128)
    done = engine.generate([p.tokens for p in random_prompts(5)], SamplingParams(max_new_tokens=TOKENS))
    assert [completion.tokens for completion in done] == _expected(family)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_good_draft_saves_steps(family: str) -> None:
    target = wrap(tiny_model(family))
    engine = Engine(target, target, policy=POLICIES["chain"], max_batch=2, max_context=128)
    done = engine.generate([p.tokens for p in random_prompts(3)], SamplingParams(max_new_tokens=TOKENS))
    assert [completion.steps for completion in done] == [6, 6, 6]
    assert [completion.tokens for completion in done] == _expected(family)[:3]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_lean_forward_equals_transformers_to_rounding(family: str) -> None:
    model = tiny_model(family)
    assert is_lean(model)
    prompts = [p.tokens for p in random_prompts(3)]
    outputs = []
    for forward in ("lean", "transformers"):
        engine = Engine(wrap(model, forward), policy=POLICIES["retrieval"], max_batch=3, max_context=128)
        outputs.append([done.tokens for done in engine.generate(prompts, SamplingParams(max_new_tokens=TOKENS))])
    assert outputs[0] == outputs[1]


def test_lean_logits_stay_within_rounding_of_transformers() -> None:
    from runtime.models.inputs import teacher_forced

    model = tiny_model("qwen3")
    prompt, output = random_prompts(1)[0].tokens, random_prompts(2, seed=5)[1].tokens
    lean, whole = (teacher_forced(wrap(model, forward), prompt, output) for forward in ("lean", "transformers"))
    assert isinstance(wrap(model), LeanModel)
    assert float((lean - whole).abs().max()) < 2e-5 * float(whole.abs().max())
