"""The denoiser: reverse steps of a masked diffusion, their clean tokens drawn by the chain rule, drafted in parallel.

A step from X_t draws X0 at all masked places from p(X0^i | X_t, X0^{<i}), left to right, and masks each again with the
probability that the schedule says. One forward gives laws of all places that do not see each other: drafts, or what a
draft head makes them from. A window of w drafts is verified by a batch of w forwards, each with the drafts before its
place filled in. A round is one batch, and rounds and forwards are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules import VerifyUniforms, WindowRejection
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import Stream, stream_uniforms
from runtime.diffusion.model import MaskedModel
from runtime.diffusion.params import DiffusionParams

__all__ = ["Denoiser", "Filled", "Tally"]

Uniforms = Callable[[Stream, int], NDArray[Any]]
"""(stream, count) -> that many numbers in [0, 1), new ones at each call."""

Window = tuple[list[int], NDArray[Any]]
"""Drafts of w places, and the laws that they are drawn from, (w, V)."""

RULE = WindowRejection()


@dataclass
class Tally:
    """What a run did so far, by denoising step.

    Attributes
    ----------
    drawn, rounds, forwards : (S,) int64
        Tokens drawn, which is also the rounds and forwards that one token at a time would take; batches run one after
        the other; rows in them.
    examined, overlap : (S, w) int64 and float64
        How often a place of a window was verified, those before it kept, and the sum of 1 - TV(p, q) there, which is
        the probability that its draft is kept.
    """

    drawn: NDArray[np.int64]
    rounds: NDArray[np.int64]
    forwards: NDArray[np.int64]
    examined: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @classmethod
    def of(cls, params: DiffusionParams) -> Tally:
        """Nothing done yet."""
        drawn, rounds, forwards = np.zeros((3, params.steps), dtype=np.int64)
        shape = params.steps, params.window
        return cls(drawn, rounds, forwards, np.zeros(shape, dtype=np.int64), np.zeros(shape))


@dataclass(frozen=True)
class Filled:
    """A row whose masked tokens were filled in.

    Attributes
    ----------
    tokens : (T,) int64
        Prompt and text.
    prompt_tokens : int
        Tokens before the text.
    tally : Tally
    """

    tokens: NDArray[np.int64]
    prompt_tokens: int
    tally: Tally = field(repr=False)

    @property
    def text_tokens(self) -> list[int]:
        """Tokens after the prompt."""
        return self.tokens[self.prompt_tokens :].tolist()


class Denoiser:
    """Fills in masked tokens by a masked model.

    Examples
    --------
    >>> from runtime.models.house import house_folder
    >>> from runtime.diffusion import load_masked
    >>> denoiser = Denoiser(load_masked(house_folder("diffusion")))
    >>> done = denoiser.generate([[309, 13, 91]], DiffusionParams(new_tokens=8, steps=2, window=4))
    >>> len(done[0].text_tokens), int(done[0].tally.rounds.sum()) <= int(done[0].tally.drawn.sum())
    (8, True)
    """

    def __init__(self, model: MaskedModel) -> None:
        self.model = model

    def generate(self, prompts: Sequence[ArrayLike], params: DiffusionParams) -> list[Filled]:
        """A text after each prompt; see `texts`."""
        return list(self.texts(prompts, params))

    def texts(self, prompts: Sequence[ArrayLike], params: DiffusionParams) -> Iterator[Filled]:
        """A text after each prompt, one after the other; all prompts are checked before the first is begun.

        A prompt's own masked tokens are filled in as well.

        Raises
        ------
        InvalidInputError
            When a prompt is empty or too long, or holds what is no token.
        """
        masks = np.full(params.new_tokens, self.model.mask_token, dtype=np.int64)
        held = [self._tokens(prompt, f"prompt {number}", len(masks)) for number, prompt in enumerate(prompts)]
        rows = [np.concatenate((prompt, masks)) for prompt in held]
        for number, row in enumerate(rows):
            self._masked(row, f"prompt {number}", params)
        return (
            self._filled(row, len(prompt), params, _numbered(params.seed, number))
            for number, (prompt, row) in enumerate(zip(held, rows, strict=True))
        )

    def fill(
        self, row: ArrayLike, params: DiffusionParams, *, request: int = 0, uniforms: Uniforms | None = None
    ) -> Filled:
        """Fill in the masked tokens of a row, wherever they stand.

        Parameters
        ----------
        row : (T,) int64
            With the mask token where a token is to be drawn; `params.new_tokens` is not read.
        request : int
            Whose uniforms these are.
        uniforms : callable, optional
            In place of those that seed and request give.

        Raises
        ------
        InvalidInputError
            When no token is masked, or fewer than there are denoising steps, or the row is too long.
        """
        held = self._tokens(row, "row", 0)
        first = int(self._masked(held, "row", params)[0])
        return self._filled(held, first, params, uniforms or _numbered(params.seed, request))

    def _filled(self, row: NDArray[np.int64], prompt: int, params: DiffusionParams, uniforms: Uniforms) -> Filled:
        tally = Tally.of(params)
        for step in range(params.steps):
            row = self.step(row, params, step, uniforms, tally)
        return Filled(row, prompt, tally)

    def step(
        self,
        row: NDArray[np.int64],
        params: DiffusionParams,
        step: int,
        uniforms: Uniforms,
        tally: Tally | None = None,
    ) -> NDArray[np.int64]:
        """One denoising step, number `step` of `params.steps`: the row with fewer masked tokens."""
        masked = np.flatnonzero(row == self.model.mask_token)
        if not len(masked):
            return row
        counted = tally or Tally.of(params)
        clean = self._clean(row, masked, params, uniforms, (counted, step))
        left = params.steps - step
        again = np.array([bool(number * left < left - 1) for number in uniforms("remasking", len(masked))])
        return np.where(np.isin(np.arange(len(row)), masked[again]), self.model.mask_token, clean)

    def _clean(
        self,
        row: NDArray[np.int64],
        masked: NDArray[np.int64],
        params: DiffusionParams,
        uniforms: Uniforms,
        count: tuple[Tally, int],
    ) -> NDArray[np.int64]:
        """The row with every masked token drawn."""
        tally, step = count
        tally.drawn[step] += len(masked)
        filled = row.copy()
        whole = not params.lossless or params.drafts == "step"
        own, ahead = self._look(row[None], masked[None] if whole else _ahead(masked, 1, params), params, count)
        if not params.lossless:
            filled[masked] = _draw([own[0], *ahead[0]], uniforms("drafting", len(masked)))
            return filled
        filled[masked[0]] = pick_token(own[0], uniforms("recovery", 1)[0])
        seen, done = ahead[0], 1
        while done < len(masked):
            places = masked[done : done + params.window]
            drafts = self._drafted(filled, places, seen, params, uniforms("drafting", len(places)))
            emitted, ahead = self._round(filled, masked[done:], drafts, params, uniforms, count)
            filled[masked[done : done + len(emitted)]] = emitted
            done += len(emitted)
            seen = seen[len(emitted) :] if whole else ahead[len(emitted) - 1]
        return filled

    def _drafted(
        self,
        filled: NDArray[np.int64],
        places: NDArray[np.int64],
        seen: Sequence[Any],
        params: DiffusionParams,
        numbers: NDArray[Any],
    ) -> Window:
        """Drafts of a window and the laws that they are drawn from: those of a forward, or its draft head's."""
        if not params.by_head:
            return _draw(seen[: len(places)], numbers), np.asarray(seen[: len(places)])
        row, offers = filled.copy(), list[NDArray[Any]]()
        back = 1 + np.arange(self.model.head_sees)
        for place, state, number in zip(places, seen, numbers, strict=False):
            before = row[np.maximum(place - back, 0)]
            offers.append(self.model.head_law(state, tuple(before.tolist()), params))
            row[place] = pick_token(offers[-1], number)
        return row[places].tolist(), np.array(offers)

    def _round(
        self,
        filled: NDArray[np.int64],
        places: NDArray[np.int64],
        window: Window,
        params: DiffusionParams,
        uniforms: Uniforms,
        count: tuple[Tally, int],
    ) -> tuple[tuple[int, ...], Sequence[Any]]:
        """Verify a window: its tokens, and what each of its forwards saw of the places ahead."""
        (drafts, offers), (tally, step) = window, count
        size = len(drafts)
        rows = np.tile(filled, (size, 1))
        for place in range(size - 1):
            rows[place + 1 :, places[place]] = drafts[place]
        asked = places[:size, None] if params.drafts == "step" else _ahead(places, size, params)
        laws, ahead = self._look(rows, asked, params, count)
        numbers = VerifyUniforms(uniforms("acceptance", size + 1), uniforms("recovery", size + 1))
        emitted = RULE.verify(drafts, offers, laws, numbers).emitted
        for place in range(len(emitted)):
            tally.examined[step, place] += 1
            tally.overlap[step, place] += float(RULE.acceptance(laws[place], offers[place])[0])
        return emitted, ahead

    def _look(
        self, rows: NDArray[np.int64], places: NDArray[np.int64], params: DiffusionParams, count: tuple[Tally, int]
    ) -> tuple[NDArray[Any], Sequence[Any]]:
        """(B, V) laws of each row's first place, and by row what drafts of its other places are drawn from."""
        tally, step = count
        tally.rounds[step] += 1
        tally.forwards[step] += len(rows)
        if params.by_head:
            laws, ahead = self.model.look(rows, places[:, :1], places[:, 1:], params)
            return laws[:, 0], ahead
        laws = self.model.laws(rows, places, params)
        return laws[:, 0], list(laws[:, 1:])

    def _tokens(self, values: ArrayLike, name: str, new_tokens: int) -> NDArray[np.int64]:
        tokens, most = np.asarray(values), self.model.max_positions - new_tokens
        whole = tokens.ndim == 1 and tokens.size > 0 and np.issubdtype(tokens.dtype, np.integer)
        outside = tokens[(tokens < 0) | (tokens >= self.model.vocabulary)] if whole else tokens.ravel()
        require(
            bool(whole) and outside.size == 0,
            f"{name} must hold at least one token, each from 0 to {self.model.vocabulary - 1}",
            got=f"shape {tokens.shape}, {outside[:3].tolist()}",
            fix="Encode it by the model's own tokenizer.",
        )
        require(
            len(tokens) <= most,
            f"prompt and new tokens must fit the model's {self.model.max_positions} positions",
            got=f"{len(tokens)} and {new_tokens} in {name}",
            fix=f"Cut it to {most} tokens, or ask for fewer new ones." if most > 0 else "Ask for fewer new tokens.",
        )
        return tokens.astype(np.int64)

    def _masked(self, row: NDArray[np.int64], name: str, params: DiffusionParams) -> NDArray[np.int64]:
        """Masked places of a row, checked with what is asked of them."""
        require(
            not params.by_head or self.model.head_sees > 0,
            "`drafts` must be round or step where a model has no draft head",
            got=f"head, of {self.model.name}",
            fix="Use round, or a model whose folder holds one.",
        )
        masked = np.flatnonzero(row == self.model.mask_token)
        params.check_masked(len(masked))
        require(
            masked[0] >= self.model.first_place,
            f"the first {self.model.first_place} tokens must be known: a law is read off the place before its own",
            got=f"{name} masked at {masked[0]}",
            fix="Begin with a token, such as the one that ends a text.",
        )
        return masked


def _ahead(places: NDArray[np.int64], rows: int, params: DiffusionParams) -> NDArray[np.int64]:
    """(rows, 1 + w) places that each forward of a round is asked for: its own, then the window after it."""
    wanted = np.arange(rows)[:, None] + np.arange(params.window + 1)
    return places[np.minimum(wanted, len(places) - 1)]


def _draw(laws: Sequence[Any], uniforms: NDArray[Any]) -> list[int]:
    return [pick_token(law, number) for law, number in zip(laws, uniforms, strict=True)]


def _numbered(seed: int, request: int) -> Uniforms:
    """Numbers of a request: each call has a step of its own."""
    calls = iter(range(1 << 62))
    return lambda stream, count: stream_uniforms(seed, request, next(calls), stream, count)
