"""Laws that known bugs of sampling and verification emit, each beside the law that should be sampled.

A suspect says what a token's law would be if the bug had it all; an audit mixes it with the true law, since engines
verify only some of their tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SUSPECTS", "Laws", "Suspect"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Laws:
    """Laws after n prefixes.

    Parameters
    ----------
    target : (n, V) float64
        What should be sampled: temperature, filters and penalties applied.
    warm : (n, V) float64
        The same without filters and penalties.
    raw : (n, V) float64
        The model's softmax.
    draft, draft_warm : (n, V) float64, optional
        The draft's laws, with the same filters and without, where the draft is known.
    """

    target: Floats
    warm: Floats
    raw: Floats
    draft: Floats | None = None
    draft_warm: Floats | None = None

    @property
    def drafts(self) -> tuple[Floats, Floats]:
        """The draft's two laws, where there is one."""
        assert self.draft is not None and self.draft_warm is not None, "suspects that need a draft are asked with one"
        return self.draft, self.draft_warm


class Suspect(NamedTuple):
    """A bug, and the law that it emits."""

    name: str
    says: str
    law: Callable[[Laws], Floats]
    needs_draft: bool = False


def _normalised(weights: Floats) -> Floats:
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _powered(law: Floats, power: float) -> Floats:
    """The law at another temperature."""
    weights = np.where(law > 0, law, 1.0) ** power * (law > 0)
    return _normalised(weights)


def _top(law: Floats, count: int) -> Floats:
    if law.shape[-1] <= count:
        return law
    border = -np.partition(-law, count - 1, axis=-1)[:, count - 1 : count]
    return _normalised(np.where(law >= border, law, 0.0))


def _argmax(law: Floats) -> Floats:
    found: Floats = np.zeros_like(law)
    np.put_along_axis(found, np.argmax(law, axis=-1, keepdims=True), 1.0, axis=-1)
    return found


def _with_residual(target: Floats, draft: Floats, residual: Floats, offered: Floats | None = None) -> Floats:
    """Law of one verified token: drafts from `offered`, declared as `draft`, and a residual where one is rejected."""
    offered = draft if offered is None else offered
    ratio = np.divide(target, draft, out=np.ones_like(target), where=draft > 0)
    accepted = offered * np.minimum(1.0, ratio)
    left = 1 - accepted.sum(axis=-1, keepdims=True)
    filled = np.where(residual.sum(axis=-1, keepdims=True) > 0, residual, target)
    return accepted + left * _normalised(filled)


def _excess(over: Floats, under: Floats) -> Floats:
    return np.maximum(over - under, 0.0)


def _draft_zeroed(laws: Laws) -> Floats:
    """On rejection of x the target is drawn from with x alone taken out: sum over x of q(x) (1 - a(x)) p(y != x)."""
    draft, _ = laws.drafts
    target = laws.target
    ratio = np.divide(target, draft, out=np.ones_like(target), where=draft > 0)
    rejected = draft * (1 - np.minimum(1.0, ratio))
    share = np.divide(rejected, 1 - target, out=np.zeros_like(target), where=target < 1)
    return _normalised(draft * np.minimum(1.0, ratio) + target * (share.sum(axis=-1, keepdims=True) - share))


def _declared_softmax(laws: Laws) -> Floats:
    draft, _ = laws.drafts
    return _with_residual(laws.target, draft, _excess(laws.target, draft), offered=_argmax(draft))


def _raw(at: Laws) -> Floats:
    return at.raw


def _warm(at: Laws) -> Floats:
    return at.warm


def _sharpened(at: Laws) -> Floats:
    return _powered(at.target, 1.25)


def _flattened(at: Laws) -> Floats:
    return _powered(at.target, 0.8)


def _top_50(at: Laws) -> Floats:
    return _top(at.target, 50)


def _most_likely(at: Laws) -> Floats:
    return _argmax(at.target)


def _unverified(at: Laws) -> Floats:
    return at.drafts[0]


def _drawn_again(at: Laws) -> Floats:
    return _with_residual(at.target, at.drafts[0], at.target)


def _residual_unfiltered(at: Laws) -> Floats:
    draft, warm = at.drafts
    return _with_residual(at.target, draft, _excess(at.warm, warm))


def _declared_unfiltered(at: Laws) -> Floats:
    draft, warm = at.drafts
    return _with_residual(at.target, warm, _excess(at.target, warm), offered=draft)


SUSPECTS: tuple[Suspect, ...] = (
    Suspect("temperature left out", "the model's softmax is sampled at temperature 1", _raw),
    Suspect("filters left out", "top-k, top-p, min-p or penalties are not applied", _warm),
    Suspect("sharpened", "a temperature lower by a fifth", _sharpened),
    Suspect("flattened", "a temperature higher by a quarter", _flattened),
    Suspect("a top-k of 50 beside", "a default that nobody asked for", _top_50),
    Suspect("the most likely token", "taken instead of a drawn one", _most_likely),
    Suspect("drafts accepted too often", "unverified", _unverified, True),
    Suspect("the target drawn from again on rejection", "instead of the residual", _drawn_again, True),
    Suspect("the residual zeroes the drafted token alone", "instead of subtracting q", _draft_zeroed, True),
    Suspect("the residual on laws without filters", "max(p - q, 0) of the raw laws", _residual_unfiltered, True),
    Suspect(
        "filters on the target's law alone", "q is declared without those it was drawn with", _declared_unfiltered, True
    ),
    Suspect("drafts are argmaxes declared as drawn", "the softmax stands for a point mass", _declared_softmax, True),
)
"""Bugs that others shipped, each with a law of its own."""
