"""``vllm bench serve`` results: acceptance by position over the whole benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.rows import json_values

__all__ = ["VllmBench"]

_RATES = "spec_decode_per_position_acceptance_rates"


@ACCEPTANCE_FORMATS.register
class VllmBench(AcceptanceFormat):
    """Each result is a window."""

    name = "vllm bench"
    engine = "vllm"
    looks = f"`{_RATES}` in results of `vllm bench serve`"

    def matches(self, text: str) -> bool:
        """Whether it names the rates."""
        return f'"{_RATES}"' in text

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a result that drafted."""
        found: list[Window | MeanWindow] = []
        for name, text in texts:
            for row in json_values(name, text) or ():
                told = row.value if isinstance(row.value, dict) else {}
                rates, drafts = told.get(_RATES), told.get("spec_decode_num_drafts")
                numbers = isinstance(rates, list) and all(isinstance(rate, int | float) for rate in rates)
                if not numbers or not isinstance(drafts, int | float) or not drafts > 0:
                    continue
                labels = {"model_name": told["model_id"]} if isinstance(told.get("model_id"), str) else {}
                drafted = told.get("spec_decode_draft_tokens")
                survivors = [max(float(rate), 0.0) * drafts for rate in rates or ()]
                offered = float(drafted) if isinstance(drafted, int | float) else None
                found.append(Window.of_survivors(labels, float(drafts), survivors, offered))
        return found, ()
