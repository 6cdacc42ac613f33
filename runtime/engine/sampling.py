"""What one request asks of the sampler: temperature, filters, penalty, length, stops and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reader_theory.errors import require
from reader_theory.grammar import Language, Validity
from reader_theory.rules import RULES, Rule

__all__ = ["SamplingParams"]


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are chosen.

    Parameters
    ----------
    temperature : float, >= 0
        0 takes the most likely token; otherwise logits are divided by it.
    top_k : int, >= 0
        Keep the `top_k` most likely tokens; 0 keeps all.
    top_p : float, in (0, 1]
        Keep the smallest set of most likely tokens that holds this much probability.
    min_p : float, in [0, 1]
        Drop tokens less likely than this share of the most likely one.
    repetition_penalty : float, > 0
        Above 1, tokens that the prefix holds become less likely; 1 leaves the law alone.
    presence_penalty, frequency_penalty : float, in [-2, 2]
        Taken from the logit of each token that the output so far holds: once, and once for each time it is there; the
        prompt does not count. Negative ones make repetition likelier. At a tree's node the output ends with its path.
    max_new_tokens : int, >= 1
        Tokens after which the request ends.
    stop_token_ids : tuple of int, >= 0
        Tokens that end the request, beside the model's own end-of-sequence tokens; the one that ended it is kept,
        nothing after it is.
    stop : tuple of str
        Texts that end the request as soon as the output holds one, across tokens and steps; the token that completes
        it is kept, `Completion.text` ends before it. Needs a tokenizer.
    ignore_eos : bool
        Go on past the model's end-of-sequence tokens, as benchmarks do.
    seed : int, in [0, 2**64)
        Seed of the request's uniforms, which it alone fixes, whoever else is served. Under ``target_only`` and
        ``gumbel`` it fixes the text too; under rules that draw drafts, seed and policy together do.
    logit_bias : mapping of int to float
        Added to the logits of single tokens.
    bad_words : tuple of tuples of int
        Sequences of tokens that are never completed.
    verification : str
        Name of the rule in `reader_theory.rules.RULES` that verifies drafts when temperature is above 0; at 0 it is
        ``greedy``, the argmax path, unless one is named that decodes greedily too.
        ``target_only`` takes any draft. ``chain``, ``block``, ``multi_round``, ``without_replacement`` and
        ``traversal`` draw drafts from the draft model under this request's temperature, filters and penalty; where the
        policy drafts none from a model, they verify as target_only does. ``gumbel`` couples draft and target by shared
        noise. ``typical_lossy`` changes the law of the text.
    processors : tuple of Processor
        Law processors of this request's own, beside those that its other parameters ask for; they run after the
        penalties and before temperature and filters, unless their `order` says otherwise.
    rule_parameters : mapping of str to a value
        The rule's own parameters, such as `epsilon` and `delta` of ``typical_lossy``; its own defaults when left out.
    language : Language, optional
        Token sequences of which the output must be one, before an end token; where there is no end token, the language
        says where the text ends. Those count whose tokens, end token included, fit `max_new_tokens`.
    validity : str
        ``exact`` draws from the target's law (temperature, filters and end token included) given the language;
        ``mask`` drops tokens that lead out of the language, one token after the other, which is another law;
        ``lookahead:k`` weighs them by what is still in the language k tokens later. At temperature 0, ``exact`` gives
        the string least below the greedy path, which the others come to as the temperature goes to 0.

    Raises
    ------
    InvalidInputError
        When a value lies outside its range.

    Examples
    --------
    >>> SamplingParams(temperature=0.8, top_p=0.95).greedy
    False
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_new_tokens: int = 128
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float], hash=False)
    bad_words: tuple[tuple[int, ...], ...] = ()
    seed: int = 0
    verification: str = "target_only"
    processors: tuple[Any, ...] = ()
    rule_parameters: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    language: Language | None = None
    validity: str = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "bad_words", tuple(tuple(word) for word in self.bad_words))
        object.__setattr__(self, "processors", tuple(self.processors))
        require(
            all(isinstance(text, str) and text for text in self.stop),
            "`stop` must hold texts that are not empty",
            got=repr(self.stop),
            fix="Leave it out when no text ends the request.",
        )
        require(
            all(callable(each) and hasattr(each, "keeps_argmax") for each in self.processors),
            "`processors` must hold law processors",
            got=", ".join(type(each).__name__ for each in self.processors),
            fix="Derive a class from `runtime.engine.processors.Processor`, and give instances of it.",
        )
        _between("temperature", self.temperature, 0.0, math.inf, "Use 0 for the most likely token, 1 for the raw law.")
        _between("top_p", self.top_p, 0.0, 1.0, "Use 1 to keep every token.", open_low=True)
        _between("min_p", self.min_p, 0.0, 1.0, "Use 0 to keep every token.")
        _between("repetition_penalty", self.repetition_penalty, 0.0, math.inf, "Use 1 for none.", open_low=True)
        for name in ("presence_penalty", "frequency_penalty"):
            _between(name, getattr(self, name), -2.0, 2.0, "Use 0 for none.")
        _whole("top_k", self.top_k, 0, "Use 0 to keep every token.")
        _whole("max_new_tokens", self.max_new_tokens, 1, "A request without new tokens needs no engine.")
        _whole("seed", self.seed, 0, "Take a seed from 0 to 2**64 - 1.", high=2**64 - 1)
        names = [rule.name for rule in RULES if self.greedy or rule.decodes == "sampling"]
        require(
            self.verification in names,
            f"`verification` must be one of {', '.join(names)}",
            got=repr(self.verification),
            fix="Use target_only, which verifies any draft without loss.",
        )
        RULES[self.verification].having(self.rule_parameters)
        Validity.of(self.validity)
        require(
            self.language is None or not self.stop,
            "`stop` must be left out where a `language` says how a text ends",
            got=repr(self.stop),
            fix="Leave the texts out, or write them into the language.",
        )
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0, "Leave the tuple empty when nothing but the length ends the request.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @cached_property
    def rule(self) -> Rule:
        """Rule that verifies the drafts, with its parameters."""
        asked = RULES[self.verification].having(self.rule_parameters)
        return RULES["greedy"] if self.greedy and asked.decodes != "greedy" else asked

    @property
    def lossless(self) -> bool:
        """Whether the output has exactly the target's law."""
        return self.rule.lossless

    @property
    def law(self) -> str:
        """The law of which the output is drawn: the target's own, or what becomes of it under a language."""
        return "target" if self.language is None else Validity.of(self.validity).law


def _between(name: str, value: float, low: float, high: float, fix: str, *, open_low: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = number and (low < value if open_low else low <= value) and value <= high
    rule = f"`{name}` must be a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
    require(bool(inside), rule, got=repr(value), fix=fix)


def _whole(name: str, value: int, low: int, fix: str, *, high: int = 2**31 - 1) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    require(whole, f"`{name}` must be a whole number from {low} to {high}", got=repr(value), fix=fix)
