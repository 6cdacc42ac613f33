"""Menu: steps a second of chains of every length, by batch and context, as a plan or a schedule weighed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Candidate, Plan, Policy
from reader_theory.documents.serving_schedule import ServingSchedule
from reader_theory.errors import require

__all__ = ["Menu"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Menu:
    """What may be drafted, and what it costs.

    Parameters
    ----------
    contexts : (C,), batches : (B,) int
        In order. A batch is served by the smallest one that is no smaller.
    row_steps_per_s : (C, B, D + 1) float
        Steps of all rows a second with chains of 0, 1, ..., D tokens; 0 where a length was not weighed.
    chosen : (C, B) int
        Lengths that were planned.
    shares : (D,) float
        What the longest chain was planned to accept at each depth.
    looks_up : bool
        Whether drafts are look-ups, which may find none.
    """

    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    row_steps_per_s: Floats
    chosen: Ints
    shares: Floats
    looks_up: bool

    @property
    def depth(self) -> int:
        """Longest chain."""
        return self.row_steps_per_s.shape[-1] - 1

    @classmethod
    def of(cls, document: Plan | ServingSchedule, workload: str | None = None) -> Menu:
        """From the chains that a document weighed.

        Raises
        ------
        InvalidInputError
            If it weighed no chain beside plain decoding in some cell, or chains of several drafters.
        """
        name = _workload(document, workload)
        if isinstance(document, Plan):
            cells = [
                (entry.context_tokens or 0, entry.batch, entry.policy, entry.candidates)
                for entry in document.entries
                if entry.workload == name
            ]
        else:
            cells = [(c.context, c.batch, c.policy, c.candidates) for c in document.cells if c.workload == name]
        drafters = sorted({d for _, _, _, weighed in cells for each in weighed for d in _of_chain(each.policy)})
        require(
            len(drafters) == 1 and all(_plain(weighed) for *_, weighed in cells),
            "a plan to watch must have weighed plain decoding, and chains of one drafter, at every batch and context",
            got=f"chains of {drafters or 'no drafter'} in {len(cells)} cells",
            fix="Plan from counted acceptance (`reader plan acceptance.json cost.json`), or for one --drafter.",
        )
        contexts, batches = sorted({c for c, *_ in cells}), sorted({b for _, b, *_ in cells})
        require(
            len(cells) == len(contexts) * len(batches),
            "a plan to watch must have one cell at every pair of its batches and contexts",
            got=f"{len(cells)} cells of {len(batches)} batches and {len(contexts)} contexts",
            fix="Plan again with --batch and --context repeated.",
        )
        known: dict[int, Candidate] = {}
        depth = max(_length(each.policy) or 0 for *_, weighed in cells for each in weighed)
        speeds = np.zeros((len(contexts), len(batches), depth + 1))
        chosen = np.zeros(speeds.shape[:2], dtype=np.int64)
        for context, batch, policy, weighed in cells:
            place = contexts.index(context), batches.index(batch)
            for each in weighed:
                if (length := _length(each.policy)) is not None and each.tokens_per_s > 0:
                    speeds[(*place, length)] = each.tokens_per_s / each.tokens_per_step
                    known.setdefault(length, each)
            chosen[place] = (None if policy is None else _length(policy)) or 0
        return cls(
            tuple(contexts), tuple(batches), speeds, chosen, _shares(known, depth),
            any(each.policy.retrieved is not None for each in known.values()),
        )  # fmt: skip

    def place(self, context: float, batch: float) -> tuple[int, int]:
        """The cell of the nearest context, and of the smallest batch that is no smaller."""
        c = min(range(len(self.contexts)), key=lambda i: abs(self.contexts[i] - context))
        b = next((i for i, there in enumerate(self.batches) if there >= batch), len(self.batches) - 1)
        return c, b

    def rates(self, tokens: Floats, off_loss: float) -> Floats:
        """(..., C, B, D + 1) tokens a second where chains give `tokens` (..., D + 1) a step.

        ``off_loss`` is the share that a server loses which could draft and does not.
        """
        kept = np.ones(self.depth + 1)
        kept[0] = 1.0 - off_loss
        return self.row_steps_per_s * (tokens * kept)[..., None, None, :]

    def ranges(self, lengths: Ints, context: int, max_batch: int) -> list[list[int]]:
        """``[first batch, last batch, length]`` of one context: what vLLM takes."""
        found: list[list[int]] = []
        start = 1
        for batch, length in zip(self.batches, lengths[context].tolist(), strict=True):
            end = max(max_batch, batch) if batch == self.batches[-1] else batch
            if found and found[-1][2] == length:
                found[-1][1] = end
            else:
                found.append([start, end, length])
            start = end + 1
        return found


def _workload(document: Any, workload: str | None) -> str:
    cells = document.entries if isinstance(document, Plan) else document.cells
    known = list(dict.fromkeys(cell.workload for cell in cells))
    require(
        workload in known if workload is not None else len(known) == 1,
        "`--workload` must say which, where the plan has several",
        got=f"{workload!r}; the plan has {known}",
        fix="Pass one of these.",
    )
    return workload or known[0]


def _length(policy: Policy) -> int | None:
    """Tokens of a chain, 0 of "off"; None for anything else."""
    if policy.kind == "off":
        return 0
    if policy.kind == "chain":
        return policy.max_tokens
    chain = policy.kind == "static" and policy.tree.is_chain and not policy.tree.ranks.any()
    return policy.tree.nodes if chain else None


def _of_chain(policy: Policy) -> tuple[str, ...]:
    return policy.drafters if _length(policy) else ()


def _plain(weighed: Sequence[Candidate]) -> bool:
    lengths = {_length(each.policy) for each in weighed if each.tokens_per_s > 0}
    return 0 in lengths and len(lengths - {None}) > 1


def _shares(known: dict[int, Candidate], depth: int) -> Floats:
    """Acceptance by depth of the longest chain; from the mean alone, one chance at every depth."""
    longest = known[depth]
    if len(longest.accepted) >= depth:
        return np.minimum.accumulate(np.clip(np.asarray(longest.accepted[:depth], dtype=np.float64), 0.0, 1.0))
    from scipy.optimize import brentq

    depths, wanted = np.arange(1, depth + 1), min(max(longest.tokens_per_step - 1, 1e-6), depth * (1 - 1e-6))
    each = float(brentq(lambda a: float((a**depths).sum()) - wanted, 0.0, 1.0))
    return np.asarray(each**depths, dtype=np.float64)
