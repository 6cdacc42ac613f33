"""Runs of load generators: ``vllm bench serve``, guidellm and aiperf, each as rate, mean latency and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError
from reader_theory.serving.latency import LatencyRun
from runtime.importers.rows import json_values, read_text

__all__ = ["read_latency_runs"]


_STEADY = 0.8
"""Share of the offered rate that a steady run serves at least, its start and end counted in."""


def read_latency_runs(paths: Sequence[str | Path], *, drafted: float | None = None) -> list[LatencyRun]:
    """Every run in the files.

    Parameters
    ----------
    paths : sequence of paths
        JSON as the tools write it.
    drafted : float, optional
        Tokens drafted a step, where a file tells how many were accepted and not how many were drafted.

    Raises
    ------
    InvalidInputError
        If a file holds no run, or a run lacks its mean latency.
    """
    runs: list[LatencyRun] = []
    for path in map(Path, paths):
        found = [run for row in json_values(path.name, read_text(path)) or () for run in _runs(row.value, path.name)]
        if not found:
            raise InvalidInputError(
                "each file must hold a benchmark with mean latency, rate and tokens",
                got=f"none in `{path.name}`",
                fix="Pass the JSON of `vllm bench serve --save-result --percentile-metrics ttft,tpot,itl,e2el`, of "
                "guidellm, or aiperf's profile_export_aiperf.json.",
            )
        runs += found
    return runs if drafted is None else [_drafting(run, drafted) for run in runs]


def _drafting(run: LatencyRun, drafted: float) -> LatencyRun:
    told = run.drafted or (drafted if run.tokens_per_step > 1 else 0.0)
    return LatencyRun(run.rate_per_s, run.latency_s, run.tokens, run.tokens_per_step, told, run.source)


def _runs(value: Any, name: str) -> Iterator[LatencyRun]:
    if not isinstance(value, dict):
        return
    if isinstance(value.get("benchmarks"), list):
        for each in value["benchmarks"]:
            yield from _guidellm(each, name)
    elif "mean_e2el_ms" in value:
        yield from _vllm(value, name)
    elif isinstance(value.get("request_latency"), dict):
        yield from _aiperf(value, name)


def _vllm(told: dict[str, Any], name: str) -> Iterator[LatencyRun]:
    served, drafts = _number(told.get("completed")), _number(told.get("spec_decode_num_drafts"))
    _check_steady(told, name)
    if served:
        yield LatencyRun(
            rate_per_s=_number(told.get("request_throughput")),
            latency_s=_number(told.get("mean_e2el_ms")) / 1e3,
            tokens=_number(told.get("total_output_tokens")) / served,
            tokens_per_step=_number(told.get("spec_decode_acceptance_length")) or 1.0,
            drafted=_number(told.get("spec_decode_draft_tokens")) / drafts if drafts else 0.0,
            source=name,
        )


def _check_steady(told: dict[str, Any], name: str) -> None:
    """Refuse an open loop that offered more than was served: no latency settles there."""
    offered, served = told.get("request_rate"), _number(told.get("request_throughput"))
    unbounded = offered in ("inf", float("inf"))
    if told.get("max_concurrency") is None and (unbounded or served < _STEADY * _number(offered)):
        raise InvalidInputError(
            "a run must be below saturation, where latency settles",
            got=f"`{name}` past saturation: {offered} requests a second offered, {served:.3g} served",
            fix="Leave it out, or run it with --request-rate below what the server serves, or with --max-concurrency.",
        )


def _guidellm(told: Any, name: str) -> Iterator[LatencyRun]:
    metrics = told.get("metrics", {}) if isinstance(told, dict) else {}
    rate, latency, tokens = (
        _at(metrics, key, "successful", "mean")
        for key in ("requests_per_second", "request_latency", "output_token_count")
    )
    if rate and latency and tokens:
        yield LatencyRun(rate, latency, tokens, source=name)


def _aiperf(told: dict[str, Any], name: str) -> Iterator[LatencyRun]:
    unit = {"ms": 1e3, "s": 1.0, "us": 1e6, "ns": 1e9}.get(str(told["request_latency"].get("unit")), 1e3)
    steps = _at(told, "spec_decode_steps", "sum")
    yield LatencyRun(
        rate_per_s=_at(told, "request_throughput", "avg"),
        latency_s=_at(told, "request_latency", "avg") / unit,
        tokens=_at(told, "output_sequence_length", "avg"),
        tokens_per_step=_at(told, "spec_decode_token_weighted_acceptance_length", "avg") or 1.0,
        drafted=_at(told, "spec_decode_draft_tokens", "sum") / steps if steps else 0.0,
        source=name,
    )


def _at(value: Any, *keys: str) -> float:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return _number(value)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
