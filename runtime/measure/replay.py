"""Grown policies run on outputs that are known: what every step would have verified, emitted and asked of the draft.

Exact for rules that follow the target's own tokens, and needs no target. Maps are fitted in halves, by source: the
steps on a prompt are taken with maps of the other half, so that they are not flattered by their own fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.acceptance.calibration import Scored
from reader_theory.documents import GROWN_COLUMNS, Grown, GrownRecord, SourceMap
from reader_theory.documents.arrays import Columns
from reader_theory.documents.policy import DATASTORE
from reader_theory.errors import require
from reader_theory.trees import TokenTree
from runtime.cache.rows import compact
from runtime.drafters.grown import GrownDrafter
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.offers import fit_offers, record_offers
from runtime.measure.prompts import Progress, PromptLike
from runtime.models.base import LanguageModel
from runtime.models.inputs import features_for
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

__all__ = ["grown_family", "record_grown"]

Ints = NDArray[np.int64]
Pair = tuple[Ints, Ints]
Maps = tuple[SourceMap, ...]

ROWS = 8
"""Prompts that are run at once."""


def grown_family(*, drafted: bool, datastore: bool = False) -> tuple[Grown, ...]:
    """Trees of retrieval alone and, with a draft, of both: sizes and prices, levels, and some that let it rest.

    The right price is what a node's verification costs in tokens: high where a target's time grows with its nodes.
    Price and budget are crossed, as one alone is a poor cut; a budget that its price hardly ever fills is left out.
    """
    sizes = [(nodes, price) for nodes in (2, 4, 8, 16) for price in (0.0, 0.1, 0.3) if nodes * price < 2]
    sizes += [(32, price) for price in (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)]
    family = [Grown(nodes=nodes, price=price, drafter=None) for nodes, price in sizes]
    if drafted:
        family += _asking()
    return (*family, *(policy.model_copy(update={"retrieval": DATASTORE}) for policy in family if datastore))


def _asking() -> list[Grown]:
    """Trees of both sources."""
    grown = [(4, 0.0, 0), (8, 0.0, 0), (16, 0.0, 0), (32, 0.0, 0), (8, 0.0, 2), (16, 0.0, 2), (32, 0.0, 4),
             (32, 0.05, 0), (32, 0.1, 0), (32, 0.2, 0), (32, 0.1, 2), (32, 0.2, 2)]  # fmt: skip
    asks = [Grown(nodes=n, price=p, levels=k, draft_price=max(0.05, 2 * p)) for n, p, k in grown]
    rests = [(16, 0.0, 0), (32, 0.1, 0), (32, 0.2, 2)]
    rest = [Grown(nodes=n, price=p, levels=k, draft_price=0.1, skip_draft_at=0.6) for n, p, k in rests]
    return [*asks, *rest]


def record_grown(
    draft: LanguageModel | None,
    prompts: Sequence[PromptLike],
    outputs: Sequence[Ints],
    policies: Sequence[Grown],
    *,
    path: Path | None = None,
    seed: int = 0,
    datastore: Datastore | None = None,
    progress: Progress | None = None,
    target: LanguageModel | None = None,
) -> GrownRecord:
    """Run `policies`, whose own maps are left aside, on the outputs of every workload.

    Parameters
    ----------
    path : Path, optional
        Of the columns; they stay in memory without one.
    datastore : Datastore, optional
        For policies that name it; either all do, or none.
    target : LanguageModel, optional
        Needed for a draft that reads its hidden states.
    """
    stored = {policy.retrieval == DATASTORE for policy in policies}
    require(
        len(stored) == 1 and (not stored.copy().pop() or datastore is not None),
        "`policies` must all draft from the datastore that is given, or none of them",
        got=f"{len(policies)} policies, {'no' if datastore is None else 'a'} datastore",
        fix="Record with --datastore, and each kind apart.",
    )
    store = datastore if stored.pop() else None
    require(
        bool(policies) and all(policy.drafter is None or draft is not None for policy in policies),
        "`policies` must hold grown policies that the models at hand can run",
        got=f"{len(policies)} policies, {'no' if draft is None else 'a'} draft",
        fix="Take `grown_family`, or record with --draft.",
    )
    bare = tuple(dict.fromkeys(policy.model_copy(update={"maps": ()}) for policy in policies))
    fitted: dict[str, Maps] = {}
    parts: list[Columns] = []
    workloads = list(dict.fromkeys(prompt.workload for prompt in prompts))
    for place, workload in enumerate(workloads):
        chosen = [i for i, prompt in enumerate(prompts) if prompt.workload == workload]
        pairs = [(prompts[i].tokens, outputs[i]) for i in chosen]
        other_half = _halves([getattr(prompts[i], "source", "") or f"prompt {i}" for i in chosen], seed)
        offered = record_offers(draft, pairs, datastore=store, target=target)
        fitted[workload] = _maps(offered, np.ones(len(pairs), dtype=np.bool_))
        for half in (False, True):
            mine, maps = np.flatnonzero(other_half != half), _maps(offered, other_half == half)
            for number, policy in enumerate(bare):
                if progress:
                    progress("grown", place * 2 * len(bare) + half * len(bare) + number, 2 * len(workloads) * len(bare))
                mapped, some = policy.model_copy(update={"maps": maps}), [pairs[i] for i in mine]
                done = replay_grown(draft, mapped, some, store, target)
                done["prompt"] = np.array(chosen, dtype=np.int32)[mine[done["prompt"]]]
                parts.append(done | {"policy": np.full(len(done["prompt"]), number, dtype=np.int32)})
    if progress:
        progress("grown", 1, 1)
    return GrownRecord.create(_grown_columns(parts), bare, fitted, path)


def replay_grown(
    draft: LanguageModel | None,
    policy: Grown,
    pairs: Sequence[Pair],
    datastore: Datastore | None = None,
    target: LanguageModel | None = None,
) -> Columns:
    """Columns of one policy's steps on prompts and outputs, but for `policy`; `prompt` counts the pairs.

    The first token comes from the prompt's forward. A policy that lets the draft rest is run a prompt at a time,
    because in a batch every row has a say in it.
    """
    kept: list[tuple[int, ...]] = []
    asked: list[list[int]] = []
    rows = ROWS if policy.skip_draft_at is None else 1
    for low in range(0, len(pairs), rows):
        part = [i for i in range(low, min(low + rows, len(pairs))) if len(pairs[i][1]) > 1]
        if part:
            _replay(draft, policy, [pairs[i] for i in part], part, kept, asked, datastore, target)
    order = sorted(range(len(kept)), key=lambda i: kept[i][:2])
    table = np.array([kept[i] for i in order], dtype=np.int32).reshape(-1, 4)
    forwards = np.zeros((len(order), 1 + policy.levels), dtype=np.int32)
    for place, i in enumerate(order):
        forwards[place, : len(asked[i])] = asked[i]
    columns: Columns = dict(zip(("prompt", "position", "emitted", "nodes"), table.T, strict=True))
    return columns | {"forwards": forwards}


def _replay(
    draft: LanguageModel | None,
    policy: Grown,
    pairs: list[Pair],
    names: list[int],
    kept: list[tuple[int, ...]],
    asked: list[list[int]],
    datastore: Datastore | None,
    target: LanguageModel | None,
) -> None:
    """Steps of a few prompts at once, appended to `kept` and `asked`; a row that is done gives way to the last one."""
    slots = max(len(p) + len(o) for p, o in pairs) + policy.most_nodes + 64
    neural = NeuralDrafter(draft) if draft is not None and policy.drafter is not None else None
    if neural is not None:
        neural.open("draft", len(pairs), slots)
    static = None if policy.asked is None else policy.tree
    drafter, rows = (
        GrownDrafter(neural),
        [_Row(name, *pair, datastore) for name, pair in zip(names, pairs, strict=True)],
    )
    for number, row in enumerate(rows):
        if neural is not None:
            if neural.features:
                row.hidden = features_for(neural.model, target, np.append(row.prompt, row.output[:-1]))
            neural.join(number, row.text, row.read(0, len(row.text) - 1))
    while rows:
        lengths = [len(row.prompt) + row.at for row in rows]
        budgets = np.array([policy.nodes * (row.room > 0) for row in rows])
        grown, _ = drafter.grow(policy, [row.index for row in rows], budgets, static, lengths)
        trees = grown.trees([row.output[row.at - 1] for row in rows])
        for number, row in enumerate(rows):
            asked.append([int(sizes[number]) * (row.room > 0) for sizes in drafter.taken])
            emitted, nodes = row.step(trees[number])
            kept.append((row.name, row.at - len(emitted), len(emitted), nodes))
            if neural is not None:
                end = len(row.prompt) + row.at - 1
                neural.extend(number, emitted, row.read(end - len(emitted), end))
        for move in compact(rows, lambda row: row.at >= len(row.output)):
            if neural is not None:
                neural.move(*move)


class _Row:
    """A prompt in replay: how far its output is emitted."""

    def __init__(self, name: int, prompt: Ints, output: Ints, datastore: Datastore | None) -> None:
        self.name, self.prompt, self.output, self.at = name, prompt, output.tolist(), 1
        self.text = np.append(prompt, output[0])
        self.index = RetrievalIndex(self.text.astype(np.int32), datastore)
        self.hidden: torch.Tensor | None = None

    def read(self, start: int, end: int) -> torch.Tensor | None:
        """The target's hidden states at some tokens of the row, where its draft reads them."""
        return None if self.hidden is None else self.hidden[start:end]

    @property
    def room(self) -> int:
        """Most tokens that a step may accept: there is always one more."""
        return len(self.output) - self.at - 1

    def step(self, tree: TokenTree) -> tuple[list[int], int]:
        """Emit what the tree has right and one token more; with the nodes that were verified."""
        tree = tree.prune(depth=self.room)
        _, emitted = tree.follow(lambda path: self.output[self.at + len(path) - 1])
        self.at += len(emitted)
        self.index.extend(np.array(emitted, dtype=np.int32))
        return emitted, tree.nodes


def _halves(sources: list[str], seed: int) -> NDArray[np.bool_]:
    """Whether each prompt is in the second half; prompts of one source are in the same, where there are several."""
    names = sources if len(set(sources)) > 1 else [str(i) for i in range(len(sources))]
    kinds, place = np.unique(names, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(kinds)) % 2 == 1)[place]


def _maps(offered: dict[str, Scored], prompts: NDArray[np.bool_]) -> Maps:
    """Maps fitted on these prompts; none where they offered nothing."""
    parts = {name: one.part(prompts[one.document]) for name, one in offered.items()}
    held = {name: one for name, one in parts.items() if one.score.size}
    return fit_offers(held).maps if held else ()


def _grown_columns(parts: list[Columns]) -> Columns:
    """All parts in one, each with as many forwards as the most of them have."""
    most = max(part["forwards"].shape[1] for part in parts)
    for part in parts:
        part["forwards"] = np.pad(part["forwards"], ((0, 0), (0, most - part["forwards"].shape[1])))
    return {name: np.concatenate([part[name] for part in parts]) for name in GROWN_COLUMNS}
