"""Draft and target law go through transformers' own processors: each row its prefix, each request its parameters."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from reader_theory.errors import InvalidInputError  # noqa: E402
from runtime.engine.processors import RepetitionPenalty, TokenLaw, target_law  # noqa: E402
from runtime.engine.sampling import SamplingParams  # noqa: E402

EVERYTHING = SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.3)
PARAMS = (
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.0, top_k=5),
    SamplingParams(temperature=1.3, top_p=0.8),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(repetition_penalty=1.5),
    EVERYTHING,
)
PREFIXES = [[3, 3, 7], [3, 3, 7, 11], [3, 3, 7, 2, 2]]


def logits(rows: int = 3, vocabulary: int = 16) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=2.0, size=(rows, vocabulary)).astype(np.float32)


def generated_law(row: np.ndarray, prefix: list[int], params: SamplingParams) -> np.ndarray:
    """The law that `generate` samples from after this prefix: its own list of processors, in its own order."""
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    tiny = GPT2LMHeadModel(GPT2Config(vocab_size=len(row), n_positions=8, n_embd=4, n_layer=1, n_head=1))
    sampled = {} if params.greedy else {"temperature": params.temperature, "top_p": params.top_p, "min_p": params.min_p}
    config = GenerationConfig(
        do_sample=not params.greedy, top_k=params.top_k or None, repetition_penalty=params.repetition_penalty, **sampled
    )
    processors = tiny._get_logits_processor(config, input_ids_seq_length=len(prefix), device="cpu")
    scores = processors(torch.tensor([prefix]), torch.tensor(row[None]))
    if params.greedy:
        return np.eye(len(row))[int(scores.argmax())]
    return torch.softmax(scores.double(), dim=-1)[0].numpy()


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_law_is_the_one_that_generate_samples(params: SamplingParams) -> None:
    laws = target_law(logits(), params, PREFIXES)
    expected = [generated_law(row, prefix, params) for row, prefix in zip(logits(), PREFIXES, strict=True)]
    np.testing.assert_allclose(laws, expected, atol=1e-6)
    np.testing.assert_allclose(laws.sum(axis=1), 1.0, atol=1e-12)


def test_each_row_sees_its_own_path_only() -> None:
    together = target_law(logits(), EVERYTHING, PREFIXES)
    alone = [target_law(logits()[i : i + 1], EVERYTHING, PREFIXES[i : i + 1])[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)


def test_parameters_of_another_request_are_caught() -> None:
    first, second = SamplingParams(temperature=0.5), SamplingParams(temperature=1.5, top_k=3)
    own = [TokenLaw(params)(logits(1)) for params in (first, second)]
    ignored = [TokenLaw(first)(logits(1)) for _ in (first, second)]  # the bug
    assert np.abs(own[1] - ignored[1]).max() > 0.05


def test_a_penalty_counted_twice_is_caught() -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1.5)
    once = target_law(logits(), params, PREFIXES)
    repeated = target_law(logits(), params, [prefix * 2 for prefix in PREFIXES])
    np.testing.assert_array_equal(once, repeated)  # seeing a token twice is no second penalty
    penalised = RepetitionPenalty.asked(params)(torch.from_numpy(logits()), PREFIXES)
    twice = target_law(penalised.numpy(), params, PREFIXES)  # the bug
    assert np.abs(once - twice).max() > 1e-3


def test_filters_in_another_order_are_caught() -> None:
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    row = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    law = target_law(row, SamplingParams(temperature=1.0, top_k=3, top_p=0.75))
    swapped = torch.softmax(TopKLogitsWarper(3)(None, TopPLogitsWarper(0.75)(None, row)).double(), dim=-1)  # the bug
    assert int((law > 0).sum()) == 2
    assert int((swapped > 0).sum()) == 3


def test_ties_at_the_boundary_of_top_k_are_kept_alike_for_draft_and_target() -> None:
    row = np.array([[2.0, 1.0, 1.0, 0.0]])
    law = target_law(row, SamplingParams(temperature=1.0, top_k=2))
    assert (law > 0).tolist() == [[True, True, True, False]]
    np.testing.assert_array_equal(
        law, target_law(torch.from_numpy(row), SamplingParams(temperature=1.0, top_k=2)).numpy()
    )


def test_a_penalty_without_prefixes_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="one sequence for each row"):
        target_law(logits(), SamplingParams(repetition_penalty=1.2))
    with pytest.raises(InvalidInputError, match="one sequence for each row"):
        target_law(logits(), EVERYTHING, PREFIXES[:2])
    with pytest.raises(InvalidInputError, match="shape"):
        target_law(logits()[0], EVERYTHING)
