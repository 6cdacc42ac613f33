"""Prompts that people have, one format a file; the order of these imports is that in which formats are tried."""

# ruff: noqa: I001
from runtime.importers.prompts.base import (
    PROMPT_FORMATS,
    ImportedPrompt,
    LeftOut,
    PromptFormat,
    write_prompts,
)
from runtime.importers.prompts.native import NativeRow
from runtime.importers.prompts.turns import Turns
from runtime.importers.prompts.human_eval import HumanEval
from runtime.importers.prompts.sharegpt import ShareGpt
from runtime.importers.prompts.openai import OpenAiRequest
from runtime.importers.prompts.instruction import Instruction
from runtime.importers.prompts.question import Question
from runtime.importers.prompts.responses import OpenAiResponse
from runtime.importers.prompts.reading import PromptFile, read_prompt_file

__all__ = [
    "PROMPT_FORMATS",
    "HumanEval",
    "ImportedPrompt",
    "Instruction",
    "LeftOut",
    "NativeRow",
    "OpenAiRequest",
    "OpenAiResponse",
    "PromptFile",
    "PromptFormat",
    "Question",
    "ShareGpt",
    "Turns",
    "read_prompt_file",
    "write_prompts",
]
