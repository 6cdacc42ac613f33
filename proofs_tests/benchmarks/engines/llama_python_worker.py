"""llama-cpp-python on the CPU: ``python llama_python_worker.py GGUF METHOD THREADS``.

METHOD is plain, lookup:K (its own prompt lookup, at most K tokens) or ours:PLAN:WORKLOAD. One request at a time, greedy
unless a request names llama.cpp's samplers (`temp`, `top_k`, ...). Keys and values are float32.

Needs `llama-cpp-python` in the environment that runs it (`make engines`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from worker import serve

GREEDY = {"temp": 0.0, "repeat_penalty": 1.0}


def draft_of(method: str) -> Any:
    """The draft model of a `Llama`; None for plain decoding."""
    name, _, rest = method.partition(":")
    if name == "lookup":
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        return LlamaPromptLookupDecoding(num_pred_tokens=int(rest))
    if name == "ours":
        from runtime.plugins.llama_cpp import LlamaDraft

        plan, _, workload = rest.partition(":")
        return LlamaDraft.from_plan(plan, workload=workload)
    return None


def without_repacked_weights(library: Any) -> None:
    """Keep weights as they are: the layout for AMX faults on virtual machines that name AMX and lack its state."""
    defaults = library.llama_model_default_params

    def plain() -> Any:
        params = defaults()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = plain


def main() -> None:
    gguf, method, threads = sys.argv[1:4]
    import llama_cpp

    without_repacked_weights(llama_cpp.llama_cpp)
    whole = llama_cpp.GGML_TYPE_F32
    options: dict[str, Any] = {"n_ctx": 1536, "n_batch": 1536, "type_k": whole, "type_v": whole}
    options |= {"n_threads": int(threads), "n_threads_batch": int(threads)}
    llama = llama_cpp.Llama(gguf, draft_model=draft_of(method), verbose=False, **options)
    steps: list[tuple[float, int, int]] = []
    inner = llama.eval

    def timed(tokens: Any) -> None:
        context, start = llama.n_tokens, time.perf_counter()
        inner(tokens)
        steps.append((time.perf_counter() - start, len(tokens), context))

    llama.eval = timed

    def one(
        prompt: list[int], max_tokens: int, end: int | None, samplers: dict[str, float]
    ) -> tuple[list[int], list[tuple[float, int, int]]]:
        found: list[int] = []
        llama.reset()
        steps.clear()
        for token in llama.generate(prompt, **samplers):
            found.append(token)
            if token == end or len(found) == max_tokens:
                break
        return found, list(steps)

    def generate(
        prompts: list[list[int]], max_tokens: int, end: int | None, seed: int = 0, **samplers: float
    ) -> dict[str, Any]:
        start = time.perf_counter()
        made = []
        for number, prompt in enumerate(prompts):
            llama.set_seed(seed + number)
            made.append(one(prompt, max_tokens, end, samplers or GREEDY))
        seconds = time.perf_counter() - start
        tokens = [found for found, _ in made]
        return {
            "tokens": tokens, "counts": list(map(len, tokens)), "texts": None, "seconds": seconds,
            "steps": [told for _, told in made],
        }  # fmt: skip

    about = {"engine": "llama-cpp-python", "version": llama_cpp.__version__, "method": method, "gguf": Path(gguf).name}
    serve(generate, about)


if __name__ == "__main__":
    main()
