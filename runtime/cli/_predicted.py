"""What `reader cost`, `advise` and `plan --grid` name: models by configuration or name, drafters, number formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reader_theory.errors import require

if TYPE_CHECKING:
    from reader_theory.cost.head import DrafterHead
    from reader_theory.cost.model import ModelShape
    from reader_theory.cost.step import StepCost
    from reader_theory.cost.tabulated import MeasuredStep
    from reader_theory.documents import Cost
    from reader_theory.memory.budget import MemoryBudget

__all__ = ["Served", "model_shape", "served_by"]

_LOOK_UPS = ("ngram", "suffix")
"""Names of drafters that look tokens up and run no model."""
_NONE = "none"
_DTYPES = ("bfloat16", "float16", "float32")
_QUANTISED = {"fp8": 8.0, "int8": 8.0, "int4": 4.0 + 16.0 / 128, "awq": 4.0 + 20.0 / 128, "gptq": 4.0 + 20.0 / 128,
              "mxfp4": 4.25}  # fmt: skip
_KV_BITS = {"auto": 16.0, "fp8": 8.0}


@dataclass(frozen=True)
class Served:
    """A target and its drafter on a device, as an engine would serve them.

    Attributes
    ----------
    target, draft : str
        Names; `draft` is None without a model that drafts.
    looks_up : str, optional
        Name of look-ups of past tokens, where they draft.
    step : StepCost
    dtype : str
    share : float
        Share of a device's memory that the engine may use.
    kv_tokens : int, optional
        Capacity of the cache as the engine logs it, with the drafter loaded; predicted when None.
    """

    target: str
    draft: str | None
    looks_up: str | None
    step: StepCost
    dtype: str
    share: float = 0.9
    kv_tokens: int | None = None

    def cost(
        self, measured: Sequence[MeasuredStep], *, batches: Sequence[int] | None, contexts: Sequence[int] | None,
        max_nodes: int,
    ) -> Cost:  # fmt: skip
        """The step tabulated, held to what was measured."""
        from reader_theory.cost.tabulated import BATCHES, CONTEXTS, cost_of_step

        return cost_of_step(
            self.step, target=self.target, dtype=self.dtype, draft=self.draft, looks_up=self.looks_up,
            measured=measured, batches=batches or BATCHES, contexts=contexts or CONTEXTS, max_nodes=max_nodes,
            kv_tokens=self._kv_tokens(),
        )  # fmt: skip

    def _kv_tokens(self) -> dict[str, int]:
        """Tokens that the cache holds, by who drafts; none where nobody knows the device's memory.

        Raises
        ------
        InvalidInputError
            If the weights do not fit.
        """
        from reader_theory.cost.step import DRAFT

        if self.step.device.memory_bytes.value <= 0:
            return {}
        plain = self.memory(drafting=False)
        require(
            plain.kv_tokens > 0,
            "the model must fit the memory of its devices",
            got=f"{-plain.free_bytes / 2**30:.1f} GiB too many a card, of {self.step.device.name}",
            fix="Share it by --tensor-parallel, or pass --quantization.",
        )
        looks_up = {} if self.looks_up is None else {self.looks_up: plain.kv_tokens}
        drafting = {} if self.draft is None else {DRAFT: self.memory().kv_tokens}
        predicted = {"off": plain.kv_tokens, **looks_up, **drafting}
        if self.kv_tokens is None:
            return predicted
        logged = self.kv_tokens - min(predicted.values())
        return {name: tokens + logged for name, tokens in predicted.items()}

    def memory(self, *, drafting: bool = True) -> MemoryBudget:
        """Where a device's memory goes, with the drafter loaded or without."""
        from reader_theory.memory.budget import memory_budget

        step = self.step
        drafters = () if step.drafter is None or not drafting else (step.drafter,)
        return memory_budget(
            step.device,
            step.target,
            drafters,
            tensor_parallel=step.tensor_parallel,
            kv_element_bits=step.kv_bits,
            share=self.share,
        )


