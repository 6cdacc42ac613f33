"""Fitted models of a transformer's operators, by device: what a step is predicted from where a card was measured.

They are the models whose errors on unseen shapes the README reports: `linear` for a layer's products, `gemm` where only
single products were measured, `attention` and `tree_attention`. Their coefficients ship with the package and are made
again from the tables by `fit_operators` (`proofs_tests/benchmarks/cost_model.py --fit`). A card that none of them knows
has none; `StepCost` then assumes rooflines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.attention import HEAD_DIM, AttentionFit, DecodeModel, fit_decode_attention
from reader_theory.cost.columns import Table
from reader_theory.cost.device import Device, find_device
from reader_theory.cost.gemm import GemmFit, TileModel, fit_gemm
from reader_theory.cost.linear import fit_linear
from reader_theory.cost.model import ModelShape
from reader_theory.cost.roofline import p_norm
from reader_theory.cost.surface import Surface
from reader_theory.cost.tree_attention import TreeAttention, fit_tree_attention

__all__ = ["OperatorFits", "fit_operators", "shipped_fits"]

Array = NDArray[np.float64]
SHARE_OF_PEAK, KNEE = 0.5, 4.0
"""Attention of several query tokens: share of peak arithmetic, and sharpness of its knee with the KV's bytes."""


@dataclass(frozen=True)
class OperatorFits:
    """Fits of every operator class.

    Parameters
    ----------
    layers, products : GemmFit
        A layer's four products fitted together; single products.
    decoding : AttentionFit
        One query token a request.
    verifying : mapping from device to TreeAttention
        Several query tokens a request, with and without split-KV.
    """

    layers: GemmFit
    products: GemmFit
    decoding: AttentionFit
    verifying: Mapping[str, TreeAttention]

    def products_spread(self, device: Device, shape: ModelShape) -> float | None:
        """Root mean square error of a product of unseen shape; None where no fit covers the device and the weights."""
        found = self._products(device, shape)
        return None if found is None else found[0].relative_spread(*found[1])

    def products_s(
        self, shape: ModelShape, tokens: Array, device: Device, tensor_parallel: int
    ) -> tuple[Array, Array] | None:
        """Seconds of the products of all layers, and of the head, over `tokens` tokens; None without a fit."""
        found = self._products(device, shape)
        if found is None:
            return None
        (fit, (gpu, dtype)), m = found, np.atleast_1d(tokens).reshape(-1)
        seconds = [
            count * fit.seconds(m, wide, inner, gpu=gpu, dtype=dtype).reshape(np.shape(tokens))
            for count, wide, inner in shape.products(tensor_parallel)
        ]
        return np.sum(seconds[:-1], axis=0), seconds[-1]

    def attention_spread(self, device: Device, shape: ModelShape) -> float | None:
        """The same of attention."""
        if shape.latent is not None:
            return None
        if (gpu := _known(self.decoding.parts, device)) is not None:
            return self.decoding.relative_spread(gpu)
        return None if _known(self.verifying, device) is None else VERIFYING_SPREAD

    def attention_s(
        self,
        shape: ModelShape,
        queries: Array,
        batch: Array,
        context: Array,
        device: Device,
        *,
        tensor_parallel: int = 1,
        kv_bits: float = 16.0,
        split_kv: bool = True,
    ) -> Array | None:
        """Seconds of one layer's attention of `queries` tokens a request; None without a fit."""
        if self.attention_spread(device, shape) is None:
            return None
        heads, kv_heads = shape.heads / tensor_parallel, max(shape.kv_heads / tensor_parallel, 1.0)
        width = shape.head_dim / HEAD_DIM * kv_bits / 16
        asked = np.broadcast_arrays(queries, batch, np.maximum((context + queries) * width, 1.0))
        q, rows, cached = (np.asarray(x, dtype=np.float64).reshape(-1) for x in asked)
        if (gpu := _known(self.decoding.parts, device)) is None:
            tree = self.verifying[str(_known(self.verifying, device))]
            sizes: dict[str, Any] = {"heads": round(heads), "kv_heads": round(kv_heads), "head_dim": HEAD_DIM}
            alone = tree.seconds(0.0, 0.0, device, split_kv=True, decodes=rows, decode_context=cached, **sizes)
            many = tree.seconds(q, cached, device, split_kv=split_kv, requests=rows, **sizes)
            return np.where(q > 1, many, alone).reshape(asked[0].shape)
        full = np.full(rows.shape, heads), np.full(rows.shape, kv_heads)
        reading = self.decoding.seconds(rows, *full, cached, gpu=gpu)
        work = 4.0 * heads * shape.head_dim * rows * q * cached / (SHARE_OF_PEAK * device.flops_per_s())
        return np.where(q > 1, p_norm(reading, work, KNEE), reading).reshape(asked[0].shape)

    def write(self, path: Path) -> None:
        """Save every coefficient, in one file of arrays."""
        arrays, told = dict[str, Any](), dict[str, Any]()
        for name, parts in (("layers", self.layers.parts), ("products", self.products.parts)):
            told[name] = [[gpu, dtype, asdict(tiles)] for (gpu, dtype), (_, tiles, _) in parts.items()]
            arrays |= _arrays(name, [surface for _, _, surface in parts.values()])
        told["decoding"] = [[gpu, asdict(model)] for gpu, (_, model, _) in self.decoding.parts.items()]
        arrays |= _arrays("decoding", [surface for _, _, surface in self.decoding.parts.values()])
        told["verifying"] = {name: asdict(model) for name, model in self.verifying.items()}
        np.savez_compressed(path, told=np.array(json.dumps(told)), **arrays)

    @classmethod
    def read(cls, path: Path) -> OperatorFits:
        """What `write` saved."""
        with np.load(path, allow_pickle=False) as arrays:
            told: Any = json.loads(str(arrays["told"]))

            def gemm(name: str) -> GemmFit:
                return GemmFit(
                    {
                        (gpu, dtype): (
                            find_device(gpu),
                            TileModel(**tiles | {"efficiency": tuple(tiles["efficiency"])}),
                            _surface(arrays, name, i),
                        )
                        for i, (gpu, dtype, tiles) in enumerate(told[name])
                    }
                )

            decoding = {
                gpu: (find_device(gpu), DecodeModel(**model), _surface(arrays, "decoding", i))
                for i, (gpu, model) in enumerate(told["decoding"])
            }
            verifying = {name: TreeAttention(**model) for name, model in told["verifying"].items()}
            return cls(gemm("layers"), gemm("products"), AttentionFit(decoding), verifying)

    def _products(self, device: Device, shape: ModelShape) -> tuple[GemmFit, tuple[str, str]] | None:
        dtype = {16.0: "bf16", 8.0: "fp8"}.get(shape.weight_bits)
        for fit in (self.layers, self.products):
            for gpu, known in fit.parts:
                if known == dtype and find_device(gpu).name == device.name:
                    return fit, (gpu, known)
        return None


