"""From logits to the law that is sampled: penalty, temperature and filters, as transformers' own processors apply them.

Draft law and target law both come through here, so that the law declared is the law sampled. Each row has its own
prefix, the tokens of its path included: a penalty sees at a tree node exactly what it would see there in plain
decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from reader_theory.errors import require
from runtime.engine.sampling import SamplingParams

__all__ = ["target_law"]

Prefixes = Sequence[Sequence[int]]


class TokenLaw:
    """The law that one request samples from.

    Parameters
    ----------
    params : SamplingParams
        The request's own.

    Examples
    --------
    >>> TokenLaw(SamplingParams(temperature=0.0))(np.array([[0.0, 3.0, 3.0]])).tolist()
    [[0.0, 1.0, 0.0]]
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params

    def __call__(self, logits: Any, prefixes: Prefixes | None = None) -> Any:
        """(n, V) float64 laws of `logits`, a torch tensor when they are one; see `target_law`."""
        import torch

        asked_in_torch = isinstance(logits, torch.Tensor)
        rows = logits if asked_in_torch else torch.from_numpy(np.ascontiguousarray(logits))
        _check_rows(rows, prefixes, needed=self.params.repetition_penalty != 1.0)
        laws = self._law(rows.float() if rows.dtype != torch.float64 else rows, prefixes)
        return laws if asked_in_torch else laws.numpy()

    def _law(self, logits: Any, prefixes: Prefixes | None) -> Any:
        import torch

        scores = self._penalised(logits, prefixes)
        if self.params.greedy:
            return torch.nn.functional.one_hot(scores.argmax(dim=-1), scores.shape[-1]).double()
        if self.params.plain:
            return torch.softmax(scores.double() / self.params.temperature, dim=-1)
        for processor in self._filters:
            scores = processor(None, scores)
        return torch.softmax(scores.double(), dim=-1)

    def _penalised(self, logits: Any, prefixes: Prefixes | None) -> Any:
        if self._penalty is None or prefixes is None:
            return logits
        import torch

        rows = [torch.tensor([list(prefix)], device=logits.device) for prefix in prefixes]
        scored = [
            self._penalty(row, logits[i : i + 1]) if row.numel() else logits[i : i + 1] for i, row in enumerate(rows)
        ]
        return torch.cat(scored)

    @cached_property
    def _penalty(self) -> Any:
        if self.params.repetition_penalty == 1.0:
            return None
        from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

        return RepetitionPenaltyLogitsProcessor(penalty=float(self.params.repetition_penalty))

    @cached_property
    def _filters(self) -> list[Any]:
        """Processors in the order of transformers' `generate`: temperature, top-k, top-p, min-p."""
        from transformers.generation import logits_process as processors

        params = self.params
        wanted = [
            (params.temperature != 1.0, lambda: processors.TemperatureLogitsWarper(float(params.temperature))),
            (params.top_k > 0, lambda: processors.TopKLogitsWarper(params.top_k)),
            (params.top_p < 1.0, lambda: processors.TopPLogitsWarper(float(params.top_p))),
            (params.min_p > 0.0, lambda: processors.MinPLogitsWarper(float(params.min_p))),
        ]
        return [make() for needed, make in wanted if needed]


def target_law(logits: Any, params: SamplingParams, prefix_tokens: Prefixes | None = None) -> Any:
    """Laws that `params` makes of `logits`.

    Parameters
    ----------
    logits : (n, V) torch tensor or array
        Raw logits of a model, of the target or of a draft; half precision is widened to float32 first, as `generate`
        does.
    params : SamplingParams
        The request's own.
    prefix_tokens : sequence of n sequences of int, optional
        Tokens before each row, prompt and path included; only a repetition penalty needs them.

    Returns
    -------
    (n, V) float64, of the same kind as `logits`
        Each row sums to 1; a point mass at temperature 0.

    Raises
    ------
    InvalidInputError
        When `logits` is no matrix, or a penalty lacks its prefixes.
    """
    return TokenLaw(params)(logits, prefix_tokens)


def _check_rows(logits: Any, prefixes: Prefixes | None, *, needed: bool) -> None:
    matrix = logits.ndim == 2
    require(matrix, "`logits` must have shape (n, V)", got=tuple(logits.shape), fix="Stack one row a position.")
    given = len(prefixes) == len(logits) if prefixes is not None else not needed
    require(
        given,
        "`prefix_tokens` must have one sequence for each row of `logits` where a penalty reads them",
        got="none" if prefixes is None else f"{len(prefixes)} for {len(logits)} rows",
        fix="Give each row its prompt, its output so far, and the tokens on the path to its node.",
    )
