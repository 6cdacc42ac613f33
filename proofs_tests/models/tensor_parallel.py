"""Run under torchrun: greedy tokens of a parallel model, written by the first process.

torchrun --nproc-per-node 2 -m proofs_tests.models.tensor_parallel FOLDER OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from proofs_tests.tiny import POLICIES, random_prompts
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.parallel import load_parallel

PARAMS = SamplingParams(max_new_tokens=16)


def main(folder: str, out: str) -> None:
    model = load_parallel(folder, "float32")
    engine = Engine(model, policy=POLICIES["retrieval"], max_batch=3, max_context=128)
    done = engine.generate([prompt.tokens for prompt in random_prompts(4)], PARAMS)
    heads = engine.cache.stores[0].keys
    assert heads is not None
    if torch.distributed.get_rank() == 0:
        found = {"tokens": [each.tokens for each in done], "kv_heads": int(heads.shape[1])}
        Path(out).write_text(json.dumps(found | {"processes": torch.distributed.get_world_size()}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
