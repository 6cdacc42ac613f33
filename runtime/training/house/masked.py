"""Masked: the house diffusion model, from the target's weights, by filling masked blocks in after a known prompt.

The causal target is made to attend both ways and trained to give every masked token of a block, some of whose tokens
are known: the first ones, as the chain rule of a denoising step fills them in, and any of the rest, at a random rate.
The logits of a token stay those after the token before it. Austin and others 2021; Sahoo and others 2024, "Simple and
effective masked diffusion language models"; from a causal model as in Gong and others 2025, "Scaling diffusion language
models via adaptation from autoregressive models".
"""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reader_theory.documents.base import write_atomically
from runtime.diffusion.load import see_both_ways
from runtime.models.house.shapes import masked_config
from runtime.training.house.course import run_course
from runtime.training.house.optimisation import Optimisers, cast_for
from runtime.training.house.prepare import copy_material, read_stream
from runtime.training.house.tokenizer import add_mask
from runtime.training.house.train import COPY_SHARE, RESTARTED_RATE, Regime
from runtime.training.house.windows import cut_windows

LENGTH = 256
SHORTEST_BLOCK, LONGEST_BLOCK = 24, 224
FILLED_SHARE = 0.5
"""Of the blocks that begin with tokens filled in."""
RATES = (0.25, 0.5, 0.75, 1.0)
"""Mask rates at which validation looks."""
PROBED_BLOCK, PROBED_ROWS = 64, 32


def made_from(target_folder: Path) -> Any:
    """The target as a masked model in training mode: a mask token more, its least MLP units fewer, both ways seen."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    causal: Any = AutoModelForCausalLM.from_pretrained(target_folder, dtype=torch.float32)
    config = masked_config(causal.config)
    model: Any = see_both_ways(LlamaForCausalLM(config))
    held = causal.state_dict()
    for number in range(config.num_hidden_layers):
        parts = [f"model.layers.{number}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
        weight = torch.stack([held[name].square().sum(0 if "down" in name else 1) for name in parts]).sum(0)
        kept = weight.topk(config.intermediate_size).indices.sort().values
        for name in parts:
            held[name] = held[name][:, kept] if "down" in name else held[name][kept]
    words = held["model.embed_tokens.weight"]
    held["model.embed_tokens.weight"] = torch.cat([words, words.mean(0, keepdim=True)])
    held["lm_head.weight"] = held["model.embed_tokens.weight"]
    model.load_state_dict(held)
    return model.train()


def masked_rows(rng: np.random.Generator, windows: NDArray[np.int64], rate: float | None = None) -> NDArray[np.bool_]:
    """Which tokens of each row are masked, (rows, length): of a block at its end, at a random rate unless one is given.

    At least one token of each row is masked, and the first never is.
    """
    rows, length = windows.shape
    masked = np.zeros((rows, length), dtype=np.bool_)
    for row in masked:
        block = int(rng.integers(SHORTEST_BLOCK, min(LONGEST_BLOCK, length - 1) + 1))
        filled = int(rng.integers(0, block)) if rng.random() < FILLED_SHARE else 0
        open_to = row[length - block + filled :]
        open_to[:] = rng.random(len(open_to)) < (rng.random() if rate is None else rate)
        open_to[int(rng.integers(len(open_to)))] = True
    return masked


def masked_loss(model: Any, windows: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the masked tokens, in nats, given all others."""
    asked = windows.masked_fill(masked, model.config.mask_token_id)
    hidden = model.model(input_ids=asked, use_cache=False).last_hidden_state[:, :-1][masked[:, 1:]]
    logits = model.lm_head(hidden)[:, : model.config.mask_token_id]
    return nn.functional.cross_entropy(logits.float(), windows[masked])


@torch.no_grad()
def validation_losses(model: Any, stream: NDArray[np.uint16]) -> dict[str, float]:
    """Loss in nats by mask rate over a block of 64 tokens at the end of evenly spaced rows; ``first``: of its first."""
    starts = np.linspace(0, len(stream) - LENGTH - 1, PROBED_ROWS).astype(np.int64)
    windows = torch.from_numpy(stream[starts[:, None] + np.arange(LENGTH)].astype(np.int64))
    rng, losses = np.random.default_rng(0), dict[str, float]()
    block = np.arange(LENGTH) >= LENGTH - PROBED_BLOCK
    model.eval()
    for rate in RATES:
        masked = torch.from_numpy(block & (rng.random(windows.shape) < rate))
        losses[f"{rate:g}"] = masked_loss(model, windows.to(model.device), masked.to(model.device)).item()
    last = torch.zeros(windows.shape, dtype=torch.bool)
    last[:, -1] = True
    losses["last"] = masked_loss(model, windows.to(model.device), last.to(model.device)).item()
    model.train()
    return losses


class MaskedWindows:
    """Windows of the training stream and what is masked of them, (B, `LENGTH`) each, by the numbers of an update."""

    def __init__(self, work: Path, regime: Regime) -> None:
        self.stream, self.material, self.regime = read_stream(work, "train"), copy_material(work), regime

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """On the regime's device."""
        rows = max(1, self.regime.batch_tokens // LENGTH)
        windows = cut_windows(rng, self.stream, rows, LENGTH, COPY_SHARE, self.material)
        masked = torch.from_numpy(masked_rows(rng, windows)).to(self.regime.device)
        return torch.from_numpy(windows).to(self.regime.device), masked


def train_masked(work: Path, target_folder: Path, destination: Path, regime: Regime) -> dict[str, float]:
    """Train for the regime's minutes, on from where a run that was cut off had come; the last validation losses.

    The folder is written at the end of the run, in float16, with its tokenizer and how it was made.
    """
    held, windows_of = read_stream(work, "validation"), MaskedWindows(work, regime)
    model = made_from(target_folder).to(regime.device)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        windows, masked = windows_of(rng)
        with cast_for(regime.device):
            return masked_loss(model, windows, masked)

    optimisers = Optimisers(model, scale=RESTARTED_RATE)
    told = run_course(model, optimisers, work / "masked.pt", regime, loss_of, lambda: validation_losses(model, held))
    save_masked(model, target_folder, destination)
    facts = {"regime": asdict(regime), "parameters": model.num_parameters(), **told}
    write_atomically(destination / "training.json", (json.dumps(facts, indent=1) + "\n").encode())
    return told["losses"]


def save_masked(model: Any, tokenizer_folder: Path, destination: Path) -> None:
    """An ordinary folder in float16, with the tokenizer and its mask token beside it."""
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.save_pretrained(destination)
    add_mask(tokenizer_folder, destination)
    for path in destination.iterdir():
        path.chmod(0o644)
