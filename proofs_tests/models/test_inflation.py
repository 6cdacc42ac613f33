"""Inflation. For every input, the enlarged model's logits are the original's, to the rounding of float32."""

from pathlib import Path
from typing import Any

import pytest

from reader_theory.errors import InvalidInputError
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate, inflated_config
from runtime.training.house.enlarge import Enlarger

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 61}


def small_model(folder: Path, family: str = "Llama", tied: bool = True, **changes: Any) -> Path:
    config_class = getattr(transformers, f"{family}Config")
    shape = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 256}
    config = config_class(**(shape | {"tie_word_embeddings": tied} | changes))
    torch.manual_seed(3)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))  # norm weights too: a planted scale must show
    model.save_pretrained(folder)
    return folder


def largest_gap(one: Any, other: Any, vocabulary: int) -> float:
    tokens = torch.randint(vocabulary, (2, 70), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((one(input_ids=tokens).logits - other(input_ids=tokens).logits).abs().max())


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


SHAPES = [
    {"hidden_size": 96, "layers": 5, "intermediate_size": 100},
    {"hidden_size": 48, "layers": 2, "intermediate_size": 40, "heads": 12, "kv_heads": 3},
    {"hidden_size": 100, "layers": 3, "intermediate_size": 64, "head_dim": 24},
    {"hidden_size": 64, "layers": 2, "intermediate_size": 40, "head_dim": 36, "heads": 8, "kv_heads": 2},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("family", "tied"), [("Llama", True), ("Llama", False), ("Mistral", False)])
def test_inflated_model_computes_the_same_logits(
    tmp_path: Path, shape: dict[str, int], family: str, tied: bool
) -> None:
    source = small_model(tmp_path / "small", family, tied)
    large = inflate(source, None, dtype="float32", **shape)
    assert largest_gap(load(source), large, SMALL["vocab_size"]) < 1e-4


def test_scaled_rope_survives_a_longer_head(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    source = small_model(tmp_path / "small", rope_parameters=rope)
    large = inflate(source, None, hidden_size=96, layers=2, intermediate_size=40, head_dim=24, dtype="float32")
    assert largest_gap(load(source), large, SMALL["vocab_size"]) < 1e-4


@pytest.mark.parametrize("planted", ["norm_scale", "score_scale"])
def test_a_planted_wrong_scale_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    source, make = small_model(tmp_path / "small"), Enlarger.__init__

    def spoilt(self: Enlarger, old: Any, new: Any) -> None:
        make(self, old, new)
        setattr(self, planted, getattr(self, planted) * 1.01)

    monkeypatch.setattr(Enlarger, "__init__", spoilt)
    large = inflate(source, None, hidden_size=96, layers=3, intermediate_size=64, head_dim=24, dtype="float32")
    assert largest_gap(load(source), large, SMALL["vocab_size"]) > 1e-3


def test_default_inflation_of_the_house_target_has_its_greedy_tokens_and_80m_parameters(tmp_path: Path) -> None:
    large = inflate(house_folder("target"), tmp_path / "large", dtype="float32")
    assert 7.5e7 < large.num_parameters() < 8.5e7
    small = load(house_folder("target"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "large")
    tokens = tokenizer("def read_lines(path):\n    ", return_tensors="pt")
    settings = {"do_sample": False, "max_new_tokens": 24}
    again = load(tmp_path / "large")
    assert again.generate(**tokens, **settings).tolist() == small.generate(**tokens, **settings).tolist()
    assert largest_gap(small, again, 4096) < 1e-4


def test_a_written_folder_is_ordinary_and_leaves_no_scratch(tmp_path: Path) -> None:
    source = small_model(tmp_path / "small")
    inflate(source, tmp_path / "large", hidden_size=96, layers=3, intermediate_size=64)
    assert load(tmp_path / "large").config.tie_word_embeddings
    assert {path.name for path in tmp_path.iterdir()} == {"small", "large"}


def test_nothing_that_reads_is_left_empty(tmp_path: Path) -> None:
    large = inflate(
        small_model(tmp_path / "small"), None, hidden_size=96, layers=3, intermediate_size=64, dtype="float32"
    )
    dense = [p for name, p in large.named_parameters() if any(k in name for k in ("k_proj", "gate", "up", "v_proj"))]
    assert all(bool((p != 0).all()) for p in dense)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden_size": 32}, "hidden_size"),
        ({"layers": 1}, "num_hidden_layers"),
        ({"head_dim": 18}, "multiple"),
        ({"heads": 8, "kv_heads": 6}, "kv_heads"),
        ({"heads": 8, "kv_heads": 8}, "kv_heads"),
    ],
)
def test_a_shape_that_cannot_hold_the_model_is_refused(wrong: dict[str, int], said: str) -> None:
    old = transformers.LlamaConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=12)
    with pytest.raises(InvalidInputError, match=said):
        inflated_config(old, **({"hidden_size": 96, "layers": 3, "intermediate_size": 64} | wrong))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"model_type": "llama", "attention_bias": True},
        {"model_type": "llama", "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
    ],
)
def test_a_model_that_cannot_be_inflated_is_refused(config: dict[str, Any]) -> None:
    config = transformers.AutoConfig.for_model(**config)
    with pytest.raises(InvalidInputError):
        inflated_config(config, hidden_size=8192, layers=64, intermediate_size=32768)


def test_an_existing_destination_or_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="must not exist"):
        inflate(house_folder("target"), tmp_path)
    with pytest.raises(InvalidInputError, match="dtype"):
        inflate(house_folder("target"), tmp_path / "new", dtype="int8")
