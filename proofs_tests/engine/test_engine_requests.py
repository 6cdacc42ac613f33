"""Requests join, leave, fail and are cancelled each on their own; the cache always holds what a fresh prefill would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from proofs_tests.tiny import POLICIES, VOCABULARY, generated, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.inputs import prefill
from runtime.models.load import wrap


def _engine(batch: int = 3, policy: str = "both") -> Engine:
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    return Engine(wrap(tiny_model("llama")), draft, policy=POLICIES[policy], max_batch=batch, max_context=96)


def test_a_request_that_fails_ends_alone() -> None:
    prompts = [p.tokens for p in random_prompts(3)]
    bad = [np.array([1, VOCABULARY]), np.array([-1]), np.zeros(95, dtype=np.int64), np.array([], dtype=np.int64)]
    done = _engine().generate([prompts[0], *bad, *prompts[1:]], SamplingParams(max_new_tokens=16))
    assert all(completion.finish.startswith("error: ") and not completion.tokens for completion in done[1:5])
    good = [done[0], *done[5:]]
    assert [c.tokens for c in good] == [generated(tiny_model("llama"), p, 16) for p in prompts]


def test_a_stop_token_ends_the_request_and_nothing_follows_it() -> None:
    prompt = random_prompts(1)[0].tokens
    whole = generated(tiny_model("llama"), prompt, 24)
    stop = whole[9]
    done = _engine().generate([prompt], SamplingParams(max_new_tokens=24, stop_token_ids=(stop,)))[0]
    assert done.finish == "stop"
    assert done.tokens == whole[: whole.index(stop) + 1]


def test_a_cancelled_request_leaves_and_the_others_are_unchanged() -> None:
    engine, params = _engine(), SamplingParams(max_new_tokens=20)
    prompts = [p.tokens for p in random_prompts(4)]
    requests = [engine.add(prompt, params) for prompt in prompts]
    for _ in range(3):
        engine.step()
    engine.cancel(requests[0])
    while engine.step():
        pass
    assert requests[0].finish == "cancelled" and 0 < len(requests[0].output) < 20
    for request, prompt in list(zip(requests, prompts, strict=True))[1:]:
        assert request.output == generated(tiny_model("llama"), prompt, 20)


def test_a_stream_yields_what_generate_gives_and_leaves_when_closed() -> None:
    engine, prompt = _engine(), random_prompts(2)[1].tokens
    pieces = list(engine.stream(prompt, SamplingParams(max_new_tokens=20)))
    assert [token for piece in pieces for token in piece] == generated(tiny_model("llama"), prompt, 20)
    stream = engine.stream(prompt, SamplingParams(max_new_tokens=20))
    next(stream)
    stream.close()
    assert not engine.rows and not engine.waiting


@pytest.mark.parametrize("policy", POLICIES)
def test_cache_contents_after_every_step_equal_a_fresh_prefill(policy: str) -> None:
    engine = _engine(policy=policy)
    for prompt in random_prompts(4):
        engine.add(prompt.tokens, SamplingParams(max_new_tokens=12))
    while engine.step():
        for row, request in enumerate(engine.rows):
            held = np.concatenate([request.prompt, request.output[:-1]])
            assert engine.cache.lengths[row] == len(held)
            fresh = engine.target.new_cache(1, 96)
            prefill(engine.target, fresh, held.astype(np.int64), 0)
            for ours, theirs in zip(engine.cache.layers, fresh.layers, strict=True):
                torch.testing.assert_close(
                    ours.keys[row, :, : len(held)], theirs.keys[0, :, : len(held)], atol=1e-4, rtol=0
                )
                torch.testing.assert_close(
                    ours.values[row, :, : len(held)], theirs.values[0, :, : len(held)], atol=1e-4, rtol=0
                )


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
        {"temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.3},
        {"temperature": 0.0, "repetition_penalty": 1.5},
        {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 2.0},
        {"temperature": 1.0, "frequency_penalty": 1.5},
    ],
)
def test_filters_and_penalties_see_the_same_prefix_with_and_without_drafts(options: dict[str, float]) -> None:
    prompts, params = [p.tokens for p in random_prompts(4)], SamplingParams(max_new_tokens=16, seed=5, **options)  # type: ignore[arg-type]
    texts = [
        [done.tokens for done in _engine(batch, policy).generate(prompts, params)]
        for batch, policy in ((1, "off"), (3, "both"))
    ]
    assert texts[0] == texts[1]


def test_a_greedy_penalty_equals_that_of_transformers() -> None:
    prompt, model = random_prompts(2)[1].tokens, tiny_model("llama")
    ids = torch.from_numpy(prompt)[None]
    theirs = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=16,
        repetition_penalty=1.5,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    ours = _engine().generate([prompt], SamplingParams(max_new_tokens=16, repetition_penalty=1.5))[0].tokens
    assert ours == theirs


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    from runtime.models.table import TableModel

    with pytest.raises(InvalidInputError, match="share one vocabulary"):
        Engine(wrap(tiny_model("llama")), TableModel(np.full((4, 4), 0.25)), max_context=64)


def test_penalties_count_the_output_alone_and_each_node_its_own_path() -> None:
    prompt, model = random_prompts(2)[1].tokens, tiny_model("llama")
    text: list[int] = []
    for _ in range(24):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt.tolist(), *text]])).logits[0, -1]
        times = np.bincount(text, minlength=len(logits))
        text.append(int((logits.numpy() - 1.5 * (times > 0) - 2.0 * times).argmax()))
    params = SamplingParams(max_new_tokens=24, presence_penalty=1.5, frequency_penalty=2.0)
    plain = _engine().generate([prompt], SamplingParams(max_new_tokens=24))[0].tokens
    assert text != plain
    for policy in ("off", "tree", "both"):
        assert _engine(1, policy).generate([prompt], params)[0].tokens == text
