"""Imported prompts: one row of a file becomes prompts by the reader of its format, found in a registry."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from reader_theory.documents.base import write_atomically
from reader_theory.errors import InvalidInputError
from reader_theory.registry import Registry

__all__ = [
    "PROMPT_FORMATS",
    "ImportedPrompt",
    "LeftOut",
    "Message",
    "PromptFormat",
    "as_text",
    "cut_at_answer",
    "write_prompts",
]

Message = dict[str, Any]
"""``role`` and ``content``, with ``tool_calls`` or ``tool_call_id`` where there are some."""


@dataclass(frozen=True)
class ImportedPrompt:
    """One prompt: a text that the target continues, or messages that its chat template renders, not both.

    Parameters
    ----------
    id : str
    workload : str
        What it is an example of.
    text : str
        Empty where there are messages.
    messages : tuple of dict
        The conversation up to where the model answers.
    tools : tuple of dict
        JSON schemas of the tools that the request offered.
    reference : str, optional
        The answer that was recorded for it.
    source : str
        Document or conversation that it comes from; prompts of one source are resampled together.
    """

    id: str
    workload: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    reference: str | None = None
    source: str = ""

    def as_row(self) -> dict[str, Any]:
        """The row of a prompts file, without what is empty."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in row.items() if value not in ("", (), None)}


class LeftOut(Exception):
    """A row that is of the format but holds no prompt; the message says why, the same for every such row."""


@dataclass(frozen=True)
class PromptFormat(ABC):
    """A format of rows. Third parties add one by a class of their own and `PROMPT_FORMATS.register`.

    Attributes
    ----------
    name : str
        What `reader import NAME` calls it.
    keys : str
        What its rows hold, in words, for error messages.
    workload : str
        Workload of a row that names none.
    """

    name: ClassVar[str] = ""
    keys: ClassVar[str] = ""
    workload: ClassVar[str] = "default"

    turns: int = field(default=1)
    """Prompts taken of each conversation, from its first answer on."""

    @abstractmethod
    def matches(self, row: Any) -> bool:
        """Whether a row is of this format, by its content alone."""

    @abstractmethod
    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """Prompts of a row that matches, with `name` for an id where it has none.

        Raises
        ------
        LeftOut
            If it holds no prompt.
        """


PROMPT_FORMATS: Registry[type[PromptFormat]] = Registry("prompt format")
"""Formats in the order in which they are tried on a file's first row."""


def as_text(content: Any) -> str:
    """Text of a message's content: itself, or the text parts of a list of parts; nothing for none."""
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)


def cut_at_answer(messages: list[Message], turns: int) -> list[tuple[list[Message], str]]:
    """(messages before an answer to a user, the answer) of the first `turns` answers."""
    answered = [
        i for i, m in enumerate(messages) if i and m["role"] == "assistant" and messages[i - 1]["role"] == "user"
    ]
    return [(messages[:i], messages[i]["content"]) for i in answered[:turns]]


def write_prompts(path: str | Path, prompts: Iterable[ImportedPrompt]) -> Path:
    """Write one JSON line a prompt, whole or not at all; an id that was there before gets a number."""
    lines = (json.dumps(prompt.as_row(), ensure_ascii=False) + "\n" for prompt in distinct(prompts))
    return write_atomically(Path(path), "".join(lines).encode())


def distinct(prompts: Iterable[ImportedPrompt]) -> list[ImportedPrompt]:
    """The same with ids that are there once: a repeated one gets a number that no other has."""
    kept: list[ImportedPrompt] = []
    seen: Counter[str] = Counter()
    taken: set[str] = set()
    for prompt in prompts:
        name = prompt.id
        while name in taken:
            seen[prompt.id] += 1
            name = f"{prompt.id}#{seen[prompt.id] + 1}"
        taken.add(name)
        kept.append(replace(prompt, id=name))
    return kept


def refused(where: str, rule: str, row: Any, fix: str) -> InvalidInputError:
    """A row that breaks its format, with what it holds."""
    held = f"the fields {sorted(map(str, row))[:12]}" if isinstance(row, dict) else f"{str(row)[:80]!r}"
    return InvalidInputError(rule, got=f"{where}: {held}", fix=fix)
