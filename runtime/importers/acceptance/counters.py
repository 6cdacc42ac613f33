"""Prometheus counters of vLLM and llama.cpp, which share one schema: ``spec_decode_num_drafts`` and by position."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from reader_theory.errors import InvalidInputError
from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window

__all__ = ["SERVED", "Counters", "Sample", "row_steps", "samples"]

_NAME = re.compile(
    r"(?:(?P<engine>\w+)[:_])?spec_decode_num_(?P<what>drafts|draft_tokens|accepted_tokens(?:_per_pos)?)"
)
SERVED = (TOKENS, DONE, FIRST, PAUSES) = (
    "generation_tokens", "request_success", "time_to_first_token_seconds", "inter_token_latency_seconds",
)  # fmt: skip
"""What vLLM counts of requests, and how often it timed the first token of one, and the pause before its later ones."""
_SERVED = re.compile(rf"vllm[:_](?P<what>{'|'.join(SERVED)})(?:_total|_count)?$")
_WANTED = re.compile(r"(?:\w+[:_])?spec_decode_num_|vllm[:_](?:generation_tokens|request_success|\w+_seconds_count)")
_MARK = re.compile(r"^[^#\n]*spec_decode_num_(drafts|draft_tokens|accepted_tokens)\w*[ {\t]", re.MULTILINE)
_ENGINES = {"vllm": "vllm", "llamacpp": "llama.cpp"}
_REPLICA = ("engine", "position", "slot", "finished_reason")
"""Labels of parts of one server, which are added up."""


@dataclass(frozen=True)
class Sample:
    """One line of an exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


@ACCEPTANCE_FORMATS.register
class Counters(AcceptanceFormat):
    """One scrape of ``/metrics`` or several, in one file or several, in order of time.

    Counters only grow, so successive scrapes are told apart by their differences, and counters that fell are those of
    a server that started anew; engines of one scrape are added up. A series seen again begins the next scrape.
    """

    name = "counters"
    engine = "vllm"
    looks = "Prometheus counters `...spec_decode_num_drafts` and `..._accepted_tokens_per_pos`"

    def matches(self, text: str) -> bool:
        """Whether a line of it is such a counter."""
        return _MARK.search(text) is not None

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window between each two scrapes of a server, the first from its start on."""
        scrapes = [scrape for name, text in texts for scrape in _scrapes(name, text)]
        return list(differences(scrapes)), ()


@dataclass
class Server:
    """Counters of one server in one scrape, by engine: ``drafts``, ``draft_tokens``, ``accepted_tokens``, positions."""

    labels: dict[str, str]
    engines: dict[str, dict[str, float]] = field(default_factory=dict)


def samples(name: str, text: str, wanted: re.Pattern[str]) -> Iterator[Sample]:
    """Samples of an exposition whose names match, read by the Prometheus client; other lines are not looked at.

    Raises
    ------
    InvalidInputError
        If such a line is damaged; the message names it.
    """
    from prometheus_client.parser import text_string_to_metric_families

    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip().split(" # {")[0]
        if not wanted.match(stripped):
            continue
        try:
            for family in text_string_to_metric_families(stripped + "\n"):
                for sample in family.samples:
                    yield Sample(sample.name, sample.labels, float(sample.value))
        except (ValueError, IndexError, KeyError) as error:
            raise InvalidInputError(
                f"`{name}` must be a Prometheus exposition",
                got=f"line {number}: {stripped[:80]!r} ({error})",
                fix="Pass /metrics as the server gives it.",
            ) from None


def identity(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that tell one server and model from another."""
    return {key: value for key, value in sorted(labels.items()) if key not in _REPLICA}


def differences(scrapes: Sequence[dict[str, Server]]) -> Iterator[Window]:
    """What each server counted between two scrapes, engine by engine."""
    before: dict[tuple[str, str], dict[str, float]] = {}
    for scrape in scrapes:
        for key, server in scrape.items():
            window: dict[str, float] = {}
            for engine, counts in server.engines.items():
                start = before.get((key, engine), {})
                began_anew = any(counts.get(what, 0.0) < value for what, value in start.items())
                for what, value in counts.items():
                    window[what] = window.get(what, 0.0) + value - (0.0 if began_anew else start.get(what, 0.0))
                before[key, engine] = counts
            if window.get("drafts", 0.0) > 0:
                yield _window(server.labels, window)


def _scrapes(name: str, text: str) -> Iterator[dict[str, Server]]:
    scrape: dict[str, Server] = {}
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for sample in samples(name, text, _WANTED):
        served = _SERVED.match(sample.name)
        match = served or _NAME.match(sample.name)
        if match is None or sample.name.endswith("_created") or not 0 <= sample.value < inf:
            continue
        series = (sample.name, tuple(sorted(sample.labels.items())))
        if series in seen:
            yield scrape
            scrape, seen = {}, set()
        seen.add(series)
        told = "vllm" if served else str(match["engine"] or "")
        labels = identity(sample.labels) | {"exposed_by": _ENGINES.get(told, told)}
        server = scrape.setdefault(repr(labels), Server(labels))
        counts = server.engines.setdefault(repr([sample.labels.get(label) for label in ("engine", "slot")]), {})
        what = match["what"]
        if what.endswith("_per_pos"):
            if not sample.labels.get("position", "").isdecimal():
                continue
            what = f"pos {int(sample.labels['position'])}"
        counts[what] = counts.get(what, 0.0) + sample.value
    if scrape:
        yield scrape


def _window(labels: dict[str, str], counts: Mapping[str, float]) -> Window:
    told = {key: value for key, value in labels.items() if value}
    return Window.of_survivors(
        told, counts["drafts"], positions(counts), counts.get("draft_tokens"), row_steps(counts), emitted(counts)
    )


def row_steps(counts: Mapping[str, float]) -> float | None:
    """Decode steps of all requests: the pauses that a server timed, or the tokens that were not accepted drafts.

    The second is too few by the drafts that were accepted past a request's end. None where neither is counted, or not
    over the same time as the drafts.
    """
    given = emitted(counts)
    steps = counts.get(PAUSES, None if given is None else given - sum(positions(counts)))
    return steps if steps is not None and steps >= counts["drafts"] else None


def emitted(counts: Mapping[str, float]) -> float | None:
    """Tokens that decode steps gave: all but a request's first, which prefill gives. None where not counted."""
    first = counts.get(FIRST, counts.get(DONE))
    return None if first is None or TOKENS not in counts else max(counts[TOKENS] - first, 0.0)


def positions(counts: Mapping[str, float]) -> list[float]:
    """Drafts accepted to depth 1, 2, ...: as far as positions count without a gap."""
    found: list[float] = []
    while (count := counts.get(f"pos {len(found)}")) is not None:
        found.append(count)
    return found
