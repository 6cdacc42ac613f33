"""The draft head of the house diffusion model: what a masked token is given the tokens before it, too.

The model stays as it is. Rows are masked as for its own training; of every masked token the head sees the state that
one forward gave its place and the true tokens before it, masked or not, as drafts stand before each other in a window.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from reader_theory.documents.base import write_atomically
from runtime.diffusion.head import HEAD_FILE, SEEN, DraftHead
from runtime.diffusion.load import see_both_ways
from runtime.training.house.course import run_course
from runtime.training.house.masked import LENGTH, MaskedWindows, masked_rows
from runtime.training.house.optimisation import Optimisers, cast_for
from runtime.training.house.prepare import read_stream
from runtime.training.house.train import Regime

RANK = 48
"""So that model and head ship in 8 MB."""
PROBED_ROWS = 16


def head_losses(
    model: Any, head: DraftHead, windows: torch.Tensor, masked: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross entropy of the masked tokens, in nats: by the model's own laws of a forward, and by the head's."""
    row, place = masked.nonzero(as_tuple=True)
    with torch.no_grad():
        asked = windows.masked_fill(masked, model.config.mask_token_id)
        states = model.model(input_ids=asked, use_cache=False).last_hidden_state[row, place - 1]
        before = torch.stack([windows[row, (place - 1 - back).clamp(min=0)] for back in range(SEEN)], 1)
        known = model.get_input_embeddings()(before)
    own, drafted = (
        nn.functional.cross_entropy(model.lm_head(each)[:, : model.config.mask_token_id].float(), windows[row, place])
        for each in (states, head(states, known))
    )
    return own.detach(), drafted


@torch.no_grad()
def probe(model: Any, head: DraftHead, stream: NDArray[np.uint16]) -> dict[str, float]:
    """Both losses on rows of the validation stream, masked by a seed."""
    starts = np.linspace(0, len(stream) - LENGTH - 1, PROBED_ROWS).astype(np.int64)
    windows = stream[starts[:, None] + np.arange(LENGTH)].astype(np.int64)
    masked = torch.from_numpy(masked_rows(np.random.default_rng(0), windows)).to(model.device)
    own, drafted = head_losses(model, head, torch.from_numpy(windows).to(model.device), masked)
    return {"model": round(own.item(), 4), "head": round(drafted.item(), 4)}


def train_draft_head(work: Path, folder: Path, regime: Regime) -> dict[str, float]:
    """Train a head for the masked model in `folder` and write it there; the last validation losses.

    As `train_masked`: on from where a run that was cut off had come.
    """
    from transformers import LlamaForCausalLM

    held, windows_of = read_stream(work, "validation"), MaskedWindows(work, regime)
    loaded: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = see_both_ways(loaded).to(regime.device).eval().requires_grad_(False)
    torch.manual_seed(regime.seed)
    head = DraftHead(model.config.hidden_size, RANK).to(regime.device)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        windows, masked = windows_of(rng)
        with cast_for(regime.device, everywhere=regime.bfloat16):
            return head_losses(model, head, windows, masked)[1]

    state, probed = work / "draft_head.pt", lambda: probe(model, head, held)
    told = run_course(head, Optimisers(head), state, regime, loss_of, probed)
    _write(head, folder, {"regime": asdict(regime), "rank": RANK, **told})
    return told["losses"]


def _write(head: DraftHead, folder: Path, facts: dict[str, Any]) -> None:
    part = folder / f"{HEAD_FILE}.part"
    save_file({name: weight.detach().cpu().half() for name, weight in head.state_dict().items()}, part)
    part.chmod(0o644)
    part.replace(folder / HEAD_FILE)
    path = folder / "training.json"
    card = json.loads(path.read_text()) | {"draft_head": facts}
    write_atomically(path, (json.dumps(card, indent=1) + "\n").encode())
