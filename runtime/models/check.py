"""A model's self-check: does a tree over the cache give what the model's plain forward gives? Run when it is loaded.

Prefer it to a list of families: a few random tokens in a ragged batch, longer than the windows of the model's layers,
through a tree, an accepted path and a second tree, beside the model's own forward over each path as a whole. Before
that the model alone: its logits must not depend on later tokens, and token by token over its own cache, as `generate`
runs it, they must be the same.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch

from reader_theory.errors import InvalidInputError, ReaderTheoryError
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill, run_trees
from runtime.models.layers import sizes_by_kind
from runtime.models.transformers import evaluating

__all__ = ["SelfCheck"]

PARENTS = np.array([-1, 0, 0, 1, 2, 4], dtype=np.int64)
"""Two paths below the first node: 1, 3 and 2, 4, 5."""
PATHS = ([0, 1, 3], [0, 2, 4, 5])
KEPT = [0, 2, 4]
"""The path that is accepted."""
NARROW, WIDE = 6, 32
"""Windows wider than the second are narrowed to the first while a model is checked."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 0.08
"""Of the largest logit, in types of 16 bits; there three of four positions must keep to it: routers may flip."""
FAINT = 0.02
"""Of what tokens themselves move logits by: what later ones may, in types of 16 bits."""


@contextmanager
def _narrowed(config: Any) -> Generator[int]:
    """Windows and chunks of the configuration made short; how many tokens go past them."""
    sizes = [size for size in sizes_by_kind(config).values() if size is not None]
    names = [name for name in ("sliding_window", "attention_chunk_size") if (getattr(config, name, None) or 0) > WIDE]
    held = {name: getattr(config, name) for name in names}
    try:
        for name in names:
            setattr(config, name, NARROW)
        yield max((NARROW if size > WIDE else size for size in sizes), default=0) + 4
    finally:
        for name, value in held.items():
            setattr(config, name, value)


