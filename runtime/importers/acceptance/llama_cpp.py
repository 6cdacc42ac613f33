"""llama.cpp's log: "draft acceptance" of each request, by position; "statistics" of each kind of draft."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window

__all__ = ["LlamaCppLog"]

_REQUEST = re.compile(
    r"draft acceptance(?: rate)? = *[\d.]+ \( *(?P<accepted>\d+) accepted / *(?P<drafted>\d+) generated\)"
    r"(?:, mean acceptance length = *[\d.]+, acceptance rate per position = \((?P<rates>[\d., ]*)\))?"
)
_RATE = re.compile(r"\d+(?:\.\d+)?")
_STATISTICS = re.compile(
    r"statistics +(?P<kind>[\w-]+): .*?#gen drafts *= *(?P<drafts>\d+),? *#acc drafts *= *(?P<first>\d+),? *"
    r"#gen tokens *= *(?P<drafted>\d+),? *#acc tokens *= *(?P<accepted>\d+)"
    r"(?:,? *#mean acc len *= *[\d.]+, *#acc rate/pos *= *\((?P<rates>[\d., ]*)\))?"
)


@ACCEPTANCE_FORMATS.register
class LlamaCppLog(AcceptanceFormat):
    """Each request's line is a window where it counts by position; else the "statistics" lines are, which count on.

    A server may draft in several ways at once, which "statistics" lines tell apart and requests' lines do not.
    """

    name = "llama.cpp log"
    engine = "llama.cpp"
    looks = 'log lines "draft acceptance = ..." or "statistics ...: #gen drafts = ..."'

    def matches(self, text: str) -> bool:
        """Whether it has such a line."""
        return _REQUEST.search(text) is not None or _STATISTICS.search(text) is not None

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """Requests by position, else what the statistics grew by from line to line, else requests' means."""
        text = "\n".join(text for _, text in texts)
        lines = list(_STATISTICS.finditer(text))
        kinds = {line["kind"] for line in lines if int(line["drafts"]) > 0}
        by_position = [window for line in _REQUEST.finditer(text) if (window := _request(line)) is not None]
        if by_position and len(kinds) <= 1:
            return [*by_position], ()
        counted = [window for kind in sorted(kinds) for window in self._statistics(kind, lines)]
        if counted:
            return counted, ()
        return [*by_position, *(self._means(text) if not by_position else ())], ()

    def _statistics(self, kind: str, lines: Sequence[re.Match[str]]) -> Iterator[Window | MeanWindow]:
        before = [0.0, 0.0, 0.0]
        shares: list[float] = []
        for line in (line for line in lines if line["kind"] == kind):
            now = [float(line[name]) for name in ("drafts", "drafted", "accepted")]
            rates = [float(rate) for rate in _RATE.findall(line["rates"] or "")]
            if any(new < old for new, old in zip(now, before, strict=True)):
                before, shares = [0.0, 0.0, 0.0], []
            drafts, drafted, accepted = (new - old for new, old in zip(now, before, strict=True))
            if drafts > 0 and rates:
                old = [share * before[0] for share in shares] + [0.0] * (len(rates) - len(shares))
                survivors = [max(rate * now[0] - past, 0.0) for rate, past in zip(rates, old, strict=False)]
                yield Window.of_survivors({"kind": kind}, drafts, survivors, drafted)
            elif drafts > 0:
                longest = self.depth or max(1, -int(-drafted // drafts))
                mean = min(1 + accepted / drafts, longest + 1.0)
                yield MeanWindow({"kind": kind}, mean, drafts, longest)
            before, shares = now, rates

    def _means(self, text: str) -> Iterator[MeanWindow]:
        """Lines without positions: drafts are known only where the user says how long they are."""
        for line in _REQUEST.finditer(text):
            accepted, drafted = float(line["accepted"]), float(line["drafted"])
            if drafted > 0:
                drafts = drafted / self.depth if self.depth else 1.0
                yield MeanWindow({}, 1 + accepted / drafts if self.depth else 1.0, drafts, self.depth)


def _request(line: re.Match[str]) -> Window | None:
    rates = [float(rate) for rate in _RATE.findall(line["rates"] or "")]
    accepted, drafted = float(line["accepted"]), float(line["drafted"])
    if not rates or not drafted:
        return None
    drafts = accepted / sum(rates) if sum(rates) > 0 else drafted / len(rates)
    return Window.of_survivors({}, round(max(drafts, 1.0)), [rate * round(max(drafts, 1.0)) for rate in rates], drafted)
