"""How good a head is on held-out text: acceptance by depth, and tokens a step where steps begin as in the engine.

On text that the target wrote greedily both are exact: the text does not depend on the drafts, so that walking it from
step to step is what the engine does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.unrolled import unrolled
from runtime.training.heads.texts import ANSWERED, Texts

__all__ = ["Watched", "cast_as", "embedding_of", "laws_of", "watch"]

CHAIN = 4
RECENT = 8
"""Entries that count as recent; a draft is looked at where the first entry is none of them."""


@dataclass(frozen=True)
class Watched:
    """What was seen.

    Attributes
    ----------
    by_depth : list of float
        Chance that the draft at a depth is the target's own token, given that those before were; over all positions.
    walked : float
        Tokens a step of a chain of four, steps beginning where the one before ended.
    walked_by_depth : list of float
        As `by_depth`, at the steps that were walked.
    alpha : float
        Mean over positions of sum min(target, draft), of the first draft.
    rms : list of float
        Root mean square of the state handed on, by step.
    sink, recent : list of float
        Mean attention on the text's first entry, and on the last eight that a step sees, its draft's own among them.
    positions : int
    counts : (rows, steps, 2) int64
        Of each row and depth, how many drafts were right and how many were not, given that those before were right.
    walks : (rows, 2) int64
        Of each row, tokens emitted and steps walked.
    """

    by_depth: list[float]
    walked: float
    walked_by_depth: list[float]
    alpha: float
    rms: list[float]
    sink: list[float]
    recent: list[float]
    positions: int
    counts: NDArray[np.int64]
    walks: NDArray[np.int64]

    def __str__(self) -> str:
        shown = " ".join(f"{each:.3f}" for each in self.by_depth)
        walked = " ".join(f"{each:.3f}" for each in self.walked_by_depth)
        return f"acceptance by depth {shown}; walked {walked}: {self.walked:.3f} tokens a step, alpha {self.alpha:.3f}"

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "acceptance_by_depth": [round(each, 4) for each in self.by_depth],
            "tokens_a_step": round(self.walked, 4),
            "walked_by_depth": [round(each, 4) for each in self.walked_by_depth],
            "alpha": round(self.alpha, 4),
            "rms": [round(each, 4) for each in self.rms],
        }


@torch.no_grad()
def watch(
    target: Any, network: HeadNetwork, texts: Texts, turns: torch.Tensor, *, steps: int = CHAIN, most: int = 256
) -> Watched:
    """Look at greedy rows where there are any, at all otherwise; at the target's own answers."""
    greedy = texts.heats == 0.0
    texts = texts.at(np.flatnonzero(greedy if greedy.any() else np.ones(len(texts), bool))[:most])
    device, tally = next(network.parameters()).device, _Tally(steps)
    for start in range(0, len(texts), 8):
        part = texts.at(np.arange(start, min(start + 8, len(texts))))
        length = max(int((part.roles != 0).sum(1).max()), 3)
        tokens = torch.from_numpy(part.tokens[:, :length].astype(np.int64)).to(device)
        _look(target, network, tokens, part.roles[:, :length], turns, tally)
    return tally.found()


@torch.no_grad()
def laws_of(target: Any, tokens: torch.Tensor, network: HeadNetwork) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T, layers, width) hidden states, and the (B, T - 1, draft vocabulary) laws after tokens 1 .. T - 1."""
    base = target.get_decoder() if hasattr(target, "get_decoder") else target.model
    out = base(input_ids=tokens, output_hidden_states=True, use_cache=False)
    hidden = torch.stack([out.hidden_states[layer] for layer in network.shape.layers], dim=2)
    logits = target.get_output_embeddings()(out.last_hidden_state[:, 1:])
    law = logits.softmax(-1, dtype=torch.float32).to(logits.dtype)
    return hidden, law if network.ids is None else law[..., network.ids]


def cast_as(target: Any) -> torch.autocast:
    """Products in the target's own type where that is bfloat16, on its device."""
    return torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=target.dtype == torch.bfloat16)


def embedding_of(target: Any, network: HeadNetwork) -> torch.Tensor:
    """What the head's tokens are embedded with: the target's, or its own."""
    own = network.embed_tokens
    return target.get_input_embeddings().weight.detach() if own is None else own.weight


