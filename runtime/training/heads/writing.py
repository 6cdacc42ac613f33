"""Text that the target writes itself: it finishes questions or asks them, and answers, row after row in one batch.

All rows stand at one position, so that no forward is padded: what is given is entered token by token, what is not is
drawn. A conversation goes on with another question until its row is full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.models.base import LanguageModel
from runtime.training.heads.texts import ANSWERED, ASKED, GIVEN, Texts

__all__ = ["Opening", "Turns", "openings", "turns_of", "write"]

ASKING_HEAT = 0.9
LONGEST_ANSWER, LONGEST_QUESTION = 224, 112
HEATS = (0.0, 0.0, 0.0, 0.4, 0.7, 1.0)
"""Temperatures of answers, each as often as it stands here."""


@dataclass(frozen=True)
class Turns:
    """Tokens of a chat template around a conversation's turns.

    Attributes
    ----------
    before : tuple of int
        Up to where the user's first turn begins.
    answer, question : tuple of int
        From the end of the user's turn to where the model answers, and from there to the next question; the first
        token of each ends a turn.
    """

    before: tuple[int, ...]
    answer: tuple[int, ...]
    question: tuple[int, ...]


@dataclass(frozen=True)
class Opening:
    """How a row begins: tokens, the document that they are of, and who goes on.

    Attributes
    ----------
    heat : float
        Temperature of the answers.
    """

    tokens: tuple[int, ...]
    document: int
    asked: bool
    heat: float


def turns_of(tokenizer: Any) -> Turns | None:
    """The turns of a tokenizer's chat template; None where it has none, or its turns do not end alike."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    user, model, again = "FIRST QUESTION", "FIRST ANSWER", "SECOND QUESTION"
    turns = [("user", user), ("assistant", model), ("user", again)]
    whole: str = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False, add_generation_prompt=True
    )
    before, _, rest = whole.partition(user)
    answer, _, rest = rest.partition(model)
    question, _, _ = rest.partition(again)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, answer, question)]
    found = Turns(*(tuple(part) for part in parts))
    alike = bool(found.answer) and bool(found.question) and found.answer[0] == found.question[0]
    return found if alike else None


def openings(
    prompts: Sequence[NDArray[np.int64]],
    turns: Turns | None,
    rows: int,
    longest: int,
    rng: np.random.Generator,
    shares: Sequence[float] | None = None,
) -> list[Opening]:
    """How `rows` rows begin: half with a prompt cut short, a quarter with a whole one, a quarter with none.

    Without a chat template every row begins with a prompt, whole or cut, and goes on as text.

    Parameters
    ----------
    prompts : sequence of (P,) int64
        As the chat template makes them; those longer than `longest` are left out.
    shares : sequence of float, optional
        How often each prompt is taken, beside the others; alike when left out.
    """
    fits = [(number, prompt) for number, prompt in enumerate(prompts) if len(prompt) <= longest]
    weights = np.array([1.0 if shares is None else shares[number] for number, _ in fits])
    found: list[Opening] = []
    for row in range(rows):
        heat = HEATS[row % len(HEATS)]
        number, prompt = (
            fits[int(rng.choice(len(fits), p=weights / weights.sum()))] if fits else (0, np.zeros(0, np.int64))
        )
        whole = tuple(prompt.tolist())
        if turns is None:
            cut = int(rng.integers(1, len(whole) + 1)) if whole else 0
            found.append(Opening(whole[:cut], number, False, heat))
            continue
        first, last = len(turns.before), len(whole) - len(turns.answer)
        kind = rng.random()
        if kind < 0.25 or last <= first:
            found.append(Opening(turns.before, len(prompts) + row, True, heat))
        elif kind < 0.5:
            found.append(Opening(whole, number, False, heat))
        else:
            found.append(Opening(whole[: int(rng.integers(first + 1, last + 1))], number, True, heat))
    return found


