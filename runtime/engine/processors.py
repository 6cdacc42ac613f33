"""From logits to the law that is sampled: each processor turns logits and prefixes into logits, one after the other.

Draft law and target law both come through here, so that the law declared is the law sampled. Each row has its own
prefix, the tokens of its path included: a penalty sees at a tree node exactly what it would see there in plain
decoding. The standard ones are transformers' own. A further one is a class of its own: registered, it reads its
parameters off the request; or one that is made for a request is given with it (`SamplingParams.processors`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from reader_theory.errors import InvalidInputError, require
from reader_theory.registry import Registry
from runtime.engine.sampling import SamplingParams

__all__ = ["PROCESSORS", "NoLaw", "Processor", "Served", "TokenLaw"]

Prefixes = Sequence[Sequence[int]]


class NoLaw(InvalidInputError):
    """Logits of which one request's parameters make no law: the fault of that request's step alone."""


class Served(NamedTuple):
    """What a processor may ask about the request that it serves.

    Attributes
    ----------
    prompt : int
        Tokens of a prefix that come before the output.
    stops : tuple of int
        Tokens that end it.
    drafting : bool
        Whether the law is one that drafts are drawn from.
    course : Course, optional
        Its way through its language, where it has one.
    """

    prompt: int = 0
    stops: tuple[int, ...] = ()
    drafting: bool = False
    course: Any = None


class Processor(ABC):
    """Turns logits into logits, given the tokens before.

    Attributes
    ----------
    reads_prefix : bool
        Whether it looks at the tokens before.
    of_output : bool
        Whether the prefixes that it is given are those of the output, without the prompt.
    keeps_argmax : bool
        Whether the most likely token stays so: greedy decoding then goes without it.
    order : int
        Lower ones run first: penalties from 0, others at 10, temperature and filters from 20, as in `generate`.
    """

    name: ClassVar[str]
    reads_prefix: ClassVar[bool] = False
    of_output: ClassVar[bool] = False
    keeps_argmax: ClassVar[bool] = False
    order: ClassVar[int] = 10

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        """The processor that `params` ask for, if they do."""
        return None

    def serving(self, served: Served) -> Processor:
        """The same, for one request; itself where it does not matter which."""
        return self

    @abstractmethod
    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        """(n, V) tensor of logits after each of n prefixes, from (n, V) logits; those given are not changed."""


PROCESSORS: Registry[type[Processor]] = Registry("processor")
"""Classes of processors that read their parameters off a request."""


class _Standard(Processor):
    """One of transformers' processors that looks at no prefix."""

    keeps_argmax = True

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        return self.processor(None, logits)


class RepetitionPenalty(Processor):
    """Tokens that the prefix holds become less likely."""

    name, reads_prefix, order = "repetition_penalty", True, 0

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if params.repetition_penalty == 1.0:
            return None
        from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

        return cls(RepetitionPenaltyLogitsProcessor(penalty=float(params.repetition_penalty)))

    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        if prefixes is None:
            return logits
        import torch

        rows = [torch.tensor([list(prefix)], device=logits.device) for prefix in prefixes]
        scored = [
            self.processor(row, logits[i : i + 1]) if row.numel() else logits[i : i + 1] for i, row in enumerate(rows)
        ]
        return torch.cat(scored)


class _ByPrefix(Processor):
    """One of transformers' processors that looks at the tokens before."""

    reads_prefix, order = True, 5

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        if prefixes is None:
            return logits
        import torch

        rows = [torch.tensor([list(prefix)], device=logits.device) for prefix in prefixes]
        return torch.cat([self.processor(row, logits[i : i + 1].clone()) for i, row in enumerate(rows)])


