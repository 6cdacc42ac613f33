"""Train: target and draft of the addition pair, from nothing, on answers that are drawn anew for every step.

A run that was stopped goes on from its last checkpoint. The rate follows the processor time used, so a run ends at rate
zero within its minutes whatever else runs, and no two machines make the same models.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.training.addition.wording import draw_questions, vocabulary_of_the_task, worked_answer
from runtime.training.house.optimisation import Optimisers
from runtime.training.house.tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer
from runtime.training.house.train import save_half

__all__ = ["SHAPES", "train_pair_member"]

SHAPES = {
    "target": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 320},
    "draft": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 192},
}
ROWS = 24
CONTEXT = 256
CHECKPOINT_S, REPORT_STEPS = 15.0, 50
_UNSAID = -100


def build_tokenizer(folder: Path) -> Any:
    """Write the tokenizer: one token a word or digit, with its blank before it; returns it as transformers loads it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = [END_OF_TEXT, "<|unknown|>", *vocabulary_of_the_task()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    raw.add_special_tokens([END_OF_TEXT])
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[0-9]|[^A-Za-z0-9]"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    return save_tokenizer(raw, folder)


def fresh_model(shape: dict[str, int], vocabulary: int, seed: int) -> Any:
    """Untrained Llama of a shape, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        num_key_value_heads=shape["num_attention_heads"],
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        rms_norm_eps=1e-5,
    )
    config.update(shape)
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def batch(tokenizer: Any, rng: np.random.Generator, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, length) tokens of worked answers behind their questions, and labels: what is not the answer has none."""
    questions = draw_questions(rng, rows)
    encode = tokenizer.backend_tokenizer.encode
    asked = [encode(question.prompt).ids for question in questions]
    whole = [[*a, *encode(worked_answer(q, rng)).ids, 0] for a, q in zip(asked, questions, strict=True)]
    longest = max(map(len, whole))
    tokens = torch.zeros((rows, longest), dtype=torch.int64)
    labels = torch.full((rows, longest), _UNSAID)
    for row, (start, text) in enumerate(zip(asked, whole, strict=True)):
        tokens[row, : len(text)] = torch.tensor(text)
        labels[row, len(start) : len(text)] = torch.tensor(text[len(start) :])
    return tokens, labels


def train_pair_member(name: str, work: Path, destination: Path, minutes: float, seed: int, steps: int = 10**6) -> None:
    """Train the target or the draft, and write its folder in half precision.

    Parameters
    ----------
    name : {"target", "draft"}
    work : Path
        Folder of the tokenizer and of the checkpoint.
    minutes : float
        Of processor time, of all runs together.
    steps : int
        Most steps of this run.
    """
    tokenizer_folder, checkpoint = work / "tokenizer", work / f"{name}.pt"
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder.exists() else build_tokenizer(tokenizer_folder)
    model = fresh_model(SHAPES[name], len(tokenizer), seed).train()
    optimisers, used, step = Optimisers(model), 0.0, 0
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(held["model"])
        optimisers.restore(held["optimisers"])
        used, step = held["used"], held["step"]
        print(f"goes on after step {step}, {used:.0f} s", flush=True)
    started = saved = time.process_time()
    rng, last = np.random.default_rng([seed, step]), step + steps
    while step < last and (done := (used + time.process_time() - started) / (60.0 * minutes)) < 1.0:
        tokens, labels = batch(tokenizer, rng)
        logits = model(input_ids=tokens[:, :-1]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_UNSAID)
        optimisers.step(loss, done)
        step += 1
        if step % REPORT_STEPS == 0:
            digits = _digits_right(tokenizer, logits, labels[:, 1:])
            print(f"step {step}  {done:4.0%}  loss {loss.item():.4f}  digits right {digits:.4f}", flush=True)
        if time.process_time() - saved > CHECKPOINT_S:
            saved = time.process_time()
            _keep(checkpoint, model, optimisers, used + saved - started, step)
    save_half(model, tokenizer_folder, destination)


def _digits_right(tokenizer: Any, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the answers' digits and carries that are the first choice."""
    said = [tokenizer.convert_ids_to_tokens(i).strip() for i in range(len(tokenizer))]
    counts = torch.tensor([word.isdigit() or word in ("one", "nothing") for word in said])
    at = (labels != _UNSAID) & counts[labels.clamp(min=0)]
    return float((logits.argmax(-1)[at] == labels[at]).float().mean())


def _keep(path: Path, model: Any, optimisers: Optimisers, used: float, step: int) -> None:
    held = {"model": model.state_dict(), "optimisers": optimisers.state(), "used": used, "step": step}
    part = path.with_suffix(".part")
    torch.save(held, part)
    part.replace(path)
