"""Imports: what production already records, as documents and prompts to plan from."""

from runtime.importers.acceptance import ACCEPTANCE_FORMATS, acceptance_engines, read_acceptance
from runtime.importers.prompts import PROMPT_FORMATS, ImportedPrompt, PromptFile, read_prompt_file, write_prompts

__all__ = [
    "ACCEPTANCE_FORMATS",
    "PROMPT_FORMATS",
    "ImportedPrompt",
    "PromptFile",
    "acceptance_engines",
    "read_acceptance",
    "read_prompt_file",
    "write_prompts",
]