class SelfCheck:
    """What a transformers model's plain forward gives for some random tokens; made before its weights are taken."""

    def __init__(self, model: Any) -> None:
        self.config = model.config.get_text_config()
        rng = np.random.default_rng(0)
        vocabulary = int(self.config.vocab_size)
        try:
            with _narrowed(self.config) as length, evaluating(model), torch.inference_mode():
                self.prompts = [rng.integers(0, vocabulary, n) for n in (length + 3, length)]
                self.trees = rng.integers(0, vocabulary, (2, 2, len(PARENTS)))
                self._look_ahead(model)
                self._step_by_step(model)
                self.expected = [self._of_row(model, row) for row in range(2)]
        except ReaderTheoryError:
            raise
        except Exception as error:
            raise _refusal(model, f"its plain forward raises {type(error).__name__}: {_line(error)}") from error

    def _look_ahead(self, model: Any) -> None:
        """Refuse a model whose logits at a token move with later tokens: two rows that differ in their second half."""
        row = np.concatenate((self.prompts[0], self.trees[0, 0]))
        half = len(row) // 2
        rows = np.stack((row, np.concatenate((row[:half], self.trees.flat[: len(row) - half]))))
        logits = model(input_ids=torch.from_numpy(rows).to(model.device), use_cache=False).logits.float()
        moved = (logits[0] - logits[1]).abs().mean(-1)
        share = float(moved[:half].mean() / moved[half:].mean().clamp(min=1e-30))
        if share > TOLERANCE.get(model.dtype, FAINT):
            raise _refusal(model, f"later tokens move its logits by {share:.2g} of what a token itself moves them by")

    def _step_by_step(self, model: Any) -> None:
        """Refuse a model whose own cache does not give its own forward: there `generate` follows no law of it."""
        tokens = np.concatenate((self.prompts[0], self.trees[0, 0, PATHS[1]]))
        row = torch.from_numpy(tokens)[None].to(model.device)
        start, vocabulary = len(self.prompts[0]), int(self.config.vocab_size)
        whole = model(input_ids=row, use_cache=False).logits[0, :, :vocabulary].float()
        positions, parts, cache = torch.arange(len(tokens), device=model.device)[None], list[torch.Tensor](), None
        numbered = "position_ids" in signature(model.forward).parameters
        for first, last in [(0, start), *((i, i + 1) for i in range(start, len(tokens)))]:
            told = {"position_ids": positions[:, first:last]} if numbered else {}
            out = model(
                input_ids=row[:, first:last], attention_mask=torch.ones_like(row[:, :last]), past_key_values=cache,
                use_cache=True, **told,
            )  # fmt: skip
            parts.append(out.logits[0, :, :vocabulary].float())
            cache = getattr(out, "past_key_values", None)
            if cache is None:
                return
        wrong = _first_wrong(torch.cat(parts).cpu(), whole.cpu(), model.dtype)
        if wrong is not None:
            raise _refusal(
                model, f"token by token over its own cache its logits are off by {wrong[1]:.2g} of the largest, "
                f"at token {wrong[0]}: transformers' `generate` does not follow the model's forward",
            )  # fmt: skip

    def _of_row(self, model: Any, row: int) -> torch.Tensor:
        """Logits after a row's prompt, first tree and second tree, one below the other."""
        past, parts = self.prompts[row], list[torch.Tensor]()
        for step in range(2):
            nodes = torch.empty((len(PARENTS), int(self.config.vocab_size)))
            for path in PATHS:
                tokens = torch.from_numpy(np.concatenate((past, self.trees[step, row, path])))[None]
                out = model(input_ids=tokens.to(model.device), use_cache=False).logits[0].float().cpu()
                nodes[path] = out[len(past) :, : nodes.shape[1]]
            parts += [out[len(past) - 1 : len(past), : nodes.shape[1]], nodes]
            past = np.concatenate((past, self.trees[step, row, KEPT]))
        return torch.cat(parts)

    def compare(self, model: LanguageModel) -> None:
        """Refuse the model unless trees over its cache give the same.

        Raises
        ------
        InvalidInputError
            With the first step that differs, and by how much.
        """
        try:
            with _narrowed(self.config), torch.inference_mode():
                found = self._found(model)
        except Exception as error:
            raise _refusal(model, f"a tree over the cache raises {type(error).__name__}: {_line(error)}") from error
        for row, (mine, theirs) in enumerate(zip(found, self.expected, strict=True)):
            wrong = _first_wrong(mine, theirs, model.dtype)
            if wrong is not None:
                raise _refusal(model, f"row {row}, {_place(wrong[0])}: logits off by {wrong[1]:.2g} of the largest")

    def _found(self, model: LanguageModel) -> list[torch.Tensor]:
        cache = model.new_cache(2, max(map(len, self.prompts)) + 3 * len(PARENTS))
        parts: list[list[torch.Tensor]] = [[], []]
        for row, prompt in enumerate(self.prompts):
            parts[row].append(prefill(model, cache, prompt, row)[None])
        for step in range(2):
            parents, counts = np.tile(PARENTS, (2, 1)), np.full(2, len(PARENTS))
            logits = run_trees(model, cache, self.trees[step], parents, counts).logits
            cache.commit(np.tile(np.array(KEPT), (2, 1)), np.full(2, len(KEPT)))
            for row in range(2):
                parts[row].append(logits[row])
                if not step:
                    parts[row].append(logits[row, KEPT[-1:]])
        return [torch.cat(each).float().cpu() for each in parts]


def _first_wrong(mine: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> tuple[int, float] | None:
    """The first row of logits that is off by more than rounding, and by how much of the largest; None for none."""
    error = (mine - theirs).abs().amax(-1) / theirs.abs().max()
    wrong = ~(error <= TOLERANCE.get(dtype, COARSE))
    if int(wrong.sum()) <= (0 if dtype in TOLERANCE else len(error) // 4):
        return None
    at = int(wrong.nonzero()[0, 0])
    return at, float(error[at])


def _place(entry: int) -> str:
    """What an entry of a row's logits stands for, and what it means that this one is the first to be off."""
    step, at = divmod(entry, len(PARENTS) + 1)
    if not entry:
        return "after a prompt whose positions and mask are given"
    return f"tree {step}, node {at - 1} (it counts slots of the cache, where positions and a mask are given)"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _refusal(model: Any, why: str) -> InvalidInputError:
    name = getattr(model, "name", None) or type(model).__name__
    return InvalidInputError(
        "a tree over the cache must give the logits of the model's plain forward, and that must be causal",
        got=f"{name}: {why}",
        fix="Use transformers' own `generate` for it; `check=False` serves it all the same.",
    )
