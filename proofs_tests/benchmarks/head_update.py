"""One update of a draft head's training: the loss in parts beside torch's own operators, in float32 and bfloat16.

    python -m proofs_tests.benchmarks.head_update [--rounds 7] [--rank 72]

SmolLM2, four steps unrolled, 2,048 tokens an update, loss and gradients and the optimiser's step; the same rows for
both, in turn within a round. Torch's operators are those of the objective over all logits at once, as a card runs it.
Measures seconds: on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from proofs_tests.benchmarks._report import write_report
from proofs_tests.benchmarks.tables_heads import update as table_of
from reader_theory.json_files import load_object
from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.shape import HeadShape
from runtime.models.fetch import fetch
from runtime.models.transformers import load_transformers
from runtime.training.heads import losses
from runtime.training.heads.initial import start_from
from runtime.training.heads.texts import ANSWERED, Texts
from runtime.training.heads.train import HeadRegime, _Run

STEPS, LENGTH, TOKENS = 4, 256, 2048
TORCH, PARTS = "torch's operators", "in parts"


def runs(folder: Path, rank: int | None, scratch: Path) -> dict[str, _Run]:
    """A training of each type, on random text: what is timed does not depend on it."""
    found = dict[str, _Run]()
    for dtype in (torch.float32, torch.bfloat16):
        target = load_transformers(str(folder), dtype)
        size, rows = target.config.vocab_size, 4 * TOKENS // LENGTH
        tokens = np.random.default_rng(0).integers(0, size, (rows, LENGTH)).astype(np.int32)
        roles = np.full(tokens.shape, ANSWERED, np.uint8)
        texts = Texts(tokens, roles, np.arange(rows), np.zeros(rows, np.float32))
        network = HeadNetwork(HeadShape.of(target.config, rank=rank))
        start_from(network, target)
        regime = HeadRegime(minutes=1.0, steps=STEPS, batch_tokens=TOKENS)
        found[str(dtype).removeprefix("torch.")] = _Run(target, network, texts, regime, scratch, ("smollm2", ""))
    return found


def seconds(run: _Run, rows: Any, compiled: bool) -> float:
    """Of one update."""
    began = time.perf_counter()
    if compiled:
        run.optimisers.step(run._loss(rows, 0.5), 0.5)
    else:
        with patch.object(losses, "divergences", lambda: None):
            run.optimisers.step(run._loss(rows, 0.5), 0.5)
    return time.perf_counter() - began


def told(rounds: dict[str, list[float]], base: str) -> list[dict[str, Any]]:
    """Median seconds of each way, and how many times as fast as `base` in the same round, with quartiles."""
    rows = list[dict[str, Any]]()
    for name, each in rounds.items():
        low, value, high = np.quantile(np.array(rounds[base]) / np.array(each), [0.25, 0.5, 0.75]).tolist()
        rows.append({"way": name, "seconds": float(np.median(each)), "times": value, "low": low, "high": high})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rank", type=int, default=72)
    options = parser.parse_args()
    folder = fetch("smollm2", Path("out/models/smollm2"), print)
    with tempfile.TemporaryDirectory() as scratch:
        made = runs(folder, options.rank, Path(scratch))
        batches = {name: run.train_on.batches(np.random.default_rng(0), TOKENS) for name, run in made.items()}
        found: dict[str, list[float]] = {f"{name}, {way}": [] for name in made for way in (TORCH, PARTS)}
        for number in range(options.rounds + 1):
            for name, run in made.items():
                rows = next(batches[name])
                for way in (TORCH, PARTS):
                    took = seconds(run, rows, way == PARTS)
                    if number:  # the first compiles
                        found[f"{name}, {way}"].append(took)
    rows = told(found, f"float32, {TORCH}")
    result = {"rank": options.rank, "steps": STEPS, "tokens": TOKENS, "rounds": options.rounds, "rows": rows}
    print(table_of(load_object(write_report("head_update", result), "the result")))


if __name__ == "__main__":
    main()
