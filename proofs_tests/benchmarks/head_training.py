"""Heads trained alike but for one thing: norms against drift, objectives at equal compute, shapes at equal updates.

    python -m proofs_tests.benchmarks.head_training [--part drift] [--updates 400] [--seeds 3]
    python -m proofs_tests.benchmarks.head_training --part objectives [--minutes 6]
    python -m proofs_tests.benchmarks.head_training --model smollm2 --part objectives shapes [--shape-updates 100]

Drift: heads with norms `pre` and `post`, TTT 2, as many updates on one text, several seeds, run to 8 steps, on prompts
as they are and disturbed. Acceptance at depths 5 to 8 is of greedy drafts given that all before were accepted, over all
positions of test prompts and all seeds; the difference has the interval of resampled prompts.
Objectives: from one head trained by KL for as many minutes of the process's own time, each goes on for as many more;
tokens a step of a chain of four on test prompts, by workload, with the interval of the difference from the start over
resampled prompts. SmolLM2's go on from the head that ships.
Shapes: an output head of an eighth of the width, a full one, and a full one of as many bytes as the first over fewer
tokens, for as many updates on one text; tokens a step beside the full one's (rho_tau), all workloads together as well.
The report is written after each head; what was trained is kept in the work folder and not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import RESULTS, environment, write_report
from reader_theory.acceptance.replay import replay
from reader_theory.acceptance.statistics import rank_depth_counts, rows_of
from reader_theory.documents import Static, Trace
from reader_theory.json_files import load_object
from reader_theory.trees import TokenTree
from runtime.drafters.head.checkpoint import load_head_network, read_facts
from runtime.drafters.head.model import load_head
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.inspect_head import inspect_head
from runtime.measure.prompts import PromptTokens, house_prompts, public_prompts
from runtime.measure.record import trace_of
from runtime.models.fetch import fetch
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.models.transformers import load_transformers
from runtime.training.heads.making import Wanted, make_head

CHAIN, TOKENS, LENGTH, NEW_TOKENS, RESAMPLES = 4, 80_000, 256, 64, 2000
DEEP = (5, 8)
"""Depths that drift is looked for at: beyond those trained."""
INSPECTED = 12
PARTS = ["drift", "objectives", "shapes"]
RATE = 0.1
"""Of an objective that goes on from a trained head; at the rate of a beginning, what was learnt is shaken first."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "kl": {},
    "tv": {"objective": "tv"},
    "hybrid": {"objective": "hybrid"},
    "nla": {"objective": "nla"},
    "ppow, adaptive": {"objective": "ppow"},
    "ppow, uniform": {"objective": "ppow", "windows": "uniform"},
    "ppow, speed_up": {"objective": "ppow", "reward": "speed_up"},
}

Keep = Callable[[dict[str, Any]], None]
Counts = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """What heads are trained for: the house target in float32, or SmolLM2 in the type that is fastest here."""

    folder: Path
    name: str
    result: str
    dtype: str
    start: Path | None
    prompts: list[PromptTokens]

    @classmethod
    def of(cls, name: str, many: int) -> Subject:
        """By name, with so many test prompts a workload."""
        if name == "house":
            folder = house_folder("target")
            prompts = house_prompts(None, "test", load_tokenizer(folder), many)
            return cls(folder, "house-target", "head_training", "float32", None, prompts)
        folder = fetch(name, Path("out/models") / name, print)
        prompts = public_prompts("test", load_tokenizer(folder), limit=many)
        return cls(folder, name, f"head_training_{name}", "auto", house_folder("smollm2_head"), prompts)


def trained(subject: Subject, work: Path, name: str, wanted: Wanted) -> Path:
    """A head's folder, trained unless it is there; all share one text."""
    folder, text = work / name, work / "texts.npz"
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if text.is_file() and not (folder / "texts.npz").is_file():
        (folder / "texts.npz").symlink_to(text.resolve())
    wanted = replace(wanted, dtype=subject.dtype)
    tokenizer = load_tokenizer(subject.folder)
    found = make_head(str(subject.folder), subject.name, tokenizer, [], wanted, folder, lambda *_: None)
    if not text.is_file():
        (folder / "texts.npz").replace(text)
    (folder / "done").touch()
    print(name, found, flush=True)
    return folder


def recorded(subject: Subject, folders: Mapping[str, Path]) -> Trace:
    """Heads by name, on the target's own greedy answers."""
    target, prompts = load_model(subject.folder), subject.prompts
    longest = max(len(prompt.tokens) for prompt in prompts) + NEW_TOKENS + 8
    engine = Engine(target, max_batch=8, max_context=longest)
    done = engine.generate([p.tokens for p in prompts], SamplingParams(max_new_tokens=NEW_TOKENS))
    drafts = {name: load_head(folder, target) for name, folder in folders.items()}
    return trace_of(target, drafts, prompts, [np.array(one.tokens) for one in done], candidates=1)


