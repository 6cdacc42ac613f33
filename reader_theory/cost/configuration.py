"""Reading a transformers configuration: the many names of the same sizes, windows, experts, latent ranks, bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from reader_theory.errors import InvalidInputError, require
from reader_theory.json_files import load_object

__all__ = [
    "bits_per_weight", "expert_sizes", "is_tied", "latent_sizes", "one_of", "read_configuration", "text_part",
    "windowed_layers",
]  # fmt: skip


OTHER_LAYERS = ("mamba", "ssm_", "linear_attn", "linear_num", "compress_", "index_topk")
"""What a configuration says where a layer does not read all its keys and values."""
TIED = (
    "biogpt", "bloom", "cohere", "ctrl", "ernie4_5", "falcon", "gemma", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox_japanese", "lfm2", "mpt", "openai-gpt", "opt", "recurrent_gemma", "smollm3", "starcoder2", "vaultgemma",
    "xglm",
)  # fmt: skip
"""Families whose output head is the embedding where the configuration does not say, as transformers has it."""
GENERATIONS = ("cohere", "gemma", "lfm2", "ernie4_5")
"""Of these also later and larger ones: gemma3_text, cohere2_moe."""

EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma3n_text": 5, "cohere2": 4, "exaone4": 4, "gpt_oss": 2,
         "olmo3": 4, "llama4_text": 4, "vaultgemma": 2}  # fmt: skip
"""Which layer sees the whole context where only a window is given: every so many, as transformers has it."""


def is_tied(raw: Mapping[str, Any]) -> bool:
    """Whether the output head is the embedding: as the configuration says, or as its family has it."""
    kind = str(raw.get("model_type", ""))
    told = raw.get("tie_word_embeddings")
    return bool(told) if told is not None else kind in TIED or kind.startswith(GENERATIONS)


def read_configuration(config: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """The configuration as a mapping; a path may be config.json or its folder."""
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    file = path / "config.json" if path.is_dir() else path
    return load_object(file, "the configuration's JSON", error=InvalidInputError)


def text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sizes of the transformer that decodes: of a model of several kinds of input, or of a head that drafts.

    Raises
    ------
    InvalidInputError
        If its steps are not those of a transformer that reads its keys and values: encoders, state spaces, mixtures of
        both, keys and values that are compressed or picked by an index.
    """
    for inner in ("text_config", "transformer_layer_config"):
        if isinstance(raw.get(inner), Mapping):
            raw = {**raw, **raw[inner]}
    if raw.get("draft_vocab_size"):
        raw = {**raw, "vocab_size": raw["draft_vocab_size"], "tie_word_embeddings": False}
    told = raw.get("layer_types")
    kinds = {str(kind) for kind in cast("list[Any]", told)} if isinstance(told, list) else set[str]()
    states = sorted(name for name in raw if name.startswith(OTHER_LAYERS) and raw[name])
    encodes = bool(raw.get("is_encoder_decoder"))
    require(
        not encodes and not states and kinds <= {"full_attention", "sliding_attention", "chunked_attention"},
        "the model must be a decoder whose every layer attends to keys and values",
        got="an encoder and a decoder" if encodes else f"{', '.join([*states, *sorted(kinds)])}",
        fix="Measure it instead: `reader calibrate --target`; no model of such layers' seconds was fitted.",
    )
    return raw


def one_of(raw: Mapping[str, Any], *names: str) -> Any:
    """The first of `names` that the configuration gives."""
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    raise InvalidInputError(
        f"the configuration must give `{names[0]}`", got=sorted(raw)[:20], fix="Pass the model's config.json."
    )


def windowed_layers(raw: Mapping[str, Any]) -> dict[str, int]:
    """`window`, tokens that a layer of a window or chunk reads at most, and `windowed`, how many; or nothing."""
    kind = str(raw.get("model_type", ""))
    window = raw.get("attention_chunk_size") if kind.startswith("llama4") else raw.get("sliding_window")
    if not window or not raw.get("use_sliding_window", not kind.startswith("qwen")):
        return {}
    layers = int(one_of(raw, "num_hidden_layers", "n_layer", "num_layers"))
    for name in ("layer_types", "no_rope_layers"):
        told = raw.get(name)
        require(
            not isinstance(told, list) or not told or len(cast("list[Any]", told)) == layers,
            f"`{name}` must name every layer",
            got=f"{len(cast('list[Any]', told or []))} of {layers}",
            fix="Pass the model's config.json as it was written.",
        )
    found = sum(_is_local(raw, kind, layer) for layer in range(layers))
    return {"window": int(window), "windowed": found} if found else {}


