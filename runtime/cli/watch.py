"""`reader watch`: a server's metrics, again and again, to a schedule that follows them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import InvalidInputError, require
from runtime.cli import _options as options
from runtime.cli._shared import output_path

if TYPE_CHECKING:
    from runtime.live.prometheus import Counted, Scrape
    from runtime.live.watcher import Watcher

__all__ = ["watch"]

PATIENCE_S = 10.0
"""Seconds that a server has to answer."""
LARGEST_BYTES = 64 * 2**20
"""Most of an answer that is read."""
Source = Callable[[], "list[Scrape]"]


def watch(
    plan: options.PlanFile = Path("out/plan.json"),
    prometheus: Annotated[
        str, typer.Option(help="/metrics of a server on loopback, or a file that somebody scrapes it into.")
    ] = "http://127.0.0.1:8000/metrics",
    workload: Annotated[str | None, typer.Option(help="Of the plan; its only one when left out.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE of the one model in the metrics.")] = None,
    every: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds between two looks.")] = 15.0,
    once: Annotated[bool, typer.Option("--once", help="Take what is there now, scrape after scrape, and end.")] = False,
    context: Annotated[
        int | None, typer.Option(min=1, max=10**8, help="Mean cached tokens of a row, where --kv-tokens is not given.")
    ] = None,
    kv_tokens: options.KvTokens = None,
    max_batch: Annotated[int, typer.Option(min=1, max=10**6, help="The server's largest batch.")] = 256,
    refit_drafts: Annotated[float, typer.Option(min=1, help="Drafts after which acceptance is fitted again.")] = 1e4,
    half_life: Annotated[float, typer.Option(min=1, help="Drafts after which a count weighs half.")] = 3e4,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Least gain that a change must bring.")] = 0.01,
    rest: Annotated[float, typer.Option(min=0, max=1e6, help="Least seconds between two changes.")] = 600.0,
    switch_seconds: Annotated[
        float, typer.Option(min=0, max=1e6, help="Seconds of service that a change costs.")
    ] = 5.0,
    off_loss: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share lost where a server that can draft does not.")
    ] = 0.066,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: options.Output = Path("out/schedule.json"),
    as_json: options.AsJson = False,
) -> None:
    """Keep a schedule for a server that drafts: how many tokens at which batch, as acceptance and load go.

    The file is written whenever the schedule changes, whole or not at all. SIGINT and SIGTERM end it.

    Example: reader watch out/plan.json --prometheus http://127.0.0.1:8000/metrics -o out/schedule.json
    """
    output_path(output, ".json")
    from reader_theory.documents import Plan, read_document
    from reader_theory.documents.serving_schedule import ServingSchedule
    from runtime.cli.import_ import labels_of
    from runtime.live.decision import Switching
    from runtime.live.estimator import AcceptanceEstimator
    from runtime.live.menu import Menu
    from runtime.live.watcher import Pace, Watcher

    told = read_document(plan, {"plan": Plan, "serving_schedule": ServingSchedule})
    assert isinstance(told, Plan | ServingSchedule), "no other kind is read"
    menu = Menu.of(told, workload)
    watcher = Watcher(
        menu, Switching(margin=margin, rest_s=rest, switch_s=switch_seconds, off_loss=off_loss),
        Pace(refit_drafts=refit_drafts), AcceptanceEstimator(menu.shares, half_life=half_life),
    )  # fmt: skip
    source = _source(prometheus, labels_of(only))
    run = _Watch(watcher, source, output, max_batch, context, kv_tokens, as_json)
    if once:
        scrapes = run.read()
        run.write()
        run.take(scrapes, every)
    else:
        run.write()
        with _stopped() as stop:
            run.until(stop, every)
    run.summary()


@contextmanager
def _stopped() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set, for as long as this lasts."""
    stop = Event()
    before = {which: signal.signal(which, lambda *_: stop.set()) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _source(prometheus: str, only: dict[str, str]) -> Source:
    from runtime.importers.rows import read_text
    from runtime.live.prometheus import read_scrapes

    if "://" not in prometheus:
        path = Path(prometheus)
        require(
            path.is_file(),
            "`--prometheus` must be http on loopback, or a file",
            got=f"`{prometheus[:200]}`, which is not there",
            fix="Pass http://127.0.0.1:8000/metrics, or the file that scrapes are written to.",
        )
        return lambda: read_scrapes(path.name, read_text(path), only)
    from runtime.loopback import loopback_opener

    opener = loopback_opener(prometheus, "http://127.0.0.1:8000/metrics")

    def scraped() -> list[Scrape]:
        try:
            with opener.open(prometheus, timeout=PATIENCE_S) as answer:
                text = answer.read(LARGEST_BYTES).decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise InvalidInputError(
                "the server must answer with its metrics",
                got=f"{prometheus[:200]}: {error}",
                fix="Check that it runs, its port, and the path.",
            ) from None
        return read_scrapes(prometheus, text, only)

    return scraped


class _Watch:
    """The loop: look, tell the watcher, write what changed."""

    def __init__(
        self, watcher: Watcher, source: Source, path: Path, max_batch: int, context: int | None,
        kv_tokens: int | None, as_json: bool,
    ) -> None:  # fmt: skip
        from runtime.live.prometheus import Scrapes

        self.watcher, self.source, self.path, self.max_batch = watcher, source, path, max_batch
        self.context, self.kv_tokens, self.as_json = context, kv_tokens, as_json
        self.scrapes, self.failed, self.looks = Scrapes(), 0, 0
        self._taken = 0
        self._last: int | None = None

    def until(self, stop: Event, every: float) -> None:
        """Look, and wait, until `stop`; a look that fails is said, once in a row, and made up for by the next."""
        silent = False
        while not stop.is_set():
            begun = monotonic()
            try:
                self.take(self.read(), every, now_s=begun)
                silent = False
            except (InvalidInputError, OSError) as error:
                self.failed += 1
                if not silent:
                    self.say({"failed": str(error)[:200]}, f"no metrics: {str(error)[:200]}")
                silent = True
            stop.wait(max(every - (monotonic() - begun), 0.0))

    def read(self) -> list[Scrape]:
        """What is there now.

        Raises
        ------
        InvalidInputError
            If it does not count drafts.
        """
        found = self.source()
        counting = sum("drafts" in scrape.counts for scrape in found)
        require(
            0 < counting == len(found),
            "metrics must hold counters of drafts, `...spec_decode_num_drafts` and by position",
            got=f"{len(found)} scrapes, {counting} of them with such counters",
            fix="Pass /metrics of a server that speculates; --only names its model where there are several.",
        )
        return found

    def take(self, found: list[Scrape], every: float, *, now_s: float | None = None) -> None:
        """Take the scrapes that are new; without a clock, they were made `every` seconds apart."""
        fresh = found if len(found) == 1 else found[self._taken if len(found) >= self._taken else 0 :]
        self._taken = len(found)
        for scrape in fresh:
            self.looks += 1
            counted = self.scrapes.take(scrape)
            if counted is not None and self._observe(counted, self.looks * every if now_s is None else now_s):
                self.write()

    def _observe(self, counted: Counted, now_s: float) -> bool:
        from runtime.live.prometheus import windows_of

        menu, lengths = self.watcher.menu, self.watcher.lengths
        rows = 1.0 if counted.running is None else counted.running
        context = self._context(counted, rows)
        here = menu.place(context, max(rows, 1.0))[0]
        batches = {0, *range(len(menu.batches))} if counted.running is None else self._near(rows)
        in_play = sorted({int(lengths[here, b]) for b in batches})
        windows = windows_of(counted, in_play, all_steps=menu.looks_up)
        return self.watcher.observe(now_s, windows, batch=rows, context=context)

    def _near(self, rows: float) -> set[int]:
        """Batches that ran in between: from those of the last look to those of this one."""
        place = self.watcher.menu.place(0, max(rows, 1.0))[1]
        last, self._last = place if self._last is None else self._last, place
        return set(range(min(last, place), max(last, place) + 1))

    def _context(self, counted: Counted, rows: float) -> float:
        if self.kv_tokens is not None and counted.cache is not None and rows >= 1:
            return counted.cache * self.kv_tokens / rows
        return float(self.watcher.menu.contexts[0] if self.context is None else self.context)

    def write(self) -> None:
        """The schedule as it is now, to the file and to who reads along."""
        from runtime.live.files import write_schedule

        told = write_schedule(self.path, self.watcher, self.max_batch)
        ranges = told["num_speculative_tokens_per_batch_size"]
        tried = "" if told["trial"] is None else f"; a trial of {told['trial']['seconds']:g} s"
        words = ", ".join(f"{start}-{end}: {length or 'off'}" for start, end, length in ranges)
        self.say({"schedule": told}, f"schedule written to {self.path}: {words}{tried}")

    def summary(self) -> None:
        """What was seen."""
        facts = {
            "looks": self.looks, "failed": self.failed, "restarts": self.scrapes.restarts,
            "changes": self.watcher.switches, "trials": self.watcher.trials,
        }  # fmt: skip
        self.say(facts, ", ".join(f"{name} {count}" for name, count in facts.items()))

    def say(self, facts: dict[str, Any], words: str) -> None:
        """One line, for machines or for people."""
        print(json.dumps(facts) if self.as_json else words, flush=True)
