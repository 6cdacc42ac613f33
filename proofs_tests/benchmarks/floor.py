"""How near a forward comes to the machine's floor: weights read once from memory, and nothing else.

``python -m proofs_tests.benchmarks.floor FOLDER`` prints, for each type, the time to read the weights, our forward of
1 to 32 rows, and plain tokens a second of ours and of transformers at batch 1, 4 and 8; in turn, ratios with the spread
of their repeats, into ``results/floor.json``. ``--engines PYTHON`` adds vLLM, from another environment's Python, and
``--llama GGUF`` beside it llama.cpp at batch 1, at the same bits: the float32 file is quantised to BF16, Q8_0 and Q4_1.
Peers run between two turns of ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
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


GGUF_TYPES = {"float32": None, "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""The format of llama.cpp that has the bits of ours; None is the file as it is."""

QUANTISE = """
import sys, llama_cpp
source, made, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind), 2
sys.exit(llama_cpp.llama_model_quantize(source.encode(), made.encode(), params))
"""

LLAMA = """
import json, sys, time
import llama_cpp
gguf, tokens, threads, prompt = json.loads(sys.argv[1])
defaults = llama_cpp.llama_cpp.llama_model_default_params
def plain():  # the layout for AMX faults on virtual machines that name AMX and lack its state
    params = defaults()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_cpp.llama_model_default_params = plain
llama = llama_cpp.Llama(gguf, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
def timed():
    llama.reset()
    start = time.perf_counter()
    for number, _ in enumerate(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), 1):
        if number == tokens:
            break
    return tokens / (time.perf_counter() - start)
timed()
print("RESULT" + json.dumps(timed()))
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


def told_by(python: str, program: str, asked: list[Any]) -> Any:
    """What a program of another environment's Python printed as its result."""
    done = subprocess.run([python, "-c", program, json.dumps(asked)], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return json.loads(line.removeprefix("RESULT"))


def gguf_of(options: argparse.Namespace, dtype: str, scratch: Path) -> Path | None:
    """llama.cpp's weights at the bits of this type."""
    if options.llama is None or dtype not in GGUF_TYPES:
        return None
    if (kind := GGUF_TYPES[dtype]) is None:
        return options.llama
    made = scratch / f"{kind}.gguf"
    subprocess.run([options.engines, "-c", QUANTISE, options.llama, made, kind], capture_output=True, check=True)
    return made


def peers_per_s(
    options: argparse.Namespace, dtype: str, gguf: Path | None, prompts: list[list[int]]
) -> dict[str, float]:
    """Tokens a second of the engines that were asked for."""
    found: dict[str, float] = {}
    if options.engines and dtype in DTYPES:
        rates = told_by(options.engines, VLLM, [options.folder, dtype, options.tokens, prompts])
        found |= {f"vLLM, batch {batch}": rate for batch, rate in rates.items()}
    if gguf is not None:
        asked = [str(gguf), options.tokens, torch.get_num_threads(), prompts[0]]
        found["llama.cpp, batch 1"] = told_by(options.engines, LLAMA, asked)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def measure(dtype: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All figures of one type."""
    from transformers import AutoModelForCausalLM

    folder, gguf = options.folder, gguf_of(options, dtype, scratch)
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
        found |= peers_per_s(options, dtype, gguf, prompts)
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
    parser.add_argument("--engines", metavar="PYTHON")
    parser.add_argument("--llama", metavar="GGUF", type=Path, help="float32; needs --engines")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.llama and not options.engines:
        parser.error("--llama needs --engines, the Python that has llama-cpp-python")
    found: dict[str, Any] = {}
    for dtype in options.dtype:
        with tempfile.TemporaryDirectory() as scratch:
            found[dtype] = measure(dtype, options, Path(scratch))
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
