"""Heads as folders: the configuration and tensors of a `speculators` EAGLE-3 checkpoint, and ours of low rank.

A low-rank head is written with the same names and two factors for its output head, a block with its masks beside them;
both under an architecture that no engine takes for its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from reader_theory.errors import DocumentError, require
from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.shape import HeadShape

__all__ = ["is_head", "load_head_network", "read_facts", "read_source", "save_head"]

DENSE, LOW_RANK, BLOCK = "Eagle3Speculator", "LowRankEagle3Head", "MaskedBlockHead"
KINDS = ("eagle3", "masked_block")
VERSION = "0.9.0"
FACTS = "training.json"
SWITCHES = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's configuration."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DocumentError(
            "a head's folder must hold a readable config.json", got=f"`{path}`: {error}", fix="Write the head again."
        ) from error
    require(
        isinstance(found, dict),
        "a head's config.json must be an object",
        got=type(found).__name__,
        fix="Write the head again.",
        error=DocumentError,
    )
    return found


def is_head(folder: str | Path) -> bool:
    """Whether a folder holds a head rather than a whole model."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_config(Path(folder)).get("speculators_model_type") in KINDS


def read_facts(folder: Path) -> dict[str, Any]:
    """How a head was trained, as `save_head` wrote it; nothing for one of somebody else's."""
    path = folder / FACTS
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    require(
        isinstance(found, dict),
        f"a head's {FACTS} must be an object",
        got=type(found).__name__,
        fix="Remove it, or write the head again.",
        error=DocumentError,
    )
    return found


def read_source(folder: Path) -> tuple[str, list[str], int]:
    """The name and architectures of the target that a head is for, and how many steps it drafts."""
    told = read_config(folder).get("speculators_config") or {}
    verifier, methods = told.get("verifier") or {}, told.get("proposal_methods") or [{}]
    steps = int(methods[0].get("speculative_tokens") or 3)
    return str(verifier.get("name_or_path") or ""), list(verifier.get("architectures") or []), steps


def config_of(shape: HeadShape, target: str, architectures: list[str], steps: int) -> dict[str, Any]:
    """The configuration of a head, as `speculators` writes it; with ``rank`` where it is of low rank."""
    layer = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape.width,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_hidden_layers": 1,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": shape.eps,
        "rope_parameters": dict(shape.rope),
        "max_position_embeddings": shape.max_positions,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": steps,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }
    config: dict[str, Any] = {
        "architectures": [BLOCK if shape.block else DENSE if shape.rank is None else LOW_RANK],
        "speculators_model_type": KINDS[bool(shape.block)],
        "speculators_version": VERSION,
        "speculators_config": {
            "algorithm": KINDS[bool(shape.block)],
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": target, "architectures": architectures},
        },
        "transformer_layer_config": layer,
        "draft_vocab_size": shape.draft_vocabulary,
        "target_hidden_size": None if shape.target_width == shape.width else shape.target_width,
        "eagle_aux_hidden_state_layer_ids": list(shape.layers),
        "embed_requires_grad": False,
        "tie_word_embeddings": False,
        **{name: getattr(shape, name) for name in SWITCHES},
    }
    return (
        config
        | ({} if shape.rank is None else {"rank": shape.rank})
        | ({"block_size": shape.block} if shape.block else {})
    )


def shape_of(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> HeadShape:
    """The shape that a configuration tells; its tensors say whether it has an embedding of its own."""
    layer = dict(config.get("transformer_layer_config") or {})
    try:
        heads, width = int(layer["num_attention_heads"]), int(layer["hidden_size"])
        rope = layer.get("rope_parameters") or layer.get("rope_scaling") or {}
        rope = {"rope_theta": float(layer.get("rope_theta", 10000.0)), "rope_type": "default", **rope}
        return HeadShape(
            width=width,
            intermediate=int(layer["intermediate_size"]),
            heads=heads,
            kv_heads=int(layer.get("num_key_value_heads") or heads),
            head_dim=int(layer.get("head_dim") or width // heads),
            vocabulary=int(layer["vocab_size"]),
            target_width=int(config.get("target_hidden_size") or width),
            layers=tuple(int(i) for i in config["eagle_aux_hidden_state_layer_ids"]),
            draft_vocabulary=int(config["draft_vocab_size"]),
            rank=config.get("rank"),
            block=int(config.get("block_size") or 0),
            own_embedding="embed_tokens.weight" in tensors,
            eps=float(layer.get("rms_norm_eps", 1e-6)),
            rope=rope,
            max_positions=int(layer.get("max_position_embeddings", 2048)),
            **{name: bool(config.get(name, False)) for name in SWITCHES},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DocumentError(
            "a head's configuration must tell its sizes and the layers that it reads",
            got=f"{type(error).__name__}: {error}",
            fix="Take a checkpoint of the `speculators` eagle3 kind; its config.json names them.",
        ) from error


def save_head(
    network: HeadNetwork,
    folder: Path,
    *,
    target: str,
    architectures: list[str],
    steps: int,
    dtype: torch.dtype = torch.float16,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a head's folder: config.json, model.safetensors, and ``training.json`` with `facts`.

    Parameters
    ----------
    target, architectures
        Of the model that it drafts for.
    steps : int
        Draft steps that it was trained for.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    shape = network.shape
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    if network.ids is not None:
        ids = network.ids.cpu()
        tensors["d2t"] = ids - torch.arange(len(ids))
        tensors["t2d"] = torch.zeros(shape.vocabulary, dtype=torch.bool).index_fill_(0, ids, True)
    config = config_of(shape, target, architectures, steps) | {"dtype": str(dtype).removeprefix("torch.")}
    documents = {"config.json": config} | ({} if facts is None else {FACTS: facts})
    for name, document in documents.items():
        part = folder / f"{name}.part"
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        part.replace(folder / name)
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")


def load_head_network(folder: str | Path) -> HeadNetwork:
    """The weights of a head's folder, in float32; all of them, and no others.

    Raises
    ------
    DocumentError
        If a tensor is missing, has another shape, or is not known.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    config = read_config(folder)
    path = folder / "model.safetensors"
    require(
        path.is_file(),
        "a head's folder must hold model.safetensors",
        got=f"`{folder}` without one",
        fix="Point at the folder that `reader train-head` or `speculators` wrote.",
        error=DocumentError,
    )
    tensors = load_file(path)
    d2t, _ = tensors.pop("d2t", None), tensors.pop("t2d", None)
    shape = shape_of(config, tensors)
    ids = None
    if shape.trimmed:
        require(
            d2t is not None and d2t.shape == (shape.draft_vocabulary,),
            "a head of a trimmed vocabulary must say which tokens it names, in `d2t`",
            got="none" if d2t is None else str(tuple(d2t.shape)),
            fix="Write the head again with its d2t.",
            error=DocumentError,
        )
        assert d2t is not None
        ids = d2t.long() + torch.arange(shape.draft_vocabulary)
    network = HeadNetwork(shape, ids)
    wanted = network.state_dict()
    wrong = sorted(
        name
        for name in {*wanted, *tensors}
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
    )
    require(
        not wrong,
        "a head's checkpoint must hold the tensors that its configuration tells, and no others",
        got=", ".join(
            f"{name} {tuple(tensors[name].shape) if name in tensors else 'missing'}"
            f"{'' if name in wanted else ' unknown'}"
            for name in wrong[:4]
        ),
        fix="Check `fc_norm`, `norm_before_fc` and `draft_vocab_size` in config.json against the tensors.",
        error=DocumentError,
    )
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
