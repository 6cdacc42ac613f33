"""Records a request: vLLM's ``metrics.speculative_decoding``, wherever a tool has put it.

In responses (``--per-request-spec-decode-metrics summary`` or ``detailed``; JSON, lines or a stream's ``data:`` lines),
in aiperf's ``profile_export.jsonl``, in guidellm's report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reader_theory.errors import InvalidInputError
from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.rows import json_values

__all__ = ["Requests"]

_HISTOGRAM = "acceptance_histogram"
_FAILED = ("errored", "incomplete")


@ACCEPTANCE_FORMATS.register
class Requests(AcceptanceFormat):
    """Each request is a window, so that intervals know how much requests differ.

    With the steps one by one, each depth is counted on the steps that had a token there; with the histogram alone,
    drafts are taken to have been as long as the server was told.
    """

    name = "requests"
    engine = "vllm"
    looks = "`acceptance_histogram` of --per-request-spec-decode-metrics, in responses, aiperf's or guidellm's files"

    def matches(self, text: str) -> bool:
        """Whether it names such a histogram."""
        return f'"{_HISTOGRAM}"' in text

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a request that drafted."""
        found: list[Window | MeanWindow] = []
        for name, text in texts:
            stripped = "\n".join(_data(line) for line in text.split("\n"))
            for row in json_values(name, stripped) or ():
                for record, model in _records(row.value, None):
                    found += _window(row.where, record, model)
        return found, ()


def _data(line: str) -> str:
    """A line of a stream without its mark; none of its end."""
    told = line.strip().removeprefix("data:").strip() if line.lstrip().startswith("data:") else line
    return "" if told == "[DONE]" else told


def _records(value: Any, model: str | None) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every record below a value, with the model that is named nearest above it; requests that failed are left out."""
    stack: list[tuple[Any, str | None]] = [(value, model)]
    while stack:
        here, named = stack.pop()
        if isinstance(here, dict):
            named = here["model"] if isinstance(here.get("model"), str) else named
            if _HISTOGRAM in here:
                yield here, named
                continue
            stack += [(here[key], named) for key in reversed(list(here)) if key not in _FAILED]
        elif isinstance(here, list):
            stack += [(each, named) for each in reversed(here)]


def _window(where: str, record: dict[str, Any], model: str | None) -> Iterator[Window]:
    labels = {"model_name": model} if model else {}
    steps, offered = record.get("per_step_accepted"), record.get("per_step_drafted")
    try:
        if isinstance(steps, list) and steps and isinstance(offered, list) and len(steps) == len(offered):
            yield _of_steps(labels, [int(x) for x in steps], [int(x) for x in offered])
            return
        counts = _histogram(record[_HISTOGRAM])
        most = int(record.get("num_spec_tokens") or max(counts, default=0))
        drafted = record.get("num_draft_tokens")
        if sum(counts.values()) and most:
            survivors = [sum(n for j, n in counts.items() if j >= d) for d in range(1, most + 1)]
            told = None if drafted is None else float(drafted)
            yield Window.of_survivors(labels, float(sum(counts.values())), survivors, told)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            "each request's record must hold counts",
            got=f"{where}: {str(record)[:100]} ({error})",
            fix="Pass the file as the server or the tool wrote it.",
        ) from None


def _histogram(told: Any) -> dict[int, int]:
    """Steps by accepted tokens, from a list or from a mapping without what is zero."""
    pairs = told.items() if isinstance(told, dict) else enumerate(told)
    counts = {int(accepted): int(steps) for accepted, steps in pairs}
    if any(accepted < 0 or steps < 0 for accepted, steps in counts.items()):
        raise ValueError("negative counts")
    return counts


def _of_steps(labels: dict[str, str], accepted: list[int], offered: list[int]) -> Window:
    if any(not 0 <= a <= d for a, d in zip(accepted, offered, strict=True)):
        raise ValueError("a step accepted more than was drafted")
    drafts = [(a, d) for a, d in zip(accepted, offered, strict=True) if d > 0]
    depths = range(1, max((d for _, d in drafts), default=0) + 1)
    reached = [float(sum(a >= depth - 1 and d >= depth for a, d in drafts)) for depth in depths]
    kept = [float(sum(a >= depth for a, _ in drafts)) for depth in depths]
    return Window(labels, float(len(drafts)), reached, kept)
