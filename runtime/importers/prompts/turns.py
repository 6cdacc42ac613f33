"""MT-Bench and Spec-Bench: questions with ``turns``, by category."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, Message, PromptFormat

__all__ = ["Turns"]


@PROMPT_FORMATS.register
class Turns(PromptFormat):
    """``{"question_id", "category", "turns": [...], optional "reference": [...]}``; the category is the workload.

    A second turn builds on the answer to the first, so it is a prompt only where a reference answers the first one.
    """

    name = "mt-bench"
    keys = "`turns`: a list of a user's turns"
    workload = "chat"

    def matches(self, row: Any) -> bool:
        """Whether it has a list of turns that are texts."""
        turns = row.get("turns") if isinstance(row, dict) else None
        return isinstance(turns, list) and bool(turns) and all(isinstance(turn, str) for turn in turns)

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """A prompt a turn, up to the first one that nobody answered."""
        given = str(row.get("question_id", row.get("id", name)))
        answers = row.get("reference")
        answers = answers if isinstance(answers, list) else [answers]
        prompts: list[ImportedPrompt] = []
        told: list[Message] = []
        for number, turn in enumerate(row["turns"][: self.turns]):
            told = [*told, {"role": "user", "content": turn}]
            answer = answers[number] if number < len(answers) and isinstance(answers[number], str) else None
            called = given if number == 0 else f"{given}-{number}"
            prompts.append(
                ImportedPrompt(
                    called, str(row.get("category") or ""), messages=tuple(told), reference=answer, source=given
                )
            )
            if answer is None:
                break
            told = [*told, {"role": "assistant", "content": answer}]
        if not any(turn.strip() for turn in row["turns"][:1]):
            raise LeftOut("an empty first turn")
        return prompts
