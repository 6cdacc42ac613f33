"""Exports: a plan in the form that a serving engine takes, refused with the nearest where the engine cannot run it."""

from optimizer.export.formats import ENGINES, EngineFormat, engine_format
from optimizer.export.growmap import export_growmap, growmap_of, growmap_tensors, tree_of_growmap
from optimizer.export.medusa import export_medusa, tree_of_choices
from optimizer.export.nearest import nearest
from optimizer.export.settle import Choice
from optimizer.export.sglang import export_sglang, export_sglang_dynamic_tree, reserved_kv_slots, sglang_flags
from optimizer.export.tensorrt_llm import export_tensorrt_llm, export_tensorrt_llm_dynamic_tree
from optimizer.export.transformers import export_transformers
from optimizer.export.vllm import export_vllm, vllm_flag

__all__ = [
    "ENGINES",
    "Choice",
    "EngineFormat",
    "engine_format",
    "export_growmap",
    "export_medusa",
    "export_sglang",
    "export_sglang_dynamic_tree",
    "export_tensorrt_llm",
    "export_tensorrt_llm_dynamic_tree",
    "export_transformers",
    "export_vllm",
    "growmap_of",
    "growmap_tensors",
    "nearest",
    "reserved_kv_slots",
    "sglang_flags",
    "tree_of_choices",
    "tree_of_growmap",
    "vllm_flag",
]
