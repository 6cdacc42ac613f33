"""What a judge is: who drafts and who decides, a linear classifier of their states, and what it gave by threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, PrivateAttr, model_validator

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.columns import Within, check_values
from reader_theory.errors import DocumentError, require
from reader_theory.estimate import Estimate

__all__ = [
    "QUESTIONS", "FrontierPoint", "Judge", "JudgeCurve", "JudgePoint", "Judged", "MinedMismatches",
    "ModelProbe",
]  # fmt: skip

Floats = NDArray[np.float64]
QUESTIONS = "questions"
"""Workload of a judged plan."""

MINED_COLUMNS: dict[str, str] = {
    "question": "(M,) int32: index into `MinedMismatches.questions`",
    "position": "(M,) int32: place of the mismatch in the output, 0 its first token",
    "target_token": "(M,) int32: what the text had there",
    "draft_token": "(M,) int32: what the draft would have put there",
    "important": "(M,) int32: 1 where the draft's token changed the final answer",
    "difference": "(M, H) float32: final states at the draft's token less those at the target's; draft model first",
    "drafted": "(M, H) float32: the same at the draft's token alone",
}
"""Columns of what was mined, one row a mismatch."""


class ModelProbe(Frozen):
    """A model told by what it computes: its final state after fixed tokens, whatever format its weights lie in."""

    vocabulary: int = Field(gt=0)
    state: tuple[float, ...] = Field(min_length=1, description="final hidden state at the last of the fixed tokens")

    def gap(self, other: ModelProbe) -> float:
        """How far another model's state is off, relative to this one's length; infinite for other shapes."""
        mine, theirs = np.array(self.state), np.array(other.state)
        if self.vocabulary != other.vocabulary or mine.shape != theirs.shape:
            return float("inf")
        return float(np.linalg.norm(mine - theirs) / max(float(np.linalg.norm(mine)), 1e-30))


class MinedMismatches(Document):
    """Where draft and target part along the target's answers, and whether it mattered to the final answer."""

    made_by: ClassVar[str] = "reader judge mine"
    kind: Literal["mined_mismatches"] = "mined_mismatches"
    schema_version: int = 1
    target: str
    draft: str
    target_probe: ModelProbe
    draft_probe: ModelProbe
    answer: str = Field(description="regular expression of the final answer: its last match counts")
    new_tokens: int = Field(gt=0)
    questions: tuple[str, ...] = Field(description="their ids")
    unanswered: int = Field(ge=0, description="questions left out: the target came to no final answer by itself")
    arrays: ArrayFile

    _columns: Columns | None = PrivateAttr(default=None)

    @classmethod
    def create(cls, path: str | Path, columns: Columns, **fields: Any) -> MinedMismatches:
        """Write `columns` beside `path`, then the document itself."""
        path = Path(path)
        made = cls(arrays=ArrayFile.write(path.with_suffix(".parquet"), columns), **fields)
        made._take(columns)
        made.write(path)
        return made

    @classmethod
    def read(cls, path: str | Path) -> Self:
        made = super().read(path)
        made._take(made.arrays.read(Path(path).parent))
        return made

    def _take(self, columns: Columns) -> None:
        width = len(self.draft_probe.state) + len(self.target_probe.state)
        shaped = columns.keys() == MINED_COLUMNS.keys() and all(
            columns[name].shape == (len(columns["question"]), width) for name in ("difference", "drafted")
        )
        require(
            shaped,
            "mined mismatches must have exactly the columns of `MINED_COLUMNS`, states as wide as the models'",
            got={name: column.shape for name, column in columns.items()},
            fix="Mine them again with this version.",
            error=DocumentError,
        )
        whole = {name: Within() for name in ("position", "target_token", "draft_token")}
        bounds = {"question": Within(high=len(self.questions) - 1), "important": Within(high=1), **whole}
        check_values({name: columns[name] for name in bounds}, bounds, "mined mismatches")
        self._columns = columns

    @property
    def columns(self) -> Columns:
        """The arrays, by the names of `MINED_COLUMNS`."""
        assert self._columns is not None, "mined mismatches are made by create or read"
        return self._columns


