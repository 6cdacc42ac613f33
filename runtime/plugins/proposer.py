"""One proposer of look-ups for other people's engines: what a plan says, from the texts of a batch alone.

It needs neither torch nor a model. An engine's adapter hands it the text of every row, and gets chains or trees: by the
plan's policy for that many rows and that much context, cut by the policy's own price. Verification is the engine's, so
that what is proposed changes how fast a text comes, and never the text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import DATASTORE, RETRIEVAL, Chain, Grown, Off, Policy
from reader_theory.errors import DocumentError, require
from reader_theory.trees.batch import TokenTrees
from runtime.drafters.chains import NO_LIMIT, below, chains_of_texts, offered_chains
from runtime.drafters.laws import NeuralLaws, gridded
from runtime.drafters.water import kept_sizes
from runtime.models.vocabulary import Vocabulary
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.followed import Followed, Texts
from runtime.retrieval.growing import growing
from runtime.retrieval.index import GrowthArrays, RetrievalIndex

__all__ = ["Proposer"]

VARIABLES = {"plan": "READER_PLAN", "workload": "READER_WORKLOAD", "datastore": "READER_DATASTORE"}
"""Settings by name, and the environment variable of each, for engines that have no place for them."""

SCANNED = 1024
"""Texts of up to so many tokens are searched whole at each step, longer ones indexed: what is found is the same."""

Ints = NDArray[np.int64]
PolicyChoice = Callable[[int, int], Policy]
_log = logging.getLogger(__name__)


class Proposer:
    """Drafts from look-ups by a plan.

    Parameters
    ----------
    plan : Plan or policy
        Of look-ups: `Off`, `Chain`, and `Grown` without a drafter. Trees become their likeliest path where chains are
        asked for.
    workload : str, optional
        Of the plan; may be left out where it has one.
    datastore : Datastore, optional
        Past outputs, for policies that name them.
    most_tokens : int, optional
        Most drafted tokens a row that the engine takes in a step.
    vocabulary : int, optional
        Token ids that the engine knows are below this: no other is proposed.

    Raises
    ------
    InvalidInputError
        When a policy asks a model, or for a datastore that there is not, or `workload` is not the plan's.
    """

    def __init__(
        self,
        plan: Plan | Policy,
        *,
        workload: str | None = None,
        datastore: Datastore | None = None,
        most_tokens: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._choose, self.policies = _schedule(plan, workload)
        for policy in self.policies:
            _check(policy, datastore)
        _check_alike(self.policies)
        stored = any(_stored(policy) for policy in self.policies)
        if datastore is not None and vocabulary is not None:
            datastore.admit(Vocabulary(vocabulary))
        self.most_tokens = max(policy.most_nodes for policy in self.policies)
        if most_tokens is not None and most_tokens < self.most_tokens:
            _log.warning("the plan drafts up to %d tokens, the engine takes %d", self.most_tokens, most_tokens)
            self.most_tokens = most_tokens
        self._limit = NO_LIMIT if vocabulary is None else vocabulary
        self.rows = Followed(datastore if stored else None)
        alone = all(isinstance(policy, Chain | Off) for policy in self.policies) and not stored
        self.scanned = SCANNED if alone else 0
        self._warm_up()

    @classmethod
    def configured(cls, given: Mapping[str, Any], **limits: Any) -> Self:
        """From an engine's own settings (`plan`, `workload`, `datastore`), or else the variables in `VARIABLES`.

        Raises
        ------
        InvalidInputError
            When a setting is not known, or no plan is named.
        DocumentError
            When a file is not what it should be.
        """
        strange = sorted(given.keys() - VARIABLES.keys())
        require(
            not strange,
            f"the settings of the proposer must be among {', '.join(VARIABLES)}",
            got=", ".join(strange),
            fix="Leave the others out.",
        )
        chosen = {name: given.get(name) or os.environ.get(variable) for name, variable in VARIABLES.items()}
        path = chosen["plan"] or ""
        require(
            bool(path),
            "a plan must be named",
            got="none in the engine's settings, and no READER_PLAN",
            fix="Set READER_PLAN to a file that `reader plan` wrote.",
        )
        store = None if chosen["datastore"] is None else _opened(Path(chosen["datastore"]))
        return cls(Plan.read(path), workload=chosen["workload"], datastore=store, **limits)

    def chains(self, texts: Texts, room: Ints) -> list[list[int]]:
        """Tokens to draft after each text.

        Parameters
        ----------
        texts : Texts
            Of B rows. Those without a token are left out, and do not count as part of the batch.
        room : (B,) int64
            Most tokens that each may be drafted.

        Returns
        -------
        list of B lists of int
        """
        return self._chains(self._policy_for(texts), texts, room)

    def trees(self, texts: Texts, room: Ints) -> TokenTrees:
        """Trees below the last token of each text, which every row must have; arguments as of `chains`.

        A `Grown` policy fills the room: a step of one fixed size costs the same whatever its nodes are worth.
        """
        return self._trees(self._policy_for(texts), texts, room)

    def clear(self) -> None:
        """Forget all rows."""
        self.rows.clear()

    def _policy_for(self, texts: Texts) -> Policy:
        rows = int(np.count_nonzero(texts.lengths))
        return self._choose(max(rows, 1), int(texts.lengths.sum()) // max(rows, 1))

    def _chains(self, policy: Policy, texts: Texts, room: Ints) -> list[list[int]]:
        if isinstance(policy, Chain | Off) and not _stored(policy):
            return self._own_chains(policy, texts, room)
        found: list[list[int]] = [[] for _ in texts.lengths]
        rows, indices = self._live(texts)
        if rows and isinstance(policy, Chain):
            for row, chain in zip(rows, self._looked_up(policy, indices, room[rows]), strict=True):
                found[row] = chain.tolist()
        elif rows and isinstance(policy, Grown):
            grown = self._grown(policy, indices, np.minimum(room[rows], self.most_tokens), single=True)
            sizes = below(grown.tokens, grown.sizes, self._limit)
            for row, tokens, size in zip(rows, grown.tokens, sizes.tolist(), strict=True):
                found[row] = tokens[:size].tolist()
        return found

    def _own_chains(self, policy: Chain | Off, texts: Texts, room: Ints) -> list[list[int]]:
        """From the rows' own texts alone: a few calls for all rows, whatever their number."""
        indexed = texts.lengths > self.scanned
        self.rows.follow(texts._replace(lengths=np.where(indexed, texts.lengths, 0)))
        if isinstance(policy, Off):
            return [[] for _ in texts.lengths]
        most = np.minimum(room, self.most_tokens)
        return chains_of_texts(texts, self.rows.addresses, policy, most, limit=self._limit, scanned=self.scanned)

    def _trees(self, policy: Policy, texts: Texts, room: Ints) -> TokenTrees:
        tokens = [[int(texts.of(row)[-1])] for row in range(len(texts.lengths))]
        parents = [[-1] for _ in tokens]
        rows, indices = self._live(texts)
        if rows and isinstance(policy, Chain):
            for row, chain in zip(rows, self._looked_up(policy, indices, room[rows]), strict=True):
                tokens[row] += chain.tolist()
                parents[row] += range(len(chain))
        elif rows and isinstance(policy, Grown):
            wide = _filling(policy, int(room.max()))  # pyright: ignore[reportArgumentType]
            grown = self._grown(wide, indices, room[rows], single=False)
            grown_trees = grown.trees([tokens[row][0] for row in rows]).prune(depth=room[rows])
            for place, (row, count) in enumerate(zip(rows, grown_trees.counts.tolist(), strict=True)):
                tokens[row] = grown_trees.tokens[place, :count].tolist()
                parents[row] = grown_trees.parents[place, :count].tolist()
        return self._pruned(TokenTrees.of(tokens, parents, names=("", RETRIEVAL)))

    def _live(self, texts: Texts) -> tuple[list[int], list[RetrievalIndex]]:
        """Rows that can be drafted for, and their indices, which have then read all of their texts."""
        found = [(row, index) for row, index in enumerate(self.rows.follow(texts)) if index is not None]
        return [row for row, _ in found], [index for _, index in found]

    def _looked_up(self, policy: Chain, indices: list[RetrievalIndex], room: Ints) -> list[NDArray[np.int32]]:
        most = np.minimum(room, self.most_tokens)
        return offered_chains(indices, policy, most, beside=_stored(policy), limit=self._limit)[0]

    def _grown(self, policy: Any, indices: list[RetrievalIndex], most: Ints, *, single: bool) -> GrowthArrays:
        """Trees, or paths, of a policy without a drafter: as our engine grows them."""
        budgets = np.minimum(np.maximum(most, 0), policy.nodes)
        laws = NeuralLaws(len(indices), 1, policy.candidates, gridded(policy.maps, policy.trust))
        grown = growing(indices, np.maximum(budgets, 1), policy.price, laws.addresses, single=single)()
        return grown._replace(sizes=kept_sizes(grown.chances, grown.sizes, budgets, policy.share))

    def _pruned(self, trees: TokenTrees) -> TokenTrees:
        """Trees without tokens that the engine does not know, and what hangs below them."""
        if int(trees.tokens[:, 1:].max(initial=0)) < self._limit:
            return trees
        kept = np.arange(trees.tokens.shape[1]) < trees.counts[:, None]
        rows = np.arange(len(trees))
        for node in range(1, trees.tokens.shape[1]):
            kept[:, node] &= (trees.tokens[:, node] < self._limit) & kept[rows, trees.parents[:, node]]
        return trees.keep(kept)

    def _warm_up(self) -> None:
        """Have everything compiled before the first request."""
        texts, room = Texts.of_rows([np.array([1, 2, 3, 1, 2], np.int32)]), np.array([2])
        for policy in self.policies:
            self._chains(policy, texts, room)
            self._trees(policy, texts, room)
        self.clear()


