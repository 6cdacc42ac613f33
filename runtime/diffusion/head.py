"""A draft head: the law of a masked place given the tokens before it that the forward had not seen yet.

A forward's laws of several places do not see each other's tokens. By the time that a place is drafted the tokens before
it are drawn or drafted, and a small layer over the state that gave its law takes them in, with no further forward.
Sequentially dependent draft heads are Ankner and others 2024, "Hydra", there for causal models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from reader_theory.errors import require

__all__ = ["HEAD_FILE", "SEEN", "DraftHead", "load_head"]

HEAD_FILE = "draft_head.safetensors"
SEEN = 2
"""Tokens before a place that the head takes in: the nearest first."""


class DraftHead(nn.Module):
    """A correction of a state by the tokens before its place, to be read by the model's own output head.

    Parameters
    ----------
    hidden, rank : int, >= 1
        Width of a state, and of the layer between.
    """

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.inner = nn.Linear((1 + SEEN) * hidden, rank, bias=False)
        self.outer = nn.Linear(rank, hidden, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """States, (N, H), corrected.

        Parameters
        ----------
        before : (N, SEEN, H)
            Embeddings of the tokens before each place, the nearest first.
        """
        scaled = nn.functional.rms_norm(torch.cat([states[:, None], before], 1), states.shape[-1:])
        return states + self.outer(nn.functional.silu(self.inner(scaled.flatten(1))))


def load_head(folder: str | Path, model: Any) -> DraftHead | None:
    """The draft head in a model's folder, of the model's type and on its device; None where there is none.

    Raises
    ------
    InvalidInputError
        When the file holds no draft head of this model.
    """
    path, width = Path(folder) / HEAD_FILE, int(model.config.get_text_config().hidden_size)
    if not path.is_file():
        return None
    reads = getattr(model.get_output_embeddings(), "in_features", None)
    require(
        "ForMaskedLM" not in type(model).__name__ and reads == width,
        "a model with a draft head must be a decoder: its output head reads the state that the draft head corrects",
        got=f"{type(model).__name__} with {path}",
        fix="Take the file away: drafts of each round need no head.",
    )
    held, told = _held(path)
    rank = held["inner.weight"].shape[0] if held.get("inner.weight", torch.tensor(0)).ndim == 2 else 0
    wanted = {"inner.weight": (rank, (1 + SEEN) * width), "outer.weight": (width, rank)}
    whole = {name: tuple(weight.shape) for name, weight in held.items() if bool(weight.isfinite().all())}
    require(
        rank > 0 and whole == wanted,
        f"{HEAD_FILE} must hold a draft head of its model, finite: inner.weight (rank, {(1 + SEEN) * width}), "
        f"outer.weight ({width}, rank)",
        got=f"{told} in {path}",
        fix="Train the head with its model, or take the file away: drafts of each round need none.",
    )
    head = DraftHead(width, rank)
    head.load_state_dict(held)
    return head.to(model.device, model.dtype).eval()


def _held(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a file, and what to say of them."""
    try:
        held = load_file(path)
    except Exception as error:  # the library's own class of error, which it does not export
        return {}, str(error)
    return held, ", ".join(f"{name} {list(weight.shape)}" for name, weight in held.items()) or "nothing"
