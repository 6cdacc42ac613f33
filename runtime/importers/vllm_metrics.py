"""vLLM: acceptance by position from its counters, in any of the three forms that it shows them in.

Prometheus text (one scrape or several, of ``/metrics``), its "SpecDecoding metrics" log lines, and JSON: what
``LLM.get_metrics()`` holds, or one object a window with the counters' short names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError, require

__all__ = ["read_vllm_metrics"]

Counters = dict[str, float]
"""``drafts``, ``draft_tokens``, ``accepted`` and one ``pos 0``, ``pos 1``, ... a draft position."""

_SAMPLE = re.compile(r"^vllm:spec_decode_num_(\w+?)(?:_total)?(?:\{(.*)\})?\s+([-+.\deE]+|NaN)(?:\s+\d+)?$")
_POSITION = re.compile(r'position="(\d+)"')
_SHORT = {"drafts": "drafts", "draft_tokens": "draft_tokens", "accepted_tokens": "accepted"}
_LOG = re.compile(
    r"SpecDecoding metrics:.*?Mean acceptance length: (?P<mean>[\d.]+).*?Accepted: (?P<accepted>\d+) tokens"
    r".*?Drafted: (?P<drafted>\d+) tokens.*?Per-position acceptance rate: (?P<rates>[\d., ]+?), Avg"
)


def read_vllm_metrics(paths: str | Path | Sequence[str | Path]) -> ImportedAcceptance:
    """Acceptance by depth from one or more files of vLLM's metrics.

    Counters only grow, so successive scrapes are told apart by their differences, and a counter that fell is a server
    that started anew; engines of one scrape are added up. Five windows or more give intervals that know of the
    correlation between tokens of one request.

    Parameters
    ----------
    paths : path or sequence of paths
        In order of time. Prometheus text, log lines, JSON or JSON lines; a file may hold several scrapes.

    Raises
    ------
    InvalidInputError
        If no file holds speculative counters, or a file is not readable as any of the forms.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    scrapes: list[Counters] = []
    windows: list[Counters] = []
    for path in files:
        cumulative, told = _read(_text(path))
        scrapes += cumulative
        windows += told
    windows += _differences(scrapes)
    rows = [row for row in windows if row.get("drafts", 0) > 0 and "pos 0" in row]
    require(
        bool(rows),
        "the files must hold vLLM's speculative counters by position, with at least one draft",
        got=f"{len(files)} file(s), {len(scrapes)} scrape(s), {len(windows)} window(s) and no draft among them",
        fix="Scrape /metrics of a server that speculates, or pass its log, after it has served requests.",
    )
    survivors = np.array([_survivors(row, _depth(rows)) for row in rows])
    return ImportedAcceptance.from_counts(
        survivors, engine="vllm", source=", ".join(path.name for path in files), notes=_notes(rows, _depth(rows))
    )


def _text(path: Path) -> str:
    require(
        path.is_file(), "the metrics file must exist", got=f"`{path}`", fix="Check the path.", error=InvalidInputError
    )
    return path.read_text(encoding="utf-8", errors="replace")


def _read(text: str) -> tuple[list[Counters], list[Counters]]:
    """Cumulative scrapes and separate windows of one file."""
    if text.lstrip()[:1] in ("{", "["):
        return _json(text)
    return _prometheus(text), list(_log_lines(text))


def _prometheus(text: str) -> list[Counters]:
    """One set of counters a scrape, engines added up; a series seen again begins the next scrape."""
    scrapes: list[Counters] = []
    seen: set[str] = set()
    for line in text.splitlines():
        if (match := _SAMPLE.match(line.strip())) is None or match[1].endswith("_created"):
            continue
        series = line.strip().rpartition(" ")[0]
        if not scrapes or series in seen:
            scrapes.append({})
            seen = set()
        seen.add(series)
        if (name := _name(match[1], match[2] or "")) is not None:
            scrapes[-1][name] = scrapes[-1].get(name, 0.0) + float(match[3])
    return scrapes


