"""ShareGPT and its kin: conversations of turns by a human and a model, as an array or as lines."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import (
    PROMPT_FORMATS,
    ImportedPrompt,
    LeftOut,
    Message,
    PromptFormat,
    as_text,
    cut_at_answer,
)

__all__ = ["ShareGpt"]

_ANSWERERS = ("gpt", "chatgpt", "bing", "bard", "claude", "assistant", "model")


@PROMPT_FORMATS.register
class ShareGpt(PromptFormat):
    """``{"id", "conversations": [{"from", "value"}, ...]}``, or ``conversation`` of ``{"role", "content"}``.

    Each conversation gives a prompt up to each of its first `turns` answers. A turn that no user asked for is never a
    prompt's end.
    """

    name = "sharegpt"
    keys = "`conversations`: turns with `from` and `value`, or `role` and `content`"
    workload = "chat"

    def matches(self, row: Any) -> bool:
        """Whether it has a list of such turns."""
        turns = _turns(row)
        return isinstance(turns, list) and all(_turn(turn) is not None for turn in turns)

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """A prompt an answer, up to the number of turns asked for."""
        messages: list[Message] = [turn for told in _turns(row) or () if (turn := _turn(told)) is not None]
        given = str(row.get("id", row.get("conversation_id", name)))
        found = cut_at_answer(messages, self.turns)
        if not found:
            raise LeftOut("no user's turn that is answered")
        return [
            ImportedPrompt(f"{given}-{number}", "", messages=tuple(before), reference=answer, source=given)
            for number, (before, answer) in enumerate(found)
        ]


def _turns(row: Any) -> Any:
    return row.get("conversations", row.get("conversation")) if isinstance(row, dict) else None


def _turn(turn: Any) -> Message | None:
    if not isinstance(turn, dict):
        return None
    speaker, said = (turn.get("from"), turn.get("value")) if "from" in turn else (turn.get("role"), turn.get("content"))
    if not isinstance(speaker, str) or not ({"value", "content"} & turn.keys()):
        return None
    return {"role": _role(speaker.lower()), "content": as_text(said)}


def _role(speaker: str) -> str:
    if speaker in _ANSWERERS:
        return "assistant"
    return speaker if speaker in ("system", "tool") else "user"
