"""Which models are masked-diffusion models, and that the laws taken from them are their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reader_theory.errors import InvalidInputError
from runtime.diffusion import Denoiser, DiffusionParams, load_masked
from runtime.diffusion.head import HEAD_FILE
from runtime.diffusion.load import TransformersMasked
from runtime.models.house import house_folder
from runtime.models.load import load_tokenizer
from runtime.models.vocabulary import fingerprint_of

VOCABULARY, MASK = 40, 39
PARAMS = DiffusionParams(new_tokens=8, steps=2, window=3)


def llama(attention: str = "sdpa", **told: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, **told,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.set_attn_implementation(attention)
    return model.eval()


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


BOTH_WAYS = {
    "llama": lambda: llama(is_causal=False, mask_token_id=MASK),
    "llama, eager": lambda: llama("eager", is_causal=False, mask_token_id=MASK),
    "llama, shifted": lambda: llama(is_causal=False, mask_token_id=MASK, shifted_logits=True),
    "bert": bert,
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_causal_model_relabelled_is_refused_with_its_evidence(attention: str) -> None:
    with pytest.raises(InvalidInputError, match="other tokens after a masked place move its logits by 0 at most"):
        TransformersMasked(llama(attention, mask_token_id=MASK))


def test_a_causal_model_on_disk_is_refused(tmp_path: Path) -> None:
    llama(mask_token_id=MASK).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="it is a causal model"):
        load_masked(tmp_path)


@pytest.mark.parametrize("told", [{}, {"mask_token_id": VOCABULARY}, {"mask_token_id": -1}, {"mask_token_id": "x"}])
def test_a_model_without_a_mask_token_of_its_vocabulary_is_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    llama(is_causal=False, **told).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="must have a mask token of its vocabulary"):
        load_masked(tmp_path)
    assert load_masked(tmp_path, mask_token=MASK).mask_token == MASK


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_laws_are_those_of_a_plain_forward_that_attends_both_ways(name: str, tmp_path: Path) -> None:
    """Saved and loaded again; beside the eager forward of the same weights under a mask that hides nothing."""
    made = BOTH_WAYS[name]()
    made.save_pretrained(tmp_path)
    masked = load_masked(tmp_path, mask_token=MASK)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, MASK, (3, 12))
    rows[:, [4, 6, 7, 11]] = MASK
    places = np.array([[4, 6], [6, 7], [11, 11]])
    made.set_attn_implementation("eager")
    seen = torch.zeros((3, 1, 12, 12)) if name != "bert" else torch.ones((3, 12))
    with torch.no_grad():
        logits = made(input_ids=torch.from_numpy(rows), attention_mask=seen).logits.double()
    logits[..., MASK] = -torch.inf
    shift = int(name == "llama, shifted")
    plain = np.take_along_axis(logits.softmax(-1).numpy(), (places - shift)[..., None], axis=1)
    found = masked.laws(rows, places, PARAMS)
    assert np.abs(found - plain).max() < 1e-5 and (found[..., MASK] == 0).all()


def test_temperature_and_filters_are_part_of_the_law() -> None:
    masked, rows, places = TransformersMasked(bert(), MASK), np.full((1, 6), MASK), np.array([[2]])
    plain = masked.laws(rows, places, PARAMS)[0, 0]
    warm = masked.laws(rows, places, DiffusionParams(new_tokens=8, temperature=0.5, top_k=3))[0, 0]
    assert (warm > 0).sum() == 3 and np.argmax(warm) == np.argmax(plain)
    kept = np.where(warm > 0, plain**2, 0.0)
    assert np.abs(warm - kept / kept.sum()).max() < 1e-6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_at_temperature_zero_every_window_gives_one_text(temperature: float) -> None:
    """The chain's greedy text; at temperature 1 only its law is the same, and seeds fix texts by window."""
    denoiser = Denoiser(TransformersMasked(bert(), MASK))
    asked = [
        DiffusionParams(new_tokens=10, steps=1, window=window, temperature=temperature, drafts=drafts)
        for window in (1, 3, 10)
        for drafts in ("round", "step")
    ]
    texts = [denoiser.generate([[1, 2, 3]], params)[0].text_tokens for params in asked]
    assert temperature > 0 or all(text == texts[0] for text in texts)
    assert texts == [denoiser.generate([[1, 2, 3]], params)[0].text_tokens for params in asked]
    assert all(len(text) == 10 and MASK not in text for text in texts)


