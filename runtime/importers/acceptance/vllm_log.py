"""vLLM's log lines, from its first version's "Speculative metrics" to today's "SpecDecoding metrics"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window

__all__ = ["VllmLog"]

_LINE = re.compile(r"SpecDecoding metrics: (?P<told>.*)")
_FIRST = re.compile(
    r"Speculative metrics: .*?Number of speculative tokens: (?P<depth>\d+), Number of accepted tokens: \d+, "
    r"Number of draft tokens: (?P<drafted>\d+), Number of emitted tokens: (?P<emitted>\d+)"
)
_NUMBER = r"(?P<value>\d+(?:\.\d+)?)"
_FIELDS = {
    "mean": re.compile(rf"Mean acceptance length: {_NUMBER}"),
    "accepted": re.compile(rf"Accepted: {_NUMBER} tokens"),
    "drafted": re.compile(rf"Drafted: {_NUMBER} tokens"),
}
_RATES = re.compile(r"Per-position acceptance rate: (?P<rates>\d+(?:\.\d+)?(?:, *\d+(?:\.\d+)?)*)")


@ACCEPTANCE_FORMATS.register
class VllmLog(AcceptanceFormat):
    """Each line is a window, whose drafts follow from its numbers; fields are found by name, in any order.

    The first version's lines count from the server's start, and emitted tokens over drafts are the mean accepted
    length; lines without rates by position tell that length alone.
    """

    name = "vllm log"
    engine = "vllm"
    looks = 'log lines "SpecDecoding metrics: ..."'

    def matches(self, text: str) -> bool:
        """Whether it has such a line."""
        return _LINE.search(text) is not None or _FIRST.search(text) is not None

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a line."""
        found: list[Window | MeanWindow] = []
        for _, text in texts:
            found += self._lines(text)
            found += _first_version(text)
        return found, ()

    def _lines(self, text: str) -> Iterator[Window | MeanWindow]:
        for line in _LINE.finditer(text):
            told = {name: float(m["value"]) for name, field in _FIELDS.items() if (m := field.search(line["told"]))}
            rates = _RATES.search(line["told"])
            if "accepted" not in told or "drafted" not in told or not told["drafted"]:
                continue
            if rates is None:
                depth = self.depth
                drafts = told["accepted"] / (told["mean"] - 1) if told.get("mean", 1) > 1 else None
                drafts = drafts or (told["drafted"] / depth if depth else None)
                mean = 1 + told["accepted"] / drafts if drafts else told.get("mean", 1.0)
                yield MeanWindow({}, mean, drafts or 1.0, depth)
                continue
            shares = [float(rate) for rate in rates["rates"].split(",")]
            drafts = _drafts(told.get("mean"), told["accepted"], told["drafted"] / len(shares))
            yield Window.of_survivors({}, drafts, [share * drafts for share in shares], told["drafted"])


def _drafts(mean: float | None, accepted: float, if_full: float) -> float:
    """Drafts of a log line, which it does not state: exact if all were full, else from the rounded mean length."""
    if mean is None or abs(1 + accepted / if_full - mean) <= 0.0051 or mean <= 1:
        return if_full
    return accepted / (mean - 1)


def _first_version(text: str) -> Iterator[MeanWindow]:
    before = (0.0, 0.0)
    for line in _FIRST.finditer(text):
        depth = int(line["depth"])
        now = (float(line["drafted"]) / max(depth, 1), float(line["emitted"]))
        start = before if now[0] >= before[0] and now[1] >= before[1] else (0.0, 0.0)
        drafts, emitted = now[0] - start[0], now[1] - start[1]
        before = now
        if drafts > 0 and depth > 0:
            yield MeanWindow({}, min(max(emitted / drafts, 1.0), depth + 1.0), drafts, depth)
