"""The matrix of `docs/models.md`: every causal family of transformers, tiny and random, equal to `generate` or refused.

``python -m proofs_tests.models.matrix --output docs/models.md`` writes it; the tests run a few of its rows. A family is
taken from transformers' own mapping, so that those which the next release brings are tried as well.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs_tests.tiny import POLICIES, VOCABULARY, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.load import wrap

WINDOW, TOKENS, LARGEST = 16, 10, 3e6
PLACES = {"inside": (4, 6, 3), "past": (25, 31, 20)}
DRAFTS = ("off", "retrieval", "chain")
SHAPE: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=64, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    pad_token_id=None, tie_word_embeddings=False, num_experts=4, num_local_experts=4, n_routed_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=32, n_group=1, topk_group=1, q_lora_rank=16, kv_lora_rank=16,
    qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, ffn_dim=64, init_std=0.3,
)  # fmt: skip
"""Sizes under the names that configurations give them; what a family does not know is left out."""
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "opt": {"word_embed_proj_dim": 32}, "gptj": {"rotary_dim": 8}, "codegen": {"rotary_dim": 8},
    "bert": {"is_decoder": True}, "roberta": {"is_decoder": True, "pad_token_id": 1}, "electra": {"is_decoder": True},
    "rembert": {"is_decoder": True}, "ernie": {"is_decoder": True}, "roformer": {"is_decoder": True},
    "camembert": {"is_decoder": True, "pad_token_id": 1}, "xlm-roberta": {"is_decoder": True, "pad_token_id": 1},
    "data2vec-text": {"is_decoder": True, "pad_token_id": 1}, "xlm-roberta-xl": {"is_decoder": True, "pad_token_id": 1},
    "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8}, "gemma": {"head_dim": 8}, "phi3": {"pad_token_id": 0},
    "xglm": {"d_model": 32, "attention_heads": 4, "num_layers": 2}, "biogpt": {}, "gpt_oss": {"head_dim": 8},
    "mamba": {"state_size": 4}, "falcon_mamba": {"state_size": 4}, "mamba2": {"num_heads": 8, "head_dim": 8},
}  # fmt: skip
"""What single families need besides."""
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama", "linear rope", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ("llama", "dynamic rope", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ("llama", "yarn", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                                           "original_max_position_embeddings": 64}}),
    ("llama", "biases", {"attention_bias": True, "mlp_bias": True}),
    ("llama", "tied, one key-value head", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("phi3", "longrope", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
                                              "long_factor": [2.0] * 4}, "original_max_position_embeddings": 128}),
    ("qwen2", "window from layer 1", {"use_sliding_window": True, "max_window_layers": 1}),
    ("qwen3", "window", {"use_sliding_window": True, "max_window_layers": 0}),
    ("mistral", "no window", {"sliding_window": None}),
    ("mixtral", "no window", {"sliding_window": None}),
    ("starcoder2", "no window", {"sliding_window": None}),
    ("falcon", "alibi", {"alibi": True}),
    ("falcon", "new decoder", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("gpt_neox", "sequential", {"use_parallel_residual": False}),
    ("gpt_bigcode", "many heads", {"multi_query": False}),
    ("opt", "norms after", {"do_layer_norm_before": False}),
    ("gpt2", "scaled by layer", {"scale_attn_by_inverse_layer_idx": True}),
    ("phi", "norms of queries and keys", {"qk_layernorm": True}),
    ("stablelm", "parallel", {"use_parallel_residual": True}),
    ("olmo", "clipped", {"clip_qkv": 0.5}),
    ("cohere", "norms of queries and keys", {"use_qk_norm": True}),
    ("gemma2", "no soft caps", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
)  # fmt: skip
"""Configurations beside a family's default: family, what is different, and its fields."""


@dataclass
class Row:
    """One configuration: how many of its cells are equal, and what was said of the others."""

    family: str
    variant: str
    equal: int = 0
    cells: int = 0
    forward: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.said and self.said[0].startswith("refused"):
            return "refused"
        if any(each.startswith("crash") for each in self.said):
            return "crash"
        return "equal" if self.equal == self.cells else "wrong"


def configurations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every causal family that transformers maps, and the variants."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        yield family, "", {}
    yield from VARIANTS


