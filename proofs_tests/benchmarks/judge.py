"""The judge on column addition at a quality budget, with random, confidence and top-K beside it.

``python -m proofs_tests.benchmarks.judge`` mines, fits, chooses the threshold on questions of their own, and judges the
choice on others: ``results/judge.json`` has ROC-AUC held out by question, tokens a round over lossless decoding's,
points lost, and the same of the baselines, each at the judge's own share of accepted mismatches; intervals resample
questions. ``--limit`` takes fewer.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.documents.judge import Judge
from reader_theory.rules.judge import BASELINES
from runtime.judge.curve import FILE, Ran, Trial
from runtime.judge.fit import fit_judge
from runtime.judge.mine import mine
from runtime.judge.questions import FinalAnswer, house_questions
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.training.addition.wording import ANSWER

BUDGET = 2.0
"""Points of score that may be lost."""
NEW_TOKENS = 128
SEARCHES = 6
"""Settings of a baseline that are tried, on some of the questions, to meet the judge's acceptance."""


def gains(ran: Ran, other: Ran) -> list[float]:
    """Tokens a round over another run's, with its interval."""

    def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])

    sums = np.stack((ran.tokens, ran.steps, other.tokens, other.steps), axis=1)
    found = bootstrap_prompts(sums, ratio)
    return [float(found.value), float(found.low), float(found.high)]


def points_apart(ran: Ran, other: Ran) -> list[float]:
    """Points of score below another run's, with the interval of the paired differences."""
    sums = np.stack((100.0 * (other.right.astype(float) - ran.right), np.ones(len(ran.right))), axis=1)
    found = bootstrap_prompts(sums, lambda each: each[..., 0] / each[..., 1])
    return [float(found.value), float(found.low), float(found.high)]


def told(ran: Ran, lossless: Ran) -> dict[str, Any]:
    """What a run gave beside lossless decoding."""
    return {
        "score": float(ran.right.mean()),
        "alpha": ran.alpha,
        "tokens_per_round": ran.tokens_per_step,
        "times_lossless": gains(ran, lossless),
        "points_lost": points_apart(ran, lossless),
        "looked_tokens_per_round": ran.looked / int(ran.steps.sum()),
    }


def chosen_threshold(trial: Trial, judge: Judge, drafts: int) -> float:
    """The largest of the judge's thresholds that loses at most half the budget on its questions, by bisection."""
    thresholds = [0.0, *sorted(set(judge.thresholds))]
    low, high = 0, len(thresholds)
    while high - low > 1:
        middle = (low + high) // 2
        ran = trial.run(drafts, judge, thresholds[middle])
        lost = 100.0 * float((trial.own.right.astype(float) - ran.right).mean())
        low, high = (middle, high) if lost <= BUDGET / 2 else (low, middle)
    return thresholds[low]


def equally_accepting(trial: Trial, baseline: str, drafts: int, alpha: float) -> float:
    """The setting of a baseline whose share of accepted drafted tokens is nearest, by bisection."""
    low, high, best = 0.0, 1.0, (1.0, 0.0)
    for _ in range(SEARCHES):
        threshold = (low + high) / 2
        found = trial.run(drafts, baseline, threshold).alpha
        best = min(best, (abs(found - alpha), threshold))
        low, high = (threshold, high) if found < alpha else (low, threshold)
    return best[1]


def measured(
    pair: tuple[LanguageModel, LanguageModel], tokenizer: Any, features: Literal["difference", "drafted"],
    judge: Judge, trials: tuple[Trial, Trial], drafts: int, say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """One kind of features at one length of chain."""
    choosing, judging = trials
    threshold = chosen_threshold(choosing, judge, drafts)
    lossless, ran = judging.run(drafts), judging.run(drafts, judge, threshold)
    row: dict[str, Any] = {
        "features": features, "drafts": drafts, "threshold": threshold,
        "auc": judge.auc.model_dump(), "important": judge.important, "mismatches": judge.mismatches,
        "lossless": {"score": float(lossless.right.mean()), "tokens_per_round": lossless.tokens_per_step},
        FILE: told(ran, lossless),
    }  # fmt: skip
    for baseline in BASELINES:
        setting = equally_accepting(choosing, baseline, drafts, ran.alpha)
        beside = judging.run(drafts, baseline, setting)
        row[baseline] = {
            "threshold": setting,
            **told(beside, lossless),
            "points_below_judge": points_apart(beside, ran),
        }
        say(f"{features} {drafts} {baseline}: {row[baseline]}")
    say(f"{features} {drafts} judge: {row[FILE]}")
    return row


def main() -> None:
    """Print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, nargs="+", default=[8])
    parser.add_argument("--features", nargs="+", default=["drafted", "difference"])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    tokenizer = load_tokenizer(house_folder("addition/target"))
    pair = load_model(house_folder("addition/target")), load_model(house_folder("addition/draft"))
    answer = FinalAnswer(ANSWER)
    parts = {part: house_questions(part, tokenizer, options.limit) for part in ("mine", "curve", "test")}
    with tempfile.TemporaryDirectory() as folder:
        mined = mine(
            *pair, parts["mine"], answer, tokenizer, path=Path(folder) / "mined.json", new_tokens=NEW_TOKENS,
            batch=options.batch,
        )  # fmt: skip
    settings: dict[str, Any] = {"new_tokens": NEW_TOKENS, "batch": options.batch}
    trials = tuple(Trial(*pair, parts[part], answer, tokenizer, **settings) for part in ("curve", "test"))
    assert len(trials) == 2
    judges = {features: fit_judge(mined, features=features) for features in options.features}
    rows = [
        measured(pair, tokenizer, features, judge, trials, drafts, print)
        for features, judge in judges.items()
        for drafts in options.drafts
    ]
    counts = {part: len(each) for part, each in parts.items()}
    own = float(trials[1].own.right.mean())
    print(
        write_report(
            "judge", {"questions": counts, "budget": BUDGET, "target_right": own, "rows": rows}, options.output
        )
    )


if __name__ == "__main__":
    main()
