"""The grammar gap: how far masking is from the model's law given a language, and which strings suffer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.grammar import Moves, Validity, string_law
from runtime.engine.ahead import note_law, note_laws
from runtime.engine.request import Request
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill

__all__ = ["GrammarGap", "grammar_gap"]

Text = tuple[int, ...]


@dataclass(frozen=True)
class GrammarGap:
    """What masking does to a language on one prompt.

    Attributes
    ----------
    faithful, projected : dict from string to probability
        The model's law given the language, and the law that masking samples; the faithful likeliest first.
    mass : float
        Probability that the model, unconstrained, writes a string of the language.
    forwards : int
        Of the target, beyond the prompt's.
    prefixes : int
        Of the language.
    """

    faithful: dict[Text, float]
    projected: dict[Text, float]
    mass: float
    forwards: int
    prefixes: int

    @property
    def total_variation(self) -> float:
        """Between both laws: the share of texts that masking draws otherwise."""
        lost = 1.0 - sum(self.projected.values())
        return (sum(abs(self.faithful[each] - self.projected[each]) for each in self.faithful) + max(lost, 0.0)) / 2

    def worst(self, count: int) -> list[Text]:
        """Strings whose probability changes most, most first."""
        return sorted(self.faithful, key=lambda each: -abs(self.faithful[each] - self.projected[each]))[:count]


def grammar_gap(
    model: LanguageModel, prompt: NDArray[np.int64], params: SamplingParams, *, tokenizer: Any = None
) -> GrammarGap:
    """Both laws of every string of ``params.language`` after a prompt, from one trie that the model verifies.

    Parameters
    ----------
    model : LanguageModel
    prompt : (P,) int64
    params : SamplingParams
        With a language of strings that can be listed; its temperature must be above 0.

    Raises
    ------
    InvalidInputError
        When the request could not be served.
    """
    require(
        params.language is not None and not params.greedy,
        "`params` must have a language, and a temperature above 0",
        got=f"temperature {params.temperature}, language {params.language}",
        fix="A gap is one between laws: use temperature 1.",
    )
    request = Request.of(
        prompt, replace(params, validity="exact"), 0, tokenizer=tokenizer, end_tokens=model.end_tokens, alike=None
    )
    refusal = request.refusal(model.vocabulary, model.max_positions)
    if refusal is not None:
        raise InvalidInputError("the language must be one that the model can write", got=refusal, fix="See there.")
    course = request.course
    assert course is not None
    graph, slots = course.whole, len(prompt) + len(course.whole) + 1
    cache = model.new_cache(1, slots)
    note_law(request, [()], prefill(model, cache, prompt, 0)[None])
    forwards = note_laws(model, cache, [request], [course.unknown(())], slots=slots)
    if course.fault is not None:
        raise course.fault
    moves = [Moves(np.exp(each.tokens).tolist(), float(np.exp(each.end))) for each in course.moves()]
    faithful, projected = (string_law(graph, moves, Validity(ahead)) for ahead in (None, 0))
    order = sorted(faithful, key=lambda each: -faithful[each])
    return GrammarGap(
        {each: float(faithful[each]) for each in order},
        {each: float(projected.get(each, 0.0)) for each in order},
        float(np.exp(course.mass)),
        forwards,
        len(graph),
    )
