"""ShareGPT: conversations as JSON, each with turns ``from`` "human" or "gpt"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reader_theory.errors import require
from runtime.importers.prompts import ImportedPrompt, Message, Render, load_json, plain

__all__ = ["read_sharegpt"]

_ANSWERERS = ("gpt", "chatgpt", "bing", "bard", "assistant")


def read_sharegpt(
    path: str | Path, *, workload: str = "chat", turns: int = 1, limit: int | None = None, render: Render = plain
) -> list[ImportedPrompt]:
    """Prompts of a ShareGPT file: each conversation up to the answers of its first `turns` turns.

    Turns other than an answer to a user are never a prompt's end; conversations without one are left out.

    Parameters
    ----------
    path : path
        A JSON array of ``{"id", "conversations": [{"from", "value"}, ...]}``.
    workload : str
        Workload that the prompts are filed under.
    turns : int
        Prompts taken of each conversation, from its first answer on.
    limit : int, optional
        Prompts taken in all.
    render : callable
        Turns messages into text; see `chat_template`.

    Raises
    ------
    InvalidInputError
        If the file is not of this form, or holds no answered conversation.
    """
    prompts: list[ImportedPrompt] = []
    for number, conversation in load_json(path, lines=False):
        messages = _messages(number, conversation)
        answers = [
            i for i, m in enumerate(messages) if i and m["role"] == "assistant" and messages[i - 1]["role"] == "user"
        ]
        name = str(conversation.get("id", number))
        prompts += [
            ImportedPrompt(f"{name}-{turn}", workload, render(messages[:i]), messages[i]["content"])
            for turn, i in enumerate(answers[:turns])
        ]
    require(
        bool(prompts),
        "the file must hold a user's turn that is answered",
        got=f"none in `{Path(path).name}`",
        fix="Pass a file of ShareGPT conversations.",
    )
    return prompts[:limit]


def _messages(number: int, conversation: Any) -> list[Message]:
    turns = conversation.get("conversations") if isinstance(conversation, dict) else None
    told = isinstance(turns, list) and all(
        isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns
    )
    require(
        told,
        'each conversation must have `conversations`: turns with "from" and "value"',
        got=f"conversation {number}: {str(conversation)[:80]}",
        fix="Pass a ShareGPT file as it ships; for `messages`, import it as OpenAI-style JSON lines.",
    )
    return [{"role": _role(turn["from"]), "content": str(turn["value"])} for turn in turns or ()]


def _role(speaker: str) -> str:
    if speaker in _ANSWERERS:
        return "assistant"
    return "system" if speaker == "system" else "user"
