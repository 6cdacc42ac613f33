"""Imports: what production already records, as documents and prompts to plan from."""

from runtime.importers.prompts import PROMPT_FORMATS, ImportedPrompt, PromptFile, read_prompt_file, write_prompts
from runtime.importers.sglang_metrics import read_sglang_log
from runtime.importers.vllm_metrics import read_vllm_metrics

__all__ = [
    "PROMPT_FORMATS",
    "ImportedPrompt",
    "PromptFile",
    "read_prompt_file",
    "read_sglang_log",
    "read_vllm_metrics",
    "write_prompts",
]
