"""What each source offered at every position of finished outputs, and the maps from score to acceptance.

A position of the target's own output is the root of a step that starts there, and an accepted path is the true
prefix: the scores of roots are those of every node that matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.calibration import Calibration, Scored, calibrate
from reader_theory.documents.policy import OFFERS, SourceMap
from reader_theory.errors import require
from runtime.drafters.laws import NeuralLaws, gridded
from runtime.models.base import LanguageModel
from runtime.models.inputs import teacher_forced
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

__all__ = ["OffersFit", "fit_offers", "record_offers"]

TRUST = 20.0
"""Tokens' worth of weight that a score has in each bin of its own map."""


@dataclass(frozen=True)
class OffersFit:
    """Maps for a `Grown` policy, and the calibration behind each.

    Attributes
    ----------
    maps : tuple of SourceMap
    calibrations : dict of str to Calibration
        By offer; `raw_error` is the expected calibration error of the score as it is, `error` that of the map on
        prompts that it was not fitted on.
    """

    maps: tuple[SourceMap, ...]
    calibrations: dict[str, Calibration]


def record_offers(
    draft: LanguageModel | None,
    pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    datastore: Datastore | None = None,
    candidates: int = 8,
    trust: float = 0.5,
    target: LanguageModel | None = None,
) -> dict[str, Scored]:
    """Score of every offered token at every position, and whether the target emitted it; by who offered it.

    Parameters
    ----------
    draft : LanguageModel, optional
        Scored on the true prefix; only ``"retrieval unasked"`` comes back without one.
    pairs : iterable of ((P,) int64, (T,) int64)
        Prompts and the target's own outputs.
    candidates, trust : int, float
        As in the `Grown` policy that the maps are for.
    target : LanguageModel, optional
        Needed for a draft that reads its hidden states.
    """
    kept: dict[str, list[tuple[float, bool, int]]] = {offer: [] for offer in OFFERS}
    for number, (prompt, output) in enumerate(pairs):
        laws = NeuralLaws(1, 1, candidates, gridded((), trust))
        scores = None if draft is None else laws.top(teacher_forced(draft, prompt, output, target)[None])
        index, none = RetrievalIndex(prompt.astype(np.int32), datastore), np.array([-1])
        for place, token in enumerate(output.tolist()):
            tokens, shares, _ = index.offers()
            kept[OFFERS[0]] += [(s, t == token, number) for t, s in zip(tokens.tolist(), shares.tolist(), strict=True)]
            if scores is not None:
                laws.counts[0] = 0
                laws.add(0, none, none, none, scores[0][0, place][None], scores[1][0, place][None])
                for t, s, m in zip(*index.offers(int(laws.addresses[0]), candidates), strict=True):
                    kept[OFFERS[int(m)]].append((float(s), int(t) == token, number))
            index.extend(output[place : place + 1].astype(np.int32))
    return {offer: _scored(rows) for offer, rows in kept.items() if rows}


def fit_offers(scored: dict[str, Scored], *, bins: int = 20) -> OffersFit:
    """Monotone map of each offer's score, fitted by isotonic regression over bins of equal weight.

    With few tokens a map stays near the score itself, which is what the shipped weights of evidence say.
    """
    require(bool(scored), "`scored` must hold some offered tokens", got="none", fix="Record offers on longer outputs.")
    found = {offer: calibrate(one, bins=bins, trust=TRUST) for offer, one in scored.items()}
    maps = tuple(
        SourceMap(offer=offer, score=tuple(one.score.tolist()), acceptance=tuple(one.acceptance.tolist()))  # pyright: ignore[reportArgumentType]
        for offer, one in found.items()
    )
    return OffersFit(maps, found)


def _scored(rows: list[tuple[float, bool, int]]) -> Scored:
    score, right, prompt = (np.array(column) for column in zip(*rows, strict=True))
    return Scored(np.clip(score.astype(np.float64), 0.0, 1.0), right.astype(np.bool_), prompt.astype(np.intp), True)
