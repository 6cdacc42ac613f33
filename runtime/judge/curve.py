"""Curve: what a judge and its baselines give by threshold, in the engine, on questions that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from reader_theory.acceptance.intervals import bootstrap_prompts, ratio_of_sums
from reader_theory.documents import Static
from reader_theory.documents.judge import JudgePoint
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.judge.questions import Asked, FinalAnswer
from runtime.models.base import LanguageModel

__all__ = ["BASELINE_POINTS", "FILE", "Ran", "Trial", "points_of"]

LOSSLESS = "lossless"
FILE = "file"
BASELINE_POINTS: tuple[tuple[str, float], ...] = (
    *(("random", share / 8) for share in range(1, 8)),
    *(("confidence", share) for share in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)),
    *(("top_k", k / (k + 1)) for k in (2, 3, 4, 6, 8)),
)
"""Baselines beside a judge, and their thresholds."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Ran:
    """What one setting gave, question by question: steps, tokens of them, and whether the final answer was right."""

    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    accepted: NDArray[np.int64]
    whole: int
    right: NDArray[np.bool_]
    looked: int
    outputs: list[list[int]]

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted a row and step, the first token, from the prompt's forward, left out."""
        return float(self.tokens.sum() / self.steps.sum())

    @property
    def alpha(self) -> float:
        """Share of the looked-at drafted tokens that were accepted: a step that stops short looks at one more."""
        accepted = int(self.accepted.sum())
        return accepted / max(accepted + int(self.steps.sum()) - self.whole, 1)


class Trial:
    """One pair of models on one set of questions, decoded greedily by several rules.

    Parameters
    ----------
    tokenizer
        Of both, for the final answers.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel,
        asked: Sequence[Asked],
        answer: FinalAnswer,
        tokenizer: Any,
        *,
        new_tokens: int,
        batch: int = 16,
        seed: int = 0,
    ) -> None:
        self.asked, self.answer, self.tokenizer = asked, answer, tokenizer
        self.new_tokens, self.seed = new_tokens, seed
        longest = max(len(each.tokens) for each in asked) + new_tokens + 2
        self.drafter = NeuralDrafter(draft)
        self.engine = Engine(target, drafters={"draft": self.drafter}, max_batch=batch, max_context=longest)
        self._own: Ran | None = None

    @property
    def own(self) -> Ran:
        """The target's own greedy answers, by lossless drafts of 4."""
        if self._own is None:
            self._own = self.run(4)
        return self._own

    def run(self, drafts: int, judge: Any = None, threshold: float = 0.0) -> Ran:
        """Every question once, with chains of `drafts`; judged by `judge` (file, Judge or baseline), or losslessly.

        Raises
        ------
        InvalidInputError
            If the judge is of other models, or a question cannot be served.
        """
        settings: dict[str, Any] = {} if judge is None else {
            "verification": "judge_lossy", "rule_parameters": {"judge": judge, "threshold": threshold},
        }  # fmt: skip
        engine, params = self.engine, SamplingParams(max_new_tokens=self.new_tokens, seed=self.seed, **settings)
        engine.use(Static.of(TokenTree.chain(drafts), "draft"))
        before, looked = engine.counters, engine.backend.judging.looked
        requests = [engine.add(each.tokens, params, id=each.id, number=i) for i, each in enumerate(self.asked)]
        while engine.step():
            pass
        failed = [request.finish for request in requests if (request.finish or "").startswith("error")]
        require(not failed, "every question must be served", got=failed[:1], fix="Mend it, or leave the question out.")
        deep = [each.accepted.get("draft", ()) for each in (engine.counters, before)]
        whole = [counts[drafts - 1] if len(counts) >= drafts else 0 for counts in deep]
        answers = [self.answer.of(request.output, self.tokenizer) for request in requests]
        return Ran(
            steps=np.array([request.steps for request in requests]),
            tokens=np.array([len(request.output) - 1 for request in requests]),
            accepted=np.array([request.accepted for request in requests]),
            whole=whole[0] - whole[1],
            right=np.array([found == want for found, want in zip(answers, self._wanted(answers), strict=True)]),
            looked=engine.backend.judging.looked - looked,
            outputs=[list(request.output) for request in requests],
        )

    def _wanted(self, answers: Sequence[str | None]) -> list[str | None]:
        """Right answers: those of the questions, else the target's own."""
        own = answers if self._own is None else [self.answer.of(out, self.tokenizer) for out in self._own.outputs]
        return [each.answer if each.answer is not None else mine for each, mine in zip(self.asked, own, strict=True)]

    def point(self, ran: Ran, drafts: int, judge: str, threshold: float) -> JudgePoint:
        """What a run says, with 95 % intervals from resampling questions."""
        lost = 100.0 * (self.own.right.astype(float) - ran.right)
        sums = np.stack((ran.tokens, ran.steps), axis=1)
        pace = bootstrap_prompts(sums, ratio_of_sums, within=(0, np.inf), seed=self.seed)
        return JudgePoint(
            judge=judge,
            threshold=threshold,
            drafts=drafts,
            rounds=int(ran.steps.sum()),
            tokens_per_step=pace.estimate(origin="measured"),
            alpha=ran.alpha,
            score=_mean(ran.right.astype(float), 0.0, 1.0),
            points_lost=_mean(lost, -100.0, 100.0),
            looks=ran.looked / int(ran.steps.sum()),
        )


def points_of(
    trial: Trial,
    judge: Any,
    thresholds: Sequence[float],
    drafts: Sequence[int],
    baselines: Sequence[tuple[str, float]] = (),
    progress: Progress | None = None,
) -> list[JudgePoint]:
    """Points of the lossless rule, of a judge at each threshold, and of baselines, for each length of chain."""
    wanted = [(FILE, judge, threshold) for threshold in sorted(set(thresholds))]
    wanted += [(name, name, threshold) for name, threshold in baselines]
    found, whole = list[JudgePoint](), len(drafts) * (1 + len(wanted))
    _ = trial.own
    for size in drafts:
        for name, which, threshold in [(LOSSLESS, None, 0.0), *wanted]:
            if progress:
                progress("curve", len(found), whole)
            found.append(trial.point(trial.run(size, which, threshold), size, name, threshold))
    return found


def _mean(values: NDArray[np.float64], low: float, high: float) -> Estimate:
    """Mean over questions with Student's interval; where all are alike, as wide as 3 / n of them that are not."""
    mean, count = float(values.mean()), len(values)
    spread = float(values.std(ddof=1)) * float(student.ppf(0.975, count - 1)) / count**0.5
    slack = max(spread, 0.0 if spread else 3.0 / count * max(abs(low), abs(high)))
    return Estimate(value=mean, low=max(mean - slack, low), high=min(mean + slack, high), origin="measured")
