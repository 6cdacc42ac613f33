"""Scenarios of known law to plan for: drafts that decay and cling, texts that copy, documents that differ, and a cost.

The next token is the draft's first candidate with a chance whose log-odds sum a level, effects of document and prompt,
a wandering part, a bonus inside copied stretches and a loss for each token drafted on; other ranks fall geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from proofs_tests.documents.documents_examples import STAMP
from reader_theory.documents import Cost, CostTable, Trace
from reader_theory.documents.cost import DrafterCost
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.documents.trace import TraceDrafter, TracePrompt
from reader_theory.estimate import Estimate

__all__ = ["BATCHES", "Scenario", "drawn", "step_cost", "trace_of"]

Ints = NDArray[np.int64]
RANKS, OFFERED, TOKENS, CONTEXT = 8, 24, 128, 128
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = tuple(range(1, 98))


@dataclass(frozen=True)
class Scenario:
    """What is drafted, on what texts, at what cost; every number is dimensionless but `copy_tokens`."""

    first: float = 0.65
    others: float = 0.7
    tail: float = 0.5
    copying: float = 0.02
    copy_tokens: int = 15
    copy_odds: float = 1.0
    decay: float = 0.1
    stickiness: float = 0.8
    spread: float = 0.3
    spread_documents: float = 0.5
    stray: float = 0.1
    tile: int = 8
    ridge: int = 64
    draft: float = 0.05
    batch: int = 1
    prompts: int = 48


def drawn(seed: int) -> Scenario:
    """One of many."""
    g = np.random.default_rng(20_000 + seed)

    def one(*values: float) -> float:
        return values[int(g.integers(len(values)))]

    return Scenario(
        first=one(0.45, 0.6, 0.75, 0.88), others=one(0.5, 0.7, 0.9), tail=one(0.4, 0.6),
        copying=one(0, 0.01, 0.03, 0.06), copy_tokens=int(one(5, 15, 40)), copy_odds=one(0, 1), decay=one(0, 0.1, 0.3),
        stickiness=one(0, 0.8, 0.95), spread_documents=one(0.2, 0.5), stray=one(0, 0.1, 0.3),
        tile=int(one(1, 8, 16, 32)), ridge=int(one(16, 64, 256)), draft=one(0.01, 0.03, 0.1, 0.3),
        batch=int(one(1, 1, 2, 4, 8, 16, 32, 64)), prompts=int(one(24, 48, 96)),
    )  # fmt: skip


def trace_of(of: Scenario, prompts: int, seed: int, by_document: int = 4) -> Trace:
    """`prompts` prompts of 128 tokens, `by_document` of each document."""
    g = np.random.default_rng(seed)
    document = np.arange(prompts) // by_document
    effects = g.standard_normal((2, document[-1] + 1))[:, document] * of.spread_documents
    left, match = _copies(of, g, np.exp(effects[1]))
    rank, chances = _drafted(of, g, effects[0] + of.spread * g.standard_normal(prompts), left > 0)
    stray = (left == 0) & (g.random(left.shape) < of.stray)
    match = np.where(left > 0, match, np.where(stray, g.integers(1, 4, left.shape), 0))
    short = np.minimum(g.geometric(0.6, left.shape) - 1, 3)
    rest = TOKENS - np.arange(TOKENS)
    run = np.minimum(np.where((left > 0) & (match > 0), left, np.where(stray, short, 0)), np.minimum(rest, OFFERED))
    prompt, position = np.indices(left.shape)
    columns = {
        "prompt": prompt, "position": position, "context_tokens": position + 64, "token": 0 * prompt,
        "draft_rank": rank, "retrieval_match": match, "retrieval_count": (match > 0).astype(int),
        "retrieval_offered": np.where(match > 0, OFFERED, 0), "retrieval_run": run,
    }  # fmt: skip
    sure = np.ones(prompts * TOKENS, dtype=np.float32)
    flat = {name: column.ravel().astype(np.int32) for name, column in columns.items()}
    laws = {"draft_probability": -np.sort(-chances.reshape(-1, RANKS), axis=1).astype(np.float32)}
    return Trace.in_memory(
        flat | laws | {"draft_overlap": laws["draft_probability"][:, 0], "target_probability": sure},
        stamp=STAMP,
        target="a/target",
        temperature=0.0,
        drafters={
            DRAFT: TraceDrafter(kind="model", model="a/draft", candidates=RANKS),
            RETRIEVAL: TraceDrafter(kind="lookups"),
        },
        prompts=tuple(
            TracePrompt(id=str(i), workload="w", prompt_tokens=64, output_tokens=TOKENS, source=f"document {d}")
            for i, d in enumerate(document.tolist())
        ),
    )


def _copies(of: Scenario, g: np.random.Generator, odds: NDArray[np.float64]) -> tuple[Ints, Ints]:
    """(P, T) copied tokens from each position on, and tokens of the stretch that a look-up has matched there."""
    left, match = np.zeros((2, len(odds), TOKENS), dtype=np.int64)
    end, known = np.zeros((2, len(odds)), dtype=np.int64)
    for t in range(TOKENS):
        begins = (end <= t) & (g.random(len(odds)) < np.minimum(of.copying * odds, 0.5))
        end = np.where(begins, np.minimum(t + g.geometric(1 / of.copy_tokens, len(odds)), TOKENS), end)
        known = np.where(begins, g.integers(0, 3, len(odds)), known + 1)
        left[:, t], match[:, t] = np.maximum(end - t, 0), np.where(end > t, known, 0)
    return left, match


def _drafted(of: Scenario, g: np.random.Generator, effect: NDArray[np.float64], copied: NDArray[np.bool_]):  # type: ignore[no-untyped-def]
    """(P, T) rank of the true token, -1 beyond the candidates, and (P, T, R) chance of each rank."""
    falling = of.tail ** np.arange(RANKS - 1)
    wander, streak = g.standard_normal(len(effect)), np.zeros(len(effect))
    ranks, chances = np.empty(copied.shape, dtype=np.int64), np.empty((*copied.shape, RANKS))
    for t in range(TOKENS):
        wander = of.stickiness * wander + np.sqrt(1 - of.stickiness**2) * g.standard_normal(len(effect))
        odds = logit(of.first) + effect + 0.7 * (of.stickiness > 0) * wander + of.copy_odds * copied[:, t]
        best = expit(odds - of.decay * np.minimum(streak, 8))
        chances[:, t, 0] = best
        chances[:, t, 1:] = (1 - best)[:, None] * of.others * falling / falling.sum()
        beyond = (g.random((len(effect), 1)) >= np.cumsum(chances[:, t], axis=1)).sum(axis=1)
        ranks[:, t] = np.where(beyond < RANKS, beyond, -1)
        streak = np.where(beyond == 0, streak + 1, 0)
    return ranks, chances


def step_cost(of: Scenario, shape: str = "staircase") -> Cost:
    """A step that is flat and then pays by the token: in tiles, or convex without any."""
    batch, tokens, _ = np.meshgrid(BATCHES, SIZES, (64, 4096), indexing="ij")
    rows = batch * tokens
    if shape == "staircase":
        rows = np.ceil(rows / of.tile) * of.tile
        slow = 0.02 * (1 + np.maximum(rows - of.tile, 0) / of.ridge)
    else:
        slow = 0.02 * (1 + (rows / of.ridge) ** 2) ** 0.5
    fast = 0.02 * of.draft * (1 + np.maximum(batch * tokens - 1, 0) / (4 * of.ridge))
    axes = {"batch": BATCHES, "tokens": SIZES, "context": (64, 4096), "relative_spread": 0.0}
    small = Estimate.exact(2e-5, "measured")
    return Cost(
        stamp=STAMP, device="x", target="a/target", dtype="float32",
        target_forward=CostTable(**axes, seconds=slow.tolist()),
        drafters={
            DRAFT: DrafterCost(model="a/draft", forward=CostTable(**axes, seconds=fast.tolist())),
            RETRIEVAL: DrafterCost(term="lookups", row_s=small),
        },
        verify_s=small, commit_s=small, step_overhead_s=Estimate.exact(1e-4, "measured"), plain_overhead_s=small,
        closure=Estimate.exact(1.0, "measured"),
    )  # fmt: skip
