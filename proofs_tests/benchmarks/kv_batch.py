"""Whether the largest batch that bytes are predicted to admit is the one that the engine admits, for each cache.

    python -m proofs_tests.benchmarks.kv_batch FOLDER [FOLDER ...]

For every cache and number of rows: just the bytes that so many rows need, and one byte less. Times nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from proofs_tests.benchmarks._report import write_report
from reader_theory.memory import KVFormat, Window, rows_admitted
from runtime.cache.quantised.fit import fit_aqua, named_bits
from runtime.cache.quantised.scheme import Aqua, Integers, Scheme
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.kv import format_of, keys_and_values, named
from runtime.models.base import LanguageModel
from runtime.models.lean import LeanModel
from runtime.models.load import load_model
from runtime.models.quantised import quantised

PROMPT = np.arange(8, dtype=np.int64)


def schemes(model: LeanModel) -> list[Scheme | None]:
    """Every kind of cache; predictors are fitted to little text, for only their bytes count here."""
    layers, window = len(model.layers), Window()
    text = np.random.default_rng(0).integers(0, model.vocabulary, (1, 4 * window.chunk))
    fitted = fit_aqua(
        "aqua", named_bits(2, layers), *keys_and_values(model, text), (model.kv_heads, model.head_dim), window
    )
    direct = Aqua("direct", named_bits(2, layers), (), window)
    return [None, Integers(8), Integers(4), named(model, direct), named(model, fitted)]


def admitted(model: LanguageModel, kv_bytes: int, slots: int, waiting: int) -> int:
    """Rows that run at once of so many requests that wait, of `slots` slots each."""
    engine = Engine(model, max_batch=waiting, max_context=slots, kv_bytes=kv_bytes)
    params = SamplingParams(max_new_tokens=slots - len(PROMPT) - 1, ignore_eos=True)
    for _ in range(waiting):
        engine.add(PROMPT, params)
    engine.step()
    return len(engine.rows)


def rows_of(model: LanguageModel, told: KVFormat, slots: int, counts: list[int]) -> list[dict[str, Any]]:
    """Predicted and admitted rows within just the bytes of so many rows, and within one byte less."""
    found: list[dict[str, Any]] = []
    for count in counts:
        enough = told.shared_bytes + count * told.row_bytes(slots)
        for kv_bytes in (enough, enough - 1):
            found.append({
                "cache": told.name, "slots": slots, "kv_bytes": kv_bytes,
                "predicted": rows_admitted([told], kv_bytes, slots),
                "admitted": admitted(model, kv_bytes, slots, count + 2),
            })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="folders")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--slots", type=int, nargs="+", default=[333, 1100])
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 5])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in options.targets:
        model = load_model(folder, options.dtype)
        assert isinstance(model, LeanModel)
        for scheme in schemes(model):
            served = model if scheme is None else quantised(model, scheme)
            for slots in options.slots:
                rows += [
                    {"model": model.name, **row} for row in rows_of(served, format_of(served), slots, options.rows)
                ]
            print(rows[-1], flush=True)
    equal = sum(row["predicted"] == row["admitted"] for row in rows)
    print(write_report("kv_batch", {"dtype": options.dtype, "equal": equal, "of": len(rows), "rows": rows}))


if __name__ == "__main__":
    main()
