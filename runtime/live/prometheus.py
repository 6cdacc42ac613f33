"""Scrapes of ``/metrics``: what was counted between two of them, whatever became of the server in between."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from reader_theory.errors import InvalidInputError
from runtime.importers.acceptance.counters import positions, row_steps, samples
from runtime.live.estimator import DraftWindow

__all__ = ["Counted", "Scrape", "Scrapes", "read_scrapes", "windows_of"]

_WANTED = re.compile(
    r"(?:\w+[:_])?(?:spec_decode_num_|generation_tokens|request_success|num_requests_running|requests_processing"
    r"|kv_cache_usage_perc|process_start_time_seconds)"
)
_COUNTER = re.compile(
    r"(?:\w+[:_])?(?:spec_decode_num_(?P<draft>drafts|draft_tokens|accepted_tokens(?:_per_pos)?)|"
    r"(?P<served>generation_tokens|request_success))(?:_total)?$"
)
_RUNNING = re.compile(r"(?:\w+[:_])?(?:num_requests_running|requests_processing)$")
_CACHE = re.compile(r"(?:\w+[:_])?kv_cache_usage_perc$")
_BEGUN = re.compile(r"process_start_time_seconds$|(?:\w+[:_])?spec_decode_num_drafts(?:_total)?_created$")
_WHOLE = 0.01
"""Share by which a mean length may differ from a whole number and still be one."""


@dataclass
class Scrape:
    """One scrape, all engines of the server added up.

    Attributes
    ----------
    counts : by name: drafts, draft_tokens, ``pos 0`` ..., generation_tokens, request_success
    running : requests in the engines; None where it is not told
    cache : mean share of the cache in use; None where it is not told
    begun : what tells one life of the server from the next, where it says so
    """

    counts: dict[str, float] = field(default_factory=dict[str, float])
    running: float | None = None
    cache: float | None = None
    begun: tuple[float, ...] = ()


@dataclass(frozen=True)
class Counted:
    """What one server counted between two scrapes; `running` and `cache` are of the later one."""

    counts: Mapping[str, float]
    running: float | None
    cache: float | None


def read_scrapes(name: str, text: str, only: Mapping[str, str] | None = None) -> list[Scrape]:
    """Scrapes in order: a series that is seen again begins the next one.

    Parameters
    ----------
    only : mapping, optional
        Labels that a series must have, where several models are served.

    Raises
    ------
    InvalidInputError
        If a line that is looked at is damaged, or the scrape tells of several models.
    """
    return list(_scrapes(name, text, only or {}))


def _scrapes(name: str, text: str, only: Mapping[str, str]) -> Iterator[Scrape]:
    scrape, seen, caches, models = Scrape(), set[tuple[str, str]](), list[float](), set[str]()
    for sample in samples(name, text, _WANTED):
        if any(sample.labels.get(key, value) != value for key, value in only.items()) or not 0 <= sample.value < inf:
            continue
        series = (sample.name, repr(sorted(sample.labels.items())))
        if series in seen:
            yield _whole(scrape, caches)
            scrape, seen, caches = Scrape(), set(), []
        seen.add(series)
        if "model_name" in sample.labels:
            models.add(sample.labels["model_name"])
        if len(models) > 1:
            raise InvalidInputError(
                "a scrape must tell of one model", got=f"{sorted(models)}",
                fix=f"Choose one, for example --only model_name={min(models)}.",
            )  # fmt: skip
        _add(scrape, caches, sample.name, sample.labels, sample.value)
    if seen:
        yield _whole(scrape, caches)


def _add(scrape: Scrape, caches: list[float], name: str, labels: Mapping[str, str], value: float) -> None:
    if _BEGUN.search(name):
        scrape.begun = (*scrape.begun, value)
    elif _RUNNING.match(name):
        scrape.running = value + (scrape.running or 0.0)
    elif _CACHE.match(name):
        caches.append(value)
    elif (found := _COUNTER.match(name)) is not None:
        what = found["draft"] or found["served"]
        if what.endswith("_per_pos"):
            if not labels.get("position", "").isdecimal():
                return
            what = f"pos {int(labels['position'])}"
        scrape.counts[what] = scrape.counts.get(what, 0.0) + value


def _whole(scrape: Scrape, caches: list[float]) -> Scrape:
    scrape.cache = float(np.mean(caches)) if caches else None
    return scrape


class Scrapes:
    """Successive scrapes of one server to what was counted in between.

    The first tells where counting stands, and nothing else: what was counted before is of another time. Counters that
    fell, or a start that moved, are those of a server that began anew: it counted from zero. A scrape that failed is
    made up for by the next, and one that lacks what was told before counts for failed, unless the next lacks it too.
    """

    def __init__(self) -> None:
        self._before: Scrape | None = None
        self._doubtful = False
        self.restarts = 0

    def take(self, scrape: Scrape) -> Counted | None:
        """What was counted since the last scrape; None of the first, and of one that is not whole."""
        before = self._before
        if before is not None and before.counts.keys() - scrape.counts.keys() and not self._doubtful:
            self._doubtful = True
            return None
        self._before, self._doubtful = scrape, False
        if before is None:
            return None
        fell = any(scrape.counts.get(what, 0.0) < value for what, value in before.counts.items())
        moved = bool(before.begun) and bool(scrape.begun) and before.begun != scrape.begun
        start: Mapping[str, float] = before.counts
        if fell or moved:
            self.restarts += 1
            start = {}
        counts = {what: value - start.get(what, 0.0) for what, value in scrape.counts.items()}
        return Counted(counts, scrape.running, scrape.cache)


def windows_of(counted: Counted, lengths: Sequence[int], *, all_steps: bool) -> list[DraftWindow]:
    """Drafts of a window by their length, as far as counters tell.

    Counters do not tell lengths apart. A mean length that is whole is taken for the length. Else `lengths` say which
    were drafted: of one, all drafts are; of two, the mean tells how many were of each; of more, only the depths that
    all of them reached are looked at.

    Parameters
    ----------
    counted : Counted
    lengths : sequence of int
        That the schedule asked for in this time; 0 among them where it was off.
    all_steps : bool
        Shares are of all steps, where counters tell these: look-ups find none at some.
    """
    drafts, survivors = counted.counts.get("drafts", 0.0), positions(counted.counts)
    drafted = counted.counts.get("draft_tokens", 0.0)
    if drafts <= 0 or not survivors:
        return []
    told = row_steps(counted.counts) if all_steps and 0 not in lengths else None
    steps, mean = (told or drafts), drafted / drafts
    known = sorted(set(lengths) - {0})
    if abs(mean - round(mean)) <= _WHOLE * mean and round(mean) >= 1:
        known = [round(mean)]
    known = [min(length, len(survivors)) for length in known] or [max(1, min(int(mean), len(survivors)))]
    if len(known) == 2 and known[0] < mean < known[1]:
        long = (mean - known[0]) / (known[1] - known[0])
        deep = [*(long * count for count in survivors[: known[0]]), *survivors[known[0] : known[1]]]
        short = [(1 - long) * count for count in survivors[: known[0]]]
        return [DraftWindow(steps * (1 - long), short), DraftWindow(steps * long, deep)]
    return [DraftWindow(steps, survivors[: known[0]])]
