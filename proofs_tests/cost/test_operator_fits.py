"""What `reader plan --grid` predicts with is what the README's errors are measured of: one function, asked twice."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from optimizer.grid_cell import PredictedCells
from proofs_tests.benchmarks import cost_model
from reader_theory.acceptance import RankTable
from reader_theory.cost import AttentionFit, GemmFit, ModelShape, find_device, gemm, known_shape
from reader_theory.cost.attention import fit_decode_attention, predict_decode_attention
from reader_theory.cost.gemm import fit_gemm, predict_gemm
from reader_theory.cost.linear import fit_linear, predict_linear
from reader_theory.cost.operators import OperatorFits, shipped_fits
from reader_theory.cost.tree_attention import fit_tree_attention, predict_tree_attention


@cache
def table(name: str) -> pd.DataFrame:
    return pd.read_csv(cost_model.DATA / f"{name}.csv.gz")


def tilings_of(fit: GemmFit) -> dict[tuple[str, str], gemm.TileModel]:
    """Of each device and type."""
    return {(device.name, dtype): tiles for (_, dtype), (device, tiles, _) in fit.parts.items()}


def layer(row: Any) -> ModelShape:
    """One layer of the model of a row of measured layers, with a head that is left out of what is compared."""
    return ModelShape(
        name="m", layers=1, hidden=int(row.h), heads=int(row.nh), kv_heads=int(row.nkv), head_dim=int(row.h // row.nh),
        intermediate=int(row.ff), vocabulary=2, gated=str(row.gated) in ("True", "1"),
    )  # fmt: skip


@pytest.mark.parametrize("gpu", ["a100", "h100", "a40"])
def test_the_layers_of_a_predicted_step_are_those_whose_errors_are_reported(gpu: str) -> None:
    fits, rows = shipped_fits(), table("linear_layer").query("gpu == @gpu and tp <= nkv").iloc[::60]
    reported = predict_linear(fits.layers, rows)
    for row, seconds in zip(rows.itertuples(), reported, strict=True):
        found = fits.products_s(layer(row), np.array([float(row.tokens)]), find_device(gpu), int(row.tp))  # type: ignore[arg-type]
        assert found is not None and found[0][0] == pytest.approx(seconds, rel=1e-9)


def test_the_attention_of_a_predicted_step_is_that_whose_errors_are_reported() -> None:
    fits, rows = shipped_fits(), table("decode_attention").iloc[::200]
    for row, seconds in zip(rows.itertuples(), predict_decode_attention(fits.decoding, rows), strict=True):
        shape = layer(pd.Series({"h": 128 * row.num_heads, "nh": row.num_heads, "nkv": row.num_key_value_heads,
                                 "ff": 8, "gated": True}))  # fmt: skip
        sizes = (np.float64(1), np.float64(row.batch_size), np.float64(row.kv_len - 1))  # type: ignore[arg-type]
        found = fits.attention_s(shape, *sizes, find_device(str(row.gpu)))  # type: ignore[arg-type]
        assert found is not None and float(found) == pytest.approx(seconds, rel=1e-9)


def test_single_products_are_used_where_no_layer_was_measured() -> None:
    fits, shape = shipped_fits(), known_shape("Qwen3-8B")
    found = fits.products_s(shape, np.array([1.0, 7.0]), find_device("L40S"), 1)
    assert found is not None
    rows = [(count, m, n, k) for m in (1, 7) for count, n, k in shape.products()]
    asked = pd.DataFrame([{"gpu": "l40s", "dtype": "bf16", "m": m, "n": n, "k": k} for _, m, n, k in rows])
    seconds = predict_gemm(fits.products, asked) * [count for count, *_ in rows]
    assert pytest.approx(np.array([[s[:-1].sum(), s[-1]] for s in seconds.reshape(2, -1)])) == np.stack(found).T


def test_what_ships_is_what_the_tables_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tilings of products are held to those that ship; the test below fits them."""
    shipped: Any = shipped_fits()
    parts: tuple[tuple[str, Any, Any, str], ...] = (
        ("layers", fit_linear, predict_linear, "linear_layer"),
        ("products", fit_gemm, predict_gemm, "gemm"),
        ("decoding", fit_decode_attention, predict_decode_attention, "decode_attention"),
        ("verifying", fit_tree_attention, predict_tree_attention, "multi_token_attention"),
    )
    for part, fit, predict, name in parts:
        tilings = tilings_of(getattr(shipped, part)) if fit in (fit_linear, fit_gemm) else {}
        monkeypatch.setattr(gemm, "fit_tiles", lambda *of, tilings=tilings: tilings[of[-2].name, of[-1]])
        rows = table(name).iloc[::37]
        old, new = (predict(each, rows) for each in (getattr(shipped, part), fit(table(name))))
        assert np.abs(old / new - 1).max() < 1e-3, part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "fit", "name"), [("layers", fit_linear, "linear_layer"), ("products", fit_gemm, "gemm")]
)
def test_tilings_that_ship_are_as_near_to_the_tables_as_fresh_ones(
    part: str, fit: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiling that never wins leaves its coefficients free, and which minimum of a sum with kinks is reached hangs on
    the last bits of a processor's exponentials: errors are compared, not coefficients."""
    fitted, shipped = gemm.fit_tiles, tilings_of(getattr(shipped_fits(), part))

    def compared(m: Any, n: Any, k: Any, seconds: Any, device: Any, dtype: str) -> Any:
        fresh, old = fitted(m, n, k, seconds, device, dtype), shipped[device.name, dtype]
        was, new = (np.abs(np.log(x.seconds(m, n, k, device, dtype) / seconds)).mean() for x in (old, fresh))
        assert was == pytest.approx(new, rel=0.02)
        return fresh

    monkeypatch.setattr(gemm, "fit_tiles", compared)
    fit(table(name))


def test_the_fits_are_written_and_read_whole(tmp_path: Any) -> None:
    shipped_fits().write(tmp_path / "fits.npz")
    again, rows = OperatorFits.read(tmp_path / "fits.npz"), table("gemm").iloc[::500]
    assert predict_gemm(again.products, rows) == pytest.approx(predict_gemm(shipped_fits().products, rows), rel=1e-6)


def test_a_cell_of_the_grid_asks_the_reported_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    for kind in (GemmFit, AttentionFit):
        inner = kind.seconds

        def counted(self: Any, *args: Any, inner: Any = inner, kind: Any = kind, **named: Any) -> Any:
            asked.add(f"{kind.__name__} {named['gpu']}")
            return inner(self, *args, **named)

        monkeypatch.setattr(kind, "seconds", counted)
    shapes, cards = {"m": known_shape("Qwen3-8B"), "d": known_shape("Qwen3-0.6B")}, ("H100-SXM", "L4")
    cells = PredictedCells(
        {"w": RankTable.stationary(0.8, 3)}, shapes, {c: find_device(c) for c in cards}, max_nodes=4, max_depth=3
    )
    rows = [
        cells({"workload": "w", "model": "m", "drafter": "d", "device": c, "batch": 1, "context": 128}) for c in cards
    ]
    assert asked == {"GemmFit h100", "AttentionFit h100_sxm"}, "a card that nobody measured is not passed off as one"
    assert rows[0]["assumed"] < 0.2 and rows[1]["assumed"] == 1.0
    width = [(row["step_s_high"] - row["step_s_low"]) / row["step_s"] for row in rows]
    assert width[1] > 1.2 * width[0]


def test_the_products_of_a_model_hold_all_its_weights() -> None:
    for name in ("Qwen3-32B", "Llama-3.2-1B", "Llama-2-7B"):
        shape = known_shape(name)
        held = sum(count * n * k for count, n, k in shape.products()) + shape.vocabulary * shape.hidden * (
            0 if shape.tied else 1
        )
        assert held == pytest.approx(shape.parameters())