def build(family: str, extra: dict[str, Any]) -> Any | None:
    """A tiny random model; None where this family's configuration is not to be had at this size."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind = CONFIG_MAPPING[family]
        known = set(kind().to_dict()) | set(kind.attribute_map) | {"pad_token_id", "bos_token_id", "eos_token_id"}
        asked = {name: value for name, value in SHAPE.items() if name in known}
        asked |= {name: WINDOW for name in ("sliding_window", "attention_chunk_size", "window_size") if name in known}
        config = kind(**(asked | FAMILIES.get(family, {}) | extra))
        with torch.device("meta"):
            size = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval() if size < LARGEST else None
    except Exception:
        return None


def _prompts(place: str) -> list[list[int]]:
    rng = np.random.default_rng(5)
    lengths = PLACES[place]
    return [np.resize(rng.integers(3, VOCABULARY, 9), length).tolist() for length in lengths]


def _generated(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def try_one(family: str, variant: str, extra: dict[str, Any], draft: LanguageModel) -> Row | None:
    """All cells of a configuration; None where the model cannot be made or cannot generate by itself."""
    model = build(family, extra)
    if model is None:
        return None
    row = Row(family, variant)
    try:
        with torch.inference_mode():
            expected = {place: [_generated(model, prompt) for prompt in _prompts(place)] for place in PLACES}
    except Exception:
        return None
    try:
        target = wrap(model)
    except InvalidInputError as error:
        row.said.append(f"refused: {error.got}" if hasattr(error, "got") else f"refused: {error}")
        return row
    row.forward = type(target).__name__
    for drafts in DRAFTS:
        for place, texts in expected.items():
            for batch in (1, 3):
                _cell(row, target, draft, drafts, place, texts[:batch])
    return row


def _cell(row: Row, target: Any, draft: LanguageModel, drafts: str, place: str, texts: list[list[int]]) -> None:
    row.cells += 1
    where = f"{drafts}, {len(texts)} rows, {place} the window"
    try:
        options: dict[str, Any] = {"policy": POLICIES[drafts], "max_batch": len(texts), "max_context": 96}
        engine = Engine(target, draft if drafts == "chain" else None, **options)
        done = engine.generate(_prompts(place)[: len(texts)], SamplingParams(max_new_tokens=TOKENS))
    except Exception as error:
        row.said.append(f"crash: {where}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return
    row.equal += [each.tokens for each in done] == texts
    if [each.tokens for each in done] != texts:
        row.said.append(f"wrong: {where}")


def table(rows: list[Row], version: str) -> str:
    """The matrix in Markdown."""
    counts = Counter(row.verdict for row in rows)
    head = f"""# Which models are served

{len(rows)} configurations of transformers {version}'s causal families, tiny and random: {counts["equal"]} equal,
{counts["refused"]} refused when loaded, {counts["wrong"]} wrong, {counts["crash"]} crash.

Equal: the greedy text is that of `generate`, with no drafts, with retrieval and with a chain of a draft model, in a
batch of 1 and in a ragged one of 3, inside the window of the model's layers ({WINDOW} tokens) and past it:
{len(DRAFTS) * 2 * len(PLACES)} cells. Refused: an error says why before any work starts, from the configuration or
from the self-check of `runtime/models/check.py`. Written by `python -m proofs_tests.models.matrix --output FILE`.

| family | variant | verdict | forward | cells equal | why |
|---|---|---|---|--:|---|
"""
    lines = [
        f"| {row.family} | {row.variant} | {row.verdict} | {row.forward.removesuffix('Model')} | "
        f"{f'{row.equal} of {row.cells}' if row.cells else ''} | {_why(row)} |"
        for row in rows
    ]
    return head + "\n".join(lines) + "\n"


def _why(row: Row) -> str:
    said = (row.said or [""])[0].removeprefix("refused: ")
    _, _, evidence = said.rpartition("Got ")
    return evidence.partition(" Use transformers' own")[0].rstrip(".").replace("|", "/")


def main() -> None:
    """Print the matrix, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--family", help="this one alone")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    rows = list[Row]()
    for family, variant, extra in configurations():
        if options.family in (None, family) and (row := try_one(family, variant, extra, draft)) is not None:
            rows.append(row)
            print(family, variant, row.verdict, row.equal, row.cells, *row.said[:1], flush=True)
    text = table(rows, import_module("transformers").__version__)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)
    print(Counter(row.verdict for row in rows))


if __name__ == "__main__":
    main()
