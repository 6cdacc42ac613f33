"""Benchmarks of other engines, to hold a plan against: ``vllm bench serve``, llama-bench, timings of llama-server."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError
from reader_theory.served import ServedRun
from runtime.importers.rows import json_values, read_text

__all__ = ["benchmark_fingerprint", "read_benchmarks"]

_FORMS = (
    "JSON of `vllm bench serve --save-result`, of `llama-bench -o json` with generated tokens, or responses of "
    "llama-server with `timings`"
)


def read_benchmarks(paths: Sequence[str | Path], *, batch: int = 1) -> list[ServedRun]:
    """Every run in the files; responses of llama-server are added up by file, with and without drafts apart.

    Parameters
    ----------
    paths : sequence of paths
    batch : int
        Requests served at once, where a file does not tell: llama-server's responses.

    Raises
    ------
    InvalidInputError
        If a file holds no benchmark.
    """
    found: list[ServedRun] = []
    for path in map(Path, paths):
        rows = json_values(path.name, read_text(path)) or ()
        values = [each for row in rows for each in (row.value if isinstance(row.value, list) else [row.value])]
        told = [value for value in values if isinstance(value, dict)]
        runs = [*_vllm(told, path.name), *_llama_bench(told, path.name), *_llama_server(told, path.name, batch)]
        if not runs:
            raise InvalidInputError(
                "each file must be a RunRecord or hold a benchmark",
                got=f"neither in `{path.name}`",
                fix=f"Pass {_FORMS}.",
            )
        found += runs
    return found


def benchmark_fingerprint(paths: Sequence[str | Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all files, in order."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()[:16]


def _vllm(told: Sequence[Mapping[str, Any]], name: str) -> Iterator[ServedRun]:
    """The median gap between outputs is a step; tokens a second are those of rows past their first token."""
    for result in told:
        served, gap, each = (_number(result, key) for key in ("completed", "median_itl_ms", "mean_tpot_ms"))
        output = _number(result, "total_output_tokens")
        if min(served, gap, each, output) <= 0:
            continue
        running = _number(result, "request_throughput") * _number(result, "mean_e2el_ms") / 1e3
        rows = max(running or _number(result, "max_concurrency"), 1.0)
        drafts = _number(result, "spec_decode_num_drafts")
        yield ServedRun(
            name, rows, (_number(result, "total_input_tokens") + output / 2) / served, rows / each * 1e3, gap / 1e3,
            _number(result, "spec_decode_acceptance_length") or 1.0,
            _number(result, "spec_decode_draft_tokens") / drafts if drafts else 0.0,
        )  # fmt: skip


def _llama_bench(told: Sequence[Mapping[str, Any]], name: str) -> Iterator[ServedRun]:
    """Tests that generate alone: one row, no drafts."""
    for result in told:
        tokens, seconds = _number(result, "n_gen"), _number(result, "avg_ns") / 1e9
        if min(tokens, seconds) > 0 and not _number(result, "n_prompt"):
            context = _number(result, "n_depth") + tokens / 2
            yield ServedRun(name, 1.0, context, tokens / seconds, seconds / tokens)


def _llama_server(told: Sequence[Mapping[str, Any]], name: str, batch: int) -> Iterator[ServedRun]:
    """Generation's clock starts at a request's first token, which its prompt gave."""
    timings = [each["timings"] for each in told if isinstance(each.get("timings"), dict)]
    for drafting in (True, False):
        mine = [t for t in timings if (_number(t, "draft_n") > 0) == drafting and _number(t, "predicted_n") > 1]
        seconds = sum(_number(t, "predicted_ms") for t in mine) / 1e3
        if seconds <= 0:
            continue
        tokens = sum(_number(t, "predicted_n") - 1 for t in mine)
        steps = tokens - sum(_number(t, "draft_n_accepted") for t in mine)
        prompt = sum(_number(t, "prompt_n") + _number(t, "cache_n") for t in mine)
        yield ServedRun(
            name, float(batch), (prompt + tokens / 2) / len(mine), batch * tokens / seconds,
            seconds / steps if steps > 0 else None, tokens / steps if steps > 0 else 1.0,
            sum(_number(t, "draft_n") for t in mine) / steps if steps > 0 else 0.0,
        )  # fmt: skip


def _number(value: Mapping[str, Any], name: str) -> float:
    found = value.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool):
        return 0.0
    return float(found) if math.isfinite(found) and found > 0 else 0.0
