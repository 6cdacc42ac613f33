"""Probes: the two numbers that training watches, loss on validation text and accuracy inside a repeated passage."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.training.house.windows import CopyMaterial

SKIPPED = 4  # tokens of the second occurrence that nothing can foretell


@torch.no_grad()
def validation_loss(model: Any, stream: NDArray[np.uint16], windows: int = 24, length: int = 512) -> float:
    """Mean cross entropy in nats a token over ``windows`` evenly spaced rows of ``stream``."""
    starts = np.linspace(0, len(stream) - length - 1, windows).astype(np.int64)
    rows = torch.from_numpy(stream[starts[:, None] + np.arange(length)].astype(np.int64))
    total = 0.0
    for block in rows.split(16):
        block = block.to(model.device)
        logits = model(input_ids=block[:, :-1]).logits.float()
        total += nn.functional.cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum").item()
    return total / (windows * (length - 1))


def copy_rows(stream: NDArray[np.uint16], material: CopyMaterial, rows: int, passage: int) -> NDArray[np.int64]:
    """Rows of a validation passage, a header, and the passage again; shape (rows, 2 * passage + header)."""
    starts = np.linspace(0, len(stream) - passage - 1, rows).astype(np.int64)
    text = stream[starts[:, None] + np.arange(passage)].astype(np.int64)
    header = np.tile(material.headers[1], (rows, 1))
    return np.concatenate([text, header, text], axis=1)


@torch.no_grad()
def copy_accuracy(
    model: Any, stream: NDArray[np.uint16], material: CopyMaterial, rows: int = 8, passage: int = 128
) -> float:
    """Share of the second occurrence, after its first four tokens, that is the model's first choice."""
    tokens = torch.from_numpy(copy_rows(stream, material, rows, passage)).to(model.device)
    guess = model(input_ids=tokens[:, :-1]).logits.argmax(-1)
    second = slice(-(passage - SKIPPED), None)
    return (guess[:, second] == tokens[:, 1:][:, second]).float().mean().item()


def watch(model: Any, stream: NDArray[np.uint16], material: CopyMaterial, label: str) -> float:
    """Print both probes in one line and return the validation loss; leaves the model in training mode."""
    model.eval()
    loss, copied = validation_loss(model, stream), copy_accuracy(model, stream, material)
    print(f"{label}  validation loss {loss:.4f}  copy accuracy {copied:.3f}", flush=True)
    model.train()
    return loss