class OutputPenalty(Processor):
    """Tokens that the output holds lose a number, and another for each time that they are there.

    As OpenAI's interface and vLLM define presence and frequency penalties; transformers has none.
    """

    name, reads_prefix, of_output, order = "output_penalty", True, True, 1

    def __init__(self, presence: float, frequency: float) -> None:
        self.presence, self.frequency = presence, frequency

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        given = params.presence_penalty, params.frequency_penalty
        return cls(*map(float, given)) if any(given) else None

    def __call__(self, logits: Any, prefixes: Prefixes | None) -> Any:
        if prefixes is None:
            return logits
        import torch

        out = logits.clone()
        for row, prefix in enumerate(prefixes):
            if len(prefix):
                held, times = torch.tensor(list(prefix), device=logits.device).unique(return_counts=True)
                out[row, held] -= self.presence + self.frequency * times.to(out.dtype)
        return out


class LogitBias(_ByPrefix):
    """Numbers are added to the logits of tokens."""

    name = "logit_bias"

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if not params.logit_bias:
            return None
        from transformers.generation.logits_process import SequenceBiasLogitsProcessor

        return cls(SequenceBiasLogitsProcessor([[[token], float(bias)] for token, bias in params.logit_bias.items()]))


class BadWords(_ByPrefix):
    """Sequences of tokens are never completed."""

    name = "bad_words"

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if not params.bad_words:
            return None
        from transformers.generation.logits_process import NoBadWordsLogitsProcessor

        return cls(NoBadWordsLogitsProcessor([list(word) for word in params.bad_words]))


class Temperature(_Standard):
    """Logits over the temperature."""

    name, order = "temperature", 20

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if params.temperature in (0.0, 1.0):
            return None
        from transformers.generation.logits_process import TemperatureLogitsWarper

        return cls(TemperatureLogitsWarper(float(params.temperature)))


class TopK(_Standard):
    """The k most likely tokens are kept."""

    name, order = "top_k", 21

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if params.top_k == 0:
            return None
        from transformers.generation.logits_process import TopKLogitsWarper

        return cls(TopKLogitsWarper(params.top_k))


class TopP(_Standard):
    """The smallest set of most likely tokens that holds a probability is kept."""

    name, order = "top_p", 22

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if params.top_p == 1.0:
            return None
        from transformers.generation.logits_process import TopPLogitsWarper

        return cls(TopPLogitsWarper(float(params.top_p)))


class MinP(_Standard):
    """Tokens less likely than a share of the most likely one are dropped."""

    name, order = "min_p", 23

    @classmethod
    def asked(cls, params: SamplingParams) -> Self | None:
        if params.min_p == 0.0:
            return None
        from transformers.generation.logits_process import MinPLogitsWarper

        return cls(MinPLogitsWarper(float(params.min_p)))


for _one in (RepetitionPenalty, OutputPenalty, LogitBias, BadWords, Temperature, TopK, TopP, MinP):
    PROCESSORS.register(_one)


