"""Fit the predictors of an `Aqua` scheme: each layer's keys and values from what the layer before is read back as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reader_theory.memory import Window
from runtime.cache.quantised.scheme import Aqua, Codecs, Predictor

__all__ = ["fit_aqua", "named_bits"]

Numbers = NDArray[np.float32]

RIDGE = 1e-3
"""Penalty, as a share of the mean diagonal of the inputs' products."""


def ridge(inputs: Numbers, outputs: Numbers, penalty: float = RIDGE) -> Numbers:
    """(n + 1, m) weights, the constant last, of (N, m) outputs from (N, n) inputs; the constant is not penalised.

    Minimises ``|x W + b - y|^2 + penalty * mean(diag) |W|^2``, means taken off first.
    """
    x, y = inputs.astype(np.float64), outputs.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    products = x.T @ x
    scale = float(np.mean(np.diag(products)))
    products[np.diag_indices_from(products)] += penalty * scale + np.finfo(np.float64).tiny
    weights = np.linalg.solve(products, x.T @ y)
    return np.vstack((weights, y_mean - x_mean @ weights)).astype(np.float32)


def fit_aqua(
    name: str,
    bits: Sequence[tuple[int, int]],
    keys: Sequence[Numbers],
    values: Sequence[Numbers],
    heads: tuple[int, int],
    window: Window,
    *,
    clean: bool = False,
) -> Aqua:
    """The scheme with predictors fitted to a text's keys and values.

    Parameters
    ----------
    bits : sequence of L (int, int)
        Of keys and of values, for each layer.
    keys, values : sequences of L (N, kv) float32
        Of a forward without any quantisation, keys before their rotary positions; N is a multiple of the chunk.
    heads : (int, int)
        KV heads and their size.
    clean : bool
        Fit from keys and values as they are instead of as they are read back: worse, for comparison alone.
    """
    plain = Aqua(name, tuple(bits), window=window)
    predictors: list[Predictor] = []
    before = read_back(plain.codecs(0, heads, heads), keys[0], values[0], None)
    for layer in range(1, len(keys)):
        if clean:
            before = keys[layer - 1], values[layer - 1]
        codecs = plain.codecs(layer, heads, heads)
        key = ridge(before[0], keys[layer])
        half = Predictor(key, np.zeros((0, 0), np.float32))
        guess = half.keys(before)
        read = guess + coded(codecs, keys[layer] - guess, keys=True)
        inputs = np.hstack((keys[layer] if clean else read, before[1]))
        predictor = Predictor(key, ridge(inputs, values[layer]))
        predictors.append(predictor)
        guess = predictor.values(read, before)
        before = read, guess + coded(codecs, values[layer] - guess, keys=False)
    return Aqua(name, tuple(bits), tuple(predictors), window)


def coded(codecs: Codecs, numbers: Numbers, *, keys: bool) -> Numbers:
    """(N, kv) numbers as they are read back, N a multiple of the chunk."""
    codec = codecs.keys if keys else codecs.values
    chunks = numbers.reshape(-1, codec.chunk, codec.channels)
    return codec.decode(np.stack([codec.encode(chunk) for chunk in chunks]))


def read_back(
    codecs: Codecs, keys: Numbers, values: Numbers, before: tuple[Numbers, Numbers] | None
) -> tuple[Numbers, Numbers]:
    """A layer's (N, kv) keys and values as they are read back, given those of the layer before."""
    key_guess = np.float32(0) if codecs.predictor is None or before is None else codecs.predictor.keys(before)
    read = key_guess + coded(codecs, keys - key_guess, keys=True)
    guess = np.float32(0) if codecs.predictor is None or before is None else codecs.predictor.values(read, before)
    return read, guess + coded(codecs, values - guess, keys=False)


def named_bits(bits: int, layers: int, first: int = 4) -> tuple[tuple[int, int], ...]:
    """`bits` in every layer but the first, which everything is predicted from."""
    return ((max(bits, first), max(bits, first)), *([(bits, bits)] * (layers - 1)))
