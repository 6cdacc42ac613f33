"""Inflation: a larger copy of a Llama-family model that computes the same function, so the cost alone changes.

Width d becomes D by zeros in the residual stream; the norms' weights are scaled by sqrt(d/D) and their eps by d/D, so
that the mean square over D coordinates gives the same values. Heads and MLP units are added with zero output columns,
layers with zero output matrices, and a longer head gives the old coordinates the rotary pairs of their old frequencies.
What has no way out is filled with random numbers, so that every matrix on the way in is dense.
"""

import shutil
from copy import deepcopy
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from reader_theory.errors import InvalidInputError
from runtime.training.house.enlarge import Enlarger, head_dim_of

FAMILIES = ("llama", "mistral")
ROPE_TYPES = ("default", "linear", "llama3")
NOISE = 0.02


def inflate(
    source_folder: str | Path,
    destination_folder: str | Path | None,
    *,
    hidden_size: int = 1024,
    layers: int = 8,
    intermediate_size: int = 2048,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    seed: int = 0,
) -> Any:
    """Write a function-preserving larger copy of a Llama-family checkpoint, and return the model.

    Parameters
    ----------
    source_folder
        Folder (or hub name) of the model to enlarge; Llama or Mistral architecture without biases.
    destination_folder
        Folder to write, with the tokenizer; it must not exist. ``None`` returns the model without writing.
    hidden_size, layers, intermediate_size, heads, kv_heads, head_dim
        New shape, nowhere smaller than the old one. Heads default to as many as fill ``hidden_size``, key-value heads
        to the old ratio, ``head_dim`` to the old one; a new one must be a multiple, because then the old rotary
        frequencies are among the new. The default shape turns the house target into about 80 million parameters; its
        width is four times the old one, so that the norm scale is exactly a half.
    dtype
        ``"bfloat16"``, ``"float16"`` or ``"float32"``.
    device
        Where the copy is made, for shapes that want a GPU's memory.
    seed
        Seed of the random filling.

    Returns
    -------
    LlamaForCausalLM or MistralForCausalLM
        The enlarged model in evaluation mode, on ``device``.

    Raises
    ------
    InvalidInputError
        When the family, the rope or the shape cannot be kept, or the destination exists.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    destination = None if destination_folder is None else Path(destination_folder)
    if destination is not None and destination.exists():
        raise InvalidInputError(
            "`destination_folder` must not exist", got=repr(str(destination)), fix="Remove it or name another folder"
        )
    torch_dtype = _dtype(dtype)
    old = AutoConfig.from_pretrained(source_folder)
    new = inflated_config(
        old,
        hidden_size=hidden_size,
        layers=layers,
        intermediate_size=intermediate_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )
    source: Any = AutoModelForCausalLM.from_pretrained(source_folder, dtype="float32", use_safetensors=True)
    model = _fill(source.to(device), new, torch_dtype, device, seed)
    if destination is not None:
        _write(model, source_folder, destination)
    return model


def inflated_config(
    old: Any,
    *,
    hidden_size: int,
    layers: int,
    intermediate_size: int,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
) -> Any:
    """Configuration of the larger model, checked; arguments as in ``inflate``."""
    _check_family(old)
    old_dim = head_dim_of(old)
    dim = old_dim if head_dim is None else head_dim
    ratio = old.num_attention_heads // old.num_key_value_heads
    filling = max(old.num_attention_heads, hidden_size // max(dim, 1) // ratio * ratio)
    new_heads = heads if heads is not None else filling if kv_heads is None else kv_heads * ratio
    new_kv_heads = kv_heads if kv_heads is not None else new_heads // ratio
    shape: dict[str, int] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate_size,
        "num_attention_heads": new_heads,
        "num_key_value_heads": new_kv_heads,
        "head_dim": dim,
    }
    for name, value in shape.items():
        least = old_dim if name == "head_dim" else getattr(old, name)
        if value < least:
            raise InvalidInputError(f"`{name}` must not shrink", got=f"{value} < {least}", fix=f"Give {least} or more")
    if dim % old_dim:
        raise InvalidInputError(
            f"`head_dim` must be a multiple of the old one, {old_dim}", got=dim, fix="Keep it and add heads instead"
        )
    if new_heads % new_kv_heads or new_heads // new_kv_heads < ratio:
        raise InvalidInputError(
            f"`heads` must be a multiple of `kv_heads`, {ratio} times as many or more",
            got=f"{new_heads} and {new_kv_heads}",
            fix=f"Take kv_heads = heads // {ratio}",
        )
    new = deepcopy(old)
    for name, value in shape.items():
        setattr(new, name, value)
    new.rms_norm_eps = old.rms_norm_eps * old.hidden_size / hidden_size
    return new


def _check_family(config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise InvalidInputError(f"the model must be of {FAMILIES}", got=config.model_type, fix="Inflate another model")
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise InvalidInputError("the model must have no biases", got="biases", fix="Inflate another model")
    rope = config.rope_parameters["rope_type"]
    if rope not in ROPE_TYPES:
        raise InvalidInputError(f"the rope must be of {ROPE_TYPES}", got=rope, fix="Inflate another model")


def _dtype(name: str) -> Any:
    import torch

    if name not in ("bfloat16", "float16", "float32"):
        raise InvalidInputError(
            "`dtype` must be bfloat16, float16 or float32", got=repr(name), fix="Choose one of them"
        )
    return getattr(torch, name)


def _fill(source: Any, new: Any, dtype: Any, device: str, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(new, dtype=dtype).eval()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, NOISE, generator=generator)
        Enlarger(source.config, new).model(source, model)
    model.generation_config = deepcopy(source.generation_config)
    return model


def _write(model: Any, source_folder: str | Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        model.save_pretrained(scratch)
        _copy_tokenizer(source_folder, scratch)
        scratch.chmod(0o755)
        for path in scratch.iterdir():
            path.chmod(0o644)
        scratch.rename(destination)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _copy_tokenizer(source_folder: str | Path, destination: Path) -> None:
    from transformers import AutoTokenizer

    local = Path(source_folder)
    if local.is_dir():
        for path in local.glob("*token*"):
            shutil.copyfile(path, destination / path.name)
    else:
        AutoTokenizer.from_pretrained(source_folder).save_pretrained(destination)
