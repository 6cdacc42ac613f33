"""Verifying in fixed shapes: merge the drafts, run the target, walk, and commit, all on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.trees import TokenTree, TokenTrees
from runtime.cache.rows import RowCache
from runtime.engine.graphs.buckets import Bucket
from runtime.engine.graphs.capture import Captured
from runtime.engine.graphs.forward import StaticForward
from runtime.engine.graphs.packed import Packed
from runtime.engine.step import along
from runtime.kernels.commit import KVPool, commit
from runtime.kernels.merge import Merged, merge_candidates
from runtime.kernels.verify import verify_target_only
from runtime.models.base import LanguageModel, Output

__all__ = ["StaticLogits", "StaticVerifying"]


class StaticLogits:
    """Logits of a bucket's trees, for rows that are verified from them."""

    def __init__(
        self, model: LanguageModel, cache: RowCache, bucket: Bucket, graphs: object, features: Sequence[int] = ()
    ) -> None:
        rows, width, context = bucket
        device, whole, one = model.device, (rows, width), (rows,)
        self.inputs = Packed({"tokens": whole, "parents": whole, "counts": one, "lengths": one}, device)
        self.zeros = torch.zeros(one, dtype=torch.int64, device=device)
        self.forward = StaticForward(model, cache, rows, width, context, features)
        self.run = Captured(self._forward, device, graphs)

    def _forward(self) -> Output:
        given = self.inputs.device
        return self.forward(given["tokens"], given["parents"], given["counts"], given["lengths"], self.zeros)

    def __call__(self, trees: TokenTrees, lengths: NDArray[np.int64]) -> Output:
        """(B, Q, V) logits of B rows, the first of the bucket, and the features; overwritten by the next call."""
        given, live = self.inputs.arrays, len(lengths)
        for name, array, filler in (
            ("tokens", trees.tokens, 0),
            ("parents", trees.parents, -1),
            ("counts", trees.counts, 1),
            ("lengths", lengths, 0),
        ):
            given[name][:live], given[name][live:] = array, filler
        self.inputs.upload()
        out: Output = self.run()
        return Output(out.logits[:live], tuple(each[:live] for each in out.hidden))


class StaticVerifying:
    """One verification of a bucket: a retrieved chain and a neural tree in one trie, the chain's nodes first.

    Attributes
    ----------
    inputs : Packed
        ``root``, ``lengths``, ``temperature``, ``drafted`` (1 where the neural tree counts): (B,); ``chain`` (B, K),
        -1 where it has ended; ``uniforms`` (B, Q), by depth.
    outputs : Packed
        The trees (``tokens``, ``parents``, ``counts``), the walks (``path``, ``kept``, ``emitted``), and rows whose
        logits on the path are no law's (``unsound``).
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: RowCache,
        pool: KVPool,
        bucket: Bucket,
        tree: TokenTree,
        chain: int,
        drafts: torch.Tensor | None,
        graphs: object,
        features: Sequence[int] = (),
    ) -> None:
        rows, width, context = bucket
        device, candidates = model.device, chain + tree.nodes
        self.bucket, self.chain, self.drafts, self.pool = bucket, chain, drafts, pool
        one = (rows,)
        shapes = {"root": one, "lengths": one, "temperature": one, "drafted": one, "chain": (rows, chain)}
        self.inputs = Packed(shapes | {"uniforms": (rows, width)}, device, ("temperature", "uniforms"))
        whole = {name: (rows, width) for name in ("tokens", "parents", "path", "emitted")}
        self.outputs = Packed(whole | {"kept": one, "counts": one, "unsound": one}, device)
        below = tree.parents[1:]
        above = np.concatenate([np.arange(-1, chain), np.where(below > 0, below + chain, 0)])  # of one root
        depth = np.concatenate([np.arange(1 + chain), tree.depths[1:]])
        self.parents = torch.from_numpy(np.tile(above.astype(np.int64), (rows, 1))).to(device)
        self.probability = torch.from_numpy(np.tile(1.0 / (1.0 + depth), (rows, 1))).to(device)
        self.budgets = torch.full(one, candidates, device=device)
        self.zeros = torch.zeros(one, dtype=torch.int64, device=device)
        self.forward = StaticForward(model, cache, rows, width, context, features)
        self.run = Captured(self._verify, device, graphs)

    def _verify(self) -> torch.Tensor | None:
        """Fill `outputs`; the features along the paths, where there are any."""
        given, made = self.inputs.device, self.outputs.device
        nodes, trie = self.bucket.nodes - 1, self._trie()
        out = self.forward(trie.tokens, trie.parents, trie.counts, given["lengths"], self.zeros)
        logits = out.logits
        depth = (self.forward.positions - given["lengths"].unsqueeze(1)).clamp_(0, nodes)
        uniforms = given["uniforms"].gather(1, depth)
        walks = verify_target_only(
            logits.contiguous(), given["temperature"], trie.tokens, trie.parents, trie.counts, uniforms
        )
        commit(self.pool, given["lengths"].clone(), walks.path, walks.kept)
        finite = torch.isfinite(logits.amax(-1)).gather(1, walks.path.clamp(min=0)) | (walks.path < 0)
        made["unsound"].copy_(~finite.all(-1))
        for name in ("path", "kept", "emitted"):
            made[name].copy_(getattr(walks, name))
        for name in ("tokens", "parents", "counts"):
            made[name].copy_(getattr(trie, name))
        return along(out.hidden, walks.path)

    def _trie(self) -> Merged:
        """What every source offers, in one trie a row; the root alone where there is no source."""
        given = self.inputs.device
        root = given["root"].unsqueeze(1)
        if self.parents.shape[1] == 1:
            return Merged(root, self.zeros.unsqueeze(1) - 1, None, self.zeros + 1)
        offered = [root, given["chain"]]
        if self.drafts is not None:
            offered.append(self.drafts[:, 1:].masked_fill(given["drafted"].unsqueeze(1) == 0, -1))
        return merge_candidates(
            torch.cat(offered, dim=1), self.parents, self.probability, self.budgets, self.bucket.nodes - 1
        )
