"""The matrix of `docs/models.md`: every causal family of transformers, tiny and random, equal to `generate` or refused.

``python -m proofs_tests.models.matrix --output docs/models.md`` writes it; the tests run a few of its rows. A family is
taken from transformers' own mapping, so that those which the next release brings are tried as well. A run that was
killed is taken up where it was, unless a source file has changed since.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from proofs_tests.tiny import POLICIES, VOCABULARY, TinyPrompt, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.journal import Journal
from runtime.measure.record import record_trace
from runtime.models.base import LanguageModel
from runtime.models.load import wrap
from runtime.plugins.transformers import speculative

WINDOW, TOKENS, LARGEST = 16, 10, 3e6
PLACES = {"inside": (4, 6, 3), "past": (25, 31, 20)}
DRAFTS = ("off", "retrieval", "chain", "tree", "both")
ASKING = ("chain", "tree", "both")
"""Policies that need a draft model."""
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
    "helium": {"head_dim": 8}, "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8}, "dots1": {"head_dim": 8, "n_shared_experts": 1},
    "smollm3": {"no_rope_layers": [1, 0]},
    "cwm": {"bos_token_id": 1, "eos_token_id": [2], "pad_token_id": 0},
    "modernbert-decoder": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "cls_token_id": 1,
                           "sep_token_id": 2, "local_attention": WINDOW},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "head_dim": 8, "laurel_rank": 4,
                     "layer_types": ["sliding_attention", "full_attention"] * 2, "altup_num_inputs": 2,
                     "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
                     "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [64] * 4},
    "gemma4_text": {"head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 8,
                    "vocab_size_per_layer_input": VOCABULARY, "layer_types": ["sliding_attention", "full_attention"]},
    **{name: {"num_key_value_heads": 4} for name in
       ("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3", "youtu", "glm4_moe_lite", "glm_moe_dsa", "axk1",
        "axk2")},
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
    ("llama", "llama3 rope", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
                              "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 32}}),
    ("llama", "head of 12", {"head_dim": 12}),
    ("llama", "gelu", {"hidden_act": "gelu"}),
    ("llama4_text", "temperature of attention", {"floor_scale": 8, "no_rope_layers": [0, 1]}),
    ("llama4_text", "chunks of 3", {"attention_chunk_size": 3}),
    ("smollm3", "window and layers without positions", {"use_sliding_window": True, "sliding_window": WINDOW}),
    ("doge", "sparse from 8 tokens on", {"keep_window_size": 8}),
    ("minimax_m3_vl_text", "blocks of 4", {"index_block_size": 4, "index_topk_blocks": 2}),
    ("gemma3_text", "both directions", {"use_bidirectional_attention": True}),
    ("mistral", "window of 3", {"sliding_window": 3}),
    ("gemma3_text", "window of 3", {"sliding_window": 3}),
    ("gpt_oss", "window of 2", {"sliding_window": 2}),
    ("cohere2", "window of 3", {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}),
    ("gemma3n_text", "nothing shared", {"num_kv_shared_layers": 0}),
    ("phi3", "part of a head turned", {"partial_rotary_factor": 0.5}),
    ("granite", "multipliers", {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5,
                                "logits_scaling": 2.0}),
    ("ministral3", "temperature of attention", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4,
        "factor": 4.0, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.3, "beta_fast": 32.0,
        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    ("qwen3", "biases", {"attention_bias": True}),
    ("gpt2", "upcast", {"reorder_and_upcast_attn": True}),
    ("falcon", "one after the other", {"parallel_attn": False, "bias": True}),
    ("hrm_text", "no prefix", {"prefix_lm": False}),
    *((family, "window of 1", {"sliding_window": 1}) for family in ("mistral", "gemma2", "gpt_oss", "phi3")),
    *((family, "window of 2", {"sliding_window": 2}) for family in ("mistral", "gemma2", "phi3", "starcoder2")),
    ("llama4_text", "chunks of 1", {"attention_chunk_size": 1}),
    ("llama", "not causal", {"is_causal": False}),
    ("gemma", "both directions", {"use_bidirectional_attention": True}),
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


def try_one(family: str, variant: str, extra: dict[str, Any], draft: Any) -> Row | None:
    """All cells of a configuration; None where the model cannot be made or cannot generate by itself.

    Parameters
    ----------
    draft : transformers model
        Of the policies that ask one.
    """
    model = build(family, extra)
    return None if model is None else try_model(Row(family, variant), model, draft)


def try_model(row: Row, model: Any, draft: Any) -> Row | None:
    """All cells of a model; None where it cannot generate by itself."""
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
    small = wrap(draft)
    for place, texts in expected.items():
        for batch in (1, 3):
            prompts, texts_of_batch = _prompts(place)[:batch], texts[:batch]
            for drafts in DRAFTS:
                where = f"{drafts}, {batch} rows, {place} the window"
                own = draft if drafts in ASKING else None
                served = partial(_served, target, small if drafts in ASKING else None, drafts, prompts)
                _cell(row, f"engine, {where}", served, texts_of_batch)
                _cell(row, f"custom_generate, {where}", partial(_inside, model, own, drafts, prompts), texts_of_batch)
            recorded = partial(_recorded, target, small, prompts)
            _cell(row, f"record, {batch} rows, {place} the window", recorded, texts_of_batch)
    return row


def _cell(row: Row, where: str, made: Callable[[], list[list[int]]], texts: list[list[int]]) -> None:
    row.cells += 1
    try:
        found = made()
    except Exception as error:
        row.said.append(f"crash: {where}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return
    row.equal += found == texts
    if found != texts:
        row.said.append(f"wrong: {where}")


def _served(
    target: LanguageModel, draft: LanguageModel | None, drafts: str, prompts: list[list[int]]
) -> list[list[int]]:
    engine = Engine(target, draft, policy=POLICIES[drafts], max_batch=len(prompts), max_context=96)
    return [each.tokens for each in engine.generate(prompts, SamplingParams(max_new_tokens=TOKENS))]


def _inside(model: Any, draft: Any, drafts: str, prompts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0,
        custom_generate=speculative(draft, POLICIES[drafts]),
    )  # fmt: skip
    ends = set(wrap(model, check=False).end_tokens)
    return [_ended(row, ends) for row in out[:, longest:].tolist()]


def _ended(tokens: list[int], ends: set[int]) -> list[int]:
    """Without what pads a row behind its end."""
    last = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: last + 1]


def _recorded(target: LanguageModel, draft: LanguageModel, prompts: list[list[int]]) -> list[list[int]]:
    told = [TinyPrompt(str(i), "any", np.array(prompt, dtype=np.int64)) for i, prompt in enumerate(prompts)]
    with TemporaryDirectory() as scratch:
        trace = record_trace(
            target, draft, told, path=Path(scratch) / "trace.json", new_tokens=TOKENS, max_batch=len(prompts)
        )
        token, prompt = trace.columns["token"], trace.columns["prompt"]
        return [token[prompt == i].tolist() for i in range(len(prompts))]


def table(rows: list[Row], version: str) -> str:
    """The matrix in Markdown."""
    counts = Counter(row.verdict for row in rows)
    head = f"""# Which models are served