def _look(
    target: Any,
    network: HeadNetwork,
    tokens: torch.Tensor,
    roles: NDArray[np.uint8],
    turns: torch.Tensor,
    tally: _Tally,
) -> None:
    hidden, law = laws_of(target, tokens, network)
    best = tokens[:, 2:]
    drafted = roles[:, 2:] == ANSWERED
    embedding = embedding_of(target, network)
    with cast_as(target):
        shown = list[torch.Tensor]()
        steps = unrolled(network, embedding, tokens, hidden, tally.steps, turns, shown.append)
        for step, (out, states) in enumerate(steps):
            tally.attend(step, shown.pop(), drafted)
            logits = network.lm_head(out[:, :-1])
            choice = logits.argmax(-1)
            hits = (choice if network.ids is None else network.ids[choice]) == best
            tally.rms[step].append(float(states[:, step:].float().square().mean().sqrt()))
            tally.hits[step].append(hits.cpu().numpy())
            if step == 0:
                alpha = torch.minimum(law[:, :-1].float(), logits.softmax(-1, dtype=torch.float32)).sum(-1)
                tally.alpha.append(alpha.cpu().numpy()[drafted])
    tally.drafted.append(drafted)


class _Tally:
    """Hits by step, batch and entry; a chain drafted from entry t has its k-th draft at entry t + k of step k."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.hits: list[list[NDArray[np.bool_]]] = [[] for _ in range(steps)]
        self.rms: list[list[float]] = [[] for _ in range(steps)]
        self.drafted: list[NDArray[np.bool_]] = []
        self.alpha: list[NDArray[Any]] = []
        self.attention = np.zeros((steps, 3))

    def attend(self, step: int, weights: torch.Tensor, drafted: NDArray[np.bool_]) -> None:
        """Add a step's attention at the entries where the target's own tokens are drafted."""
        own = weights.float().mean((1, 2))
        count = own.shape[1]
        places = torch.arange(count, device=own.device)
        near = places > places[:, None] - step - max(RECENT - step, 0)
        told = own[..., 0], (own[..., :count] * near).sum(-1) + own[..., count:].sum(-1), torch.ones_like(own[..., 0])
        kept = torch.from_numpy(drafted).to(own.device)
        kept = torch.nn.functional.pad(kept, (0, count - kept.shape[1])) & (places >= step + RECENT)
        self.attention[step] += [float((each * kept).sum()) for each in told]

    def found(self) -> Watched:
        counts, walks = list[NDArray[np.int64]](), list[tuple[int, int]]()
        walked_asked, walked_right = np.zeros(CHAIN), np.zeros(CHAIN)
        for number, drafted in enumerate(self.drafted):
            hits = [self.hits[step][number] for step in range(self.steps)]
            alive, mine = drafted, np.zeros((len(drafted), self.steps, 2), np.int64)
            for step in range(self.steps):
                if step:
                    alive = _next(alive & hits[step - 1]) & drafted
                right = (alive & hits[step]).sum(1)
                mine[:, step] = np.stack((right, alive.sum(1) - right), -1)
            counts.append(mine)
            for row in range(len(drafted)):
                walks.append(_walk([one[row] for one in hits[:CHAIN]], drafted[row], walked_asked, walked_right))
        by_row = np.concatenate(counts) if counts else np.zeros((0, self.steps, 2), np.int64)
        walked = np.array(walks, np.int64).reshape(-1, 2)
        right, asked = by_row[..., 0].sum(0), by_row.sum((0, 2))
        emitted, rounds = walked.sum(0)
        mass = self.attention[:, :2] / np.maximum(self.attention[:, 2:], 1)
        alpha = np.concatenate(self.alpha) if self.alpha else np.zeros(1)
        return Watched(
            (right / np.maximum(asked, 1)).tolist(),
            float(emitted / max(rounds, 1)),
            (walked_right / np.maximum(walked_asked, 1)).tolist(),
            float(alpha.mean()) if alpha.size else 0.0,
            [float(np.mean(each)) if each else 0.0 for each in self.rms],
            mass[:, 0].tolist(),
            mass[:, 1].tolist(),
            int(asked[0]),
            by_row,
            walked,
        )


def _next(entries: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Each entry's flag at the entry after it."""
    return np.pad(entries, ((0, 0), (1, 0)))[:, :-1]


def _walk(
    hits: list[NDArray[np.bool_]], drafted: NDArray[np.bool_], asked: NDArray[Any], right: NDArray[Any]
) -> tuple[int, int]:
    """Tokens emitted and steps taken over one row; adds to how often each depth was asked, and right."""
    place, emitted, steps = 0, 0, 0
    while place < len(drafted):
        if not drafted[place]:
            place += 1
            continue
        taken = 0
        while taken < len(hits) and place + taken < len(drafted) and drafted[place + taken]:
            asked[taken] += 1
            if not hits[taken][place + taken]:
                break
            right[taken] += 1
            taken += 1
        emitted, steps, place = emitted + taken + 1, steps + 1, place + taken + 1
    return emitted, steps
