"""A head's folder is read back as it was written, by us and by `speculators`' own class, and every refusal is known."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from proofs_tests.drafters.heads import KINDS, head_for, network_for
from proofs_tests.tiny import tiny_model
from reader_theory.errors import DocumentError, InvalidInputError
from runtime.drafters.head.checkpoint import is_head, load_head_network, save_head
from runtime.drafters.head.export import densified, export_head
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.unrolled import unrolled
from runtime.drafters.load import load_draft
from runtime.models.house import house_folder
from runtime.models.load import wrap


def saved(network: HeadNetwork, folder: Path, dtype: torch.dtype = torch.float32, **facts: Any) -> Path:
    save_head(network, folder, target="tiny", architectures=["LlamaForCausalLM"], steps=3, dtype=dtype, **facts)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_folder_is_read_back_as_it_was_written(kind: str, tmp_path: Path) -> None:
    network = network_for(tiny_model("llama"), **KINDS[kind])
    loaded = load_head_network(saved(network, tmp_path))
    assert is_head(tmp_path)
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], each) for name, each in network.state_dict().items())
    assert (network.ids is None and loaded.ids is None) or torch.equal(network.ids, loaded.ids)  # pyright: ignore


def test_a_tensor_that_is_missing_or_unknown_or_of_another_shape_is_named(tmp_path: Path) -> None:
    network = network_for(tiny_model("llama"))
    path = saved(network, tmp_path) / "model.safetensors"
    whole = load_file(path)
    for name, changed in (
        ("fc.weight", {"fc.weight": None}),
        ("extra.weight", {"extra.weight": torch.zeros(2)}),
        ("norm.weight", {"norm.weight": torch.zeros(2)}),
    ):
        tensors = {key: each for key, each in {**whole, **changed}.items() if each is not None}
        save_file(tensors, path)
        with pytest.raises(DocumentError, match=name):
            load_head_network(tmp_path)


def test_head_is_refused_beside_a_target_of_other_sizes_or_another_tokenizer(tmp_path: Path) -> None:
    network = network_for(tiny_model("llama"))
    with pytest.raises(InvalidInputError, match="the target that it was trained for"):
        load_draft(saved(network, tmp_path / "a"), wrap(tiny_model("llama", hidden=32), check=False))
    folder = saved(network, tmp_path / "b", facts={"tokenizer": "0" * 16})

    class Tokenizer:
        backend_tokenizer = None

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(InvalidInputError, match="by one tokenizer"):
        load_draft(folder, wrap(tiny_model("llama"), check=False), Tokenizer())


def test_multiplied_out_head_drafts_the_same(tmp_path: Path) -> None:
    network = network_for(tiny_model("llama"), rank=6)
    out = torch.randn(5, 64)
    torch.testing.assert_close(densified(network).lm_head(out), network.lm_head(out), rtol=1e-5, atol=1e-5)


def test_every_engines_refusal_is_known_before_a_file_is_written(tmp_path: Path) -> None:
    whole = tiny_model("llama")
    low = saved(network_for(whole, rank=6), tmp_path / "low")
    thin = saved(network_for(whole, **KINDS["thin"]), tmp_path / "thin")
    post = saved(network_for(whole), tmp_path / "post")
    cases = [
        (low, "vllm", "one matrix"), (thin, "speculators", "its own width"), (post, "llama.cpp", "does not know"),
        (post, "other", "must be one of"),
    ]  # fmt: skip
    for folder, engine, why in cases:
        with pytest.raises(InvalidInputError, match=why):
            export_head(folder, tmp_path / "out", engine)
        assert not (tmp_path / "out").exists()
    export_head(low, tmp_path / "dense", "vllm", dense=True)
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["architectures"] == ["Eagle3Speculator"]
    export_head(post, tmp_path / "flat", "sglang")
    flat = json.loads((tmp_path / "flat" / "config.json").read_text())
    assert flat["architectures"] == ["LlamaForCausalLMEagle3"] and flat["hidden_size"] == 64
    with pytest.raises(InvalidInputError, match="a new folder"):
        export_head(post, tmp_path / "flat", "sglang")


def test_shipped_head_is_whole_and_half_precision() -> None:
    folder = house_folder("smollm2_head")
    network = load_head_network(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert network.shape.rank == 72 and network.shape.parameters == 8_671_680
    assert 2 * network.shape.parameters < size < 20_000_000
    assert all(bool(torch.isfinite(each).all()) for each in network.parameters())


# ---- beside speculators' own class


def _theirs(folder: Path) -> Any:
    reason = "needs speculators, which `make install` brings"
    core = pytest.importorskip("speculators.models.eagle3.core", reason=reason, exc_type=ImportError)
    core.Eagle3SpeculatorConfig.model_rebuild(_types_namespace={"torch": torch})  # transformers names it in its types
    config = core.Eagle3SpeculatorConfig(**json.loads((folder / "config.json").read_text()))
    config.transformer_layer_config._attn_implementation = "eager"
    model = core.Eagle3DraftModel(config)
    found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model.float().eval(), found


def _in_float64(model: Any) -> Any:
    """Their model without the rounding of its norms to float32, which random weights blow up."""
    for module in model.double().modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = partial(torch.rms_norm, normalized_shape=module.weight.shape, weight=module.weight,
                                     eps=module.variance_epsilon)  # fmt: skip
    return model


def _their_logits(
    model: Any, network: HeadNetwork, tokens: torch.Tensor, hidden: torch.Tensor, steps: int
) -> list[Any]:
    """Their forward of `steps` test-time steps, its logits caught at their output head."""
    caught: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _inputs, output: caught.append(output[0].detach()))
    with torch.no_grad():
        model(
            hidden_states=hidden[:, :-1].flatten(-2), input_ids=tokens[:, 1:],
            document_ids=torch.zeros_like(tokens[:, 1:]), ttt_steps=steps,
        )  # fmt: skip
    hook.remove()
    return caught


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", ["post", "pre", "before fc, normed residual", "trimmed", "low rank"])
def test_speculators_own_class_loads_our_folder_and_gives_our_logits(kind: str, residual: bool, tmp_path: Path) -> None:
    whole = tiny_model("llama")
    changes = {**KINDS[kind], "norm_before_residual": residual}
    network = densified(network_for(whole, **changes))
    model, found = _theirs(saved(network, tmp_path))
    assert not found.unexpected_keys
    assert set(found.missing_keys) <= {"verifier_lm_head.weight", "verifier_norm.weight", "embed_tokens.weight"}
    embedding = whole.get_input_embeddings().weight.detach()
    model.embed_tokens.weight.data.copy_(embedding)
    torch.manual_seed(4)
    tokens, hidden = torch.randint(0, 64, (1, 14)), torch.randn(1, 14, 2, 64).double()
    model, network, embedding = _in_float64(model), network.double(), embedding.double()
    ours = unrolled(network, embedding, tokens, hidden, 3, rotations(network.shape, 20))
    theirs = _their_logits(model, network, tokens, hidden, 3)
    for step, (out, _) in enumerate(ours):
        mine = network.lm_head(out[0, step:])
        gap = (mine - theirs[step][: len(mine)]).abs().max() / mine.abs().max()
        assert gap < 1e-5, f"step {step}: {gap:.2g} of the largest logit; their softmax and rotation are in float32"


def test_what_speculators_saves_is_loaded_by_us(tmp_path: Path) -> None:
    whole = tiny_model("llama")
    network = network_for(whole)
    model, _ = _theirs(saved(network, tmp_path / "ours"))
    model.embed_tokens.weight.data.copy_(whole.get_input_embeddings().weight)
    model.save_pretrained(tmp_path / "theirs")
    loaded = load_head_network(tmp_path / "theirs")
    for name, each in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], each), name
    assert head_for(whole).shape.layers == loaded.shape.layers