{len(rows)} configurations of transformers {version}'s causal families, tiny and random: {counts["equal"]} equal,
{counts["refused"]} refused when loaded, {counts["wrong"]} wrong, {counts["crash"]} crash.

Equal: the greedy text is that of `generate`, with no drafts, with retrieval, with a chain and a tree of a draft model,
and with a tree and retrieval in one, by the engine and inside `generate` (`custom_generate`), and as `reader record`
writes it; in a batch of 1 and in a ragged one of 3, inside the window of the model's layers ({WINDOW} tokens) and past
it: {(2 * len(DRAFTS) + 1) * 2 * len(PLACES)} cells. Refused: an error says why before any work starts, from the
configuration or from the self-check of `runtime/models/check.py`: later tokens must not move logits, the model's own
cache must give its own forward, and so must trees over ours. Families whose own `generate` fails at this size are left
out. Written by `python -m proofs_tests.models.matrix --output FILE`.

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


def _sources() -> str:
    """What all files of the package that serves, and this one, come to."""
    root = Path(__file__).parents[2]
    digest = sha256(Path(__file__).read_bytes())
    for room in ("reader_theory", "runtime"):
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Print the matrix, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--family", help="this one alone")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    draft = tiny_model("llama", hidden=32, layers=1, seed=1)
    rows = list[Row]()
    with Journal(options.output and options.output.with_suffix(".partial.jsonl"), {"sources": _sources()}) as journal:
        for family, variant, extra in configurations():
            if options.family not in (None, family):
                continue
            if (key := f"{family}, {variant}") not in journal.kept:
                made = try_one(family, variant, extra, draft)
                journal.add(key, None if made is None else asdict(made))
            if (kept := journal.kept[key]) is not None:
                rows.append(row := Row(**kept))
                print(family, variant, row.verdict, row.equal, row.cells, *row.said[:1], flush=True)
    text = table(rows, import_module("transformers").__version__)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)
        journal.end()
    print(Counter(row.verdict for row in rows))


if __name__ == "__main__":
    main()
