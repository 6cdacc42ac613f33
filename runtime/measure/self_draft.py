"""What a part of a target gives as its draft: the tokens a second of its best chain, on text that the target wrote.

A greedy chain of which the first i tokens are right has the target's own text behind it, so that one forward of the
part over that text tells where each chain would end: the replay is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.documents.self_draft import LayerChoice
from reader_theory.errors import require
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill, teacher_forced
from runtime.models.part import layer_count, part_of

__all__ = ["Answer", "SelfDrafting", "StepSeconds", "measure_steps", "uniform_stride"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """A prompt, and the target's greedy output on it."""

    prompt: Ints
    output: Ints


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of the forwards that a step is made of.

    Parameters
    ----------
    target : (K + 1,) float64
        Of the target for 1 .. K + 1 tokens.
    body, rest : float
        Of one token through one layer, and through embedding and head.
    """

    target: NDArray[np.float64]
    body: float
    rest: float

    def of_steps(self, layers: int) -> NDArray[np.float64]:
        """(K + 1,) seconds of a step with a chain of 0 .. K tokens that so many layers draft."""
        return self.target + np.arange(len(self.target)) * (self.rest + layers * self.body)

    def numbers(self) -> dict[str, Any]:
        """As JSON holds them."""
        return {"target": self.target.tolist(), "body": self.body, "rest": self.rest}

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> StepSeconds:
        """From what `numbers` gave."""
        return cls(np.array(numbers["target"]), float(numbers["body"]), float(numbers["rest"]))


def measure_steps(target: LanguageModel, deepest: int, context: int = 256, repeats: int = 7) -> StepSeconds:
    """Time forwards of the target and of a half of it over a context, in turn.

    Parameters
    ----------
    deepest : int
        K: longest chain.
    repeats : int
        Rounds; medians count.
    """
    count = layer_count(target)
    context = min(context, target.max_positions - deepest - 2)
    require(
        context > 0,
        "`deepest` must leave room for a text in the target's positions",
        got=f"chains of {deepest} in {target.max_positions} positions",
        fix="Pass shorter chains.",
    )
    half = part_of(target, range(0, count, 2)) if count > 1 else target
    tokens = np.arange(context, dtype=np.int64) % target.vocabulary
    caches = {id(model): model.new_cache(1, context + deepest + 2) for model in (target, half)}
    for model in (target, half):
        prefill(model, caches[id(model)], tokens, 0)
    taken = np.array([
        [_seconds(target, caches[id(target)], tokens[: k + 1]) for k in range(deepest + 1)]
        + [_seconds(half, caches[id(half)], tokens[:1])]
        for _ in range(repeats + 1)
    ])[1:]  # fmt: skip
    steps = np.array([median(column) for column in taken.T])
    layers = layer_count(half)
    body = max(steps[0] - steps[-1], 0.0) / (count - layers) if count > layers else steps[0]
    return StepSeconds(steps[:-1], float(body), float(max(steps[0] - count * body, 0.0)))


def _seconds(model: LanguageModel, cache: RowCache, tokens: Ints) -> float:
    begun = perf_counter()
    parents = np.arange(len(tokens), dtype=np.int64)[None] - 1
    forward_trees(model, cache, tokens[None], parents, np.array([len(tokens)]))
    return perf_counter() - begun


@njit(cache=True)
def chain_sums(right: NDArray[np.bool_], deepest: int) -> NDArray[np.int64]:
    """(K + 1, 2): tokens and steps of a text under chains of 0 .. K, where `right` says which are drafted rightly.

    Examples
    --------
    >>> chain_sums(np.array([True, True, False, True]), 2).tolist()
    [[3, 3], [3, 2], [3, 2]]
    """
    sums = np.zeros((deepest + 1, 2), dtype=np.int64)
    for k in range(deepest + 1):
        at = 1  # the prompt's own forward gives the first token
        while at < len(right):
            run = 0
            while run < k and at + run < len(right) and right[at + run]:
                run += 1
            emitted = min(run + 1, len(right) - at)
            sums[k, 0] += emitted
            sums[k, 1] += 1
            at += emitted
    return sums


def uniform_stride(layers: int, kept: int) -> tuple[int, ...]:
    """So many of the layers, evenly spaced from first to last."""
    return tuple(np.unique(np.round(np.linspace(0, layers - 1, kept)).astype(int)).tolist())


class SelfDrafting:
    """Scores parts of a target as its draft; callable as a fitness: candidates say 1 for a layer that is left out.

    Parameters
    ----------
    answers : sequence of Answer
        Of the target, greedy.
    seconds : StepSeconds
    """

    def __init__(self, target: LanguageModel, answers: Sequence[Answer], seconds: StepSeconds) -> None:
        answers = [answer for answer in answers if len(answer.output) > 1]
        require(
            len(answers) > 1,
            "the prompts must have at least two answers of two tokens and more",
            got=f"{len(answers)}",
            fix="Pass more prompts, or more `new_tokens`.",
        )
        self.target, self.answers, self.seconds = target, answers, seconds
        self.layers, self.deepest = layer_count(target), len(seconds.target) - 1

    def __call__(self, candidates: Sequence[tuple[int, ...]], tokens: int, sample: int) -> list[float]:
        """Tokens a second of each candidate's best chain, on texts of `tokens` output tokens in all."""
        chosen = self._sample(tokens, sample)
        return [self._rate(self.sums(self.kept(each), chosen).sum(axis=0), each.count(0)) for each in candidates]

    def kept(self, candidate: Sequence[int]) -> tuple[int, ...]:
        """Layers that a candidate keeps."""
        return tuple(i for i, left_out in enumerate(candidate) if not left_out)

    def sums(self, kept: Sequence[int], answers: Sequence[Answer] | None = None) -> Ints:
        """(P, K + 1, 2) tokens and steps of each answer under chains of 0 .. K drafted by these layers."""
        part = part_of(self.target, kept, check=False)
        return np.stack([
            chain_sums(_right(part, answer), self.deepest) for answer in (answers or self.answers)
        ])  # fmt: skip

    def choice(self, name: str, kept: Sequence[int], *, seed: int = 0) -> LayerChoice:
        """What these layers give on all answers, with intervals from resampling them."""
        sums, steps_s = self.sums(kept), self.seconds.of_steps(len(kept))
        rates = self._rates(sums.sum(axis=0), len(kept))
        best = 1 + int(np.argmax(rates[1:]))
        gain = steps_s[0] / steps_s[best]

        def statistic(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
            tokens = pooled[..., 0] / pooled[..., 1]
            return np.stack((tokens, tokens * gain), axis=-1)

        found = bootstrap_prompts(sums[:, best], statistic, seed=seed)
        return LayerChoice(
            name=name, kept=tuple(kept), drafts=best, tokens_per_step=found.estimate(0, origin="predicted"),
            speed_up=found.estimate(1, origin="predicted"),
        )  # fmt: skip

    def one_shot(self, kept: int) -> tuple[int, ...]:
        """The layers of which each alone costs most where it is left out."""
        return tuple(sorted(np.argsort(self._without, kind="stable")[:kept].tolist()))

    @cached_property
    def _without(self) -> list[float]:
        """Tokens a second with each layer alone left out."""
        every = range(self.layers)
        return [self._rate(self.sums([i for i in every if i != j]).sum(axis=0), self.layers - 1) for j in every]

    def _rates(self, pooled: Ints, layers: int) -> NDArray[np.float64]:
        return pooled[:, 0] / np.maximum(pooled[:, 1], 1) / self.seconds.of_steps(layers)

    def _rate(self, pooled: Ints, layers: int) -> float:
        """Of the best chain that drafts at all: plain decoding would hide what one part has over another."""
        return float(self._rates(pooled, layers)[1:].max())

    def _sample(self, tokens: int, sample: int) -> list[Answer]:
        """Answers in an order that the sample decides, the last one cut, until there are enough tokens."""
        chosen: list[Answer] = []
        order = np.random.default_rng(sample).permutation(len(self.answers))
        for i in order.tolist():
            answer = self.answers[i]
            chosen.append(Answer(answer.prompt, answer.output[: max(tokens, 2)]))
            tokens -= len(chosen[-1].output)
            if tokens <= 0:
                break
        return chosen


def _right(part: LanguageModel, answer: Answer) -> NDArray[np.bool_]:
    logits = teacher_forced(part, answer.prompt, answer.output)
    return logits.argmax(-1).cpu().numpy() == answer.output
