"""Grammar as a law processor: tokens that lead out of the language get no mass, the others what looking ahead says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from reader_theory.grammar import Validity
from runtime.engine.course import Course
from runtime.engine.processors import PROCESSORS, NoLaw, Prefixes, Processor, Served
from runtime.engine.sampling import SamplingParams

__all__ = ["Grammar"]


class Grammar(Processor):
    """Weighs the sampler's law by the language of the request; after temperature and filters, which are part of it.

    Parameters
    ----------
    params : SamplingParams
        With a language.
    served : Served, optional
        The request, with its course, where the target's law ahead was noted; without one it is a mask, as it is for
        drafts.
    """

    name, reads_prefix, order = "grammar", True, 30

    def __init__(self, params: SamplingParams, served: Served | None = None) -> None:
        self.params, self.served = params, served or Served(stops=params.stop_token_ids)

    @cached_property
    def course(self) -> Course:
        """The request's own; one that only masks, for drafts."""
        if self.served.course is not None and not self.served.drafting:
            return self.served.course
        params, language = self.params, self.params.language
        assert language is not None
        return Course(language, Validity.of("mask"), params.max_new_tokens, self.served.stops, greedy=params.greedy)

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        return None if params.language is None else cls(params)

    def serving(self, served: Served) -> Processor:
        return Grammar(self.params, served)

    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        import torch

        assert prefixes is not None, "the law checks that prefixes are there"
        weighed = torch.full_like(logits, -torch.inf, dtype=torch.float64)
        for row, prefix in enumerate(prefixes):
            self._weigh(logits[row].double(), weighed[row], tuple(prefix[self.served.prompt :]))
        return weighed

    def _weigh(self, logits: Any, weighed: Any, output: Sequence[int]) -> None:
        """Fill `weighed` (V,) from `logits` (V,); as they are where the language says nothing."""
        import torch

        if self.course.fault is not None:
            raise self.course.fault
        way = self.course.way(tuple(output))
        if way is None:
            weighed.copy_(logits)
            return
        tokens = torch.from_numpy(way.tokens).to(logits.device)
        weights = torch.from_numpy(way.weights).to(logits.device)
        best = logits.amax() if self.params.greedy else torch.logsumexp(logits, dim=-1)
        weighed[tokens] = logits[tokens] - best + weights
        if way.complete and self.course.stops:
            weighed[list(self.course.stops)] = logits[list(self.course.stops)] - best
        if not self.served.drafting and not bool(weighed.amax() > -torch.inf):
            raise NoLaw(
                "some token must lie in the language and be kept by the sampler's filters",
                got=f"none after {len(output)} tokens, of {len(way.tokens)} that the language allows",
                fix="Raise top_k, top_p or the temperature, lower min_p, or ask for validity exact, which looks ahead.",
            )


PROCESSORS.register(Grammar)
