"""A request: its prompt, what it asked for, what it has so far, and how it ended; or why it cannot be served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.grammar import Validity
from reader_theory.rules.base import At
from reader_theory.rules.draft_law import Scheme
from reader_theory.rules.greedy import Greedy
from reader_theory.rules.judge import JudgeLossy
from reader_theory.rules.streams import Stream, stream_uniforms
from reader_theory.rules.target_only import TargetOnly
from runtime.engine import grammar  # noqa: F401  # registers its processor
from runtime.engine.course import Course
from runtime.engine.processors import Served, TokenLaw
from runtime.engine.sampling import SamplingParams
from runtime.models.text import encode_text

__all__ = ["Completion", "Request", "Streams"]

Streams = Callable[[Stream, int, int], NDArray[np.float64]]
"""(stream, step or position, count) -> that many uniforms; the same arguments give the same numbers."""


@dataclass(frozen=True)
class Completion:
    """What a request came to.

    Attributes
    ----------
    tokens : list of int
        Emitted tokens, the stop token included.
    finish : str
        ``"length"``, ``"stop"``, ``"cancelled"`` or ``"error: ..."``.
    steps : int
        Decoding steps; the first token comes from the prompt's forward and is none.
    accepted : int
        Draft tokens emitted.
    verification : str
        Rule that verified its drafts.
    lossless : bool
        Whether that rule keeps the law.
    law : str
        What that law is: ``"target"``, or what becomes of the target's under a language.
    """

    id: str
    prompt_tokens: int
    tokens: list[int]
    finish: str
    steps: int
    accepted: int
    text: str | None = None
    verification: str = "greedy"
    lossless: bool = True
    law: str = "target"


@dataclass(eq=False)
class Request:
    """State of a request while it is served."""

    id: str
    number: int
    prompt: NDArray[np.int64]
    params: SamplingParams
    uniforms: NDArray[np.float64]
    streams: Streams
    output: list[int] = field(default_factory=list)
    steps: int = 0
    accepted: int = 0
    finish: str | None = None
    tenant: str = ""
    suspect: bool = False
    """Whether its last step came to nothing: the next one runs without drafts."""
    stops: tuple[int, ...] = ()
    """Tokens that end it: its own, and the model's end-of-sequence tokens."""
    tokenizer: Any = None
    course: Course | None = None
    """Its way through its language, where it has one."""
    logits: Any = None
    """(V,) after the prompt, of one whose whole text is yet to be drawn."""

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.finish is not None

    @cached_property
    def token_law(self) -> TokenLaw:
        """The law that it samples from."""
        return TokenLaw(self.params, served=self._served)

    @property
    def _served(self) -> Served:
        return Served(len(self.prompt), self.stops, course=self.course)

    @cached_property
    def draft_law(self) -> TokenLaw:
        """The law that its drafts are taken from: of its language they keep the mask."""
        return (
            TokenLaw(self.params, served=self._served._replace(drafting=True)) if self.constrained else self.token_law
        )

    @cached_property
    def sampler_law(self) -> TokenLaw:
        """The law that it would sample from without its language."""
        return (
            TokenLaw(replace(self.params, language=None), served=self._served) if self.constrained else self.token_law
        )

    @property
    def constrained(self) -> bool:
        """Whether its output must lie in a language."""
        return self.params.language is not None

    @property
    def whole(self) -> bool:
        """Whether its text is drawn as a whole, of the target's law after every prefix of its language."""
        return self.course is not None and self.course.validity.faithful

    def lies_within(self, tokens: Sequence[int]) -> bool:
        """Whether what it emitted so far, with `tokens` behind it, may be emitted."""
        return self.course is None or self.course.lies_within((*self.output, *tokens))

    @cached_property
    def follows(self) -> bool:
        """Whether kernels walk its drafts: greedy on the model's own logits, or target only on the plain softmax."""
        rule, law = type(self.params.rule), self.token_law
        return (rule is TargetOnly and law.plain) or (rule is Greedy and law.follows)

    @property
    def judged(self) -> bool:
        """Whether a fitted judge verifies it."""
        rule = self.params.rule
        return isinstance(rule, JudgeLossy) and rule.classifier is not None

    def read_law(self, logits: Any, prefixes: Sequence[Sequence[int]] | None) -> Any:
        """(n, V) laws its rule reads: at temperature 1 where it decodes greedily and reads more than that."""
        if not self.params.greedy:
            return self.token_law(logits, prefixes)
        return self.token_law.log_scores(logits, prefixes).softmax(dim=-1)

    @property
    def scheme(self) -> Scheme:
        """How its rule wants drafts drawn."""
        return self.params.rule.scheme

    @property
    def reads_prefix(self) -> bool:
        """Whether its law reads the tokens before."""
        return self.token_law.reads_prefix

    def law(self, logits: Any, prefixes: Sequence[Sequence[int]] | None) -> Any:
        """(n, V) laws that a draft of it is drawn from; the logits themselves where it takes the likeliest."""
        if self.params.greedy:
            return self.draft_law.log_scores(logits, prefixes) if self.constrained else logits.double()
        return self.draft_law(logits, prefixes)

    @property
    def room(self) -> int:
        """Tokens that it may still emit."""
        return self.params.max_new_tokens - len(self.output)

    @property
    def length(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt) + len(self.output)

    @property
    def most_tokens(self) -> int:
        """Tokens that its row holds at the end."""
        return len(self.prompt) + self.params.max_new_tokens

    def numbers_at(self, position: int) -> At:
        """Numbers of an output position, by stream."""
        own = self.uniforms[position : position + 1]
        return lambda stream, count: own if stream == "recovery" else self.streams(stream, position, count)

    @property
    def text(self) -> list[int]:
        """Prompt and output so far."""
        return [*self.prompt.tolist(), *self.output]

    def emit(self, tokens: list[int]) -> list[int]:
        """Append `tokens` up to a stop token or the length; returns those that were appended."""
        stops = self.stops
        kept = tokens[: self.room]
        if stops:
            end = next((i for i, token in enumerate(kept) if token in stops), None)
            if end is not None:
                kept, self.finish = kept[: end + 1], "stop"
        if self.params.stop:
            kept = self._up_to_stop(kept)
        if self.course is not None and not stops:
            kept = self._up_to_end(kept, self.course)
        self.output.extend(kept)
        if self.finish is None and self.room <= 0:
            self.finish = "length"
        return kept

    def _up_to_stop(self, tokens: list[int]) -> list[int]:
        """`tokens` up to the one that completes a stop text; it may have begun in what was emitted before."""
        longest = max(len(text.encode()) for text in self.params.stop)
        before = self.output[-(longest + 8) :] if self.output else []

        def complete(count: int) -> bool:
            text = self.tokenizer.decode([*before, *tokens[:count]])
            return any(stop in text for stop in self.params.stop)

        if not complete(len(tokens)):
            return tokens
        end = next(count for count in range(1, len(tokens) + 1) if complete(count))
        self.finish = "stop"
        return tokens[:end]

    def _up_to_end(self, tokens: list[int], course: Course) -> list[int]:
        """`tokens` up to where its language ends the text."""
        for count in range(1, len(tokens) + 1):
            if course.ended((*self.output, *tokens[:count])):
                self.finish = "stop"
                return tokens[:count]
        return tokens

    def _text(self, tokenizer: Any) -> str:
        text = tokenizer.decode(list(self.output))
        ends = [place for stop in self.params.stop if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def completion(self, tokenizer: Any = None) -> Completion:
        """What it came to, its text with it where there is a tokenizer."""
        done = Completion(
            self.id,
            len(self.prompt),
            list(self.output),
            self.finish or "cancelled",
            self.steps,
            self.accepted,
            verification=self.params.rule.name,
            lossless=self.params.lossless,
            law=self.params.law,
        )
        return done if tokenizer is None else replace(done, text=self._text(tokenizer))

    def refusal(self, vocabulary: int, max_context: int) -> str | None:
        """How it ends where no engine of this vocabulary and context can serve it; None when it can."""
        tokens = self.prompt
        if self.finish is not None:
            return self.finish
        if not len(tokens):
            return "error: the prompt must have at least one token"
        bad = np.flatnonzero((tokens < 0) | (tokens >= vocabulary))
        if len(bad):
            return f"error: token ids must be in [0, {vocabulary}). Got {tokens[bad[0]]} at {bad[0]}"
        language = self.params.language
        if language is not None and language.vocabulary > vocabulary:
            return f"error: tokens of a language must be below {vocabulary}. Got {language.vocabulary - 1}"
        need = self.most_tokens
        return (
            f"error: prompt and new tokens must stay below {max_context}. Got {need}" if need >= max_context else None
        )

    @classmethod
    def of(
        cls,
        prompt: str | ArrayLike,
        params: SamplingParams,
        number: int,
        *,
        id: str | None = None,
        stream: int = 0,
        uniforms: ArrayLike | None = None,
        streams: Streams | None = None,
        tokenizer: Any = None,
        end_tokens: tuple[int, ...] = (),
        alike: int | None = None,
        fingerprint: str = "",
    ) -> Request:
        """A request on a prompt; numbers that are not given are drawn from its seed. Ended where an argument is odd.

        `alike` is how many tokens the target's law depends on, None for all; `fingerprint` is that of its tokenizer.
        """
        drawn = 0 if params.greedy else params.max_new_tokens
        tokens, finish = np.empty(0, dtype=np.int64), None
        try:
            tokens = encode(prompt, tokenizer)
            require(
                not params.stop or tokenizer is not None,
                "`stop` must come with a tokenizer",
                got="texts, and an engine without one",
                fix="Open the engine with `tokenizer=`, or give `stop_token_ids`.",
            )
            given = None if uniforms is None else _uniforms(uniforms, params.max_new_tokens)
        except InvalidInputError as error:
            given, finish = None, f"error: {error}"
        if given is None:
            given = stream_uniforms(params.seed, stream, 0, "recovery", drawn)
        streams = streams or partial(_stream, params.seed, stream)
        stops = params.stop_token_ids if params.ignore_eos else (*params.stop_token_ids, *end_tokens)
        request = cls(id or str(number), number, tokens, params, given, streams, finish=finish)
        request.stops, request.tokenizer = tuple(stops), tokenizer
        if params.language is not None and request.finish is None:
            request._enter(alike, fingerprint)
        return request

    def _enter(self, alike: int | None, fingerprint: str) -> None:
        """Begin its way through its language; ended where that cannot be served."""
        language = self.params.language
        assert language is not None
        before = tuple(self.prompt.tolist())
        if self.sampler_law.reads_prefix:
            alike = None
        try:
            require(
                not (language.tokenizer and fingerprint) or language.tokenizer == fingerprint,
                "`language` must be written in the tokens of the engine's tokenizer",
                got=f"tokenizer {language.tokenizer}, where the engine has {fingerprint}",
                fix="Read the language again with the target's own tokenizer.",
            )
            self.course = Course(
                language,
                Validity.of(self.params.validity),
                self.params.max_new_tokens,
                self.stops,
                greedy=self.params.greedy,
                alike=alike,
                before=before,
            )
        except InvalidInputError as error:
            self.finish = f"error: {error}"


def _uniforms(given: ArrayLike, count: int) -> NDArray[np.float64]:
    """`given` as an array; exact numbers (objects that decide comparisons, say) stay what they are."""
    exact = isinstance(given, np.ndarray) and given.dtype == object
    found: NDArray[Any]
    try:
        found = np.asarray(given) if exact else np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    outside = [] if exact else found[~((found >= 0) & (found < 1))].tolist()
    require(
        found.shape == (count,) and not outside,
        f"`uniforms` must hold {count} numbers in [0, 1), one an output token",
        got=f"shape {found.shape}" + (f", {outside[0]} among them" if outside else ""),
        fix="Leave them out to have them drawn from the seed.",
    )
    return found


def _stream(seed: int, number: int, stream: Stream, at: int, count: int) -> NDArray[np.float64]:
    return stream_uniforms(seed, number, at, stream, count)


def encode(prompt: str | ArrayLike, tokenizer: Any) -> NDArray[np.int64]:
    """(P,) token ids of a prompt."""
    if isinstance(prompt, str):
        require(
            tokenizer is not None,
            "a prompt given as text must come with a tokenizer",
            got="a str, and an engine without one",
            fix="Pass `tokenizer=`, or token ids.",
        )
        prompt = encode_text(tokenizer, prompt)
    try:
        tokens = np.asarray(prompt)
    except (TypeError, ValueError):
        tokens = np.array(None)
    whole = tokens.ndim == 1 and (tokens.dtype.kind in "iu" or not tokens.size)
    require(
        whole,
        "a prompt must be one sequence of whole numbers, or a text",
        got=f"shape {tokens.shape} of {tokens.dtype}",
        fix="Give each prompt of a batch by itself, as token ids or as a str.",
    )
    return tokens.astype(np.int64)
