"""Exports: a plan in the form that a serving engine takes, refused with the nearest where the engine cannot run it."""

from optimizer.export.base import EXPORTERS, Exported, Exporter, ExportOptions, Weigher, export
from optimizer.export.formats import EngineFormat, engine_format
from optimizer.export.growmap import Growmap, growmap_of, growmap_tensors, tree_of_growmap
from optimizer.export.llama_cpp import LlamaCpp
from optimizer.export.medusa import Medusa, tree_of_choices
from optimizer.export.settle import Choice
from optimizer.export.sglang import Sglang, reserved_kv_slots, sglang_flags
from optimizer.export.tensorrt_llm import TensorRtLlm
from optimizer.export.transformers import Transformers
from optimizer.export.vllm import Vllm, vllm_flag
from optimizer.export.weigh import weigher

__all__ = [
    "EXPORTERS",
    "Choice",
    "EngineFormat",
    "ExportOptions",
    "Exported",
    "Exporter",
    "Growmap",
    "LlamaCpp",
    "Medusa",
    "Sglang",
    "TensorRtLlm",
    "Transformers",
    "Vllm",
    "Weigher",
    "engine_format",
    "export",
    "growmap_of",
    "growmap_tensors",
    "reserved_kv_slots",
    "sglang_flags",
    "tree_of_choices",
    "tree_of_growmap",
    "vllm_flag",
    "weigher",
]
