"""vLLM's schedulers, with a schedule of draft lengths that is read again while they run.

For ``--scheduler-cls runtime.live.vllm_scheduler.LiveAsyncScheduler`` (`LiveScheduler` without asynchronous
scheduling), ``--additional-config '{"reader": {"schedule": "schedule.json"}}'`` and a ``--speculative-config`` that has
``num_speculative_tokens_per_batch_size`` from the start, which vLLM prepares its graphs for.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # pyright: ignore[reportMissingImports]
from vllm.v1.core.sched.scheduler import Scheduler  # pyright: ignore[reportMissingImports]
from vllm.v1.spec_decode.dynamic.utils import (  # pyright: ignore[reportMissingImports]
    build_dynamic_sd_schedule_lookup,
)

from reader_theory.errors import InvalidInputError
from runtime.live.followed import FollowedSchedule
from runtime.live.settings import live_settings

__all__ = ["LiveAsyncScheduler", "LiveScheduler"]


class _Live:
    """Before each step: the schedule as the file has it."""

    vllm_config: Any
    scheduler_config: Any
    dynamic_sd_lookup: list[int] | None
    num_spec_tokens: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = live_settings(self.vllm_config.additional_config)
        if settings is None or self.dynamic_sd_lookup is None:
            raise InvalidInputError(
                "a live scheduler must have a file to follow and a schedule to start from",
                got=f"settings {settings}, num_speculative_tokens_per_batch_size {self.dynamic_sd_lookup}",
                fix="Pass both: `reader.schedule` in --additional-config, and a schedule in --speculative-config.",
            )
        self.followed = FollowedSchedule(settings.schedule, settings.look_s)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step, as the engine's own."""
        if (ranges := self.followed.changed(monotonic())) is not None:
            self.dynamic_sd_lookup = build_dynamic_sd_schedule_lookup(
                [tuple(each) for each in ranges],
                vllm_max_batch_size=self.scheduler_config.max_num_seqs,
                vllm_num_speculative_tokens=self.num_spec_tokens,
            )
        engine: Any = super()
        return engine.schedule(*args, **kwargs)


class LiveScheduler(_Live, Scheduler):
    """`Scheduler` that follows a file."""


class LiveAsyncScheduler(_Live, AsyncScheduler):
    """`AsyncScheduler` that follows a file."""