def drift(subject: Subject, work: Path, seeds: int, updates: int, keep: Keep) -> None:
    """What an inspection says of heads with either norms, and what is accepted deep."""
    tokenizer, names, prompts = load_tokenizer(subject.folder), (subject.name, "head"), subject.prompts
    target, found = load_transformers(str(subject.folder), torch.float32), dict[str, Any]()
    folders: dict[str, Path] = {}
    for seed in range(seeds):
        for norms in ("pre", "post"):
            wanted = Wanted(
                norms=norms, steps=2, minutes=600.0, updates=updates, tokens=TOKENS, length=LENGTH, seed=seed
            )
            folder = folders[f"{norms}-{seed}"] = trained(subject, work, f"{norms}-{seed}", wanted)
            some = prompts[:: max(len(prompts) // INSPECTED, 1)]
            seen = inspect_head(target, load_head_network(folder), some, tokenizer, names=names, new_tokens=NEW_TOKENS)
            plain = seen.variants[0]
            row = {
                "seed": seed, "rms_ratio": seen.drift, "worst_over_best": seen.worst_over_best, "rms": plain.rms,
                "acceptance": plain.acceptance, "sink": plain.sink,
                "tokens_per_step": {each.name: each.tokens_per_step for each in seen.variants},
            }  # fmt: skip
            found.setdefault(norms, []).append(row)
            print(norms, row, flush=True)
            keep({"drift": found})
    trace = recorded(subject, folders)
    found["deep"] = deep(
        {
            norms: [rank_depth_counts(rows_of(trace.of(f"{norms}-{seed}")), DEEP[1], 1) for seed in range(seeds)]
            for norms in ("pre", "post")
        }
    )
    print(found["deep"], flush=True)
    keep({"drift": found})


def deep(counts: Mapping[str, Sequence[Counts]]) -> dict[str, Any]:
    """Acceptance of either norms by depth, given all before; over `DEEP`, post's less pre's with its interval.

    Parameters
    ----------
    counts : by norms, of each seed (prompts, depths, 2)
        Right drafts and wrong ones.
    """
    first, last = DEEP
    found: dict[str, Any] = {"depths": DEEP}
    shares: dict[str, Any] = {}
    prompts = len(counts["pre"][0])
    chosen = np.random.default_rng(0).integers(0, prompts, (RESAMPLES, prompts))
    for norms, each in counts.items():
        all_seeds = np.sum(each, axis=0)[:, :last]
        right, asked = all_seeds.sum(0)[:, 0], all_seeds.sum((0, 2))
        found[norms] = {"acceptance": (right / np.maximum(asked, 1)).tolist(), "asked": asked.tolist()}
        of_prompts = all_seeds[:, first - 1 :].sum(1)
        sums = of_prompts[chosen].sum(1)
        found[norms]["deep"] = float(of_prompts[:, 0].sum() / max(of_prompts.sum(), 1))
        shares[norms] = sums[:, 0] / np.maximum(sums.sum(1), 1)
    found["post_less_pre"] = found["post"]["deep"] - found["pre"]["deep"]
    found["low"], found["high"] = np.quantile(shares["post"] - shares["pre"], [0.025, 0.975]).tolist()
    return found


def gains(workload: str, walks: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """Tokens accepted a step by objective, and what each gained over ``start``, with resampled prompts' interval.

    Parameters
    ----------
    walks : by objective, (prompts, 2)
        Tokens emitted and steps taken.
    """
    count, rows = len(walks["start"]), list[dict[str, Any]]()
    picks = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))

    def accepted(sums: Any) -> Any:
        return sums[..., 0] / sums[..., 1] - 1

    before, start = accepted(walks["start"][picks].sum(1)), float(accepted(walks["start"].sum(0)))
    for name, walked in walks.items():
        low, high = np.quantile(accepted(walked[picks].sum(1)) / before - 1, [0.025, 0.975]).tolist()
        mine = float(accepted(walked.sum(0)))
        rows.append({"workload": workload, "objective": name, "accepted": mine, "gain": mine / start - 1,
                     "low": low, "high": high})  # fmt: skip
        gained = f"{rows[-1]['gain']:+.1%} [{low:+.1%}, {high:+.1%}]"
        print(f"{workload:8} {name:16} {mine:.3f} accepted a step, {gained}", flush=True)
    return rows


def objectives(subject: Subject, work: Path, minutes: float, names: Sequence[str], keep: Keep) -> None:
    """Tokens a step by objective, beside those of the start that all share."""
    base: dict[str, Any] = {"steps": CHAIN, "minutes": minutes, "clock": "process", "tokens": TOKENS, "length": LENGTH}
    start = subject.start or trained(subject, work, "start", Wanted(**base))
    folders = {"start": start} | {
        name: trained(
            subject, work, name.replace(", ", "-"),
            Wanted(**base, start=start, rate=RATE, seed=1, **OBJECTIVES[name]),
        )
        for name in names
    }  # fmt: skip
    rows = [row for workload, walks in walked(subject, folders).items() for row in gains(workload, walks)]
    for row in rows:
        own = row["objective"]
        row["updates"] = read_facts(folders[own])["updates"] if own != "start" else 0
    keep({"objectives": rows})


def shapes(subject: Subject, work: Path, updates: int, keep: Keep) -> None:
    """Tokens a step of three output heads, trained alike."""
    config = load_transformers(str(subject.folder), torch.float32).config.get_text_config()
    width, size = int(config.hidden_size), int(config.vocab_size)
    rank = width // 8
    kinds: dict[str, dict[str, Any]] = {
        "full": {},
        f"rank {rank}": {"rank": rank},
        "trimmed": {"trimmed": rank * (size + width) // width},
    }
    base: dict[str, Any] = {"steps": CHAIN, "minutes": 600.0, "updates": updates, "tokens": TOKENS, "length": LENGTH}
    folders = {
        name: trained(subject, work, f"shape-{name.replace(' ', '-')}", Wanted(**base, **changes))
        for name, changes in kinds.items()
    }
    rows = list[dict[str, Any]]()
    for workload, walks in walked(subject, folders).items():
        picks = np.random.default_rng(0).integers(0, len(walks["full"]), (RESAMPLES, len(walks["full"])))
        for name, one in walks.items():
            row: dict[str, Any] = {"workload": workload, "head": name, "tokens_a_step": float(_rate(one.sum(0)))}
            for other in walks.keys() - {name}:
                drawn = _rate(one[picks].sum(1)) / _rate(walks[other][picks].sum(1))
                low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
                value = float(_rate(one.sum(0)) / _rate(walks[other].sum(0)))
                row[f"over {other}"] = {"value": value, "low": low, "high": high}
            rows.append(row)
            print(row, flush=True)
    parameters = {name: load_head_network(folder).shape.parameters for name, folder in folders.items()}
    keep({"shapes": {"updates": updates, "parameters": parameters, "kinds": kinds, "rows": rows}})


def _rate(sums: Any) -> Any:
    """Tokens a step."""
    return sums[..., 0] / sums[..., 1]


def walked(subject: Subject, folders: Mapping[str, Path]) -> dict[str, dict[str, Counts]]:
    """By workload and head, (prompts, 2) tokens and steps of a chain of four; all workloads together first."""
    drafts = {f"d{number}": folder for number, folder in enumerate(folders.values())}
    trace, found = recorded(subject, drafts), dict[str, dict[str, Counts]]()
    for workload in trace.workloads:
        for name, key in zip(folders, drafts, strict=True):
            done = replay(trace, Static.of(TokenTree.chain(CHAIN), key), workload=workload, first_position=1)
            found.setdefault(workload, {})[name] = np.stack((done.tokens, done.steps), -1)
    together = {name: np.concatenate([walks[name] for walks in found.values()]) for name in folders}
    return {"all": together} | found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.head_training", description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="of the process's own time, each objective")
    parser.add_argument("--objective", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--updates", type=int, default=400, help="of each training for drift")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32, help="a workload")
    parser.add_argument("--model", choices=["house", "smollm2"], default="house")
    parser.add_argument("--shape-updates", type=int, default=100)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS[:2])
    parser.add_argument("--work", type=Path, default=Path("out/head_training"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    subject = Subject.of(args.model, args.prompts)
    work: Path = args.work / args.model
    work.mkdir(parents=True, exist_ok=True)
    path: Path = args.output / f"{subject.result}.json"
    told = (*PARTS, "commits", "updates", "batch_tokens", "minutes")
    before = load_object(path, "the result") if path.is_file() else {}
    report: dict[str, Any] = {"commits": {}} | {key: before[key] for key in told if key in before}
    commit = environment()["commit"]

    def keep(found: dict[str, Any]) -> None:
        report.update(found)
        report["commits"] |= dict.fromkeys(found, commit)
        write_report(subject.result, report, args.output)

    if "drift" in args.part:
        report |= {"updates": args.updates, "batch_tokens": Wanted.batch_tokens}
        drift(subject, work, args.seeds, args.updates, keep)
    if "objectives" in args.part:
        report["minutes"] = args.minutes
        objectives(subject, work, args.minutes, args.objective, keep)
    if "shapes" in args.part:
        shapes(subject, work, args.shape_updates, keep)


if __name__ == "__main__":
    main()
