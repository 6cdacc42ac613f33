"""How near a forward comes to the machine's floor: weights read once from memory, and nothing else.

``python -m proofs_tests.benchmarks.floor FOLDER`` prints, for each type, the time to read the weights, our forward of
1 to 32 rows, and plain tokens a second of ours and of transformers at batch 1, 4 and 8; in turn, ratios with the spread
of their repeats, into ``results/floor.json``. ``--vllm PYTHON`` adds vLLM, from another environment's
Python; ``--llama GGUF`` adds llama.cpp by the ``xllamacpp`` wheel. Peers run between two turns of ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill
from runtime.models.load import DTYPES, load_model
from runtime.models.low_bits import QUANTISED

ROWS, BATCHES, CONTEXT = (1, 2, 4, 8, 16, 32), (1, 4, 8), 128
RESULTS = Path(__file__).parent / "results" / "floor.json"

VLLM = """
import json, os, sys, time
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
               "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
from vllm import LLM, SamplingParams
folder, dtype, tokens, prompts = json.loads(sys.argv[1])
llm = LLM(folder, dtype=dtype, enforce_eager=True, max_model_len=1024, max_num_seqs=8)
params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
out = {}
for batch in (1, 4, 8):
    asked = [{"prompt_token_ids": each} for each in prompts[:batch]]
    llm.generate(asked, params, use_tqdm=False)
    start = time.perf_counter()
    llm.generate(asked, params, use_tqdm=False)
    out[batch] = batch * tokens / (time.perf_counter() - start)
print("RESULT" + json.dumps(out))
"""


def read_s(size_bytes: int) -> float:
    """Seconds to read so many bytes from memory, the least of some."""
    block = torch.zeros(max(size_bytes // 8, 1), dtype=torch.float64)
    return min(_timed(block.sum) for _ in range(5))


def _timed(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def forward_s(model: LanguageModel, cache: Any, rows: int) -> float:
    """Seconds of one forward of a chain of so many tokens after the context."""
    tokens, parents = np.ones((1, rows), dtype=np.int64), np.arange(-1, rows - 1)[None]
    return _timed(lambda: forward_trees(model, cache, tokens, parents, np.array([rows])))


def tokens_per_s(model: LanguageModel, prompts: list[list[int]], tokens: int) -> float:
    """Plain decoding of the engine, prompts included, as the peers are timed."""
    engine = Engine(model, max_batch=len(prompts), max_context=max(map(len, prompts)) + tokens + 1)
    seconds = _timed(lambda: engine.generate(prompts, SamplingParams(max_new_tokens=tokens, ignore_eos=True)))
    return len(prompts) * tokens / seconds


def generate_per_s(model: Any, prompts: list[list[int]], tokens: int) -> float:
    """transformers' `generate` on prompts of one length."""
    ids = torch.tensor(prompts)
    mask, options = torch.ones_like(ids), {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    seconds = _timed(lambda: model.generate(ids, attention_mask=mask, max_new_tokens=tokens, **options))
    return ids.numel() // ids.shape[1] * tokens / seconds


def vllm_per_s(python: str, folder: str, dtype: str, prompts: list[list[int]], tokens: int) -> dict[int, float]:
    """vLLM's tokens a second by batch."""
    asked = json.dumps([folder, dtype, tokens, prompts])
    done = subprocess.run([python, "-c", VLLM, asked], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return {int(batch): rate for batch, rate in json.loads(line.removeprefix("RESULT")).items()}


def llama_per_s(gguf: str, prompts: list[list[int]], tokens: int) -> float:
    """llama.cpp's tokens a second at batch 1, by its own server's timing."""
    import xllamacpp  # pyright: ignore[reportMissingImports]

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.cpuparams.n_threads = gguf, 1024, torch.get_num_threads()
    server = xllamacpp.Server(params)
    asked = {"prompt": prompts[0], "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
    seconds = _timed(lambda: server.handle_completions(asked))
    return tokens / seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def measure(folder: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one type."""
    from transformers import AutoModelForCausalLM

    ours = load_model(folder, dtype)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES.get(dtype, torch.bfloat16)).eval()
    bits = {name: 8.0 * each.itemsize for name, each in DTYPES.items()} | QUANTISED
    size = int(sum(each.numel() for each in theirs.parameters()) * bits[dtype] / 8)
    theirs_name = "transformers" if dtype in DTYPES else "transformers in bfloat16"
    prompts = np.random.default_rng(0).integers(10, ours.vocabulary, (max(BATCHES), CONTEXT)).tolist()
    cache = ours.new_cache(1, CONTEXT + max(ROWS))
    prefill(ours, cache, np.array(prompts[0]), 0)
    floor, by_rows, rates = list[float](), {rows: list[float]() for rows in ROWS}, dict[str, list[float]]()
    for turn in range(options.repeats + 1):
        again = [(rows, min(forward_s(ours, cache, rows) for _ in range(5))) for rows in ROWS]
        found: dict[str, float] = {}
        for batch in BATCHES:
            found[f"ours, batch {batch}"] = tokens_per_s(ours, prompts[:batch], options.tokens)
            found[f"{theirs_name}, batch {batch}"] = generate_per_s(theirs, prompts[:batch], options.tokens)
        if options.vllm and dtype in DTYPES:
            peer = vllm_per_s(options.vllm, folder, dtype, prompts, options.tokens)
            found |= {f"vLLM, batch {batch}": rate for batch, rate in peer.items()}
        if options.llama:
            found["llama.cpp, batch 1"] = llama_per_s(options.llama, prompts, options.tokens)
        if turn:  # the first turn warms up
            floor.append(read_s(size))
            for rows, seconds in again:
                by_rows[rows].append(seconds)
            for name, rate in found.items():
                rates.setdefault(name, []).append(rate)
    first = by_rows[1]
    peers = [name for name in rates if not name.startswith("ours")]
    ratios = {
        name: [a / b for a, b in zip(rates[f"ours{name[name.index(',') :]}"], rates[name], strict=True)]
        for name in peers
    }
    return {
        "weights_bytes": size,
        "read_s": spread(floor),
        "share_of_floor": spread([read / seconds for read, seconds in zip(floor, first, strict=True)]),
        "forward_s": {rows: spread(seconds) for rows, seconds in by_rows.items()},
        "forward_over_one_row": {
            rows: spread([a / b for a, b in zip(seconds, first, strict=True)]) for rows, seconds in by_rows.items()
        },
        "tokens_per_s": {name: spread(values) for name, values in rates.items()},
        "ours_over": {name: spread(values) for name, values in ratios.items()},
    }


def main() -> None:
    """Print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=[*DTYPES, *QUANTISED])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--llama", metavar="GGUF")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for dtype in options.dtype:
        found[dtype] = measure(options.folder, dtype, options)
        document = {"threads": torch.get_num_threads(), "torch": torch.__version__, **found}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")  # what is measured is kept
    for dtype, each in found.items():
        print(f"{dtype}: share of the floor at one row {each['share_of_floor']['median']:.2f}")
        for key, unit in (("forward_s", 1e3), ("forward_over_one_row", 1), ("tokens_per_s", 1), ("ours_over", 1)):
            for name, value in each[key].items():
                print(f"  {key:22} {name!s:24} " + "  ".join(f"{k} {v * unit:.2f}" for k, v in value.items()))


if __name__ == "__main__":
    main()
