"""Train: a house model from nothing, on windows of the standard library a third of which hold a repeated passage."""

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.models.house.shapes import Shape, fresh_model
from runtime.training.house.optimisation import Budget, Optimisers, add_dropout, batch_shape, cast_for
from runtime.training.house.prepare import copy_material, read_stream
from runtime.training.house.probes import watch
from runtime.training.house.tokenizer import load_tokenizer, save_tokenizer
from runtime.training.house.windows import cut_windows

COPY_SHARE = 1 / 3
PROBES = 12
RESTARTED_RATE = 0.5  # of the rate from nothing


def save_half(model: Any, tokenizer_folder: Path, destination: Path) -> None:
    """Write an ordinary ``from_pretrained`` folder in float16, with the tokenizer beside it."""
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.generation_config.do_sample = False
    half.save_pretrained(destination)
    save_tokenizer(load_tokenizer(tokenizer_folder).backend_tokenizer, destination)
    for path in destination.iterdir():
        path.chmod(0o644)


@dataclass(frozen=True)
class Regime:
    """How to train.

    Attributes
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    epochs, minutes
        Budget, whichever ends first.
    batch_tokens
        Tokens of one optimiser step.
    seed
        Seed of the weights, the windows and the dropout.
    dropout
        Share of what each block adds that is dropped in training.
    bfloat16
        Whether a CPU computes in bfloat16 too, which one with units for it does faster. Read by the draft head alone.
    """

    device: str = "cpu"
    epochs: float = 20.0
    minutes: float = 60.0
    batch_tokens: int = 4096
    seed: int = 0
    dropout: float = 0.0
    bfloat16: bool = False

    def budget(self, tokens: int) -> Budget:
        """Steps and minutes for a stream of ``tokens`` tokens."""
        return Budget(math.ceil(self.epochs * tokens / self.batch_tokens), self.minutes)


def model_to_train(shape: Shape, regime: Regime, start: Path | None) -> Any:
    """Model in training mode on the regime's device: the one in ``start``, or a fresh one of ``shape``."""
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32) if start else None
    return (model or fresh_model(shape, regime.seed)).to(regime.device).train()


def train(work: Path, destination: Path, shape: Shape, regime: Regime, start: Path | None = None) -> float:
    """Train a model of ``shape`` and keep the weights with the lowest validation loss in ``destination``.

    Parameters
    ----------
    work
        Folder that ``prepare`` wrote.
    destination
        Model folder to write.
    shape
        ``TARGET`` or ``DRAFT`` of the shapes.
    start
        Folder of a model to go on from, at a lower rate; nothing by default.

    Returns
    -------
    float
        Lowest validation loss, in nats a token.
    """
    rng, device = np.random.default_rng(regime.seed), regime.device
    stream, held, material = read_stream(work, "train"), read_stream(work, "validation"), copy_material(work)
    model = model_to_train(shape, regime, start)
    add_dropout(model, regime.dropout)
    optimisers = Optimisers(model, scale=RESTARTED_RATE if start else 1.0)
    step, best, due, started = 0, math.inf, 1 / PROBES, time.monotonic()
    for step, done in regime.budget(len(stream)).progress(started):
        rows, length = batch_shape(rng, regime.batch_tokens, done)
        windows = torch.from_numpy(cut_windows(rng, stream, rows, length, COPY_SHARE, material)).to(device)
        with cast_for(device):
            logits = model(input_ids=windows[:, :-1]).logits
        optimisers.step(nn.functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten()), done)
        if done >= due:
            due = done + 1 / PROBES
            best = _keep_best(model, best, watch(model, held, material, _label(step, done, started)), work, destination)
    best = _keep_best(model, best, watch(model, held, material, _label(step, 1.0, started)), work, destination)
    print(f"best validation loss {best:.4f}", flush=True)
    return best


def _label(step: int, done: float, started: float) -> str:
    return f"step {step}  {done:4.0%}  {time.monotonic() - started:5.0f} s"


def _keep_best(model: Any, best: float, loss: float, work: Path, destination: Path) -> float:
    if loss < best:
        save_half(model, work / "tokenizer", destination)
    return min(best, loss)
