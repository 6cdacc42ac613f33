"""Imports: what production already records, as documents and prompts to plan from."""

from runtime.importers.openai_jsonl import read_openai_jsonl
from runtime.importers.prompts import ImportedPrompt, write_prompts
from runtime.importers.sglang_metrics import read_sglang_log
from runtime.importers.sharegpt import read_sharegpt
from runtime.importers.vllm_metrics import read_vllm_metrics

__all__ = [
    "ImportedPrompt",
    "read_openai_jsonl",
    "read_sglang_log",
    "read_sharegpt",
    "read_vllm_metrics",
    "write_prompts",
]
