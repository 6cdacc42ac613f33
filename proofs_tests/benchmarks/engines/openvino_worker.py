"""OpenVINO on the CPU: ``python openvino_worker.py GGUF FOLDER TYPE THREADS``; greedy, all prompts of a call at once.

TYPE is what it computes in: float32 or bfloat16. The weights are those of the GGUF, in 16 bits or fewer, which it keeps
as they are; the tokenizer is the folder's, since a pipeline has one, though it is asked in tokens. No prompt is kept
from one call to the next, and prompts of one call must have one length.

Needs `openvino-genai` and `transformers` in the environment that runs it (`make engines`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from worker import serve

PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def tokenizer_of(folder: str) -> Any:
    """The tokenizer of a model's folder in OpenVINO's own form."""
    import openvino
    import openvino_genai
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    made = convert_tokenizer(AutoTokenizer.from_pretrained(folder), with_detokenizer=True)
    with tempfile.TemporaryDirectory() as scratch:
        for model, name in zip(made, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
            openvino.save_model(model, str(Path(scratch) / name))
        return openvino_genai.Tokenizer(scratch)


def main() -> None:
    gguf, folder, dtype, threads = sys.argv[1:5]
    import numpy as np
    import openvino
    import openvino_genai

    told: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISION[dtype], "INFERENCE_NUM_THREADS": int(threads)}
    serving = openvino_genai.SchedulerConfig()
    serving.enable_prefix_caching, serving.cache_size = False, 2
    told["scheduler_config"] = serving
    pipeline = openvino_genai.LLMPipeline(gguf, tokenizer_of(folder), "CPU", **told)

    def generate(prompts: list[list[int]], max_tokens: int, end: int | None) -> dict[str, Any]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = max_tokens, False, end is None
        if end is not None:
            config.stop_token_ids = {end}
        ids = np.array(prompts, dtype=np.int64)
        asked = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        start = time.perf_counter()
        tokens = [list(map(int, each)) for each in pipeline.generate(asked, config).tokens]
        seconds = time.perf_counter() - start
        return {"tokens": tokens, "counts": list(map(len, tokens)), "texts": None, "seconds": seconds}

    serve(generate, {"engine": "OpenVINO", "version": openvino.__version__, "gguf": Path(gguf).name, "dtype": dtype})


if __name__ == "__main__":
    main()
