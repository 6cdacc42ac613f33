"""GSM8K, MATH and other sets of a question with its answer."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, PromptFormat

__all__ = ["Question"]


@PROMPT_FORMATS.register
class Question(PromptFormat):
    """``{"question" or "problem", optional "context", "answer" or "solution"}``: a user's turn, what answers it."""

    name = "gsm8k"
    keys = "`question` or `problem`, with `answer` or `solution`"
    workload = "math"

    def matches(self, row: Any) -> bool:
        """Whether it asks something, in text."""
        return isinstance(row, dict) and isinstance(row.get("question", row.get("problem")), str)

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The question as a user's turn."""
        parts = [row.get("context"), row.get("question", row.get("problem"))]
        asked = "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())
        if not asked:
            raise LeftOut("an empty question")
        answer = row.get("answer", row.get("solution"))
        given = str(row.get("id", row.get("question_id", name)))
        turn = {"role": "user", "content": asked}
        return [ImportedPrompt(given, "", messages=(turn,), reference=answer if isinstance(answer, str) else None)]
