"""SGLang: mean accepted lengths of its decode log lines and of its gauges, which tell nothing by depth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.acceptance.counters import identity, samples

__all__ = ["SglangGauges", "SglangLog"]

_DECODE = re.compile(r"Decode batch.*?#running-req: (?P<running>\d+).*?accept len: (?P<length>\d+(?:\.\d+)?)")
_STEPS = re.compile(r"speculative_num_steps=(\d+)")
_DRAFTED = re.compile(r"speculative_num_draft_tokens=(\d+)")
_TOPK = re.compile(r"speculative_eagle_topk=(\d+)")
_BLOCK = re.compile(r"speculative_algorithm='?(DFLASH|DSPARK|NGRAM)")
_GAUGE = re.compile(r"sglang:(spec_accept_length|spec_num_steps|spec_num_draft_tokens|num_running_reqs)\b")
_WIDE = "the server drafted trees: acceptance is that of the best of topk candidates at each depth"
_RANKS = ("tp_rank", "pp_rank", "dp_rank", "moe_ep_rank")


@ACCEPTANCE_FORMATS.register
class SglangLog(AcceptanceFormat):
    """Each line's mean length, the bonus token counted, weighs as many request-steps as it had running requests.

    The line's "accept rate" is left out, because what it divides by changed from version to version.
    """

    name = "sglang log"
    engine = "sglang"
    looks = 'decode log lines with "accept len"'

    def matches(self, text: str) -> bool:
        """Whether it has such a line."""
        return _DECODE.search(text) is not None

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a line with running requests."""
        text = "\n".join(text for _, text in texts)
        steps = self.depth or _depth(text)
        lines = [(float(match["length"]), float(match["running"])) for match in _DECODE.finditer(text)]
        windows: list[Window | MeanWindow] = [
            MeanWindow({}, length, running, steps) for length, running in lines if running > 0 and length > 0
        ]
        return windows, (_WIDE,) if (_told(_TOPK, text) or 1) > 1 else ()


@ACCEPTANCE_FORMATS.register
class SglangGauges(AcceptanceFormat):
    """``sglang:spec_accept_length`` of one scrape or several; each weighs its ``sglang:num_running_reqs``, or one."""

    name = "sglang gauges"
    engine = "sglang"
    looks = "the gauge `sglang:spec_accept_length`"

    def matches(self, text: str) -> bool:
        """Whether it has the gauge."""
        return re.search(r"^sglang:spec_accept_length\b", text, re.MULTILINE) is not None

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a scrape and server in which something was decoded."""
        windows: list[Window | MeanWindow] = []
        wide = False
        for name, text in texts:
            for labels, gauges in _scrapes(name, text):
                length, steps = gauges.get("spec_accept_length", 0.0), gauges.get("spec_num_steps", 0.0)
                drafted = gauges.get("spec_num_draft_tokens", 0.0) - 1
                wide |= 0 < steps < drafted
                depth = self.depth or int(steps or max(drafted, 0)) or None
                if length > 0:
                    windows.append(MeanWindow(labels, length, max(gauges.get("num_running_reqs", 1.0), 1.0), depth))
        return windows, (_WIDE,) if wide else ()


def _scrapes(name: str, text: str) -> Iterator[tuple[dict[str, str], dict[str, float]]]:
    """(labels of a server, its gauges) of each scrape; a gauge seen again begins the next one."""
    found: dict[str, tuple[dict[str, str], dict[str, float]]] = {}
    for sample in samples(name, text, _GAUGE):
        labels = {key: value for key, value in identity(sample.labels).items() if key not in _RANKS}
        what = sample.name.removeprefix("sglang:")
        key = repr(labels) + repr([sample.labels.get(rank) for rank in _RANKS])
        if what in found.get(key, (labels, {}))[1]:
            yield found.pop(key)
        found.setdefault(key, (labels, {}))[1][what] = sample.value
    yield from found.values()


def _depth(text: str) -> int | None:
    """Draft tokens on the longest path: steps of a draft model, the block without its root of a parallel one."""
    drafted = _told(_DRAFTED, text)
    if _BLOCK.search(text) and drafted:
        return drafted - 1
    return _told(_STEPS, text) or (drafted - 1 if drafted and drafted > 1 else None)


def _told(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(match[1]) if match else None
