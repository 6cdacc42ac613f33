"""Imported prompts: conversations flattened to the text that a target continues, one JSON line each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reader_theory.documents.base import write_atomically
from reader_theory.errors import InvalidInputError, require

__all__ = ["ImportedPrompt", "Message", "Render", "chat_template", "load_json", "plain", "write_prompts"]

Message = dict[str, str]
"""``role`` ("system", "user" or "assistant") and ``content``."""

Render = Callable[[list[Message]], str]
"""Turns the messages before an answer into the text that the target continues."""


@dataclass(frozen=True)
class ImportedPrompt:
    """One prompt, and the answer that was recorded for it, if there was one."""

    id: str
    workload: str
    text: str
    reference: str | None = None


def plain(messages: list[Message]) -> str:
    """The messages' contents alone, a blank line between them: for base models, which know no roles."""
    return "\n\n".join(message["content"] for message in messages)


def chat_template(folder: str) -> Render:
    """Render by the chat template of the tokenizer in `folder`.

    Raises
    ------
    InvalidInputError
        If the tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    require(
        bool(tokenizer.chat_template),
        "`tokenizer` must have a chat template",
        got=f"`{folder}` without one",
        fix="Leave it out: messages are then joined as plain text.",
    )
    return lambda messages: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def load_json(path: str | Path, *, lines: bool) -> list[tuple[int, Any]]:
    """(number, value) of each JSON line of `path`, or of each item of its one array.

    Raises
    ------
    InvalidInputError
        If the file is missing or a line is not JSON; the message names the line.
    """
    path = Path(path)
    require(path.is_file(), "the file must exist", got=f"`{path}`", fix="Check the path.", error=InvalidInputError)
    text = path.read_text(encoding="utf-8")
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()] if lines else [(1, text)]
    values = [(number, _parsed(path, number, line)) for number, line in numbered]
    if lines:
        return values
    require(
        isinstance(values[0][1], list),
        f"`{path.name}` must hold one JSON array",
        got=type(values[0][1]).__name__,
        fix="Pass the file as the data set ships it.",
    )
    return list(enumerate(values[0][1], 1))


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"`{path.name}` must be JSON",
            got=f"{error.msg} in line {number + error.lineno - 1}",
            fix="Pass a whole file.",
        ) from None


def write_prompts(path: str | Path, prompts: Iterable[ImportedPrompt]) -> Path:
    """Write one JSON line a prompt, whole or not at all; an id that was there before gets a number."""
    seen: Counter[str] = Counter()
    lines: list[str] = []
    for prompt in prompts:
        seen[prompt.id] += 1
        name = prompt.id if seen[prompt.id] == 1 else f"{prompt.id}#{seen[prompt.id]}"
        lines.append(json.dumps(asdict(replace(prompt, id=name)), ensure_ascii=False) + "\n")
    return write_atomically(Path(path), "".join(lines).encode())
