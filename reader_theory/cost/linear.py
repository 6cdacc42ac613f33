"""Linear operators of a transformer layer: four products a layer, fitted together.

Prefer it to `gemm` when what was measured is a layer: the same tile model and surface, on the layer's own operators.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.columns import Table, column, positive
from reader_theory.cost.gemm import GemmFit, fit_gemm

__all__ = ["OPERATORS", "fit_linear", "linear_shapes", "predict_linear"]

Array = NDArray[np.float64]
OPERATORS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")


def linear_shapes(table: Table) -> dict[str, tuple[Array, Array]]:
    """(columns n, inner k) of each operator under tensor parallelism; table columns h, nh, nkv, ff, gated, tp."""
    h, nh, nkv, ff, tp = (positive(table, name) for name in ("h", "nh", "nkv", "ff", "tp"))
    gated = np.isin(column(table, "gated").astype(str), ("True", "true", "1", "1.0"))
    head = h / nh
    return {
        "attn_pre_proj": ((nh + 2 * nkv) * head / tp, h),
        "attn_post_proj": (h, h / tp),
        "mlp_up_proj": (ff * np.where(gated, 2.0, 1.0) / tp, h),
        "mlp_down_proj": (h, ff / tp),
    }


def fit_linear(table: Table) -> GemmFit:
    """Fit a layer's linear operators, device by device.

    Parameters
    ----------
    table : columns gpu, tp, tokens, h, nh, nkv, ff, gated, attn_pre_proj, attn_post_proj, mlp_up_proj, mlp_down_proj
        One layer at one number of tokens a row; the four operators in milliseconds.
    """
    long = _long(table)
    long["lat_us"] = np.concatenate([positive(table, name) * 1e3 for name in OPERATORS])
    return fit_gemm(long, length=1.0, nugget=0.5)


def predict_linear_operators(fit: GemmFit, table: Table) -> dict[str, Array]:
    """Seconds of each operator for each row of `table`."""
    from reader_theory.cost.gemm import predict_gemm

    return dict(zip(OPERATORS, np.split(predict_gemm(fit, _long(table)), len(OPERATORS)), strict=True))


def predict_linear(fit: GemmFit, table: Table) -> Array:
    """Seconds of the four operators together for each row of `table`."""
    return np.sum(list(predict_linear_operators(fit, table).values()), axis=0)


def _long(table: Table) -> dict[str, NDArray[np.float64] | NDArray[np.str_]]:
    gpu, tokens = column(table, "gpu").astype(str), positive(table, "tokens")
    shapes = linear_shapes(table)
    return {
        "gpu": np.tile(gpu, len(OPERATORS)),
        "dtype": np.full(len(gpu) * len(OPERATORS), "bf16"),
        "m": np.tile(tokens, len(OPERATORS)),
        "n": np.concatenate([shapes[name][0] for name in OPERATORS]).round(),
        "k": np.concatenate([shapes[name][1] for name in OPERATORS]).round(),
    }
