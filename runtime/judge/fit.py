"""Fit: a judge from mined mismatches: standardised states, logistic regression, the strength by held-out ROC-AUC."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Stamp
from reader_theory.documents.judge import Judge, MinedMismatches
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["fit_judge"]

STRENGTHS = tuple(float(c) for c in np.logspace(-5, 2, 15))
"""C of the logistic regressions that are tried."""
QUANTILES = 26
HELD_OUT = 0.25
RESAMPLES = 500

Floats = NDArray[np.float64]


def fit_judge(
    mined: MinedMismatches,
    *,
    features: Literal["difference", "drafted"] = "drafted",
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> Judge:
    """Fit a judge; no question is on both sides of the split.

    Parameters
    ----------
    features : {"difference", "drafted"}
        States at the draft's token less those at the target's, or alone. Alone they save a forward of the target a
        step, and tell more: of a difference no line tells both a swap and its reverse from what does not matter.
    held_out : float, in (0, 1)
        Share of the questions that choose C, tell the ROC-AUC, and give the thresholds.

    Raises
    ------
    InvalidInputError
        If either side lacks important or unimportant mismatches.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    columns = mined.columns
    states, labels = columns[features].astype(np.float64), columns["important"].astype(bool)
    held = _held_out(len(mined.questions), held_out, seed)
    at = held[columns["question"]]
    counts = {side: (int(labels[rows].sum()), int(rows.sum())) for side, rows in (("fitted", ~at), ("held out", at))}
    require(
        all(0 < important < count for important, count in counts.values()),
        "mined mismatches must be important and unimportant on both sides of the split",
        got=", ".join(f"{side}: {important} important of {count}" for side, (important, count) in counts.items()),
        fix="Mine more questions, or a draft that differs more.",
    )
    scaler: Any = StandardScaler().fit(states[~at])
    fitted, unseen = scaler.transform(states[~at]), scaler.transform(states[at])
    best: tuple[float, float, Any, Floats] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(fitted, labels[~at])
        told = model.predict_proba(unseen)[:, 1]
        area = float(roc_auc_score(labels[at], told))
        if best is None or area > best[0]:
            best = area, strength, model, told
    assert best is not None
    area, strength, model, told = best
    draws = _areas(labels[at], told, columns["question"][at], seed)
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    names = np.array(mined.questions)
    return Judge(
        stamp=Stamp.now(seed=seed), target=mined.target, draft=mined.draft, target_probe=mined.target_probe,
        draft_probe=mined.draft_probe, features=features, mean=tuple(scaler.mean_.tolist()),
        scale=tuple(scaler.scale_.tolist()), weights=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]), regularisation=strength,
        mismatches=len(labels), important=float(labels.mean()), mined=mined.fingerprint(),
        auc=Estimate(value=area, low=min(low, area), high=max(high, area), origin="measured"),
        thresholds=tuple(np.quantile(told, np.linspace(0, 1, QUANTILES)).tolist()),
        held_out=tuple(names[held].tolist()), fitted_on=tuple(names[~held].tolist()),
    )  # fmt: skip


def _held_out(questions: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which questions are held out: one at least, and never all."""
    require(
        questions >= 2 and 0 < share < 1,
        "a judge must be fitted to two questions at least, some of them held out",
        got=f"{questions} questions, a share of {share} held out",
        fix="Mine more questions; a quarter is held out when left out.",
    )
    count = min(max(round(share * questions), 1), questions - 1)
    held = np.zeros(questions, dtype=bool)
    held[np.random.default_rng(seed).permutation(questions)[:count]] = True
    return held


def _areas(labels: NDArray[np.bool_], told: Floats, questions: NDArray[np.int32], seed: int) -> Floats:
    """ROC-AUC of resampled questions; those in which one kind is missing are drawn again."""
    from sklearn.metrics import roc_auc_score

    rng, known = np.random.default_rng(seed), np.unique(questions)
    rows = {question: np.flatnonzero(questions == question) for question in known}
    areas = list[float]()
    for _ in range(4 * RESAMPLES):
        drawn = np.concatenate([rows[question] for question in rng.choice(known, len(known))])
        if 0 < labels[drawn].sum() < len(drawn):
            areas.append(float(roc_auc_score(labels[drawn], told[drawn])))
        if len(areas) == RESAMPLES:
            break
    return np.array(areas)
