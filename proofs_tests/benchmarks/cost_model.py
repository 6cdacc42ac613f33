"""Cost model against others' measurements, on shapes and models it has not seen, beside two baselines.

    python -m proofs_tests.benchmarks.cost_model [--data FOLDER]
    python -m proofs_tests.benchmarks.cost_model --fit reader_theory/cost/operators.npz

The second writes the fits that ship with the package. `--data` may name a folder with more tables of the same columns,
vllm_speculative_runs.csv.gz among them, which has no licence and does not ship.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from proofs_tests.benchmarks._report import write_report
from reader_theory.cost.attention import fit_decode_attention, kv_read_bytes, predict_decode_attention
from reader_theory.cost.device import find_device
from reader_theory.cost.gemm import bytes_per_weight, fit_gemm, predict_gemm
from reader_theory.cost.known import known_shape
from reader_theory.cost.linear import OPERATORS, fit_linear, linear_shapes, predict_linear
from reader_theory.cost.logged_steps import fit_steps, predict_steps, read_load
from reader_theory.cost.operators import fit_operators
from reader_theory.cost.roofline import fit_roofline, spec_sheet_s
from reader_theory.cost.tree_attention import fit_tree_attention, predict_tree_attention

DATA = Path(__file__).parents[1] / "data"
Split = list[tuple[np.ndarray, np.ndarray]]


def folds(groups: pd.Series, count: int, seed: int = 0) -> Split:
    """Train and test masks that never share a group."""
    names = np.array(sorted(groups.unique()))
    np.random.default_rng(seed).shuffle(names)
    place = groups.map({name: i % count for i, name in enumerate(names)}).to_numpy()
    return [(place != i, place == i) for i in range(count)]


def mape(predicted: np.ndarray, measured: Any) -> float:
    """Mean absolute error in per cent."""
    return float(100 * np.mean(np.abs(np.asarray(predicted) / np.asarray(measured, dtype=float) - 1)))


def held_out(table: pd.DataFrame, split: Split, run: Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]) -> np.ndarray:
    """Predictions of every row by a fit that has not seen its group."""
    out = np.empty(len(table))
    for train, test in split:
        out[test] = run(table[train], table[test])
    return out


def max_plus_c(
    bytes_flops: Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]], gpu: str, dtype: str, column: str
) -> Any:
    """Baseline: max() of the fitted walls plus a constant."""

    def run(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
        device = find_device(gpu)
        fitted = fit_roofline(*bytes_flops(train), train[column].to_numpy() * 1e-6, device, dtype, p=64.0)
        return fitted.seconds(*bytes_flops(test), device, dtype)

    return run


def gemm(folder: Path) -> list[dict[str, Any]]:
    table, rows = pd.read_csv(folder / "gemm.csv.gz"), []
    for (gpu, dtype), part in table.groupby(["gpu", "dtype"]):

        def walls(t: pd.DataFrame, dtype: str = str(dtype)) -> tuple[np.ndarray, np.ndarray]:
            m, n, k = (t[c].to_numpy(float) for c in "mnk")
            return bytes_per_weight(dtype) * (m * k + n * k) + 2 * m * n, 2 * m * n * k

        split = folds(part.n.astype(str) + "x" + part.k.astype(str), 5)
        measured = part.lat_us * 1e-6
        rows.append(
            {
                "what": f"GEMM {gpu} {dtype}, unseen (n, k)",
                "spec sheet": mape(spec_sheet_s(*walls(part), find_device(str(gpu)), str(dtype)), measured),
                "max + c": mape(held_out(part, split, max_plus_c(walls, str(gpu), str(dtype), "lat_us")), measured),
                "ours": mape(held_out(part, split, lambda a, b: predict_gemm(fit_gemm(a), b)), measured),
            }
        )
    return rows


def linear(folder: Path) -> list[dict[str, Any]]:
    table, rows = pd.read_csv(folder / "linear_layer.csv.gz"), []
    for gpu, part in table.groupby("gpu"):
        device = find_device(str(gpu))

        def walls(t: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
            m = t.tokens.to_numpy(float)
            return {o: (2 * (m * k + n * k + m * n), 2 * m * n * k) for o, (n, k) in linear_shapes(t).items()}

        def baseline(train: pd.DataFrame, test: pd.DataFrame, device: Any = device) -> np.ndarray:
            known, asked = walls(train), walls(test)
            stacked = [np.concatenate([known[o][i] for o in OPERATORS]) for i in (0, 1)]
            times = np.concatenate([train[o].to_numpy() * 1e-3 for o in OPERATORS])
            fitted = fit_roofline(*stacked, times, device, p=64.0)
            return np.sum([fitted.seconds(*asked[o], device) for o in OPERATORS], axis=0)

        split = [((part.model != name).to_numpy(), (part.model == name).to_numpy()) for name in part.model.unique()]
        measured = part.lin_us * 1e-6
        rows.append(
            {
                "what": f"linear operators {gpu}, unseen model",
                "spec sheet": mape(np.sum([spec_sheet_s(*w, device) for w in walls(part).values()], axis=0), measured),
                "max + c": mape(held_out(part, split, baseline), measured),
                "ours": mape(held_out(part, split, lambda a, b: predict_linear(fit_linear(a), b)), measured),
            }
        )
    return rows


def attention(folder: Path) -> list[dict[str, Any]]:
    table, rows = pd.read_csv(folder / "decode_attention.csv.gz"), []
    for gpu, part in table.groupby("gpu"):

        def walls(t: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
            batch, heads, kv_heads, length = (
                t[c].to_numpy(float) for c in ("batch_size", "num_heads", "num_key_value_heads", "kv_len")
            )
            return kv_read_bytes(batch, kv_heads, length), 4 * 128 * batch * heads * length

        split = folds(
            part.batch_size.astype(str) + "/" + part.num_heads.astype(str) + "/" + part.num_key_value_heads.astype(str),
            5,
        )
        ours = held_out(part, split, lambda a, b: predict_decode_attention(fit_decode_attention(a), b))
        roof = held_out(part, split, max_plus_c(walls, str(gpu), "bf16", "lat_us"))
        sheet = spec_sheet_s(*walls(part), find_device(str(gpu)))
        big, measured = walls(part)[0] > 100e6, part.lat_us.to_numpy() * 1e-6
        for label, rows_of in (("above", big), ("below", ~big)):
            what = f"decode attention {gpu}, {label} 100 MB of KV"
            values = {"spec sheet": sheet, "max + c": roof, "ours": ours}
            rows.append({"what": what, **{name: mape(v[rows_of], measured[rows_of]) for name, v in values.items()}})
    return rows


def tree_walls(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and FLOPs of attention over several query tokens: 32 heads, 8 of keys and values, head dim 128."""
    queries, context, decodes, length = (
        table[c].to_numpy(float) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    whole = np.where(queries > 0, context + queries, 0.0)
    return kv_read_bytes(1, 8, whole + decodes * length), 4 * 128 * 32 * (queries * whole + decodes * length)


def tree(folder: Path) -> list[dict[str, Any]]:
    table = pd.read_csv(folder / "multi_token_attention.csv.gz")
    split = folds(table.kv_prefill.astype(str) + "/" + table.kv_decode.astype(str), 5)
    ours = held_out(table, split, lambda a, b: predict_tree_attention(fit_tree_attention(a), b))
    roof = held_out(table, split, max_plus_c(tree_walls, "RTX4090", "bf16", "time_us"))
    measured = table.time_us * 1e-6
    return [
        {
            "what": "attention of several query tokens, RTX 4090, unseen contexts",
            "spec sheet": mape(spec_sheet_s(*tree_walls(table), find_device("RTX4090")), measured),
            "max + c": mape(roof, measured),
            "ours": mape(ours, measured),
        }
    ]


def step_walls(table: pd.DataFrame, card: str = "H100-PCIe") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds at a card's peaks of each run's target bytes, target arithmetic, and drafter steps."""
    device, target, load = find_device(card), known_shape("Qwen3-32B"), read_load(table)
    bandwidth, flops = device.bandwidth_bytes_per_s.value, device.flops_per_s()
    moved = target.weight_bytes() + load.running * load.context * target.kv_bytes_per_token()
    arithmetic = 2 * target.parameters() * load.running * (load.drafts + 1)
    drafts = [0.0 if name == "None" else known_shape(name).weight_bytes() / bandwidth for name in load.drafter.tolist()]
    return moved / bandwidth, arithmetic / flops, load.drafts * np.array(drafts)


def step_max_plus_c(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Baseline: for each drafter max() of the target's fitted walls, a share of the drafter's, and two constants."""

    def shown(x: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        read, computed, drafted = step_walls(table)
        return np.maximum(x[0] * read, x[1] * computed) + x[2] * drafted + 1e-3 * (x[3] * table.k.to_numpy() + x[4])

    start, out = np.array([1.0, 1.5, 1.2, 0.5, 1.0]), np.empty(len(test))
    for name in test.draft_model.unique():
        known = train[(train.draft_model == name) | (train.k == 0)]
        times = known.median_itl.to_numpy() * 1e-3
        found = least_squares(
            lambda x, t=known, y=times: np.log(shown(x, t) / y), start, bounds=(0, np.inf), loss="soft_l1"
        )
        asked = (test.draft_model == name).to_numpy()
        out[asked] = shown(found.x, test[asked])
    return out


def speculative(folder: Path) -> list[dict[str, Any]]:
    path = folder / "vllm_speculative_runs.csv.gz"
    if not path.exists():
        return []
    table, rows = pd.read_csv(path), []
    for k in (1, 3, 5):
        train, test = table[table.k != k], table[table.k == k]
        got = predict_steps(fit_steps(train), test)
        median, mean = test.median_itl.to_numpy() * 1e-3, test.mean_itl.to_numpy() * 1e-3
        read, computed, drafted = step_walls(test)
        sheet, roof = np.maximum(read, computed) + drafted, step_max_plus_c(train, test)
        inside = (got.low_s <= median) & (median <= got.high_s)
        small = (test.conc <= 64).to_numpy()
        for label, at in (("<= 64", small), ("> 64", ~small)):
            rows.append(
                {
                    "what": f"vLLM step, k = {k} left out, concurrency {label}",
                    "spec sheet": mape(sheet[at], median[at]),
                    "max + c": mape(roof[at], median[at]),
                    "ours": mape(got.median_s[at], median[at]),
                    "mean gap": mape(got.mean_s[at], mean[at]),
                    "covered": float(100 * np.mean(inside[at])),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of tables")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="fit every operator to the tables, and write the fits")
    args = parser.parse_args()
    folder = args.data
    if args.fit is not None:
        tables = ("linear_layer", "gemm", "decode_attention", "multi_token_attention")
        fit_operators(*(pd.read_csv(folder / f"{name}.csv.gz") for name in tables)).write(args.fit)
        return
    rows = [row for part in (gemm, linear, attention, tree, speculative) for row in part(folder)]
    print(f"{'mean absolute error, %':58s} spec sheet  max + c     ours")
    for row in rows:
        cells = [f"{row[name]:8.2f}" if name in row else " " * 8 for name in ("spec sheet", "max + c", "ours")]
        extra = f"   mean gap {row['mean gap']:.2f}, covered {row['covered']:.0f} %" if "covered" in row else ""
        print(f"{row['what']:58s}   {'  '.join(cells)}{extra}")
    write_report("cost_model", {"rows": rows})


if __name__ == "__main__":
    main()