@torch.inference_mode()
def write(
    model: LanguageModel,
    begun: Sequence[Opening],
    turns: Turns | None,
    length: int,
    *,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> Texts:
    """Rows of `length` tokens, one for each opening.

    Parameters
    ----------
    tell : callable, optional
        Told how many tokens a row has, of how many.
    """
    device, rows = model.device, len(begun)
    state = _Rows(begun, turns, length, device)
    draw = torch.Generator(device).manual_seed(seed)
    cache = model.new_cache(rows, length)
    cache.fit(rows, length)
    for place in range(length - 1):
        cache.begin([place] * rows, 1)
        positions = torch.full((rows, 1), place, device=device)
        logits = model.logits(state.tokens[:, place : place + 1], positions, None, cache)[:, 0]
        cache.lengths[:rows] = place + 1
        state.take(place + 1, _drawn(logits, state.heat, draw))
        if tell is not None:
            tell(place + 2, length)
    documents = np.array([one.document for one in begun], dtype=np.int64)
    heats = np.array([one.heat for one in begun], dtype=np.float32)
    tokens = state.tokens.cpu().numpy().astype(np.int32)
    return Texts(tokens, state.roles.cpu().numpy(), documents, heats)


def _drawn(logits: torch.Tensor, heat: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """(B,) tokens of (B, V) logits at (B,) temperatures; the likeliest where it is 0."""
    noise = torch.empty(logits.shape, device=logits.device).exponential_(generator=draw).log_()
    return (logits.float() - heat.unsqueeze(1) * noise).argmax(-1)


class _Rows:
    """Rows while they are written: what is forced, whose turn it is, and for how long it has been."""

    def __init__(self, begun: Sequence[Opening], turns: Turns | None, length: int, device: torch.device) -> None:
        rows = len(begun)
        reach = max((len(turns.answer) + len(turns.question)) if turns else 0, 1)
        forced = np.full((rows, length + reach), -1, np.int64)
        for row, one in enumerate(begun):
            given = one.tokens[:length] or (0,)
            forced[row, : len(given)] = given
        self.turns, self.length = turns, length
        self.forced = torch.from_numpy(forced).to(device)
        self.tokens = torch.zeros((rows, length), dtype=torch.int64, device=device)
        self.tokens[:, 0] = self.forced[:, 0]
        self.roles = torch.full((rows, length), GIVEN, dtype=torch.uint8, device=device)
        self.asking = torch.tensor([one.asked for one in begun], device=device)
        self.answering = torch.tensor([one.heat for one in begun], device=device)
        self.since = torch.zeros(rows, dtype=torch.int64, device=device)

    @property
    def heat(self) -> torch.Tensor:
        """(B,) temperatures."""
        return torch.where(self.asking, ASKING_HEAT, self.answering)

    def take(self, place: int, drawn: torch.Tensor) -> None:
        """Write each row's token at `place`: the forced one, or the drawn one."""
        forced = self.forced[:, place]
        free = forced < 0
        self.tokens[:, place] = torch.where(free, drawn, forced)
        wrote = torch.where(self.asking, ASKED, ANSWERED).to(torch.uint8)
        self.roles[:, place] = torch.where(free, wrote, GIVEN)
        self.since += free
        if self.turns is None:
            return
        limit = torch.where(self.asking, LONGEST_QUESTION, LONGEST_ANSWER)
        ended, cut = free & (drawn == self.turns.answer[0]), free & (self.since >= limit)
        for turn, whose in ((self.turns.answer, self.asking), (self.turns.question, ~self.asking)):
            self._force(place + 1, turn[1:], ended & whose)
            self._force(place + 1, turn, cut & ~ended & whose)
        over = ended | cut
        self.asking = self.asking ^ over
        self.since = torch.where(over, 0, self.since)

    def _force(self, place: int, tokens: Sequence[int], rows: torch.Tensor) -> None:
        for offset, token in enumerate(tokens):
            if place + offset < self.forced.shape[1]:
                self.forced[:, place + offset] = torch.where(rows, token, self.forced[:, place + offset])
