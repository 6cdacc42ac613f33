"""vLLM in Python: what ``LLM.get_metrics()`` holds, and its counters by their short names, one object a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.acceptance.counters import SERVED, Server, differences, identity, positions
from runtime.importers.rows import json_values

__all__ = ["VllmJson"]

_PREFIX = "vllm:spec_decode_num_"
_PER_POSITION = "accepted_tokens_per_pos"
_SHORT = ("drafts", "draft_tokens", "accepted_tokens", *SERVED)


@ACCEPTANCE_FORMATS.register
class VllmJson(AcceptanceFormat):
    """A list of metrics is a scrape, cumulative; an object with ``num_drafts`` is a window of its own."""

    name = "vllm json"
    engine = "vllm"
    looks = "JSON of `LLM.get_metrics()`, or objects with `num_drafts` and `num_accepted_tokens_per_pos`"

    def matches(self, text: str) -> bool:
        """Whether it is JSON that names these counters."""
        return text.lstrip()[:1] in ("{", "[") and ('"num_drafts"' in text or f'"{_PREFIX}drafts' in text)

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """Windows of all values, in order."""
        scrapes: list[dict[str, Server]] = []
        windows: list[Window | MeanWindow] = []
        for name, text in texts:
            values = [row.value for row in json_values(name, text) or ()]
            flat = bool(values) and all(_is_metric(value) for value in values)
            for value in [values] if flat else values:
                if isinstance(value, list) and value and all(_is_metric(metric) for metric in value):
                    scrapes.append(_scrape(value))
                elif isinstance(value, dict) and "num_drafts" in value:
                    windows += _of_stats(value)
        return [*windows, *differences(scrapes)], ()


def _is_metric(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _scrape(metrics: list[dict[str, Any]]) -> dict[str, Server]:
    """Counters have a value, vectors values, histograms a count."""
    scrape: dict[str, Server] = {}
    for metric in metrics:
        what = metric["name"].removeprefix(_PREFIX).removeprefix("vllm:").removesuffix("_total")
        labels = metric.get("labels")
        told = {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}
        ours = identity(told)
        server = scrape.setdefault(repr(ours), Server(ours))
        counts = server.engines.setdefault(told.get("engine", ""), {})
        if what == _PER_POSITION and isinstance(metric.get("values"), list):
            for i, value in enumerate(metric["values"]):
                counts[f"pos {i}"] = counts.get(f"pos {i}", 0.0) + _number(value)
        elif what in _SHORT:
            counts[what] = counts.get(what, 0.0) + _number(metric.get("value", metric.get("count")))
    return scrape


def _of_stats(stats: dict[str, Any]) -> Iterator[Window]:
    drafts = _number(stats.get("num_drafts"))
    counted = stats.get(f"num_{_PER_POSITION}")
    counts = {f"pos {i}": _number(value) for i, value in enumerate(counted if isinstance(counted, list) else ())}
    if drafts > 0:
        drafted = stats.get("num_draft_tokens")
        yield Window.of_survivors({}, drafts, positions(counts), None if drafted is None else _number(drafted))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value >= 0 else 0.0
