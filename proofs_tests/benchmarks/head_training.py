"""Heads trained alike but for one thing, on the house target: norms against drift, and objectives at equal time.

    python -m proofs_tests.benchmarks.head_training [--minutes 1] [--seeds 3] [--work out/head_training]

Drift: heads with norms `pre` and `post`, TTT 2, several seeds, run to 8 steps, on prompts as they are and disturbed.
Objectives: from one head trained by KL, as long again by each; tokens a step of a chain of four on test prompts, by
workload, with the interval of the difference from the start over resampled prompts. What was trained is kept in the
work folder and not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.replay import replay
from reader_theory.documents import Static
from reader_theory.trees import TokenTree
from runtime.drafters.head.checkpoint import load_head_network
from runtime.drafters.head.model import load_head
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.inspect_head import inspect_head
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import trace_of
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.models.transformers import load_transformers
from runtime.training.heads.making import Wanted, make_head

CHAIN, TOKENS, LENGTH, NEW_TOKENS, RESAMPLES = 4, 80_000, 256, 64, 2000
OBJECTIVES: dict[str, dict[str, Any]] = {
    "kl": {},
    "tv": {"objective": "tv"},
    "hybrid": {"objective": "hybrid"},
    "nla": {"objective": "nla"},
    "ppow, adaptive": {"objective": "ppow"},
    "ppow, uniform": {"objective": "ppow", "windows": "uniform"},
    "ppow, speed_up": {"objective": "ppow", "reward": "speed_up"},
}


def trained(work: Path, name: str, wanted: Wanted) -> Path:
    """A head's folder, trained unless it is there; all share one text."""
    folder, text = work / name, work / "texts.npz"
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if text.is_file() and not (folder / "texts.npz").is_file():
        (folder / "texts.npz").symlink_to(text.resolve())
    tokenizer = load_tokenizer(house_folder("target"))
    found = make_head(str(house_folder("target")), "house-target", tokenizer, [], wanted, folder, lambda *_: None)
    if not text.is_file():
        (folder / "texts.npz").replace(text)
    (folder / "done").touch()
    print(name, found, flush=True)
    return folder


def drift(work: Path, seeds: int, minutes: float, prompts: Sequence[PromptTokens]) -> dict[str, list[dict[str, Any]]]:
    """What an inspection says of heads with either norms."""
    tokenizer = load_tokenizer(house_folder("target"))
    names = ("house-target", "head")
    target, found = load_transformers(str(house_folder("target")), torch.float32), dict[str, list[dict[str, Any]]]()
    for norms in ("pre", "post"):
        for seed in range(seeds):
            wanted = Wanted(norms=norms, steps=2, minutes=minutes, tokens=TOKENS, length=LENGTH, seed=seed)
            network = load_head_network(trained(work, f"{norms}-{seed}", wanted))
            seen = inspect_head(target, network, prompts, tokenizer, names=names, new_tokens=NEW_TOKENS)
            plain = seen.variants[0]
            row = {
                "seed": seed, "rms_ratio": seen.drift, "worst_over_best": seen.worst_over_best, "rms": plain.rms,
                "acceptance": plain.acceptance, "sink": plain.sink,
                "tokens_per_step": {each.name: each.tokens_per_step for each in seen.variants},
            }  # fmt: skip
            found.setdefault(norms, []).append(row)
            print(norms, row, flush=True)
    return found


def objectives(work: Path, minutes: float, prompts: Sequence[PromptTokens]) -> list[dict[str, Any]]:
    """Tokens a step by objective, beside those of the start that all share."""
    target = load_model(house_folder("target"))
    longest = max(len(prompt.tokens) for prompt in prompts) + NEW_TOKENS + 8
    engine = Engine(target, max_batch=8, max_context=longest)
    done = engine.generate([p.tokens for p in prompts], SamplingParams(max_new_tokens=NEW_TOKENS))
    outputs = [np.array(one.tokens) for one in done]
    base: dict[str, Any] = {"steps": CHAIN, "minutes": minutes, "tokens": TOKENS, "length": LENGTH}
    start = trained(work, "start", Wanted(**base))
    folders = {"start": start} | {
        name: trained(work, name.replace(", ", "-"), Wanted(**base, start=start, seed=1, **changes))
        for name, changes in OBJECTIVES.items()
    }
    drafts = {f"d{number}": load_head(folder, target) for number, folder in enumerate(folders.values())}
    trace = trace_of(target, drafts, prompts, outputs)
    rows: list[dict[str, Any]] = []
    for workload in trace.workloads:
        done_by = {
            name: replay(trace, Static.of(TokenTree.chain(CHAIN), key), workload=workload, first_position=1)
            for name, key in zip(folders, drafts, strict=True)
        }
        first = done_by["start"]
        picks = np.random.default_rng(0).integers(0, len(first.steps), (RESAMPLES, len(first.steps)))
        before = first.tokens[picks].sum(1) / first.steps[picks].sum(1) - 1
        for name, result in done_by.items():
            gain = (result.tokens[picks].sum(1) / result.steps[picks].sum(1) - 1) / before - 1
            low, high = np.quantile(gain, [0.025, 0.975])
            accepted = result.tokens_per_step - 1
            rows.append({"workload": workload, "objective": name, "accepted": accepted,
                         "gain": accepted / (first.tokens_per_step - 1) - 1, "low": low, "high": high})  # fmt: skip
            gained = f"{rows[-1]['gain']:+.1%} [{low:+.1%}, {high:+.1%}]"
            print(f"{workload:8} {name:16} {accepted:.3f} accepted a step, {gained}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.head_training", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16, help="a workload")
    parser.add_argument("--part", nargs="+", choices=["drift", "objectives"], default=["drift", "objectives"])
    parser.add_argument("--work", type=Path, default=Path("out/head_training"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    prompts = house_prompts(None, "test", load_tokenizer(house_folder("target")), args.prompts)
    args.work.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"minutes": args.minutes, "seeds": args.seeds}
    if "drift" in args.part:
        report["drift"] = drift(args.work, args.seeds, args.minutes, prompts[:: max(len(prompts) // 12, 1)])
    if "objectives" in args.part:
        report["objectives"] = objectives(args.work, args.minutes, prompts)
    print(write_report("head_training", report, args.output))


if __name__ == "__main__":
    main()
