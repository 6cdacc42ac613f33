"""OpenAI-style JSON lines: requests with ``messages`` or ``prompt``, bare or in a batch line's ``body``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError, require
from runtime.importers.prompts import ImportedPrompt, Message, Render, load_json, plain

__all__ = ["read_openai_jsonl"]


def read_openai_jsonl(
    path: str | Path, *, workload: str = "chat", limit: int | None = None, render: Render = plain
) -> list[ImportedPrompt]:
    """Prompts of a file with one request a line.

    A line is a chat request (``messages``), a completion request (``prompt``, text or a list of one text), or a batch
    line that holds either in ``body``. A last message of the assistant is the reference, not part of the prompt; of
    a content in parts, the text parts are taken.

    Parameters
    ----------
    path : path
    workload : str
        Workload that the prompts are filed under.
    limit : int, optional
        Prompts taken in all.
    render : callable
        Turns messages into text; see `chat_template`.

    Raises
    ------
    InvalidInputError
        If a line is none of these; the message names it.
    """
    lines = load_json(path, lines=True)[:limit]
    require(bool(lines), "the file must hold a request", got=f"none in `{Path(path).name}`", fix="Pass JSON lines.")
    return [_prompt(number, line, workload, render) for number, line in lines]


def _prompt(number: int, line: Any, workload: str, render: Render) -> ImportedPrompt:
    request = line.get("body", line) if isinstance(line, dict) else None
    if isinstance(request, dict):
        name = str(line.get("custom_id", line.get("id", number)))
        prompt, messages = request.get("prompt"), request.get("messages")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if isinstance(prompt, str):
            return ImportedPrompt(name, workload, prompt)
        if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
            asked, reference = _split([{"role": m["role"], "content": _content(m["content"])} for m in messages])
            if asked:
                return ImportedPrompt(name, workload, render(asked), reference)
    raise InvalidInputError(
        "each line must be a request with `messages` or `prompt`",
        got=f"line {number}: {str(line)[:80]}",
        fix="Pass chat or completion requests, one JSON object a line; token ids are not text.",
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _split(messages: list[Message]) -> tuple[list[Message], str | None]:
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, None
