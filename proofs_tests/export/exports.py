"""Exports by one call an engine, for tests."""

from __future__ import annotations

from typing import Any

from optimizer.export import ExportOptions, Weigher, export
from reader_theory.documents import Plan


def export_vllm(
    plan: Plan,
    workload: str = "chat",
    *,
    method: str | None = None,
    max_batch: int | None = None,
    nearest: bool = False,
    weigh: Weigher | None = None,
) -> Any:
    options = ExportOptions(method=method, max_batch=max_batch, nearest=nearest, weigh=weigh)
    return export(plan, "vllm", workload, options).config


def export_sglang(plan: Plan, workload: str = "chat", *, algorithm: str | None = None, nearest: bool = False) -> Any:
    return export(plan, "sglang", workload, ExportOptions(method=algorithm, nearest=nearest)).config


def export_tensorrt_llm(
    plan: Plan,
    workload: str = "chat",
    *,
    method: str | None = None,
    max_batch: int | None = None,
    nearest: bool = False,
) -> Any:
    options = ExportOptions(method=method, max_batch=max_batch, nearest=nearest)
    return export(plan, "tensorrt-llm", workload, options).config


def export_sglang_dynamic_tree(plan: Plan, workload: str, batch: int) -> Any:
    return export(plan, "sglang", workload, ExportOptions(batch=batch, dynamic_tree=True)).config


def export_tensorrt_llm_dynamic_tree(plan: Plan, workload: str, batch: int) -> Any:
    return export(plan, "tensorrt-llm", workload, ExportOptions(batch=batch, dynamic_tree=True)).config


def export_transformers(plan: Plan, workload: str = "chat", *, nearest: bool = False) -> Any:
    return export(plan, "transformers", workload, ExportOptions(nearest=nearest)).config


def export_medusa(plan: Plan, workload: str, batch: int, *, nearest: bool = False) -> Any:
    return export(plan, "medusa", workload, ExportOptions(batch=batch, nearest=nearest)).config


def export_growmap(plan: Plan, workload: str, batch: int, *, nearest: bool = False) -> Any:
    return export(plan, "growmap", workload, ExportOptions(batch=batch, nearest=nearest)).config


def nearest(plan: Plan, engine: str, workload: str, *, batch: int = 1, method: str | None = None) -> Any:
    return export(plan, engine, workload, ExportOptions(method=method, batch=batch, nearest=True)).choices