def _name(metric: str, labels: str) -> str | None:
    if metric == "accepted_tokens_per_pos":
        position = _POSITION.search(labels)
        return f"pos {position[1]}" if position else None
    return _SHORT.get(metric)


def _differences(scrapes: list[Counters]) -> list[Counters]:
    windows: list[Counters] = []
    before: Counters = {}
    for scrape in scrapes:
        began_anew = any(scrape.get(name, 0.0) < value for name, value in before.items())
        start = {} if began_anew else before
        windows.append({name: value - start.get(name, 0.0) for name, value in scrape.items()})
        before = scrape
    return windows


def _log_lines(text: str) -> Iterator[Counters]:
    for match in _LOG.finditer(text):
        rates = [float(rate) for rate in match["rates"].split(",") if rate.strip()]
        accepted, drafted = float(match["accepted"]), float(match["drafted"])
        drafts = _drafts(float(match["mean"]), accepted, drafted / len(rates))
        yield {"drafts": drafts, "draft_tokens": drafted, "accepted": accepted} | {
            f"pos {i}": rate * drafts for i, rate in enumerate(rates)
        }


def _drafts(mean: float, accepted: float, if_full: float) -> float:
    """Drafts of a log line, which it does not state: exact if all were full, else from the rounded mean length."""
    if abs(1 + accepted / if_full - mean) <= 0.0051:
        return if_full
    return accepted / (mean - 1) if mean > 1 else if_full


def _json(text: str) -> tuple[list[Counters], list[Counters]]:
    try:
        values = [json.loads(text)]
    except json.JSONDecodeError:
        values = [_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    scrapes: list[Counters] = []
    windows: list[Counters] = []
    for value in (
        values[0] if len(values) == 1 and isinstance(values[0], list) and not _is_scrape(values[0]) else values
    ):
        if _is_scrape(value):
            scrapes.append(_of_get_metrics(value))
        elif isinstance(value, dict) and "num_drafts" in value:
            windows.append(_of_stats(value))
    return scrapes, windows


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            "the file must be JSON, or JSON in every line", got=f"line {number}: {error}", fix="Pass a whole file."
        ) from None


def _is_scrape(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) and "name" in item for item in value)


def _of_get_metrics(metrics: list[dict[str, Any]]) -> Counters:
    """Counters have a value, vectors have values."""
    counters: Counters = {}
    for metric in metrics:
        name = str(metric.get("name", "")).removeprefix("vllm:spec_decode_num_").removesuffix("_total")
        if name == "accepted_tokens_per_pos":
            for i, value in enumerate(metric.get("values", ())):
                counters[f"pos {i}"] = counters.get(f"pos {i}", 0.0) + float(value)
        elif name in _SHORT:
            counters[_SHORT[name]] = counters.get(_SHORT[name], 0.0) + float(metric["value"])
    return counters


def _of_stats(stats: dict[str, Any]) -> Counters:
    told = {_SHORT[key[4:]]: float(value) for key, value in stats.items() if key[4:] in _SHORT}
    return told | {f"pos {i}": float(value) for i, value in enumerate(stats.get("num_accepted_tokens_per_pos", ()))}


def _depth(rows: list[Counters]) -> int:
    return max(int(name[4:]) for row in rows for name in row if name.startswith("pos ")) + 1


def _survivors(row: Counters, depth: int) -> NDArray[np.float64]:
    """Drafts, then drafts accepted to depth 1, 2, ...; rounding of a log's rates may not raise them again."""
    counts = [row["drafts"], *(row.get(f"pos {i}", 0.0) for i in range(depth))]
    return np.minimum.accumulate(np.array(counts))


def _notes(rows: list[Counters], depth: int) -> tuple[str, ...]:
    drafted, drafts = sum(row.get("draft_tokens", 0.0) for row in rows), sum(row["drafts"] for row in rows)
    if drafted and drafted < 0.999 * drafts * depth:
        return (
            f"drafts held {drafted / drafts:.2f} of {depth} tokens on average: where a draft ended early, its next "
            "depth counts as rejected, so acceptance at depth is understated",
        )
    return ()
