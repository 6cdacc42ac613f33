"""SGLang: drafts by our plan, as a speculative algorithm of its own beside NGRAM. Trees of one fixed size.

    READER_PLAN=plan.json python -m sglang.launch_server --model MODEL --speculative-algorithm READER

The package registers it under SGLang's entry point group ``sglang.srt.plugins``. Verification, cache and grammar are
NGRAM's: the worker is a subclass of its worker that takes its trees from here. Every rank of a model that is divided
among cards proposes the same, because a proposal is a function of the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.trees.batch import TokenTrees
from runtime.plugins.proposer import Proposer
from runtime.retrieval.followed import Texts

__all__ = ["SglangDrafts", "register"]

NAME = "READER"
MOST_RUNNING = 48
"""Requests at once where the server is told no number: NGRAM's own."""


class SglangDrafts:
    """Draft trees in the form that SGLang's NGRAM verification takes.

    Parameters
    ----------
    proposer : Proposer
    nodes : int, >= 2
        Of every tree, its root included: SGLang's ``speculative_num_draft_tokens``.
    """

    def __init__(self, proposer: Proposer, nodes: int) -> None:
        self.proposer, self.nodes = proposer, nodes

    def prepare(self, batch: Any, *, overlap: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Trees of a decode batch.

        Parameters
        ----------
        batch : sglang.srt.managers.schedule_batch.ScheduleBatch
            Read: each request's prompt and output, and where results lag a step behind, the tokens accepted last.
        overlap : bool
            Whether they do.

        Returns
        -------
        tokens : (B * nodes,) int64
            A tree after another, each with the row's last token first.
        mask : (B * nodes * nodes,) bool
            Whether node j is node i or above it, row by row.
        """
        late = _accepted(batch.spec_info, self.nodes) if overlap and not batch.grammar_needs_sync() else None
        texts = [
            np.concatenate(
                [request.origin_input_ids_unpadded, request.output_ids, [] if late is None else late[row]],
                dtype=np.int32, casting="unsafe",
            )
            for row, request in enumerate(batch.reqs)
        ]  # fmt: skip
        trees = self.proposer.trees(Texts.of_rows(texts), np.full(len(texts), self.nodes - 1))
        tokens, parents = filled(trees, self.nodes)
        return tokens.ravel(), closures(parents).ravel()


def filled(trees: TokenTrees, nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(B, nodes) tokens and parents of trees with a chain of token 0 below each tree's last node.

    Below it, because a sampled verification adds up the chances of siblings: two of one token would count it twice.
    """
    rows, width = trees.tokens.shape
    tokens, parents = np.zeros((rows, nodes), np.int64), np.tile(np.arange(-1, nodes - 1), (rows, 1))
    held = np.arange(width) < trees.counts[:, None]
    tokens[:, :width][held], parents[:, :width][held] = trees.tokens[held], trees.parents[held]
    return tokens, parents


def closures(parents: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, N, N) bool of (B, N) parents, each before its children: whether node j is node i or above it."""
    rows, nodes = parents.shape
    mask = np.zeros((rows, nodes, nodes), np.bool_)
    every = np.arange(rows)
    for node in range(nodes):
        if node > 0:
            mask[:, node] = mask[every, parents[:, node]]
        mask[:, node, node] = True
    return mask


def register() -> None:
    """Make the algorithm known to SGLang; its plugin loader calls this in every process."""
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # pyright: ignore[reportMissingImports]
    from sglang.srt.speculative.spec_registry import CustomSpecAlgo  # pyright: ignore[reportMissingImports]

    like = _like(CustomSpecAlgo, SpeculativeAlgorithm.NGRAM)
    SpeculativeAlgorithm.register(NAME, supports_overlap=True, spec_class=like)(lambda _arguments: _worker())


def _like(base: type, builtin: Any) -> type:
    """A registered algorithm that answers whatever it is asked as `builtin` does, but for its worker and settings."""
    own = {"create_worker", "handle_server_args", "from_string", "register"}
    asked = [name for name, what in vars(type(builtin)).items() if callable(what) and not name.startswith("_")]
    answers: dict[str, Any] = {
        name: _answer(builtin, name) for name in asked if name not in own and hasattr(base, name)
    }
    return type("ReaderAlgorithm", (base,), {**answers, "handle_server_args": staticmethod(settle)})


def _answer(builtin: Any, name: str) -> Any:
    return lambda _self, *given, **named: getattr(builtin, name)(*given, **named)


def settle(server_args: Any) -> None:
    """What SGLang settles for NGRAM, for us: the size of trees from the plan where none is given, and no mixed chunks.

    Raises
    ------
    InvalidInputError
        For trees over pages of several tokens, which only the flashinfer backend verifies rightly.
    """
    proposer = Proposer.configured({})
    chains = all(policy.shape != "tree" for policy in proposer.policies)
    require(
        chains or (server_args.page_size or 1) == 1 or server_args.attention_backend == "flashinfer",
        "`page_size` must be 1 for trees, or the attention backend flashinfer",
        got=f"page_size {server_args.page_size}, attention_backend {server_args.attention_backend!r}",
        fix="Pass --page-size 1, or plan chains.",
    )
    if server_args.device == "cpu":
        server_args.disable_overlap_schedule = True
    server_args.enable_mixed_chunk = False
    server_args.max_running_requests = server_args.max_running_requests or MOST_RUNNING
    nodes = server_args.speculative_num_draft_tokens or max(proposer.most_tokens, 1) + 1
    server_args.speculative_num_draft_tokens = nodes
    server_args.speculative_eagle_topk = 1 if chains else server_args.speculative_ngram_max_bfs_breadth
    server_args.speculative_num_steps = server_args.speculative_num_steps or nodes - 1


def _worker() -> type:
    """NGRAM's worker with our trees."""
    from sglang.srt.speculative.ngram_worker import NGRAMWorker  # pyright: ignore[reportMissingImports]

    class ReaderWorker(NGRAMWorker):
        """Drafts by a plan."""

        def __init__(self, server_args: Any, gpu_id: int, nccl_port: int, target_worker: Any) -> None:
            super().__init__(server_args, gpu_id, nccl_port, target_worker)
            vocabulary = target_worker.model_runner.model_config.vocab_size
            nodes = self.draft_token_num
            proposer = Proposer.configured({}, most_tokens=nodes - 1, vocabulary=vocabulary)
            self.drafts = SglangDrafts(proposer, nodes)

        def _prepare_draft_tokens(self, batch: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
            return self.drafts.prepare(batch, overlap=self.enable_overlap)

        def _update_ngram_corpus(self, batch: Any) -> None:
            """Nothing: the next batch's texts say all."""

        def clear_cache_pool(self) -> None:
            super().clear_cache_pool()
            self.drafts.proposer.clear()

    return ReaderWorker


def _accepted(spec_info: Any, stride: int) -> list[NDArray[np.int64]]:
    """Tokens that each row accepted in the step before, which its request does not show yet."""
    tokens, counts = (np.asarray(each.cpu()) for each in (spec_info.accept_tokens, spec_info.accept_lens))
    return [tokens[row * stride : row * stride + count] for row, count in enumerate(counts.tolist())]
