"""Schemes from what ``--kv`` names, and predictors in a file of tensors beside the document that describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from reader_theory.documents.base import write_atomically
from reader_theory.documents.kv_caches import KVCaches
from reader_theory.errors import DocumentError, InvalidInputError, require
from reader_theory.memory import Window
from runtime.cache.quantised.scheme import Aqua, Integers, Predictor, Scheme

__all__ = ["PLAIN", "scheme_of", "write_predictors"]

PLAIN = "plain"
INTEGERS = {"int8": 8, "int4": 4}


def tensors_beside(path: Path) -> Path:
    """Where the predictors of a KVCaches document lie."""
    return path.with_suffix(".safetensors")


def write_predictors(path: Path, schemes: Mapping[str, Aqua]) -> str:
    """Write the predictors of schemes beside the document of this path; the file's SHA-256."""
    tensors = {
        f"{name}.{layer}.{part}": getattr(predictor, part)
        for name, scheme in schemes.items()
        for layer, predictor in enumerate(scheme.predictors, start=1)
        for part in ("key", "value")
    }
    content = save(tensors)
    write_atomically(tensors_beside(path), content)
    return hashlib.sha256(content).hexdigest()


def scheme_of(named: str) -> Scheme | None:
    """What ``--kv NAME`` or ``--kv NAME=FILE`` names; None for the plain cache.

    Raises
    ------
    InvalidInputError, DocumentError
        If there is no such cache, or its files do not belong together.
    """
    name, _, file = named.partition("=")
    if name == PLAIN:
        require(not file, f"`--kv {PLAIN}` must be given without a file", got=repr(named), fix=f"Pass --kv {PLAIN}.")
        return None
    if name in INTEGERS:
        window = KVCaches.read(file).cache(name).format.window if file else None
        return Integers(INTEGERS[name], window or Window(), file)
    require(
        bool(file),
        f"`--kv` must be {PLAIN}, {', '.join(INTEGERS)}, or NAME=FILE of a cache that was fitted",
        got=repr(named),
        fix="Fit one: reader kv fit TARGET --output out/kv.json, then --kv aqua:2.15=out/kv.json.",
    )
    return _fitted(KVCaches.read(file), Path(file), name)


def _fitted(document: KVCaches, path: Path, name: str) -> Scheme:
    """A fitted cache of a document."""
    measured = document.cache(name)
    window, sizes = measured.format.window, (document.layers, document.kv_heads, document.head_dim)
    if window is None or not measured.layers:
        raise InvalidInputError(
            "`--kv NAME=FILE` must name a cache that was fitted", got=repr(name), fix=f"Pass --kv {name}."
        )
    predictors = _predictors(document, path, name) if measured.predicted else ()
    return Aqua(name, measured.layers, predictors, window, sizes, str(path))


def _predictors(document: KVCaches, path: Path, name: str) -> tuple[Predictor, ...]:
    file = tensors_beside(path)
    content = file.read_bytes() if file.is_file() else b""
    require(
        hashlib.sha256(content).hexdigest() == document.tensors_sha256,
        "the predictors must be those that were written with the document",
        got=f"another `{file}`" if content else f"no `{file}`",
        fix="Keep both files together, or fit again with `reader kv fit`.",
        error=DocumentError,
    )
    tensors = load(content)
    return tuple(
        Predictor(*(np.array(tensors[f"{name}.{layer}.{part}"]) for part in ("key", "value")))
        for layer in range(1, document.layers)
    )
