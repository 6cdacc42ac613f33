"""How near a forward comes to the machine's floor: weights read once from memory, and nothing else.

``python -m proofs_tests.benchmarks.floor FOLDER`` prints, for each type, the time to read the weights, our forward of
1 to 32 rows, and plain tokens a second of ours and of transformers at batch 1, 4 and 8; in turn, ratios with the spread
of their repeats, into ``results/floor.json``, where other models and types stay that were measured on the same machine
and commit. ``--engines PYTHON`` (`make engines`) adds vLLM, which keeps no prompt from one turn to the next, OpenVINO,
and llama.cpp at batch 1 at the same bits: BF16, Q8_0 and Q4_1 of the folder's weights. Peers load once and run between
two turns of ours. How many texts of each are those of ours in the same type is counted.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import RESULTS, kept, write_report
from proofs_tests.benchmarks.engines.gguf_file import write_gguf
from proofs_tests.benchmarks.engines.worker import Worker
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill
from runtime.models.load import DTYPES, load_model
from runtime.models.low_bits import QUANTISED

ROWS, BATCHES, CONTEXT = (1, 2, 4, 8, 16, 32), (1, 4, 8), 128

GGUF_TYPES = {"float32": None, "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""The format of llama.cpp that has the bits of ours; None is float32."""
OPENVINO_TYPES = {"float32": "F16", "bfloat16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""The format that OpenVINO reads: 16 bits of a weight where it computes in more."""

Made = tuple[float, list[list[int]]]
"""Tokens a second, and the texts."""
Peer = tuple[Worker, tuple[int, ...]]
"""Another engine, and the batches that it is asked for."""

QUANTISE = """
import sys, llama_cpp
source, made, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind), 2
sys.exit(llama_cpp.llama_model_quantize(source.encode(), made.encode(), params))
"""


def read_s(size_bytes: int) -> float:
    """Seconds to read so many bytes from memory, the least of some."""
    block = torch.ones(max(size_bytes // 8, 1), dtype=torch.float64)  # zeros would share one page
    return min(_timed(block.sum) for _ in range(5))


def _timed(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def forward_s(model: LanguageModel, cache: Any, rows: int) -> float:
    """Seconds of one forward of a chain of so many tokens after the context."""
    tokens, parents = np.ones((1, rows), dtype=np.int64), np.arange(-1, rows - 1)[None]
    return _timed(lambda: forward_trees(model, cache, tokens, parents, np.array([rows])))


def decoded(model: LanguageModel, prompts: list[list[int]], tokens: int) -> Made:
    """Plain decoding of the engine, prompts included, as the peers are timed."""
    engine = Engine(model, max_batch=len(prompts), max_context=max(map(len, prompts)) + tokens + 1)
    start = perf_counter()
    done = engine.generate(prompts, SamplingParams(max_new_tokens=tokens, ignore_eos=True))
    return len(prompts) * tokens / (perf_counter() - start), [list(each.tokens) for each in done]


def generated(model: Any, prompts: list[list[int]], tokens: int) -> Made:
    """transformers' `generate` on prompts of one length."""
    ids = torch.tensor(prompts)
    mask, options = torch.ones_like(ids), {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    start = perf_counter()
    out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, **options)
    return len(prompts) * tokens / (perf_counter() - start), out[:, ids.shape[1] :].tolist()


def asked(worker: Worker, prompts: list[list[int]], tokens: int) -> Made:
    """Another engine, by its own clock."""
    answer = worker.generate(prompts, tokens, None)
    return sum(answer["counts"]) / answer["seconds"], answer["tokens"]


def gguf_of(options: argparse.Namespace, kind: str | None, scratch: Path) -> Path:
    """llama.cpp's weights in one of its formats."""
    whole = write_gguf(Path(options.folder), scratch / "F32.gguf")
    if kind is None:
        return whole
    made = scratch / f"{kind}.gguf"
    subprocess.run([options.engines, "-c", QUANTISE, whole, made, kind], capture_output=True, check=True)
    return made


@contextmanager
def peers_of(options: argparse.Namespace, dtype: str) -> Iterator[dict[str, Peer]]:
    """The engines that are compared with one type, loaded."""
    with ExitStack() as stack:
        found: dict[str, Peer] = {}
        threads = str(torch.get_num_threads())
        if options.engines and dtype in DTYPES:
            told = (options.folder, dtype, "plain", str(max(BATCHES)), threads)
            found["vLLM"] = stack.enter_context(Worker(options.engines, "vllm_worker.py", *told)), BATCHES
        if options.engines and dtype in GGUF_TYPES:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            told = (str(gguf_of(options, GGUF_TYPES[dtype], scratch)), "plain", threads)
            found["llama.cpp"] = stack.enter_context(Worker(options.engines, "llama_python_worker.py", *told)), (1,)
            read = str(gguf_of(options, OPENVINO_TYPES[dtype], scratch))
            told = (read, options.folder, "float32" if dtype == "float32" else "bfloat16", threads)
            found["OpenVINO"] = stack.enter_context(Worker(options.engines, "openvino_worker.py", *told)), BATCHES
        yield found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def measure(dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one type."""
    with peers_of(options, dtype) as peers:
        return _measured(dtype, options, peers)


def _measured(dtype: str, options: argparse.Namespace, peers: dict[str, Peer]) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    folder = options.folder
    ours = load_model(folder, dtype)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES.get(dtype, torch.bfloat16)).eval()
    bits = {name: 8.0 * each.itemsize for name, each in DTYPES.items()} | QUANTISED
    size = int(sum(each.numel() for each in theirs.parameters()) * bits[dtype] / 8)
    prompts = np.random.default_rng(0).integers(10, ours.vocabulary, (max(BATCHES), CONTEXT)).tolist()
    cache = ours.new_cache(1, CONTEXT + max(ROWS))
    prefill(ours, cache, np.array(prompts[0]), 0)
    floor, by_rows, rates = list[float](), {rows: list[float]() for rows in ROWS}, dict[str, list[float]]()
    equal = dict[str, int]()
    for turn in range(options.repeats + 1):
        again = [(rows, min(forward_s(ours, cache, rows) for _ in range(5))) for rows in ROWS]
        found = {f"ours, batch {batch}": decoded(ours, prompts[:batch], options.tokens) for batch in BATCHES}
        if dtype in DTYPES and not options.no_transformers:
            found |= {f"transformers, batch {n}": generated(theirs, prompts[:n], options.tokens) for n in BATCHES}
        found |= {
            f"{name}, batch {batch}": asked(worker, prompts[:batch], options.tokens)
            for name, (worker, batches) in peers.items() for batch in batches
        }  # fmt: skip
        if turn:  # the first turn warms up
            floor.append(read_s(size))
            for rows, seconds in again:
                by_rows[rows].append(seconds)
            for name, (rate, texts) in found.items():
                rates.setdefault(name, []).append(rate)
                equal[name] = sum(map(list.__eq__, texts, found[_ours(name)][1]))
    first = by_rows[1]
    others = [name for name in rates if not name.startswith("ours")]
    ratios = {name: [a / b for a, b in zip(rates[_ours(name)], rates[name], strict=True)] for name in others}
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
        "equal_texts": equal,
    }


def _ours(name: str) -> str:
    """The row of ours at the batch of another's."""
    return f"ours{name[name.index(',') :]}"


def main() -> None:
    """Print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=[*DTYPES, *QUANTISED])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--engines", metavar="PYTHON")
    parser.add_argument(
        "--no-transformers", action="store_true",
        help="without it: in bfloat16 it takes minutes on a processor that has no instructions for it",
    )  # fmt: skip
    parser.add_argument("--name", help="of the model in the result; its folder's when left out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = {"threads": torch.get_num_threads(), "tokens": options.tokens, "repeats": options.repeats}
    models: dict[str, Any] = kept("floor", options.output, **facts).get("models", {})
    found = models.setdefault(options.name or Path(options.folder).name, {})
    for dtype in options.dtype:
        found[dtype] = measure(dtype, options)
        write_report("floor", {**facts, "models": models}, options.output)  # what is measured is kept
    for dtype, each in found.items():
        print(f"{dtype}: texts equal to ours {each['equal_texts']}")
        print(f"{dtype}: share of the floor at one row {each['share_of_floor']['median']:.2f}")
        for key, unit in (("forward_s", 1e3), ("forward_over_one_row", 1), ("tokens_per_s", 1), ("ours_over", 1)):
            for name, value in each[key].items():
                print(f"  {key:22} {name!s:24} " + "  ".join(f"{k} {v * unit:.2f}" for k, v in value.items()))


if __name__ == "__main__":
    main()
