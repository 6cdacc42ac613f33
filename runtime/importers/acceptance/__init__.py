"""Acceptance that servers and tools record, one form a file; the order of these imports is that of trying them."""

# ruff: noqa: I001
from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.acceptance.requests import Requests
from runtime.importers.acceptance.vllm_bench import VllmBench
from runtime.importers.acceptance.vllm_json import VllmJson
from runtime.importers.acceptance.speculators import SpeculatorsCsv
from runtime.importers.acceptance.counters import Counters
from runtime.importers.acceptance.vllm_log import VllmLog
from runtime.importers.acceptance.sglang import SglangGauges, SglangLog
from runtime.importers.acceptance.llama_cpp import LlamaCppLog
from runtime.importers.acceptance.reading import acceptance_engines, read_acceptance

__all__ = [
    "ACCEPTANCE_FORMATS",
    "AcceptanceFormat",
    "Counters",
    "LlamaCppLog",
    "MeanWindow",
    "Requests",
    "SglangGauges",
    "SglangLog",
    "SpeculatorsCsv",
    "VllmBench",
    "VllmJson",
    "VllmLog",
    "Window",
    "acceptance_engines",
    "read_acceptance",
]
