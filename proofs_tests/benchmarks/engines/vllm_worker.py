"""vLLM on the CPU as a peer: ``python vllm_worker.py FOLDER DTYPE METHOD ROWS THREADS [mended]``.

METHOD is plain, ngram:K, suffix:K, eagle3:K:FOLDER of a head, or ours:K:PLAN:WORKLOAD.

Runs in its own environment (`make engines`), so that it imports nothing of this package, but for ``ours``: vLLM then
imports our proposer from the path.

"mended" puts a body of ours in the place of vLLM's `expand_batch_to_tokens`, since its kernel for the CPU drops what it
writes (issue 55005 of vllm-project/vllm): drafts at a temperature above 0 are verified against laws of whatever lay in
memory.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from worker import serve


def main() -> None:
    folder, dtype, method, rows, threads = sys.argv[1:6]
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": threads,
    }
    import torch
    from vllm import LLM, SamplingParams
    from vllm import __version__ as version

    torch.set_num_threads(int(threads))
    if "mended" in sys.argv[6:]:
        mend_expansion()
    name, _, drafts = method.partition(":")
    speculative: dict[str, Any] = {}
    if name == "ngram":
        lookup = {
            "method": "ngram",
            "num_speculative_tokens": int(drafts),
            "prompt_lookup_max": 4,
            "prompt_lookup_min": 2,
        }
        speculative = {"speculative_config": lookup}
    elif name == "suffix":
        options = {"suffix_decoding_max_cached_requests": 0}  # answers of an earlier repeat would be drafted whole
        speculative = {"speculative_config": {"method": "suffix", "num_speculative_tokens": int(drafts), **options}}
    elif name == "eagle3":
        count, _, head = drafts.partition(":")
        speculative = {"speculative_config": {"method": "eagle3", "model": head, "num_speculative_tokens": int(count)}}
    elif name == "ours":
        count, plan, workload = drafts.split(":")
        proposer = {"method": "custom_class", "model": "runtime.plugins.vllm.VllmProposer"}
        speculative = {
            "speculative_config": {**proposer, "num_speculative_tokens": int(count)},
            "additional_config": {"reader": {"plan": plan, "workload": workload}},
        }
    llm = LLM(
        folder, dtype=dtype, enforce_eager=True, max_model_len=1024, max_num_seqs=int(rows), disable_log_stats=False,
        enable_prefix_caching=False, **speculative,
    )  # fmt: skip

    steps: list[tuple[float, int]] = []
    inner = llm.llm_engine.step

    def timed() -> Any:
        rows, start = llm.llm_engine.get_num_unfinished_requests(), time.perf_counter()
        found = inner()
        steps.append((time.perf_counter() - start, rows))
        return found

    llm.llm_engine.step = timed
    emissions: list[int] = []
    core = llm.llm_engine.engine_core
    heard = core.get_output

    def counted() -> Any:
        found = heard()
        emissions.append(sum(bool(each.new_token_ids) for each in found.outputs))
        return found

    core.get_output = counted

    def generate(
        prompts: list[list[int]], max_tokens: int, end: int | None, temperature: float = 0.0
    ) -> dict[str, Any]:
        params = SamplingParams(temperature=temperature, max_tokens=max_tokens, ignore_eos=end is None)
        steps.clear()
        emissions.clear()
        start = time.perf_counter()
        done = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        seconds = time.perf_counter() - start
        tokens = [list(each.outputs[0].token_ids) for each in done]
        return {"tokens": tokens, "counts": [len(t) for t in tokens], "texts": [each.outputs[0].text for each in done],
                "seconds": seconds, "metrics": _metrics(llm), "counters": _counters(llm),
                "steps": list(steps), "row_steps": sum(emissions) - len(tokens)}  # fmt: skip

    serve(generate, {"engine": "vllm", "version": version, "method": method, "dtype": dtype})


def mend_expansion() -> None:
    """Give each drafted token its row's temperature, top-k and top-p."""
    import torch
    from vllm.v1.sample import rejection_sampler

    def expand(values: Any, ends: Any, tokens: int, replace_from: int = 0, replace_to: int = 0) -> Any:
        counts = torch.diff(ends.long(), prepend=ends.new_zeros(1).long())
        meant = torch.where(values == replace_from, torch.as_tensor(replace_to, dtype=values.dtype), values)
        return meant.repeat_interleave(counts, output_size=tokens)

    rejection_sampler.expand_batch_to_tokens = expand


def _counters(llm: Any) -> list[dict[str, Any]]:
    """What a scrape would say of drafts, tokens and requests since the start."""
    wanted = ("spec_decode_num", "generation_tokens", "request_success", "inter_token_latency", "time_to_first_token")
    found: list[dict[str, Any]] = []
    for metric in llm.get_metrics():
        if any(name in metric.name for name in wanted):
            value = {name: getattr(metric, name) for name in ("value", "values", "count") if hasattr(metric, name)}
            found.append({"name": metric.name, "labels": dict(metric.labels), **value})
    return found


def _metrics(llm: Any) -> dict[str, Any]:
    """Counters of speculative decoding since the start."""
    found: dict[str, Any] = {}
    for metric in llm.get_metrics():
        if "spec_decode" in metric.name:
            found[metric.name] = getattr(metric, "values", None) or getattr(metric, "value", None)
    return found


if __name__ == "__main__":
    main()