class TokenLaw:
    """The law that one request samples from.

    Parameters
    ----------
    params : SamplingParams
        The request's own.
    prompt_tokens : int
        Tokens of each prefix that are its prompt.
    served : Served, optional
        The request, for processors that ask more about it.

    Attributes
    ----------
    plain : bool
        Whether it is the softmax at the temperature, with nothing else that changes it.
    reads_prefix : bool
        Whether it depends on the tokens before otherwise than through the model.
    follows : bool
        Whether greedy decoding takes the most likely token as the model has it.

    Examples
    --------
    >>> TokenLaw(SamplingParams(temperature=0.0))(np.array([[0.0, 3.0, 3.0]])).tolist()
    [[0.0, 1.0, 0.0]]
    """

    def __init__(self, params: SamplingParams, prompt_tokens: int = 0, *, served: Served | None = None) -> None:
        known = served or Served(prompt_tokens, params.stop_token_ids)
        self.prompt_tokens = known.prompt
        asked = [found for each in PROCESSORS if (found := each.asked(params)) is not None]
        chosen: list[Processor] = sorted([*asked, *params.processors], key=lambda each: each.order)
        chain = [each.serving(known) if isinstance(each, Processor) else each for each in chosen]
        self.params = params
        self.plain = all(isinstance(each, Temperature) for each in chain)
        self.reads_prefix = any(each.reads_prefix for each in chain)
        self.follows = all(each.keeps_argmax for each in chain)
        self._chain = [each for each in chain if not (params.greedy and each.keeps_argmax)]

    def __call__(self, logits: Any, prefixes: Prefixes | None = None) -> Any:
        """(n, V) float64 laws of `logits`, a torch tensor when they are one; see `target_law`."""
        import torch

        asked_in_torch = isinstance(logits, torch.Tensor)
        rows = logits if asked_in_torch else torch.from_numpy(np.ascontiguousarray(logits))
        _check_rows(rows, prefixes, needed=self.reads_prefix)
        laws = self._law(rows.float() if rows.dtype != torch.float64 else rows, prefixes)
        return laws if asked_in_torch else laws.numpy()

    def _law(self, scores: Any, prefixes: Prefixes | None) -> Any:
        import torch

        if self.plain and not self.params.greedy:
            return torch.softmax(scores.double() / self.params.temperature, dim=-1)
        scores = self._processed(scores, prefixes)
        if self.params.greedy:
            return torch.nn.functional.one_hot(scores.argmax(dim=-1), scores.shape[-1]).double()
        return torch.softmax(scores.double(), dim=-1)

    def _processed(self, scores: Any, prefixes: Prefixes | None) -> Any:
        outputs = None if prefixes is None else [prefix[self.prompt_tokens :] for prefix in prefixes]
        for processor in self._chain:
            scores = processor(scores, outputs if processor.of_output else prefixes)
        return scores

    def log_scores(self, logits: Any, prefixes: Prefixes | None = None) -> Any:
        """(n, V) float64 logarithms of the laws of (n, V) logits; at temperature 0 how far each is below the best."""
        import torch

        _check_rows(logits, prefixes, needed=self.reads_prefix)
        scores = self._processed(logits.float() if logits.dtype != torch.float64 else logits, prefixes).double()
        best = (
            scores.amax(dim=-1, keepdim=True) if self.params.greedy else torch.logsumexp(scores, dim=-1, keepdim=True)
        )
        return scores - best

    def scores(self, logits: Any, prefix: Sequence[int]) -> Any:
        """(V,) law of the next token after `prefix`, from (V,) logits; the logits where greedy decoding reads them."""
        if self.params.greedy and self.follows:
            return logits
        if self.plain and not self.params.greedy:
            scaled = logits.double().numpy(force=True) / self.params.temperature
            weights = np.exp(scaled - scaled.max())
            return weights / weights.sum()
        return self(logits.unsqueeze(0), [prefix])[0].numpy(force=True)


def target_law(
    logits: Any, params: SamplingParams, prefix_tokens: Prefixes | None = None, prompt_tokens: int = 0
) -> Any:
    """Laws that `params` makes of `logits`.

    Parameters
    ----------
    logits : (n, V) torch tensor or array
        Raw logits of a model, of the target or of a draft; half precision is widened to float32 first, as `generate`
        does.
    params : SamplingParams
        The request's own.
    prefix_tokens : sequence of n sequences of int, optional
        Tokens before each row, prompt and path included; only processors that read a prefix need them.
    prompt_tokens : int
        How many of them are the prompt's.

    Returns
    -------
    (n, V) float64, of the same kind as `logits`
        Each row sums to 1; a point mass at temperature 0.

    Raises
    ------
    InvalidInputError
        When `logits` is no matrix, or a penalty lacks its prefixes.
    """
    return TokenLaw(params, prompt_tokens)(logits, prefix_tokens)


def _check_rows(logits: Any, prefixes: Prefixes | None, *, needed: bool) -> None:
    matrix = logits.ndim == 2
    require(matrix, "`logits` must have shape (n, V)", got=tuple(logits.shape), fix="Stack one row a position.")
    given = len(prefixes) == len(logits) if prefixes is not None else not needed
    require(
        given,
        "`prefix_tokens` must have one sequence for each row of `logits` where a penalty reads them",
        got="none" if prefixes is None else f"{len(prefixes)} for {len(logits)} rows",
        fix="Give each row its prompt, its output so far, and the tokens on the path to its node.",
    )
