"""Any transformers causal model that takes a 4-D float mask, and how a folder becomes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from reader_theory.errors import InvalidInputError, require
from runtime.cache.quantised.cache import QuantisedCache
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel, Output, hidden_value
from runtime.models.layers import longest_positions, masks_by_kind, refuse_by_configuration, sizes_by_kind
from runtime.models.names import check_name

__all__ = ["TransformersModel", "evaluating", "load_transformers"]


class TransformersModel(LanguageModel):
    """Any transformers causal model that takes a 4-D float mask: every family, at transformers' own pace.

    Layers that see a window or a chunk get it written into the mask of their kind. The model is run as it is, with
    whatever adapters and hooks it has.
    """

    def __init__(self, model: Any, name: str = "") -> None:
        refuse_by_configuration(model)
        self.model = model
        config = model.config.get_text_config()
        self.config = config
        self.vocabulary = int(config.vocab_size)
        self.max_positions = longest_positions(model)
        self.layers = self.final_layer = int(config.num_hidden_layers)
        self.dtype, self.device = model.dtype, model.device
        self.name = name or config.model_type

    def new_cache(self, rows: int, slots: int) -> RowCache:
        if self.scheme is None:
            return RowCache(self.layers, rows, slots)
        return QuantisedCache(self.layers, rows, slots, self.scheme)

    @torch.inference_mode()
    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
        hidden: Sequence[int] = (),
    ) -> Output:
        if mask is None:
            mask = torch.zeros((tokens.shape[0], 1, tokens.shape[1], cache.width), dtype=self.dtype, device=self.device)
        longest = int(positions.max()) + 1 if positions.device.type == "cpu" else None
        masks = masks_by_kind(mask, sizes_by_kind(self.config), hidden_value(self.dtype), longest)
        with evaluating(self.model) if self.model.training else nullcontext():
            out = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=masks,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=int(last_only),
                output_hidden_states=bool(hidden),
            )
        logits = out.logits[..., : self.vocabulary]
        if last_only:
            logits = logits[:, -1:]
        return Output(logits, tuple(out.hidden_states[layer] for layer in hidden) if hidden else ())


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """The model in evaluation mode, its modules left as they were found."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


_PIECE = 1 << 23
"""Numbers that are converted at once."""
_TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class _Weight:
    """A weight in a file, to be read whole as safetensors does it, or in pieces into another type."""

    def __init__(self, whole: Any, mapped: Callable[[], Any], name: str) -> None:
        self._whole, self._mapped, self._name = whole, mapped, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __getitem__(self, place: Any) -> torch.Tensor:
        return self._whole[place]

    def converted(self, dtype: torch.dtype) -> torch.Tensor:
        """Each piece is mapped by itself: of a file that stays mapped, all that was read would stay in memory."""
        shape = self._whole.get_shape()
        if prod(shape) <= _PIECE:
            return self._whole[...].to(dtype)
        made, rows = torch.empty(shape, dtype=dtype), max(_PIECE * shape[0] // prod(shape), 1)
        for start in range(0, shape[0], rows):
            with self._mapped() as held:
                end = min(start + rows, shape[0])
                made[start:end] = held.get_slice(self._name)[start:end]
        return made


class _File:
    """A file of safetensors that is read, not mapped, and whose weights may be converted piece by piece."""

    def __init__(self, opened: Callable[..., Any], file: Any, *args: Any, **options: Any) -> None:
        self._held = opened(file, *args, **(options | {"backend": "pread"}))
        self._mapped = partial(opened, file, framework="pt")

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held, name)

    def get_slice(self, name: str) -> _Weight:
        return _Weight(self._held.get_slice(name), self._mapped, name)


def _copied_by(loading: Any) -> Any:
    """transformers' own way to read a weight; a release that has another name for it reads each weight whole."""
    return getattr(loading, "_materialize_copy", None)


@contextmanager
def _read_where_converted(dtype: torch.dtype) -> Generator[None]:
    """Within it transformers reads weights of another type than `dtype` piece by piece, and does not map their file.

    What is converted would stay in memory beside its copy until the file is closed: float32 read as bfloat16 would take
    three times the weights. Reading is what transformers itself does where files cannot be mapped. An embedding may be
    more than half of a model: read whole, it too would be there in both types. So would be what several threads read.
    """
    modeling_utils: Any = import_module("transformers.modeling_utils")
    loading: Any = import_module("transformers.core_model_loading")
    opened, copied = modeling_utils.safe_open, _copied_by(loading)

    def chosen(file: Any, *args: Any, **options: Any) -> Any:
        with opened(file, framework="pt") as header:
            types = {header.get_slice(name).get_dtype() for name in header.keys()}  # noqa: SIM118
        converted = any(_TYPES.get(each, dtype) != dtype for each in types)
        if not converted:
            return opened(file, *args, **options)
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
        return _File(opened, file, *args, **options)

    def in_pieces(weight: Any, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        if isinstance(weight, _Weight) and dtype is not None and _TYPES.get(weight.get_dtype(), dtype) != dtype:
            return weight.converted(dtype).to(device=device)
        return copied(weight, device, dtype)

    with patch.dict(os.environ), patch.object(modeling_utils, "safe_open", chosen), ExitStack() as stack:
        if copied is not None:
            stack.enter_context(patch.object(loading, "_materialize_copy", in_pieces))
        yield


def load_transformers(
    folder: str | Path, dtype: torch.dtype, device: str = "cpu", kind: str = "AutoModelForCausalLM"
) -> Any:
    """`from_pretrained` of that class for a local folder or a hub name: safetensors only, no remote code."""
    import transformers

    check_name(folder)
    try:
        with _read_where_converted(dtype):
            loaded: Any = getattr(transformers, kind).from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        model, info = loaded
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise
        raise InvalidInputError(
            f"`target` and `draft` must be folders or hub names that {kind}.from_pretrained takes",
            got=f"{str(folder)!r}: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            fix="Check the path; weights must be safetensors, quantised ones need their library, and models that need "
            "remote code are not run.",
        ) from error
    require(
        not getattr(model.config, "is_encoder_decoder", False),
        "the model must be a decoder",
        got=f"{type(model).__name__}",
        fix="Choose a causal language model.",
    )
    told = ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if kind == "AutoModelForCausalLM" else ()))
    odd = {key: sorted(map(str, info.get(key) or ())) for key in told}  # pretraining heads beside a masked model's
    require(
        not any(odd.values()),
        "a checkpoint must hold the weights of its model, all of them and no others",
        got=", ".join(
            f"{len(names)} {key.split('_')[0]} ({', '.join(names[:3])})" for key, names in odd.items() if names
        ),
        fix="Save the whole model with `save_pretrained`; merge adapters first.",
    )
    return model.to(device)
