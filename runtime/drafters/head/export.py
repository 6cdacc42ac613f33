"""A head for other engines: in the form that each one reads, or its reason for not taking it, before a file is written.

A low-rank output head is loaded by none of them: multiplied out it drafts the same tokens, without its gain in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reader_theory.errors import require
from runtime.drafters.head.checkpoint import load_head_network, read_source, save_head
from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.shape import HeadShape

__all__ = ["densified", "export_head"]


def densified(network: HeadNetwork) -> HeadNetwork:
    """The same head with its output head in one matrix."""
    shape = network.shape
    if shape.rank is None:
        return network
    whole = HeadNetwork(replace(shape, rank=None), network.ids)
    head: Any = network.lm_head
    held = {name: each for name, each in network.state_dict().items() if not name.startswith("lm_head.")}
    held["lm_head.weight"] = head.up.weight @ head.down.weight
    whole.load_state_dict(held)
    return whole.eval().requires_grad_(False)


def _any(_shape: HeadShape) -> str | None:
    return None


def _speculators(shape: HeadShape) -> str | None:
    if shape.width != shape.target_width:
        return f"it is {shape.width} wide and reads states {shape.target_width} wide; its fc takes its own width alone"
    return None


def _llama_cpp(shape: HeadShape) -> str | None:
    if shape.fc_norm or shape.norm_output:
        return "it has fc_norm or norm_output, which llama.cpp does not know"
    if len(shape.layers) != 3:
        return f"it reads {len(shape.layers)} layers; llama.cpp takes exactly three"
    return None


FORMS: dict[str, Callable[[HeadShape], str | None]] = {
    "speculators": _speculators,
    "vllm": _any,
    "sglang": _any,
    "llama.cpp": _llama_cpp,
}
"""Engines by name, and why each would refuse a head."""


def export_head(folder: Path, output: Path, engine: str, *, dense: bool = False, dtype: str = "float16") -> None:
    """Write the head in `folder` to `output` as an engine reads it.

    Parameters
    ----------
    engine : str
        One of `FORMS`. SGLang is given a flat configuration, the others that of `speculators`; llama.cpp's converter
        reads it from there.
    dense : bool
        Multiply a low-rank output head out.

    Raises
    ------
    InvalidInputError
        If the engine would not load it.
    """
    require(
        engine in FORMS,
        f"the engine must be one of {', '.join(FORMS)}",
        got=repr(engine),
        fix="vLLM loads what speculators does.",
    )
    network = load_head_network(folder)
    require(
        dense or network.shape.rank is None,
        "a head for another engine must have its output head in one matrix",
        got=f"two factors of rank {network.shape.rank}",
        fix="Pass --densify: the same tokens, without the gain in time; or train a thin head.",
    )
    require(
        network.shape.block == 0,
        "a head for another engine must draft from its own states",
        got=f"a block of {network.shape.block} depths, which no engine here loads",
        fix="Train one with `reader train-head --kind head`.",
    )
    why = FORMS[engine](network.shape)
    require(
        why is None,
        f"the head must be one that {engine} loads",
        got=str(why),
        fix="Train one with `reader train-head --norms llama`." if engine == "llama.cpp" else "Use vLLM.",
    )
    require(
        not (output / "config.json").exists(),
        "`output` must be a new folder",
        got=f"`{output}`, which holds a config.json",
        fix="Choose another folder.",
    )
    name, architectures, steps = read_source(folder)
    save_head(
        densified(network), output, target=name, architectures=architectures, steps=steps,
        dtype=getattr(torch, dtype),
    )  # fmt: skip
    if engine == "sglang":
        _flatten(output)


def _flatten(folder: Path) -> None:
    """Replace the configuration by the flat one that SGLang reads."""
    path = folder / "config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    flat = dict(told["transformer_layer_config"])
    for name in ("draft_vocab_size", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"):
        flat[name] = told[name]
    if told["target_hidden_size"] is not None:
        flat["target_hidden_size"] = told["target_hidden_size"]
    flat |= {
        "architectures": ["LlamaForCausalLMEagle3"],
        "torch_dtype": told["dtype"],
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": told["eagle_aux_hidden_state_layer_ids"],
            "use_aux_hidden_state": True,
        },
    }
    part = folder / "config.json.part"
    part.write_text(json.dumps(flat, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
