"""Models larger than a card: transformers' own tensor parallelism, one process a card under ``torchrun``.

Every process runs the same engine on the same requests; weights and key-value heads are divided among them, logits
are gathered, and so all of them emit the same tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reader_theory.errors import require
from runtime.models.base import LanguageModel
from runtime.models.load import DTYPES, wrap

__all__ = ["load_parallel"]


def load_parallel(folder: str | Path, dtype: str = "bfloat16") -> LanguageModel:
    """This process's share of a model, behind the engine's interface.

    Parameters
    ----------
    folder : str or Path
        What `AutoModelForCausalLM.from_pretrained` takes; of a family that has a tensor-parallel plan.
    dtype : {"float32", "bfloat16", "float16", "float64"}

    Raises
    ------
    InvalidInputError
        Outside of ``torchrun``, or when the key-value heads cannot be divided among the processes.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.distributed.configuration_utils import DistributedConfig

    processes = int(os.environ.get("WORLD_SIZE", "0"))
    require(
        processes >= 1 and dtype in DTYPES,
        f"a parallel model must be loaded under torchrun, in one of {', '.join(DTYPES)}",
        got=f"WORLD_SIZE {processes}, {dtype!r}",
        fix="Run `torchrun --nproc-per-node N your_script.py`, or use `load_model`.",
    )
    heads = AutoConfig.from_pretrained(str(folder)).get_text_config().num_key_value_heads
    require(
        heads % processes == 0,
        "the number of processes must divide the key-value heads",
        got=f"{heads} heads for {processes} processes",
        fix="Use a number of processes that does.",
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=DTYPES[dtype],
        distributed_config=DistributedConfig(tp_plan="auto"),
        use_safetensors=True,
        trust_remote_code=False,
    )
    return wrap(model, "transformers", Path(folder).name)
