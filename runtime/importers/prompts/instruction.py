"""Alpaca and Dolly: an instruction, with the text that it is about."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, PromptFormat

__all__ = ["Instruction"]


@PROMPT_FORMATS.register
class Instruction(PromptFormat):
    """``{"instruction", optional "input" or "context", optional "output" or "response"}`` as one user's turn."""

    name = "alpaca"
    keys = "`instruction`, with `input` or `context`, and `output` or `response`"
    workload = "chat"

    def matches(self, row: Any) -> bool:
        """Whether it instructs, in text."""
        return isinstance(row, dict) and isinstance(row.get("instruction"), str)

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The instruction, and below it what it is about."""
        about = row.get("input") or row.get("context") or ""
        asked = "\n\n".join(part for part in (row["instruction"], str(about)) if part.strip())
        if not asked:
            raise LeftOut("an empty instruction")
        answer = row.get("output") or row.get("response")
        turn = {"role": "user", "content": asked}
        given = str(row.get("id", name))
        told = str(row.get("category") or "")
        return [ImportedPrompt(given, told, messages=(turn,), reference=str(answer) if answer else None)]