@lru_cache(maxsize=64)
def _filling(policy: Grown, nodes: int) -> Grown:
    return policy.model_copy(update={"nodes": max(nodes, 1), "price": 0.0, "share": None})


def _schedule(plan: Plan | Policy, workload: str | None) -> tuple[PolicyChoice, tuple[Policy, ...]]:
    """The policy for a number of rows and their mean context, and all that there are."""
    if not isinstance(plan, Plan):
        return lambda _rows, _context: plan, (plan,)
    known = plan.workloads
    require(
        workload in known if workload is not None else len(known) == 1,
        "`workload` must be one that the plan was made for",
        got=f"{workload!r}; the plan has {list(known)}",
        fix="Name one of these (READER_WORKLOAD).",
    )
    name = workload or known[0]
    entries = [entry for entry in plan.entries if entry.workload == name]
    by_context = any(entry.context_tokens is not None for entry in entries)
    chosen = lru_cache(maxsize=4096)(lambda rows, context: plan.entry(name, rows, context).policy)
    return lambda rows, context: chosen(rows, context if by_context else 0), tuple(
        dict.fromkeys(entry.policy for entry in entries)
    )


def _stored(policy: Policy) -> bool:
    """Whether it looks up past outputs too."""
    return DATASTORE in policy.drafters


def _check(policy: Policy, datastore: Datastore | None) -> None:
    require(
        policy.asks is None,
        "the plan's policies must be of look-ups alone",
        got=f"{policy.name!r}, which asks {policy.asks!r}",
        fix="Plan again without --draft; for drafters that are models, use the engine's own (`reader export`).",
    )
    require(
        datastore is not None or not _stored(policy),
        "a policy that looks up a datastore must be run with one",
        got=f"{policy.name!r}, and no datastore",
        fix="Set READER_DATASTORE to the file that the plan was made with.",
    )


def _check_alike(policies: Sequence[Policy]) -> None:
    """A row has one index: what its trees are grown from is the same in all of a plan."""
    grown = {_stored(policy) for policy in policies if isinstance(policy, Grown)}
    require(
        not grown or grown == {any(map(_stored, policies))},
        "grown policies must all look up the datastore that the plan names, or none",
        got=", ".join(policy.name for policy in policies),
        fix="Plan again with one of both.",
    )


def _opened(path: Path) -> Datastore:
    require(
        path.is_file(),
        "the datastore must exist",
        got=f"no file {path}",
        fix="Make it with `reader datastore build`.",
        error=DocumentError,
    )
    return Datastore.open(path)
