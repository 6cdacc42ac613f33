"""Distil: the house draft, from the target's full law at every position.

Half of the rows are training text, half are text that the target wrote itself from training prompts (at several
temperatures, near zero among them), because that is what a draft meets when it drafts. Loss: forward Kullback-Leibler
divergence, plus a little cross entropy on the text. Hinton, Vinyals and Dean 2015;
sampled text as in Kim and Rush 2016.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.models.house.shapes import DRAFT
from runtime.training.house.continuation import continued
from runtime.training.house.optimisation import Optimisers, batch_shape, cast_for
from runtime.training.house.prepare import copy_material, read_stream
from runtime.training.house.probes import watch
from runtime.training.house.train import COPY_SHARE, PROBES, RESTARTED_RATE, Regime, model_to_train, save_half
from runtime.training.house.windows import CopyMaterial, cut_windows

TEMPERATURES = (1.0, 1.0, 0.6, 1e-4)
PROMPT_TOKENS, ROW_TOKENS = 96, 512
TEXT_WEIGHT = 0.1


@torch.no_grad()
def written_by(
    target: Any, stream: NDArray[np.uint16], material: CopyMaterial, rows: int, seed: int, block: int = 1024
) -> NDArray[np.uint16]:
    """Rows of ``ROW_TOKENS`` tokens: a prompt from ``stream`` and the target's own continuation, end to end."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    prompts = cut_windows(rng, stream, rows, ROW_TOKENS, COPY_SHARE, material)
    offset = rng.integers(0, ROW_TOKENS - PROMPT_TOKENS)
    found: list[NDArray[np.uint16]] = []
    for part in torch.from_numpy(prompts[:, offset : offset + PROMPT_TOKENS]).split(block):
        heat = torch.tensor(TEMPERATURES, device=target.device).repeat(len(part))[: len(part), None]
        with cast_for(target.device.type):
            rows_written = continued(target, part.to(target.device), ROW_TOKENS - PROMPT_TOKENS, heat)
        found.append(rows_written.cpu().numpy().astype(np.uint16))
    return np.concatenate(found).reshape(-1)


def distillation_loss(target_logits: torch.Tensor, draft_logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """KL(target || draft) plus the weighted cross entropy on ``tokens``, mean a token."""
    draft = draft_logits.float().log_softmax(-1).flatten(0, 1)
    target = target_logits.float().log_softmax(-1).flatten(0, 1)
    divergence = nn.functional.kl_div(draft, target, reduction="batchmean", log_target=True)
    return divergence + TEXT_WEIGHT * nn.functional.nll_loss(draft, tokens.flatten())


def distil_draft(
    work: Path, target_folder: Path, destination: Path, regime: Regime, written_rows: int, start: Path | None = None
) -> float:
    """Distil the draft and write it to ``destination``; returns its last validation loss, in nats a token.

    ``written_rows`` rows of 512 tokens (none, or at least 8) are written by the target first; the draft starts from the
    folder ``start`` where one is given.
    """
    from transformers import LlamaForCausalLM

    started, rng, device = time.monotonic(), np.random.default_rng(regime.seed), regime.device
    stream, held, material = read_stream(work, "train"), read_stream(work, "validation"), copy_material(work)
    target: Any = LlamaForCausalLM.from_pretrained(target_folder, dtype=torch.float32)
    target = target.to(device).eval()
    streams = [stream]
    if written_rows:
        streams.append(written_by(target, stream, material, written_rows, regime.seed))
        print(f"{written_rows} rows written by the target in {time.monotonic() - started:.0f} s", flush=True)
    draft = model_to_train(DRAFT, regime, start)
    optimisers = Optimisers(draft, scale=RESTARTED_RATE if start else 1.0)
    step, due, label = 0, 1 / PROBES, "step {}  {:4.0%}"
    for step, done in regime.budget(len(stream)).progress(started):
        rows, length = batch_shape(rng, regime.batch_tokens, done)
        source = streams[step % len(streams)]
        windows = torch.from_numpy(cut_windows(rng, source, rows, length, COPY_SHARE, material)).to(device)
        with cast_for(device):
            draft_logits = draft(input_ids=windows[:, :-1]).logits
            with torch.no_grad():
                target_logits = target(input_ids=windows[:, :-1]).logits
        optimisers.step(distillation_loss(target_logits, draft_logits, windows[:, 1:]), done)
        if done >= due:
            due = done + 1 / PROBES
            watch(draft, held, material, label.format(step, done))
            save_half(draft, work / "tokenizer", destination)
    save_half(draft, work / "tokenizer", destination)
    return watch(draft, held, material, label.format(step, 1.0))