VERIFYING_SPREAD = 0.1
"""Root mean square error assumed of attention of several query tokens."""


def fit_operators(layers: Table, products: Table, decoding: Table, verifying: Table) -> OperatorFits:
    """Fit every class to its table, whose columns `linear`, `gemm`, `attention` and `tree_attention` tell."""
    return OperatorFits(
        fit_linear(layers), fit_gemm(products), fit_decode_attention(decoding), fit_tree_attention(verifying)
    )


@cache
def shipped_fits() -> OperatorFits:
    """Fits of the public tables under `proofs_tests/data`, whose origin and licences are told there."""
    with as_file(files("reader_theory") / "cost" / "operators.npz") as path:
        return OperatorFits.read(path)


def _known(parts: Mapping[str, Any], device: Device) -> str | None:
    return next((gpu for gpu in parts if find_device(gpu).name == device.name), None)


def _arrays(name: str, surfaces: list[Surface]) -> dict[str, Any]:
    return {
        f"{name} {i} {field}": np.asarray(value, dtype=np.float32 if field == "weights" else np.float64)
        for i, surface in enumerate(surfaces)
        for field, value in asdict(surface).items()
    }


def _surface(arrays: Any, name: str, place: int) -> Surface:
    def one(field: str) -> Array:
        return np.asarray(arrays[f"{name} {place} {field}"], dtype=np.float64)

    shapes, sweep, mean, weights = (one(field) for field in ("shapes", "sweep", "mean", "weights"))
    return Surface(shapes, sweep, mean, weights, float(one("length")), float(one("spread")))
