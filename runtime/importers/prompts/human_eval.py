"""HumanEval and its kin: the head of a function, which the model continues."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, PromptFormat

__all__ = ["HumanEval"]


@PROMPT_FORMATS.register
class HumanEval(PromptFormat):
    """``{"task_id", "prompt", "canonical_solution", "test", "entry_point"}``; the prompt is continued as text."""

    name = "humaneval"
    keys = "`prompt` with `task_id`, `entry_point`, `test` or `canonical_solution`"
    workload = "code"

    def matches(self, row: Any) -> bool:
        """Whether it has a prompt, and a field that only such tasks have."""
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            return False
        return bool({"entry_point", "canonical_solution", "test", "task_id"} & row.keys()) and "messages" not in row

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The one prompt of the task."""
        solution = row.get("canonical_solution")
        given = str(row.get("task_id", name))
        return [
            ImportedPrompt(given, "", text=row["prompt"], reference=solution if isinstance(solution, str) else None)
        ]
