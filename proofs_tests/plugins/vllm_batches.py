"""The proposer in vLLM's own environment, on batches kept by vLLM's own `InputBatch`: ``PLAN STEPS``.

Prints one line of JSON: batches, tokens proposed, proposals that were not what an index made anew offers or were not
legal, most indices held at once, and the bytes held at the end.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from proofs_tests.plugins.batches import LONGEST, ROWS, VOCABULARY, Request, random_steps
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Chain
from runtime.plugins.vllm import VllmProposer
from runtime.retrieval.index import RetrievalIndex

TOKENS = 6


def input_batch() -> Any:
    """vLLM's, without a device."""
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.worker.gpu_input_batch import InputBatch

    return InputBatch(
        max_num_reqs=ROWS, max_model_len=LONGEST, max_num_batched_tokens=LONGEST, device=torch.device("cpu"),
        vocab_size=VOCABULARY, block_sizes=[16], max_num_blocks_per_req=[LONGEST // 16],
        logitsprocs=LogitsProcessors(), num_spec_tokens=TOKENS,
    )  # fmt: skip


def wrapped(request: Request) -> Any:
    """A request as the input batch takes it."""
    from vllm import SamplingParams
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    return CachedRequestState(
        req_id=request.req_id, prompt_token_ids=request.prompt_token_ids, mm_features=[],
        sampling_params=SamplingParams(temperature=0.0), generator=None, block_ids=([0],), num_computed_tokens=0,
        output_token_ids=request.output_token_ids,
    )  # fmt: skip


def wanted(plan: Plan, rows: int, text: list[int]) -> list[int]:
    policy = plan.entry(plan.workloads[0], rows).policy
    if not isinstance(policy, Chain):
        return []
    index = RetrievalIndex(np.array(text, np.int32))
    cap = min(policy.cap(index.match_length), TOKENS, LONGEST - 1 - len(text))
    return index.chain(cap).tolist() if cap > 0 else []


def main() -> None:
    plan, steps = Plan.read(sys.argv[1]), int(sys.argv[2])
    config = SimpleNamespace(
        additional_config={"reader": {"plan": sys.argv[1]}},
        speculative_config=SimpleNamespace(num_speculative_tokens=TOKENS),
        model_config=SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: VOCABULARY),
    )
    proposer, rows, drafts = VllmProposer(config), input_batch(), [list[list[int]]()]
    told = {"batches": 0, "proposed": 0, "wrong": 0, "held": 0}
    for step in random_steps(rows, steps, 11, lambda: drafts[0], wrapped):
        drafts[0] = proposer.propose(step.sampled, rows.num_tokens_no_spec, rows.token_ids_cpu, slot_mappings=None)
        live = sum(map(bool, step.sampled))
        for chain, fresh, request in zip(drafts[0], step.sampled, step.requests, strict=True):
            told["wrong"] += chain != (wanted(plan, live, request.text) if fresh else [])
        told["batches"] += 1
        told["proposed"] += sum(map(len, drafts[0]))
        told["held"] = max(told["held"], len(proposer.proposer.rows.indices))
    proposer.propose([], rows.num_tokens_no_spec, rows.token_ids_cpu)
    print(json.dumps(told | {"bytes": proposer.proposer.rows.nbytes}))


if __name__ == "__main__":
    main()