class Judge(Document):
    """A classifier of mismatches: standardised states, logistic regression. LOSSY where it is used.

    Source: Garipov et al. 2025, "AutoJudge: judge decoding without manual annotation".
    """

    made_by: ClassVar[str] = "reader judge fit"
    kind: Literal["judge"] = "judge"
    schema_version: int = 1
    target: str
    draft: str
    target_probe: ModelProbe
    draft_probe: ModelProbe
    features: Literal["difference", "drafted"] = Field(
        default="drafted",
        description="final states at the draft's token less those at the target's, or at the draft's token alone",
    )
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    regularisation: float = Field(gt=0, description="C of scikit-learn's LogisticRegression: the best by ROC-AUC")
    auc: Estimate = Field(description="ROC-AUC on mismatches of questions that were held out")
    important: float = Field(ge=0, le=1, description="share of the mismatches that changed the final answer")
    mismatches: int = Field(gt=0)
    thresholds: tuple[float, ...] = Field(description="26 quantiles of P(important) on the held-out questions")
    mined: str = Field(description="fingerprint of the mined mismatches")
    held_out: tuple[str, ...] = Field(description="ids of the questions that were held out")
    fitted_on: tuple[str, ...] = Field(description="ids of the questions that it was fitted on")

    @model_validator(mode="after")
    def _shaped(self) -> Self:
        width = len(self.draft_probe.state) + len(self.target_probe.state)
        numbers = np.array([*self.mean, *self.scale, *self.weights, self.intercept])
        require(
            {len(self.mean), len(self.scale), len(self.weights)} == {width}
            and bool(np.isfinite(numbers).all())
            and min(self.scale) > 0,
            "a judge must have one finite mean, weight and positive scale for each state of draft and target",
            got=f"{len(self.mean)}, {len(self.weights)} and {len(self.scale)} for {width} states",
            fix="Make it again with `reader judge fit`.",
            error=DocumentError,
        )
        return self

    def importance(self, states: ArrayLike) -> Floats:
        """(n,) probability that a mismatch matters, from (n, H) states as `features` says, the draft model's first."""
        from scipy.special import expit

        standard = (np.asarray(states, dtype=np.float64) - np.array(self.mean)) / np.array(self.scale)
        return np.asarray(expit(standard @ np.array(self.weights) + self.intercept), dtype=np.float64)


class JudgePoint(Frozen):
    """What a judge gave at one threshold and one length of chain."""

    judge: str = Field(description='"file" for the fitted one, or a baseline\'s name; "lossless" for greedy decoding')
    threshold: float = Field(ge=0)
    drafts: int = Field(ge=1, description="tokens of the chain")
    rounds: int = Field(ge=1, description="a row's steps, in all")
    tokens_per_step: Estimate
    alpha: float = Field(ge=0, le=1, description="share of the looked-at drafted tokens that were accepted")
    score: Estimate = Field(description="share of right answers")
    points_lost: Estimate = Field(description="score of the target's own greedy answers less this one, in points")
    looks: float = Field(ge=0, description="mean tokens a row and step that were forwarded for the judge by the target")


class JudgeCurve(Document):
    """Tokens a step and task score by threshold, on questions that neither fit nor miner saw."""

    made_by: ClassVar[str] = "reader judge curve"
    kind: Literal["judge_curve"] = "judge_curve"
    schema_version: int = 1
    target: str
    draft: str
    judge: str = Field(description="path of the judge's file, as a plan names it")
    fingerprint_of_judge: str
    reads_alternatives: bool = Field(
        description="whether it needs a second forward of the target, see `Judge.features`"
    )
    questions: int = Field(ge=2)
    new_tokens: int = Field(gt=0)
    context_tokens: float = Field(ge=0, description="mean tokens a row half-way through the outputs")
    points: tuple[JudgePoint, ...]


class FrontierPoint(Frozen):
    """What a judged plan weighed: one threshold at its best length of chain for a batch."""

    batch: int = Field(ge=1)
    judge: str
    threshold: float = Field(ge=0)
    drafts: int = Field(ge=0)
    alpha: float = Field(ge=0, le=1)
    tokens_per_step: Estimate
    tokens_per_s: Estimate
    score: Estimate
    points_lost: Estimate
    within_budget: bool = Field(description="whether the interval of the points lost ends within the budget")


class Judged(Frozen):
    """Why a plan is LOSSY: its judge, the threshold, and the quality that the user gave up for it."""

    judge: str = Field(description="path of the judge's file")
    fingerprint: str
    threshold: float = Field(ge=0)
    quality_budget: float = Field(ge=0, description="points of task score that may be lost, as the user stated")
    score: Estimate
    points_lost: Estimate
    frontier: tuple[FrontierPoint, ...]
