"""Pick one token a row by the inverse of its law: never a token of probability zero, never past the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["pick_token", "pick_tokens"]


def pick_token(law: Any, uniform: Any) -> int:
    """Token of one row, see `pick_tokens`."""
    cumulative = np.cumsum(law)
    token = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return token if token < len(law) else int(np.flatnonzero(law)[-1])


def pick_tokens(law: Any, uniforms: Any) -> Any:
    """One token a row: the first whose cumulative probability exceeds ``uniform * total``.

    Rows are scaled by their own sum, so that rounding in the sum biases no token and the last one is not favoured.
    Both twins go through this door: torch tensors give a tensor on the same device, all else an int64 array.

    Parameters
    ----------
    law : (n, V) float64 torch tensor, float64 array, or object array of fractions; entries >= 0, row sums > 0
        Law of each row.
    uniforms : (n,) of the same kind, in [0, 1)
        One uniform a row.

    Returns
    -------
    (n,) int64
        Tokens of positive probability.

    Examples
    --------
    >>> pick_tokens(np.array([[0.0, 0.5, 0.5, 0.0]] * 3), np.array([0.0, 0.5, 1 - 2**-53])).tolist()
    [1, 2, 2]
    """
    if isinstance(law, np.ndarray):
        law = law if law.dtype == object else law.astype(np.float64, copy=False)
        return np.array([pick_token(row, uniform) for row, uniform in zip(law, uniforms, strict=True)], dtype=np.int64)
    return _pick_torch(law, uniforms)


def _pick_torch(law: Any, uniforms: Any) -> Any:
    """Torch twin; a scan in parallel may not grow monotonically, hence the second look at what was picked."""
    import torch

    law = law.double()
    cumulative = torch.cumsum(law, dim=-1)
    threshold = uniforms.to(law)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=law.shape[-1] - 1)
    hit = law.gather(-1, tokens) > 0
    if not bool(hit.all()):
        tokens = torch.where(hit, tokens, _nearest_possible(law, tokens))
    return tokens[:, 0]


def _nearest_possible(law: Any, tokens: Any) -> Any:
    """Last token of positive probability at or before `tokens`, or the first after where there is none."""
    import torch

    index = torch.arange(law.shape[-1], device=law.device).expand_as(law)
    possible = law > 0
    before = torch.where(possible & (index <= tokens), index, -1).amax(dim=-1, keepdim=True)
    first = possible.to(torch.uint8).argmax(dim=-1, keepdim=True)
    return torch.where(before >= 0, before, first)
