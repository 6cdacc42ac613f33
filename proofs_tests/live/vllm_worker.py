"""vLLM on the CPU, watched: ``python vllm_worker.py MODEL PLAN FOLDER``, in the environment that has vLLM.

Serves prompts that copy themselves under an n-gram drafter with a schedule that says off; the stat logger and the live
scheduler are loaded as a user would. Prints what the schedule file and the scheduler's own table became.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
}  # fmt: skip


def main() -> None:
    model, plan, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

    schedule = folder / "schedule.json"
    reader = {"plan": plan, "schedule": str(schedule), "look_s": 0.05, "refit_drafts": 20, "rest_s": 0, "switch_s": 0,
              "half_life": 200, "context": 64}  # fmt: skip
    factories = load_stat_logger_plugin_factories()
    assert [each.__name__ for each in factories] == ["ScheduleLogger"], factories
    drafting = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 4,
                "num_speculative_tokens_per_batch_size": [[1, 4, 1]]}  # fmt: skip
    args = EngineArgs(
        model=model, dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=4, async_scheduling=False,
        speculative_config=drafting, additional_config={"reader": reader},
        scheduler_cls="runtime.live.vllm_scheduler.LiveScheduler",
    )  # fmt: skip
    engine = LLMEngine.from_engine_args(args, stat_loggers=list(factories))
    started = json.loads(schedule.read_text())["num_speculative_tokens_per_batch_size"]
    texts: dict[str, Any] = {}
    for i in range(4):
        prompt = "one two three four five six seven eight nine ten " * 8
        engine.add_request(str(i), prompt, SamplingParams(temperature=0.0, max_tokens=160, ignore_eos=True))
    while engine.has_unfinished_requests():
        for done in engine.step():
            if done.finished:
                texts[done.request_id] = len(done.outputs[0].token_ids)
    scheduler = engine.engine_core.engine_core.scheduler
    ended = json.loads(schedule.read_text())["num_speculative_tokens_per_batch_size"]
    told = {"started": started, "ended": ended, "table": scheduler.dynamic_sd_lookup[1:5], "lengths": texts}
    print("\n@@" + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
