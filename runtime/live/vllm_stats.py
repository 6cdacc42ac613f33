"""vLLM counts, and this listens: a stat logger that keeps acceptance by position and writes the schedule.

Loaded by the entry point group ``vllm.stat_logger_plugins`` wherever this package is installed; it does nothing unless
``--additional-config`` has a table ``reader`` with a plan (`LiveSettings`).
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase  # pyright: ignore[reportMissingImports]

from reader_theory.documents import Plan, read_document
from reader_theory.documents.serving_schedule import ServingSchedule
from runtime.live.decision import Switching
from runtime.live.estimator import AcceptanceEstimator
from runtime.live.files import write_schedule
from runtime.live.menu import Menu
from runtime.live.settings import LiveSettings, live_settings
from runtime.live.tally import Tally
from runtime.live.watcher import Pace, Watcher

__all__ = ["ScheduleLogger"]

_log = logging.getLogger(__name__)


class ScheduleLogger(StatLoggerBase):
    """One engine's; data parallel ones drop schedules, so that the first alone is listened to."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        settings = live_settings(vllm_config.additional_config)
        listens = settings is not None and settings.plan is not None and engine_index == 0
        self.settings = settings if listens else None
        if self.settings is not None:
            self.watcher, self.tally, self.looked_s = _watcher(self.settings), Tally(), monotonic()
            self.max_batch = int(vllm_config.scheduler_config.max_num_seqs)
            self.unwritten = True

    def log_engine_initialized(self) -> None:
        """The plan's own schedule, before anything is counted."""
        if self.settings is not None:
            self._write(self.settings)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Add a step up; look at the sums once `look_s` have gone."""
        if self.settings is None or scheduler_stats is None:
            return
        self.tally.step(scheduler_stats.num_running_reqs, scheduler_stats.kv_cache_usage)
        if (told := scheduler_stats.spec_decoding_stats) is not None:
            self.tally.drafted(told.num_drafts, told.num_draft_tokens_per_pos, told.num_accepted_tokens_per_pos)
        if (now_s := monotonic()) - self.looked_s >= self.settings.look_s:
            self.looked_s = now_s
            self._look(self.settings, now_s)

    def _look(self, settings: LiveSettings, now_s: float) -> None:
        windows, rows, cache = self.tally.taken()
        context = settings.context or self.watcher.menu.contexts[0]
        if settings.kv_tokens is not None and rows >= 1:
            context = cache * settings.kv_tokens / rows
        self.unwritten |= self.watcher.observe(now_s, windows, batch=rows, context=context)
        if self.unwritten:
            self._write(settings)

    def _write(self, settings: LiveSettings) -> None:
        """Write the schedule; a failure is logged and tried again at the next look: an error would end the engine."""
        try:
            write_schedule(settings.schedule, self.watcher, self.max_batch)
            self.unwritten = False
        except OSError as error:
            _log.warning("the schedule was not written to %s: %s", settings.schedule, error)


def _watcher(settings: LiveSettings) -> Watcher:
    assert settings.plan is not None, "who listens has a plan"
    document = read_document(settings.plan, {"plan": Plan, "serving_schedule": ServingSchedule})
    assert isinstance(document, Plan | ServingSchedule), "no other kind is read"
    menu = Menu.of(document, settings.workload)
    switching = Switching(
        margin=settings.margin, rest_s=settings.rest_s, switch_s=settings.switch_s, off_loss=settings.off_loss
    )
    estimator = AcceptanceEstimator(menu.shares, half_life=settings.half_life)
    return Watcher(menu, switching, Pace(refit_drafts=settings.refit_drafts), estimator)
