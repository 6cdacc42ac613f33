"""Shapes of a few public models, for examples and for the measurements that this package is held against."""

from __future__ import annotations

from reader_theory.cost.model import ModelShape
from reader_theory.errors import InvalidInputError

__all__ = ["KNOWN", "known_shape"]


SIZES = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary")


def _shape(name: str, *sizes: int, tied: bool = False, dim: int = 128) -> ModelShape:
    return ModelShape(name=name, tied=tied, head_dim=dim, **dict(zip(SIZES, sizes, strict=True)))


KNOWN = {
    shape.name: shape
    for shape in (
        _shape("Qwen3-32B", 64, 5120, 64, 8, 25600, 151936),
        _shape("Qwen3-8B", 36, 4096, 32, 8, 12288, 151936),
        _shape("Qwen3-4B", 36, 2560, 32, 8, 9728, 151936, tied=True),
        _shape("Qwen3-1.7B", 28, 2048, 16, 8, 6144, 151936, tied=True),
        _shape("Qwen3-0.6B", 28, 1024, 16, 8, 3072, 151936, tied=True),
        _shape("Qwen3-32B-speculator.eagle3", 1, 5120, 64, 8, 25600, 32000),
        _shape("Llama-3.1-8B", 32, 4096, 32, 8, 14336, 128256),
        _shape("Llama-3.1-70B", 80, 8192, 64, 8, 28672, 128256),
        _shape("Llama-3.2-1B", 16, 2048, 32, 8, 8192, 128256, tied=True, dim=64),
        _shape("Llama-2-7B", 32, 4096, 32, 32, 11008, 32000),
    )
}
"""By name; the configurations' own figures. The EAGLE-3 head's truncated vocabulary is that of its draft."""


def known_shape(name: str) -> ModelShape:
    """The shape called `name`, with or without its owner before a slash."""
    short = name.rsplit("/", 1)[-1]
    if short not in KNOWN:
        raise InvalidInputError(
            "`name` must be a known model", got=name, fix=f"Use one of {sorted(KNOWN)}, or `ModelShape.from_config`."
        )
    return KNOWN[short]