def test_a_text_does_not_depend_on_whoever_else_is_asked() -> None:
    denoiser = Denoiser(TransformersMasked(bert(), MASK))
    both = denoiser.generate([[1, 2], [5]], PARAMS)
    assert both[0].text_tokens == denoiser.generate([[1, 2]], PARAMS)[0].text_tokens
    assert both[0].text_tokens != denoiser.generate([[5], [1, 2]], PARAMS)[1].text_tokens


def test_masked_tokens_are_filled_in_wherever_they_stand() -> None:
    denoiser = Denoiser(TransformersMasked(bert(), MASK))
    row = [MASK, 3, MASK, MASK, 5, MASK]
    done = denoiser.fill(row, DiffusionParams(steps=3, window=2)).tokens
    assert done[[1, 4]].tolist() == [3, 5] and MASK not in done


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "window 0": ([[1]], {"window": 0}, "`window` must be a whole number from 1"),
    "window of a float": ([[1]], {"window": 2.0}, "`window` must be a whole number"),
    "no steps": ([[1]], {"steps": 0}, "`steps` must be a whole number from 1"),
    "steps beyond the length": ([[1]], {"steps": 9}, "`steps` must be at most the number of masked tokens"),
    "no new tokens": ([[1]], {"new_tokens": 0}, "`new_tokens` must be a whole number"),
    "a prompt too long": ([[1] * 57], {}, "prompt and new tokens must fit the model's 64 positions"),
    "a second prompt too long": ([[1], [1] * 99], {}, "in prompt 1"),
    "more new tokens than positions": ([[1]], {"new_tokens": 65}, "must fit the model's 64 positions"),
    "an empty prompt": ([[]], {}, "must hold at least one token"),
    "a token outside": ([[VOCABULARY]], {}, "each from 0 to 39"),
    "a text": (["text"], {}, "must hold at least one token"),
    "unknown drafts": ([[1]], {"drafts": "none"}, "`drafts` must be one of round, step"),
    "drafts by a head that is not there": ([[1]], {"drafts": "head"}, "where a model has no draft head"),
    "unknown sampling": ([[1]], {"sampling": "parallel"}, "`sampling` must be one of chain, parallel_lossy"),
    "a negative temperature": ([[1]], {"temperature": -1.0}, "`temperature` must be a number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_a_forward(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, told, words = BAD[case]
    wanted: dict[str, Any] = {"new_tokens": 8, "steps": 2} | told
    masked = TransformersMasked(bert(), MASK)
    monkeypatch.setattr(masked, "laws", None)
    with pytest.raises(InvalidInputError, match=words):
        Denoiser(masked).generate(prompts, DiffusionParams(**wanted))


def test_a_row_whose_first_token_is_masked_is_refused_where_its_law_would_stand_before_it() -> None:
    denoiser = Denoiser(TransformersMasked(BOTH_WAYS["llama, shifted"]()))
    with pytest.raises(InvalidInputError, match="the first 1 tokens must be known"):
        denoiser.fill([MASK, 1, MASK], DiffusionParams(steps=1))
    with pytest.raises(InvalidInputError, match="number of masked tokens"):
        denoiser.fill([1, 2], DiffusionParams(steps=1))


HEADED: dict[str, Any] = {"is_causal": False, "mask_token_id": MASK, "shifted_logits": True}


def headed(folder: Path, outer: float) -> TransformersMasked:
    """A saved model with a draft head beside it, loaded again."""
    from safetensors.torch import save_file

    llama(**HEADED).save_pretrained(folder)
    rng = torch.Generator().manual_seed(1)
    held = {"inner.weight": torch.randn((4, 96), generator=rng), "outer.weight": torch.randn((32, 4), generator=rng)}
    save_file({**held, "outer.weight": outer * held["outer.weight"]}, folder / HEAD_FILE)
    return load_masked(folder)


def test_one_forward_gives_laws_and_what_the_head_reads(tmp_path: Path) -> None:
    """The laws are those without a head; a head that adds nothing drafts from the forward's own laws ahead."""
    rows = np.array([[1, 2, MASK, MASK, 5, MASK], [1, 2, 3, MASK, 5, MASK]])
    places = np.array([[2, 3, 5], [3, 5, 5]])
    for outer in (0.0, 1.0):
        masked = headed(tmp_path / str(outer), outer)
        plain = masked.laws(rows, places, PARAMS)
        laws, states = masked.look(rows, places[:, :1], places[:, 1:], PARAMS)
        assert np.abs(laws - plain[:, :1]).max() < 1e-6
        drafted = [[masked.head_law(state, before, PARAMS) for state in states[0]] for before in ((7, 2), (8, 2))]
        assert all(abs(law.sum() - 1) < 1e-9 and law[MASK] == 0 for each in drafted for law in each)
        same = np.abs(np.array(drafted) - plain[:1, 1:]).max() < 1e-6
        moved = np.abs(drafted[0][0] - drafted[1][0]).max()
        assert same and moved == 0 if outer == 0 else not same and moved > 1e-3


def test_the_head_is_given_the_tokens_before_each_place_nearest_first(tmp_path: Path) -> None:
    masked, seen = headed(tmp_path, 1.0), list[tuple[int, ...]]()
    plain = masked.head_law

    def law(state: Any, before: tuple[int, ...], params: Any) -> Any:
        seen.append(before)
        return plain(state, before, params)

    masked.head_law = law  # type: ignore[method-assign]
    row = [5, MASK, MASK, 6, MASK]
    done = Denoiser(masked).fill(row, DiffusionParams(steps=1, window=4, drafts="head", temperature=0.0))
    first, second, last = (int(done.tokens[place]) for place in (1, 2, 4))
    assert seen[:2] == [(first, 5), (6, seen[1][1])] and done.tokens[[0, 3]].tolist() == [5, 6]
    assert (6, second) in seen and last != MASK


BAD_HEADS: dict[str, Any] = {
    "no such file format": b"x",
    "other weights": {"a": torch.zeros(3)},
    "another width": {"inner.weight": torch.zeros(4, 30), "outer.weight": torch.zeros(10, 4)},
    "two ranks": {"inner.weight": torch.zeros(4, 96), "outer.weight": torch.zeros(32, 5)},
    "no rank": {"inner.weight": torch.zeros(0, 96), "outer.weight": torch.zeros(32, 0)},
    "a scalar": {"inner.weight": torch.tensor(1.0), "outer.weight": torch.zeros(32, 4)},
    "no number": {"inner.weight": torch.full((4, 96), torch.nan), "outer.weight": torch.zeros(32, 4)},
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_file_that_is_no_draft_head_of_its_model_is_refused(case: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    headed(tmp_path, 1.0)
    told = BAD_HEADS[case]
    if isinstance(told, bytes):
        (tmp_path / HEAD_FILE).write_bytes(told)
    else:
        save_file(told, tmp_path / HEAD_FILE)
    with pytest.raises(InvalidInputError, match="must hold a draft head of its model"):
        load_masked(tmp_path)


def test_a_head_beside_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    bert().save_pretrained(tmp_path)
    save_file({"inner.weight": torch.zeros(4, 96), "outer.weight": torch.zeros(32, 4)}, tmp_path / HEAD_FILE)
    with pytest.raises(InvalidInputError, match="must be a decoder"):
        load_masked(tmp_path, mask_token=MASK)


def test_the_house_model_ships_small_with_the_tokenizer_of_the_target() -> None:
    folder = house_folder("diffusion")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    mine, target = (load_tokenizer(house_folder(name)) for name in ("diffusion", "target"))
    assert fingerprint_of(mine) == fingerprint_of(target) and mine.mask_token_id == len(target) == 4096
    masked = load_masked(folder)
    assert (masked.vocabulary, masked.mask_token, masked.first_place) == (4097, 4096, 1)
