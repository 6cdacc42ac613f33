"""This package's own rows, any row with a ``text``, and plain text: a prompt a line."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, PromptFormat

__all__ = ["NativeRow"]


@PROMPT_FORMATS.register
class NativeRow(PromptFormat):
    """``{"text" or "messages", optional "id", "workload", "source", "tools", "reference"}``, or a string."""

    name = "text"
    keys = "a `text` that is not empty, with `id`, `workload` and `source` if you like, or plain text, a prompt a line"
    workload = "default"

    def matches(self, row: Any) -> bool:
        """Whether it is a string, or has a text."""
        text = row.get("text") if isinstance(row, dict) else row
        return isinstance(text, str) and bool(text.strip())

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The one prompt of the row."""
        told = {"text": row} if isinstance(row, str) else row
        given = next((told[key] for key in ("id", "task_id", "question_id") if told.get(key) not in (None, "")), name)
        reference = told.get("reference")
        return [
            ImportedPrompt(
                str(given),
                str(told.get("workload") or ""),
                text=told["text"],
                reference=reference if isinstance(reference, str) else None,
                source=str(told.get("source") or ""),
            )
        ]
