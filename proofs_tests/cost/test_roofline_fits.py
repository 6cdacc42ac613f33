"""Rooflines and surfaces: they recover what made the data, predict shapes not seen, and refuse what they cannot use."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.cost.attention import fit_decode_attention, predict_decode_attention
from reader_theory.cost.communication import AllReduce
from reader_theory.cost.device import find_device
from reader_theory.cost.gemm import fit_gemm, predict_gemm
from reader_theory.cost.linear import fit_linear, predict_linear
from reader_theory.cost.roofline import Roofline, fit_roofline, p_norm
from reader_theory.cost.tree_attention import fit_tree_attention, predict_tree_attention
from reader_theory.errors import InvalidInputError

DATA = Path(__file__).parents[1] / "data"


def read(name: str, **keep: Any) -> dict[str, np.ndarray]:
    """Columns of a shipped table, rows where the named columns have one of the given values."""
    lines = gzip.decompress((DATA / name).read_bytes()).decode().splitlines()
    cells = np.array([line.split(",") for line in lines[1:]])
    table = {column: cells[:, i] for i, column in enumerate(lines[0].split(","))}
    at = np.ones(len(cells), dtype=bool)
    for column, values in keep.items():
        at &= np.isin(table[column], np.atleast_1d(values).astype(str))
    return {column: values[at] for column, values in table.items()}


def split(table: dict[str, np.ndarray], *names: str, part: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and test tables that share no combination of the named columns."""
    keys = np.array(["/".join(row) for row in zip(*(table[n] for n in names), strict=True)])
    unique = np.unique(keys)
    np.random.default_rng(0).shuffle(unique)
    test = np.isin(keys, unique[::part])
    return {c: v[~test] for c, v in table.items()}, {c: v[test] for c, v in table.items()}


def error(predicted_s: np.ndarray, microseconds: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted_s * 1e6 / microseconds.astype(float) - 1)))


@given(a=st.floats(1e-9, 1e9), b=st.floats(1e-9, 1e9), p=st.floats(1, 500))
def test_p_norm_lies_between_the_maximum_and_the_sum(a: float, b: float, p: float) -> None:
    assert max(a, b) * (1 - 1e-9) <= float(p_norm(a, b, p)) <= (a + b) * (1 + 1e-9)


def test_roofline_fit_recovers_its_own_coefficients() -> None:
    device, truth = find_device("H100-SXM"), Roofline(0.8, 0.6, 3.0, 5e-6)
    flops = np.logspace(8, 13, 60)
    moved = np.logspace(9, 6, 60)
    found = fit_roofline(moved, flops, truth.seconds(moved, flops, device), device)
    assert found.bandwidth_share == pytest.approx(0.8, rel=1e-3)
    assert found.flops_share == pytest.approx(0.6, rel=1e-3)
    assert found.p == pytest.approx(3.0, rel=1e-2) and found.launch_s == pytest.approx(5e-6, rel=1e-2)


@pytest.mark.parametrize(("gpu", "most"), [("a100_sxm", 0.07), ("h100_sxm", 0.07)])
def test_products_of_unseen_shapes_are_predicted_within_seven_per_cent(gpu: str, most: float) -> None:
    table = read("gemm.csv.gz", gpu=gpu, dtype="bf16", m=[1, 8, 32, 64, 128, 256, 512, 1024])
    train, test = split(table, "n", "k")
    fit = fit_gemm(train)
    assert error(predict_gemm(fit, test), test["lat_us"]) < most
    assert 0.02 < fit.relative_spread(gpu) < 0.15


@pytest.mark.parametrize(("gpu", "most"), [("a40", 0.06), ("h100", 0.07)])
def test_linear_operators_of_an_unseen_model_are_predicted(gpu: str, most: float) -> None:
    table = read("linear_layer.csv.gz", gpu=gpu)
    out = table["model"] == "CodeLlama-34b-Instruct-hf"
    fit = fit_linear({c: v[~out] for c, v in table.items()})
    assert error(predict_linear(fit, {c: v[out] for c, v in table.items()}), table["lin_us"][out]) < most


def test_decode_attention_of_unseen_shapes_is_predicted_within_ten_per_cent_above_100_mb() -> None:
    table = read("decode_attention.csv.gz", gpu="h100_sxm")
    train, test = split(table, "batch_size", "num_heads", "num_key_value_heads")
    got = predict_decode_attention(fit_decode_attention(train), test)
    kv = (
        512.0
        * test["batch_size"].astype(float)
        * test["num_key_value_heads"].astype(float)
        * test["kv_len"].astype(float)
    )
    assert error(got[kv > 100e6], test["lat_us"][kv > 100e6]) < 0.1


def test_without_split_kv_a_few_tokens_cost_several_decodes_at_long_context() -> None:
    table = read("multi_token_attention.csv.gz")
    fit = fit_tree_attention(table)
    assert error(predict_tree_attention(fit, table), table["time_us"]) < 0.15
    device, model = find_device("RTX4090"), fit["RTX4090"]
    alone, split_kv = (float(model.seconds(16, 16384, device, split_kv=choice)) for choice in (False, True))
    assert 5 < alone / split_kv < 15


def test_an_unfitted_card_is_refused_and_transferred_instead() -> None:
    table = read("gemm.csv.gz", gpu="a100_sxm", dtype="bf16", m=[1, 64, 512])
    fit = fit_gemm(table)
    with pytest.raises(InvalidInputError, match="transferred_s"):
        fit.seconds(1, 4096, 4096, gpu="h100_sxm")
    m, n = np.array([8.0]), np.array([16384.0])
    moved = fit.transferred_s(m, n, n, find_device("h100_sxm"), like="a100_sxm")
    assert moved[0] < fit.seconds(m, n, n, gpu="a100_sxm")[0]


@pytest.mark.parametrize(("column", "value"), [("m", 0.0), ("lat_us", float("nan")), ("k", -1.0)])
def test_a_row_that_cannot_be_measured_is_named(column: str, value: float) -> None:
    table: dict[str, Any] = {
        "gpu": ["a100"] * 20,
        "dtype": ["bf16"] * 20,
        "m": np.ones(20),
        "n": np.full(20, 1024.0),
        "k": np.full(20, 1024.0),
    }
    table["lat_us"] = np.full(20, 5.0)
    table[column] = np.where(np.arange(20) == 7, value, table[column])
    with pytest.raises(InvalidInputError, match=f"column `{column}`.*7"):
        fit_gemm(table)


def test_all_reduce_is_free_on_one_device_and_grows_with_bytes() -> None:
    reduce = AllReduce(5e-6, 1e-6, 1e11)
    assert float(reduce.seconds(1e6, 1)) == 0
    assert float(reduce.seconds(1e8, 8)) > float(reduce.seconds(1e6, 8)) > 5e-6
