"""llama.cpp on the CPU as a peer: ``python llama_worker.py GGUF METHOD ROWS THREADS``.

METHOD is plain, the name of a speculative type of llama.cpp, such as ngram_simple, or draft_simple:K:RATES:GGUF: K
tokens of the draft in a file, accepted by chance at unconditional RATES, a comma between them.

Needs the `xllamacpp` wheel in the environment that runs it (`make engines`); imports nothing of this package.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from worker import serve


def main() -> None:
    gguf, method, rows, threads = sys.argv[1:5]
    from importlib.metadata import version

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_parallel, params.n_ctx = int(rows), 1024 * int(rows)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    name, *told = method.split(":", 3)
    if name != "plain":
        kind = f"COMMON_SPECULATIVE_TYPE_{name.upper()}"
        params.speculative.types = [getattr(xllamacpp.common_speculative_type, kind)]
    if told:
        length, rates, draft = told
        params.speculative.draft.mparams.path = draft
        params.speculative.draft.n_max, params.speculative.draft.n_min, params.speculative.draft.p_min = (
            int(length),
            0,
            0.0,
        )
        params.speculative.synth_rates = [float(rate) for rate in rates.split(",")]
    server = xllamacpp.Server(params)
    pool = ThreadPoolExecutor(int(rows))

    def one(tokens: list[int], max_tokens: int, end: int | None) -> dict[str, Any]:
        asked = {"prompt": tokens, "n_predict": max_tokens, "temperature": 0.0}
        return server.handle_completions(asked | {"cache_prompt": False, "ignore_eos": end is None})

    def generate(prompts: list[list[int]], max_tokens: int, end: int | None) -> dict[str, Any]:
        start = time.perf_counter()
        done = list(pool.map(lambda tokens: one(tokens, max_tokens, end), prompts))
        seconds = time.perf_counter() - start
        return {"tokens": None, "counts": [each["usage"]["completion_tokens"] for each in done],
                "texts": [each["choices"][0]["text"] for each in done], "seconds": seconds,
                "timings": [each["timings"] for each in done]}  # fmt: skip

    serve(generate, {"engine": "llama.cpp", "version": version("xllamacpp"), "method": method, "gguf": Path(gguf).name})


if __name__ == "__main__":
    main()
