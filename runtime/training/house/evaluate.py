"""Evaluate: the numbers of the model card, from the folders that ship, in float32 on a CPU."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.training.house.continuation import continued, holds_loop
from runtime.training.house.prepare import copy_material, read_stream
from runtime.training.house.probes import copy_accuracy, validation_loss

ROWS, PROMPT, NEW = 48, 128, 128
CHAIN = 4
RANKS = (1, 2, 4, 8)


def evaluate(work: Path, target_folder: Path, draft_folder: Path, seed: int = 0) -> dict[str, Any]:
    """Losses, copy accuracy, agreement of draft and target on three kinds of text, and the share of greedy loops.

    Parameters
    ----------
    work
        Folder that ``prepare`` wrote.
    seed
        Seed of the held-out places and of the sampled text.

    Returns
    -------
    dict
        Ready for JSON; losses in nats a token, shares between 0 and 1, ``tokens_a_step`` of a greedy chain of 4.
    """
    from transformers import AutoModelForCausalLM

    models = {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for name, folder in (("target", target_folder), ("draft", draft_folder))
    }
    held, validation, material = read_stream(work, "heldout"), read_stream(work, "validation"), copy_material(work)
    report: dict[str, Any] = {name: _alone(model, validation, held, material) for name, model in models.items()}
    starts = np.random.default_rng(seed).integers(0, len(held) - PROMPT - NEW, ROWS)
    rows = torch.from_numpy(held[starts[:, None] + np.arange(PROMPT + NEW)].astype(np.int64))
    torch.manual_seed(seed)
    greedy, sampled = (
        continued(models["target"], rows[:, :PROMPT], NEW, torch.full((ROWS, 1), heat)) for heat in (1e-4, 1.0)
    )
    for name, text in (("heldout text", rows), ("greedy text", greedy), ("sampled text", sampled)):
        report[f"pair on {name}"] = agreement(models["target"], models["draft"], text)
    report["greedy loops"] = float(np.mean([holds_loop(row[PROMPT:].numpy()) for row in greedy]))
    return report


def _alone(model: Any, validation: NDArray[np.uint16], held: NDArray[np.uint16], material: Any) -> dict[str, float]:
    loss = validation_loss(model, validation, windows=128)
    return {
        "parameters": model.num_parameters(),
        "validation_loss": loss,
        "validation_perplexity": math.exp(loss),
        "heldout_loss": validation_loss(model, held, windows=128),
        "copy_accuracy": copy_accuracy(model, held, material, rows=64),
    }


@torch.no_grad()
def agreement(target: Any, draft: Any, text: torch.Tensor) -> dict[str, float]:
    """How near the draft is on the second part of ``text``, shape (rows, PROMPT + NEW).

    ``top_k``: the target's first choice is among the draft's first k. ``overlap``: mean of sum min(p, q).
    ``tokens_a_step``: tokens that a step emits when a greedy chain of 4 is verified against the text itself.
    """
    laws = [model(input_ids=text).logits[:, PROMPT - 1 : -1].softmax(-1) for model in (target, draft)]
    best = laws[0].argmax(-1, keepdim=True)
    ranked = laws[1].topk(max(RANKS), dim=-1).indices
    found = {f"top_{k}": float((ranked[..., :k] == best).any(-1).float().mean()) for k in RANKS}
    found["overlap"] = float(torch.minimum(*laws).sum(-1).mean())
    hits = (ranked[..., 0] == text[:, PROMPT:]).numpy()
    found["tokens_a_step"] = hits.size / sum(chain_steps(row) for row in hits)
    return found


def chain_steps(hits: NDArray[np.bool_]) -> int:
    """Steps that a chain of ``CHAIN`` drafted tokens takes through a row; ``hits[t]``: the draft foretells token t."""
    at = steps = 0
    while at < len(hits):
        ahead = hits[at : at + CHAIN]
        at += (len(ahead) if ahead.all() else int(np.argmin(ahead))) + 1
        steps += 1
    return steps