def served_by(
    model: str, device: str, *, draft: str = _NONE, device_file: Path | None = None, dtype: str = "bfloat16",
    quantization: str | None = None, kv_dtype: str = "auto", tensor_parallel: int = 1, share: float = 0.9,
    kv_tokens: int | None = None,
) -> Served:  # fmt: skip
    """The step of a model on a device, from what the options name.

    Raises
    ------
    InvalidInputError
        If a model, device or format is not known, or cannot be modelled.
    """
    from reader_theory.cost.device import find_device, measure_this_machine
    from reader_theory.cost.step import StepCost

    target, looks_up = _formatted(model_shape(model), dtype, quantization), draft if draft in _LOOK_UPS else None
    require(
        kv_dtype in _KV_BITS,
        "`--kv-dtype` must be a format that engines keep keys and values in",
        got=repr(kv_dtype),
        fix=f"Choose one of {', '.join(_KV_BITS)}.",
    )
    heads = target.heads
    require(
        tensor_parallel <= heads and heads % tensor_parallel == 0,
        "`--tensor-parallel` must divide the attention heads",
        got=f"{tensor_parallel} devices for {heads} heads",
        fix="Choose a divisor, such as 1, 2, 4 or 8.",
    )
    here = device.lower().replace("-", " ") == "this machine"
    drafter = None if draft in (*_LOOK_UPS, _NONE) else model_shape(draft)
    return Served(
        target=_named(model),
        draft=None if draft in (*_LOOK_UPS, _NONE) else _named(draft),
        looks_up=looks_up,
        step=StepCost(
            target,
            measure_this_machine() if here else find_device(device, device_file),
            drafter=drafter,
            drafter_head=None if drafter is None else low_rank_head(draft, drafter),
            tensor_parallel=tensor_parallel,
            kv_bits=_KV_BITS[kv_dtype],
        ),
        dtype=dtype if quantization is None else f"{dtype}, {quantization} weights",
        share=share,
        kv_tokens=kv_tokens,
    )


def low_rank_head(name: str, shape: ModelShape) -> DrafterHead | None:
    """The output head of a drafter whose configuration tells a rank; None where it is the full one."""
    from reader_theory.cost.configuration import read_configuration
    from reader_theory.cost.head import DrafterHead

    if not is_there(Path(name)):
        return None
    rank = read_configuration(Path(name)).get("rank")
    if rank is None:
        return None
    require(
        isinstance(rank, int) and 1 <= rank <= shape.hidden,
        "a drafter's `rank` must be between 1 and its width",
        got=f"{rank!r} at a width of {shape.hidden}",
        fix="Take the config.json that `reader train-head` wrote.",
    )
    return DrafterHead(hidden=shape.hidden, vocabulary=shape.vocabulary, kind="low rank", rank=rank)


def is_there(path: Path) -> bool:
    """Whether something lies at a path; nothing at one that no system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or one with a null
        return False


def model_shape(name: str, folder: Path = Path()) -> ModelShape:
    """A known model, or the configuration in a folder or file, as seen from `folder` or from here."""
    from reader_theory.cost.known import known_shape
    from reader_theory.cost.model import ModelShape

    for path in (folder / name, Path(name)):
        if is_there(path):
            return ModelShape.from_config(path)
    return known_shape(name[:200])


def _formatted(shape: ModelShape, dtype: str, quantization: str | None) -> ModelShape:
    require(
        dtype in _DTYPES,
        "`--dtype` must be a format that was modelled",
        got=repr(dtype),
        fix=f"Choose one of {', '.join(_DTYPES)}; weights of fewer bits are `--quantization`.",
    )
    require(
        quantization is None or quantization in _QUANTISED,
        "`--quantization` must be one whose bits a weight are known",
        got=repr(quantization),
        fix=f"Choose one of {', '.join(_QUANTISED)}, or leave it out: a configuration tells its own.",
    )
    bits = _QUANTISED[quantization] if quantization else 32.0 if dtype == "float32" else shape.weight_bits
    return shape.model_copy(update={"weight_bits": bits})


def _named(model: str) -> str:
    """What documents call it: a name as it is, a file by its folder."""
    path = Path(model)
    return str(path.parent if path.name == "config.json" else path)