def _is_local(raw: Mapping[str, Any], kind: str, layer: int) -> bool:
    if isinstance(told := raw.get("layer_types"), list) and told:
        return str(cast("list[Any]", told)[layer]) != "full_attention"
    if isinstance(turning := raw.get("no_rope_layers"), list) and turning:
        return bool(cast("list[Any]", turning)[layer])
    pattern = raw.get("sliding_window_pattern") or raw.get("no_rope_layer_interval") or EVERY.get(kind)
    if isinstance(pattern, str):
        return pattern[layer % len(pattern)] == "L"
    return layer >= int(raw.get("max_window_layers") or 0) and (pattern is None or (layer + 1) % int(pattern) != 0)


def expert_sizes(raw: Mapping[str, Any]) -> dict[str, int] | None:
    """Sizes of a mixture of experts, or None without one."""
    count = raw.get("num_experts") or raw.get("num_local_experts") or raw.get("n_routed_experts")
    if not count:
        return None
    width = int(raw.get("moe_intermediate_size") or one_of(raw, "intermediate_size"))
    shared = int(raw.get("shared_expert_intermediate_size") or int(raw.get("n_shared_experts") or 0) * width)
    active = int(one_of(raw, "num_experts_per_tok", "num_experts_per_token"))
    return dict(
        count=int(count), active=active, intermediate=width, shared_intermediate=shared, dense_layers=_dense_layers(raw)
    )  # fmt: skip


def _dense_layers(raw: Mapping[str, Any]) -> int:
    """Layers without experts: the first few, named ones, or all but every n-th."""
    layers = int(one_of(raw, "num_hidden_layers", "n_layer", "num_layers"))
    if isinstance(named := raw.get("moe_layers"), list):
        return layers - len(cast("list[Any]", named))
    first = int(raw.get("first_k_dense_replace") or raw.get("moe_layer_start_index") or 0)
    only = {int(i) for i in cast("list[Any]", raw.get("mlp_only_layers") or [])}
    after = int(raw.get("decoder_sparse_step") or raw.get("interleave_moe_layer_step") or 1)
    every = raw.get("moe_layer_freq") or 1
    if isinstance(every, list):
        return sum(not each for each in cast("list[Any]", every))
    sparse = (i for i in range(first, layers) if (i + 1) % after == 0 and i % int(every) == 0 and i not in only)
    return layers - sum(1 for _ in sparse)


def latent_sizes(raw: Mapping[str, Any]) -> dict[str, int] | None:
    """Ranks and widths of multi-latent attention, or None without it."""
    if not raw.get("kv_lora_rank"):
        return None
    return dict(
        query_rank=int(raw.get("q_lora_rank") or 0),
        kv_rank=int(raw["kv_lora_rank"]),
        nope_dim=int(one_of(raw, "qk_nope_head_dim")),
        rope_dim=int(one_of(raw, "qk_rope_head_dim")),
        value_dim=int(one_of(raw, "v_head_dim")),
    )


def bits_per_weight(quantization: Any) -> float:
    """Bits a weight, with 16-bit scales for each group of group-wise methods."""
    if not isinstance(quantization, Mapping):
        return 16.0
    scheme = cast(Mapping[str, Any], quantization)
    method = str(scheme.get("quant_method", ""))
    if method == "mxfp4":
        return 4.0 + 8.0 / 32
    if scheme.get("load_in_4bit"):
        return 4.0 + 32.0 / 64
    if scheme.get("load_in_8bit") or method in ("fp8", "fbgemm_fp8"):
        return 8.0
    if (bits := scheme.get("bits")) is not None:
        return _grouped(float(bits), scheme.get("group_size", 128), zero_points=True)
    groups = cast(Mapping[str, Mapping[str, Any]], scheme.get("config_groups") or {})
    for part in groups.values():
        weights = cast(Mapping[str, Any], part.get("weights") or {})
        if weights.get("num_bits"):
            return _grouped(float(weights["num_bits"]), weights.get("group_size"), zero_points=False)
    return 16.0


def _grouped(bits: float, group: Any, *, zero_points: bool) -> float:
    """Bits with a 16-bit scale, and a zero point of `bits` where there is one, for each group of weights."""
    size = float(group) if group and float(group) > 0 else float("inf")
    return bits + (16.0 + (bits if zero_points else 0.0)) / size
