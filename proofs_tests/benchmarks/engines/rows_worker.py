"""Microseconds a row of proposers in vLLM's environment: ``python rows_worker.py TEXTS PLAN ROWS REPEATS``.

TEXTS is JSON: pairs of a prompt's tokens and an answer's. A batch of ROWS of them is decoded along its answers, 1 to 3
tokens a step, and at each step vLLM's n-gram proposer and ours are asked the same, in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from worker import serve

LONGEST, TOKENS = 2048, 8


def proposers(plan: str, rows: int, vocabulary: int) -> dict[str, Callable[..., Any]]:
    """vLLM's own and ours, each as its model runner calls it."""
    from vllm.v1.spec_decode.ngram_proposer import NgramProposer

    from runtime.plugins.vllm import VllmProposer

    config = SimpleNamespace(
        additional_config={"reader": {"plan": plan}},
        speculative_config=SimpleNamespace(num_speculative_tokens=TOKENS, prompt_lookup_min=2, prompt_lookup_max=4),
        model_config=SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: vocabulary),
        scheduler_config=SimpleNamespace(max_num_seqs=rows), parallel_config=SimpleNamespace(tensor_parallel_size=1),
    )  # fmt: skip
    theirs: Any = NgramProposer(config)
    return {"ngram": lambda *given: theirs.propose(TOKENS, *given), "ours": VllmProposer(config).propose}


def timed(
    asked: dict[str, Callable[..., Any]], pairs: list[Any], rows: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Seconds of every step but the first, which takes in the prompts, by proposer."""
    tokens, lengths = np.zeros((rows, LONGEST), np.int32), np.zeros(rows, np.int32)
    chosen = [pairs[row % len(pairs)] for row in range(rows)]
    for row, (prompt, _) in enumerate(chosen):
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    done, seconds = np.zeros(rows, np.int64), {name: list[float]() for name in asked}
    while True:
        sampled = []
        for row, (_, answer) in enumerate(chosen):
            fresh = answer[done[row] : done[row] + int(rng.integers(1, 4))]
            tokens[row, lengths[row] : lengths[row] + len(fresh)] = fresh
            lengths[row] += len(fresh)
            done[row] += len(fresh)
            sampled.append(list(fresh))
        if not all(sampled):
            return {name: times[1:] for name, times in seconds.items()}
        for name in rng.permutation(list(asked)).tolist():
            start = time.perf_counter()
            asked[name](sampled, lengths, tokens)
            seconds[name].append(time.perf_counter() - start)


def main() -> None:
    texts, plan, rows, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    pairs = json.loads(Path(texts).read_text())
    asked = proposers(plan, rows, 1 + max(max(map(max, pair)) for pair in pairs))
    rng = np.random.default_rng(0)

    def generate(**_: Any) -> dict[str, Any]:
        runs = [timed(asked, pairs, rows, rng) for _ in range(repeats)]
        medians = {name: [1e6 * statistics.median(run[name]) / rows for run in runs] for name in asked}
        context = float(np.mean([len(prompt) + len(answer) / 2 for prompt, answer in pairs]))
        return {"microseconds_a_row": medians, "rows": rows, "mean_context": context}

    serve(generate, {"rows": rows})


if __name__ == "__main__":
    main()
