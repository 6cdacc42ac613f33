"""From a target's folder to a head's: text, start, training, in one call that can be cut off and called again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reader_theory.errors import require
from runtime.drafters.head.checkpoint import load_head_network
from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.shape import HeadShape
from runtime.kernels.product import have_tiles
from runtime.models.load import wrap
from runtime.models.transformers import load_transformers
from runtime.models.vocabulary import fingerprint_of
from runtime.training.heads.initial import Initial, start_from
from runtime.training.heads.material import Material, gathered_texts
from runtime.training.heads.texts import ANSWERED, Texts
from runtime.training.heads.train import HeadRegime, train_head
from runtime.training.heads.watching import Watched

__all__ = ["Wanted", "continued", "make_head"]

NORMS: dict[str, dict[str, bool]] = {
    "post": {"fc_norm": True, "norm_output": True},
    "pre": {"fc_norm": False, "norm_output": False},
    "llama": {"fc_norm": False, "norm_output": False, "norm_before_fc": True},
}
"""Switches by name; the last is what llama.cpp can run."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks of a head and of its training; see `HeadShape` and `HeadRegime`.

    `dtype` is what the target and the products are computed in; the head's own weights are trained in float32.
    """

    rank: int | None = None
    trimmed: int | None = None
    norms: str = "post"
    block: int = 0
    layers: tuple[int, ...] | None = None
    initial: Initial | str = "weighted_svd"
    objective: str = "kl"
    windows: str = "adaptive"
    reward: str = "accepted"
    start: Path | None = None
    rate: float = 1.0
    steps: int = 3
    minutes: float = 50.0
    updates: int | None = None
    clock: str = "wall"
    tokens: int = 100_000
    length: int = 512
    batch_tokens: int = 2048
    device: str = "cpu"
    dtype: str = "auto"
    seed: int = 0


def make_head(
    folder: str,
    name: str,
    tokenizer: Any,
    data: Sequence[Path],
    wanted: Wanted,
    output: Path,
    tell: Callable[[str, int, int], None],
) -> Watched:
    """Train a head for the target in `folder` and write it to `output`; its acceptance on held-out documents.

    Text that was written before lies in `output` and is taken again.
    """
    require(
        wanted.dtype in ("auto", "float32", "bfloat16"),
        "`dtype` must be auto, float32 or bfloat16",
        got=repr(wanted.dtype),
        fix="Leave it out for bfloat16 where the device multiplies it fast.",
    )
    fast = wanted.device != "cpu" or have_tiles()
    dtype = torch.bfloat16 if wanted.dtype == "bfloat16" or (wanted.dtype == "auto" and fast) else torch.float32
    regime = HeadRegime(
        minutes=wanted.minutes, steps=wanted.steps, objective=wanted.objective, batch_tokens=wanted.batch_tokens,
        seed=wanted.seed, windows=wanted.windows, reward=wanted.reward, warm=0.5 if wanted.start is None else 0.0,
        most_updates=wanted.updates, clock=wanted.clock, rate=wanted.rate,
    )  # fmt: skip
    target = load_transformers(folder, dtype, wanted.device)
    changes: dict[str, Any] = NORMS[wanted.norms] | {"rank": wanted.rank, "block": wanted.block}
    if wanted.layers is not None:
        changes["layers"] = wanted.layers
    if wanted.trimmed is not None:
        changes["draft_vocabulary"] = wanted.trimmed
    shape = HeadShape.of(target.config, **changes)
    begun = None if wanted.start is None else load_head_network(wanted.start)
    if begun is not None:
        begun = continued(begun, wanted.block)
        shape = begun.shape
    regime = replace(regime, steps=shape.block or regime.steps)
    require(
        max(shape.layers) < target.config.get_text_config().num_hidden_layers,
        "`layers` must be layers of the target",
        got=f"{list(shape.layers)} of {target.config.get_text_config().num_hidden_layers}",
        fix="Count them from 0.",
    )
    output.mkdir(parents=True, exist_ok=True)
    texts = _texts(target, tokenizer, data, wanted, output / "texts.npz", tell)
    torch.manual_seed(wanted.seed)
    if begun is None:
        network = HeadNetwork(shape, common_tokens(texts, shape)).to(wanted.device)
        start_from(network, target, wanted.initial, states_seen(target, texts))  # pyright: ignore[reportArgumentType]
    else:
        network = begun.to(wanted.device)
    return train_head(
        target, network, texts, regime, output, name=name, tokenizer=fingerprint_of(tokenizer),
        tell=lambda share, text: tell(f"train: {text}", round(1000 * min(share, 1.0)), 1000),
    )  # fmt: skip


def continued(network: HeadNetwork, block: int) -> HeadNetwork:
    """What a training goes on from: the network, or a block of so many levels whose first drafts are the network's."""
    if block in (0, network.shape.block):
        return network
    made = HeadNetwork(replace(network.shape, block=block), network.ids)
    made.load_state_dict(network.state_dict(), strict=False)  # the masks of what was no block begin at 0
    return made


def _texts(
    target: Any,
    tokenizer: Any,
    data: Sequence[Path],
    wanted: Wanted,
    path: Path,
    tell: Callable[[str, int, int], None],
) -> Texts:
    if path.is_file():
        return Texts.load(path)
    rows = max(1, min(256 if wanted.device != "cpu" else 32, wanted.tokens // wanted.length))
    material = Material(wanted.tokens, wanted.length, rows, wanted.seed)
    texts = gathered_texts(wrap(target, check=False), tokenizer, data, material, tell)
    texts.save(path)
    return texts


def common_tokens(texts: Texts, shape: HeadShape) -> torch.Tensor | None:
    """The commonest tokens of what the target wrote, increasing, for a trimmed head; None for a whole one."""
    if not shape.trimmed:
        return None
    counts = np.bincount(texts.tokens[texts.roles == ANSWERED], minlength=shape.vocabulary)
    return torch.from_numpy(np.sort(np.argsort(-counts, kind="stable")[: shape.draft_vocabulary]))


@torch.no_grad()
def states_seen(target: Any, texts: Texts, rows: int = 32) -> torch.Tensor:
    """(n, width) normed hidden states before the target's output head, at tokens that it wrote."""
    some = texts.at(np.arange(min(rows, len(texts))))
    tokens = torch.from_numpy(some.tokens.astype(np.int64)).to(target.device)
    out = target.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    return out[torch.from_numpy(some.roles == ANSWERED).to(target.device)].float()
