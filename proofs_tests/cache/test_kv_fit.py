"""`reader kv fit`: predictors that take something off, figures that are measured, files that belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from optimizer.solvers.evolve import LevelSpace, evolve
from proofs_tests.cli.cli_examples import save_model, save_prompts
from reader_theory.documents import Trace
from reader_theory.documents.kv_caches import KVCaches
from reader_theory.errors import DocumentError, InvalidInputError
from runtime.cache.quantised.files import scheme_of, tensors_beside
from runtime.cache.quantised.fit import fit_aqua, named_bits, read_back, ridge
from runtime.cache.quantised.scheme import Aqua, Integers
from runtime.cli.main import app
from runtime.measure.kv import keys_and_values, losses, spans_of
from runtime.measure.kv_bits import KVBits, even, steps_within
from runtime.models.house import house_folder, load_prompts
from runtime.models.lean import LeanModel
from runtime.models.load import load_model, load_tokenizer
from runtime.models.quantised import quantised

SIZES = [
    "--tokens",
    "1024",
    "--judge-tokens",
    "256",
    "--context",
    "128",
    "--length",
    "192",
    "--recent",
    "16",
    "--chunk",
    "16",
]


def ran(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv")
    text = folder / "text"
    text.mkdir()
    for name in ("code", "prose"):
        (text / f"{name}.txt").write_text("\n".join(prompt.text for prompt in load_prompts(name)))
    ran("kv", "fit", "house-target", "--data", str(text), *SIZES, "--bits", "2", "--output", str(folder / "kv.json"))
    return folder / "kv.json"


def test_every_cache_is_there_with_its_bits_and_its_price(fitted: Path) -> None:
    told = KVCaches.read(fitted)
    bits = {each.name: each.format.bits for each in told.caches}
    scales = 16 / 128
    assert bits == {
        "plain": 32, "int8": 8 + 32 / 16, "int4": 4 + 32 / 16, "direct:2.62": pytest.approx(2.5 + scales),
        "aqua:2.62": pytest.approx(2.5 + scales),
    }  # fmt: skip
    assert told.cache("plain").perplexity_ratio.value == 1
    assert told.cache("int8").perplexity_ratio.value == pytest.approx(1, abs=0.01)
    assert told.scored_tokens == 256 and told.fitted_tokens >= 1024
    assert told.cache("aqua:2.62").format.shared_bytes == 3 * 4 * (129 * 128 + 257 * 128) + 8 * (16 + 256)


def test_figures_are_those_of_the_cache_that_is_then_run(fitted: Path) -> None:
    told, target = KVCaches.read(fitted), load_model(house_folder("target"))
    tokenizer = load_tokenizer(house_folder("target"))
    texts = [
        tokenizer("\n".join(prompt.text for prompt in load_prompts(name)))["input_ids"] for name in ("code", "prose")
    ]
    spans = spans_of([np.array(each) for each in texts], 192, 1024, 256, 128)
    for name in ("aqua:2.62", "int4"):
        scheme = scheme_of(f"{name}={fitted}")
        assert scheme is not None and scheme.window.chunk == 16
        nats = losses(quantised(target, scheme), spans.judge, 128)
        assert np.exp(nats.mean()) == pytest.approx(told.cache(name).perplexity.value, rel=1e-4)


def test_a_cache_is_named_as_the_command_line_names_it(fitted: Path, tmp_path: Path) -> None:
    assert scheme_of("plain") is None and isinstance(scheme_of("int4"), Integers)
    with pytest.raises(InvalidInputError, match="Pass --kv plain"):
        scheme_of(f"plain={fitted}")
    ways_out = {"int3": "reader kv fit", "aqua:9": "reader kv fit", f"aqua:9={fitted}": "there are plain"}
    for name, way_out in ways_out.items():
        with pytest.raises(InvalidInputError, match=way_out):
            scheme_of(name)
    alone = tmp_path / "kv.json"
    alone.write_bytes(fitted.read_bytes())
    with pytest.raises(DocumentError, match=r"Got no .*Keep both files together"):
        scheme_of(f"aqua:2.62={alone}")
    tensors_beside(alone).write_bytes(tensors_beside(fitted).read_bytes()[:-4] + b"0000")
    with pytest.raises(DocumentError, match="Got another"):
        scheme_of(f"aqua:2.62={alone}")
    assert isinstance(scheme_of(f"direct:2.62={alone}"), Aqua), "needs no predictors"


def test_record_keeps_the_caches_name_and_its_text(tmp_path: Path) -> None:
    target, prompts = save_model(tmp_path / "target", 2, 32), save_prompts(tmp_path / "prompts.jsonl", 1)
    words = ["--target", str(target), "--prompts", str(prompts), "--new-tokens", "8", "--draft", "none"]
    ran("record", *words, "--kv", "int4", "--output", str(tmp_path / "trace.json"))
    assert Trace.read(tmp_path / "trace.json").kv == "int4"
    done = CliRunner().invoke(app, ["record", *words, "--kv", "int5", "--output", str(tmp_path / "other.json")])
    assert (
        done.exit_code == 2
        and "int8, int4" in done.output.replace("\n", " ")
        and not (tmp_path / "other.json").exists()
    )


def _text(count: int) -> tuple[LeanModel, list[Any], list[Any]]:
    model = load_model(house_folder("target"))
    assert isinstance(model, LeanModel)
    tokens = load_tokenizer(house_folder("target"))("\n".join(each.text for each in load_prompts("code")))["input_ids"]
    return model, *keys_and_values(model, np.array(tokens[: 128 * count]).reshape(count, 128))


def test_predicted_layers_are_nearer_than_direct_ones_and_clean_inputs_or_other_layers_are_not() -> None:
    model, keys, values = _text(24)
    half, heads = 128 * 16, (model.kv_heads, model.head_dim)
    window, bits = Integers(8).window, named_bits(2, len(keys))
    fit_keys, fit_values = ([each[:half] for each in x] for x in (keys, values))
    held = list(zip((each[half:] for each in keys), (each[half:] for each in values), strict=True))
    direct, ours = Aqua("direct", bits, (), window), fit_aqua("aqua", bits, fit_keys, fit_values, heads, window)
    clean = fit_aqua("clean", bits, fit_keys, fit_values, heads, window, clean=True)
    shuffled = Aqua("shuffled", bits, ours.predictors[::-1], window)
    errors = {}
    for scheme in (direct, ours, clean, shuffled):
        before, found = None, []
        for layer, pair in enumerate(held):
            before = read_back(scheme.codecs(layer, heads, heads), pair[0], pair[1], before)
            parts = zip(before, pair, strict=True)
            found.append([float(np.square(read - true).sum() / np.square(true).sum()) for read, true in parts])
        errors[scheme.name] = np.array(found)[1:]
    assert (errors["aqua"] < errors["direct"]).all(), "in every layer, for keys and for values"
    assert errors["aqua"].sum() < errors["clean"].sum()
    assert errors["shuffled"].sum() > 1.05 * errors["aqua"].sum()


def test_ridge_is_the_least_of_its_sum() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)).astype(np.float32) + 3, rng.standard_normal((50, 2)).astype(np.float32)
    weights = ridge(x, y, 0.1).astype(np.float64)

    def total(w: Any) -> float:
        centred = x - x.mean(axis=0)
        penalty = 0.1 * np.mean(np.square(centred).sum(axis=0))
        return float(np.square(x @ w[:-1] + w[-1] - y).sum() + penalty * np.square(w[:-1]).sum())

    for _ in range(20):
        assert total(weights) <= total(weights + 1e-3 * rng.standard_normal(weights.shape))


def test_bits_a_layer_are_searched_within_their_budget() -> None:
    """Where the text is scored by noise in one part alone, evolution puts its bits there."""
    model = load_model(house_folder("target"))
    assert isinstance(model, LeanModel)
    assert even(8, steps_within(4, 2.5)) == (2, 2, 2, 2, 1, 1, 1, 1)
    with pytest.raises(InvalidInputError, match="between 1 and 4"):
        steps_within(4, 5)

    def fitness(candidates: Any, tokens: int, sample: int) -> list[float]:
        return [-(4.0 ** -each[5]) - 1e-3 * sum(4.0**-level for level in each) for each in candidates]

    found = evolve(LevelSpace(8, 4, 8), fitness, generations=40, offspring=8)
    assert found.parent[5] == 3 and sum(found.parent) == 8


def test_more_bits_keep_the_text_better(fitted: Path) -> None:
    model, scheme = load_model(house_folder("target")), scheme_of(f"aqua:2.62={fitted}")
    assert isinstance(model, LeanModel) and isinstance(scheme, Aqua)
    tokens = load_tokenizer(house_folder("target"))("\n".join(each.text for each in load_prompts("code")))["input_ids"]
    fitness = KVBits(model, scheme, np.array(tokens[:960]).reshape(5, 192), 96)
    few, more = fitness([(0,) * 8, (2,) * 8], 192, 0)
    assert few < more < 0
    assert fitness([(0,) * 8], 192, 0) == [few] and fitness([(0,) * 8], 192, 1) != [few]
    assert fitness.scheme((0, 1, 2, 3, 0, 0, 0, 0)).bits == ((1, 2), (3, 4), (1, 1), (1, 1))


def test_a_context_within_the_buffer_is_refused_before_anything_is_fitted(fitted: Path, tmp_path: Path) -> None:
    """All caches would look free of charge: nothing that is scored would be read in few bits."""
    output, text = tmp_path / "kv.json", fitted.parent / "text"
    words = ["kv", "fit", "house-target", "--data", str(text), *SIZES, "--output", str(output)]
    words[words.index("--context") + 1] = "35"
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "--context 36" in done.output and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_evolve_writes_a_cache_of_the_budget_beside_an_even_one(fitted: Path, tmp_path: Path) -> None:
    text, output = fitted.parent / "text", tmp_path / "evolved.json"
    words = ["evolve", "kv", "house-target", "--caches", str(fitted), "--data", str(text), "--bits", "2.5"]
    words += ["--context", "128", "--length", "192", "--tokens", "1024", "--judge-tokens", "256", "--offspring", "4"]
    ran(*words, "--generations", "3", "--output", str(output))
    told = KVCaches.read(output)
    evolved, rival = told.caches[1:]
    assert evolved.name.startswith("evolved:") and rival.name.startswith("even:")
    assert evolved.format.chunk_bytes == rival.format.chunk_bytes
    assert not output.with_suffix(".search.json").exists()
    assert scheme_of(f"{evolved.name}={output}") is not None
