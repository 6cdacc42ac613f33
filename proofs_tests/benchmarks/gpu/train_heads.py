"""Heads for a target, trained on one card: the target writes its texts, then several heads are trained alike.

    python -m proofs_tests.benchmarks.gpu.train_heads prepare TARGET -o out/heads/seeds.npz     # anywhere
    python -m proofs_tests.benchmarks.gpu.train_heads train TARGET out/heads/seeds.npz -o out/heads --seconds 320

`prepare` turns prompts into tokens, so that the card needs no tokenizer. `train` stops by itself before its seconds are
used up; every head is written when it is done. Each is then looked at on test prompts that no training saw, answered
greedily by the target: acceptance by depth, and tokens a step where steps begin as in the engine.

Parts, each with its share of the time: `main`, one head, from another's weights with ``--start``; `alike`, other shapes
for as many updates; `drift`, norms `pre` and `post` beside each other, several seeds, two steps unrolled and eight
looked at, prompts as they are and disturbed; `objectives`, as long again from the main head by each. The last two are
what `head_training` does on the house target. What is found is written as `head_training_card.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import write_report
from proofs_tests.benchmarks.head_training import CHAIN, OBJECTIVES, deep, gains
from runtime.drafters.head.checkpoint import load_head_network
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.shape import HeadShape
from runtime.measure.inspect_head import disturbances
from runtime.models.load import load_tokenizer, wrap
from runtime.models.transformers import load_transformers
from runtime.models.vocabulary import fingerprint_of
from runtime.training.heads.initial import start_from
from runtime.training.heads.making import NORMS, common_tokens, states_seen
from runtime.training.heads.texts import ANSWERED, ASKED, PADDING, Texts
from runtime.training.heads.train import HeadRegime, train_head
from runtime.training.heads.watching import Watched, watch
from runtime.training.heads.writing import Opening, Turns, openings, turns_of, write

WORKLOAD_SHARES = {"chat": 8.0, "math": 8.0, "code": 4.0, "library": 0.5}
"""How often a prompt of a workload is taken, beside one of the others."""
WATCHED_STEPS = 8
SHARES = {"main": 0.6, "alike": 0.4, "drift": 0.3, "objectives": 0.35}
"""Of the time, beside the other parts that are asked for."""
DISTURBED = 40
"""Test prompts that are given disturbed as well."""
GENTLE = 0.25
"""Rate of a head that is trained on, beside one that begins."""
LEAST_S = 3.0
"""Shortest training."""
SMALL_BATCH = 8192
"""Tokens of an update where heads are compared: more updates, not better ones."""


def prepare(target: Path, output: Path, library: int) -> None:
    """Tokens of the public prompts, both splits, and of questions about the standard library."""
    from runtime.measure.prompts import public_prompts
    from runtime.models.text import encode_chat
    from runtime.training.heads.asking import library_questions

    tokenizer = load_tokenizer(target)
    turns = turns_of(tokenizer)
    assert turns is not None, "the target's tokenizer has a chat template"
    kept: dict[str, Any] = {"turns": json.dumps([turns.before, turns.answer, turns.question])}
    kept["tokenizer"] = fingerprint_of(tokenizer)
    prompts = {split: [(p.workload, p.tokens) for p in public_prompts(split, tokenizer)] for split in ("fit", "test")}
    asked = library_questions(library)
    prompts["fit"] += [("library", encode_chat(tokenizer, [{"role": "user", "content": text}])) for text in asked]
    some = prompts["test"][:: -(-len(prompts["test"]) // DISTURBED)]
    for name, change in disturbances(tokenizer).items():
        prompts[name] = [(workload, change(np.asarray(tokens, dtype=np.int64))) for workload, tokens in some]
    kept["variants"] = np.array(list(disturbances(tokenizer)))
    for split, found in prompts.items():
        kept[f"{split}_workloads"] = np.array([workload for workload, _ in found])
        kept[f"{split}_lengths"] = np.array([len(tokens) for _, tokens in found])
        kept[f"{split}_tokens"] = np.concatenate([tokens for _, tokens in found]).astype(np.int32)
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output, **kept)
    print(f"{len(kept['fit_lengths'])} prompts to train on, {len(kept['test_lengths'])} to test, in {output}")


class Seeds:
    """What `prepare` wrote."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as held:
            self.turns = Turns(*(tuple(part) for part in json.loads(str(held["turns"]))))
            self.tokenizer = str(held["tokenizer"])
            self.variants: list[str] = held["variants"].tolist()
            splits = ("fit", "test", *self.variants)
            self.prompts = {split: self._split(held, split) for split in splits}
            self.workloads = {split: held[f"{split}_workloads"].tolist() for split in splits}

    @staticmethod
    def _split(held: Any, split: str) -> list[Any]:
        ends = np.cumsum(held[f"{split}_lengths"])[:-1]
        return [part.astype(np.int64) for part in np.split(held[f"{split}_tokens"], ends)]


def written(model: Any, seeds: Seeds, args: argparse.Namespace) -> Texts:
    """Texts of the target, as many rounds as fit into the time for it."""
    began, parts, rng = time.monotonic(), list[Texts](), np.random.default_rng(args.seed)
    shares = [WORKLOAD_SHARES.get(workload, 1.0) for workload in seeds.workloads["fit"]]
    took = 0.0
    while len(parts) < args.rounds and time.monotonic() - began + took < args.writing_seconds:
        start = time.monotonic()
        long = len(parts) % 4 == 3
        length, rows = (2 * args.length, args.rows // 2) if long else (args.length, args.rows)
        begun = openings(seeds.prompts["fit"], seeds.turns, rows, length * 2 // 3, rng, shares)
        parts.append(write(model, begun, seeds.turns, length, seed=args.seed + len(parts)))
        took = time.monotonic() - start
        print(f"wrote {parts[-1].tokens.size} tokens in {took:.1f} s", flush=True)
    return Texts.joined(parts)


def answered(model: Any, seeds: Seeds, length: int) -> dict[str, tuple[Texts, list[str]]]:
    """Greedy answers by split, the first 128 tokens, and their workloads; prompts that leave no room are left out."""
    splits = ("test", *seeds.variants)
    fits = [
        [n for n in range(len(seeds.prompts[split])) if len(seeds.prompts[split][n]) < length * 2 // 3]
        for split in splits
    ]
    begun = [
        Opening(tuple(seeds.prompts[split][n].tolist()), n, False, 0.0)
        for split, mine in zip(splits, fits, strict=True) for n in mine
    ]  # fmt: skip
    texts = write(model, begun, seeds.turns, length)
    over = np.cumsum(texts.roles == ASKED, axis=1) > 0
    late = np.cumsum(texts.roles == ANSWERED, axis=1) > 128
    texts.roles[over | late] = PADDING
    parts = np.split(np.arange(len(texts)), np.cumsum([len(mine) for mine in fits])[:-1])
    return {
        split: (texts.at(rows), [seeds.workloads[split][n] for n in mine])
        for split, rows, mine in zip(splits, parts, fits, strict=True)
    }


class Course:
    """The target, its texts and the clock, and what the parts found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began, self.args = time.monotonic(), args
        args.output.mkdir(parents=True, exist_ok=True)
        dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
        self.target = load_transformers(args.target, dtype, args.device)
        model, seeds = wrap(self.target, check=False), Seeds(args.seeds)
        self.tokenizer = seeds.tokenizer
        self.say(f"ready on {args.device}")
        self.answers = answered(model, seeds, args.length)
        self.say("answered")
        self.texts = written(model, seeds, args)
        self.say(f"{self.texts.tokens.size} tokens in {len(self.texts)} rows")
        self.shape = HeadShape.of(self.target.config, rank=args.rank)
        self.turns = rotations(self.shape, args.length * 2, args.device)
        self.results: dict[str, Any] = {}
        device = str(torch.cuda.get_device_name()) if args.device == "cuda" else "cpu"
        self.found: dict[str, Any] = {"device": device, "heads": self.results}
        self.main: HeadNetwork | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.args.seconds - (time.monotonic() - self.began)

    def has(self, seconds: float, name: str) -> bool:
        """Whether there is time to train `name` for so long; said where there is not."""
        if min(seconds, self.left) >= LEAST_S:
            return True
        self.say(f"no time left for {name}")
        return False

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def fresh(self, shape: HeadShape, seed: int) -> HeadNetwork:
        """A head as a training begins with it."""
        torch.manual_seed(seed)
        network = HeadNetwork(shape, common_tokens(self.texts, shape)).to(self.args.device)
        start_from(network, self.target, "weighted_svd", states_seen(self.target, self.texts))
        return network

    def train(self, name: str, network: HeadNetwork, seconds: float, **changes: Any) -> int:
        """Train in place and write; the updates that it took."""
        args = self.args
        regime = HeadRegime(
            minutes=seconds / 60, steps=args.steps, decay=args.decay, batch_tokens=args.batch_tokens, seed=args.seed
        )
        told = lambda share, text: self.say(f"{name} {share:4.0%} {text}")  # noqa: E731
        regime = replace(regime, **changes)
        names = {"name": args.name, "tokenizer": self.tokenizer}
        train_head(self.target, network, self.texts, regime, args.output / name, **names, tell=told)
        (args.output / name / "resume.pt").unlink()
        return int(json.loads((args.output / name / "training.json").read_text())["updates"])

    def look(self, network: HeadNetwork, split: str = "test") -> tuple[Watched, list[str]]:
        """A head on the answers of a split, and the workload of each row."""
        texts, workloads = self.answers[split]
        return watch(self.target, network, texts, self.turns, steps=WATCHED_STEPS), workloads

    def keep(self) -> None:
        """Write what there is."""
        write_report("head_training_card", self.found, self.args.output)

    def told(self, name: str, network: HeadNetwork, updates: int) -> None:
        """Look at a head by workload."""
        texts, workloads = self.answers["test"]
        self.results[name] = {"updates": updates}
        for workload in sorted(set(workloads)):
            mine = texts.at(np.array(workloads) == workload)
            looked = watch(self.target, network, mine, self.turns, steps=WATCHED_STEPS)
            self.results[name][workload] = looked.told()
            self.say(f"{name} on {workload}: {looked}")
        self.keep()


def part_main(course: Course, seconds: float) -> None:
    """One head, as long as there is time for."""
    start = course.args.start
    if not course.has(seconds - 8.0, "main"):
        return
    course.main = (
        course.fresh(course.shape, course.args.seed) if start is None
        else load_head_network(start).to(course.args.device)
    )  # fmt: skip
    if start is not None:
        course.told("start", course.main, 0)
    updates = course.train("main", course.main, seconds - 8.0, rate=1.0 if start is None else 2 * GENTLE)
    course.told("main", course.main, updates)


def part_alike(course: Course, seconds: float) -> None:
    """Other shapes: the first stops by the clock, the others where it stopped."""
    shape = course.shape
    shapes = {
        "short": shape, "pre": replace(shape, **NORMS["pre"]), "full": replace(shape, rank=None),
        "trimmed": replace(shape, rank=None, draft_vocabulary=course.args.trimmed),
    }  # fmt: skip
    updates: int | None = None
    for name, each in shapes.items():
        most = min(seconds * (0.18 if updates is None else 1.0), course.left - 8.0)
        if not course.has(most, name):
            continue
        network = course.fresh(each, course.args.seed)
        updates = course.train(name, network, most, most_updates=updates)
        course.told(name, network, updates)


def part_drift(course: Course, seconds: float) -> None:
    """Norms beside each other: the first head stops by the clock, the others where it stopped."""
    heads, first = 2 * course.args.seeds_of_drift, time.monotonic()
    found: dict[str, Any] = {}
    counts: dict[str, list[Any]] = {"pre": [], "post": []}
    updates: int | None = None
    for number in range(heads):
        norms, seed = ("pre", "post")[number % 2], number // 2
        most = seconds / heads - 8.0 if updates is None else course.left - 8.0
        if not course.has(most, f"{norms}-{seed}"):
            break
        network = course.fresh(replace(course.shape, **NORMS[norms]), seed)
        updates = course.train(
            f"{norms}-{seed}", network, most, steps=2, decay=1.0, seed=seed, batch_tokens=SMALL_BATCH,
            most_updates=updates,
        )  # fmt: skip
        seen, _ = course.look(network)
        counts[norms].append(seen.counts)
        walked = {name: course.look(network, name)[0].walked for name in course.answers if name != "test"}
        row = {
            "seed": seed, "rms_ratio": seen.rms[-1] / seen.rms[0], "rms": seen.rms, "acceptance": seen.by_depth,
            "worst_over_best": min(walked.values()) / max(walked.values()), "sink": seen.sink,
            "tokens_per_step": walked,
        }  # fmt: skip
        found.setdefault(norms, []).append(row)
        course.say(f"{norms} {row}")
        course.found |= {"drift": found, "updates": updates, "batch_tokens": SMALL_BATCH}
        course.keep()
        if number % 2 and time.monotonic() - first > seconds:
            break
    if counts["pre"] and len(counts["pre"]) == len(counts["post"]):
        found["deep"] = deep(counts)
        course.say(str(found["deep"]))
        course.keep()


def part_objectives(course: Course, seconds: float) -> None:
    """As long again by each objective, from the main head."""
    start = course.main if course.main is not None else load_head_network(course.args.start).to(course.args.device)
    each, workloads = seconds / len(OBJECTIVES) - 8.0, course.answers["test"][1]
    walks, updates = {"start": course.look(start)[0].walks}, {"start": 0}
    for name, changes in OBJECTIVES.items():
        if not course.has(min(each, course.left - 8.0), name):
            break
        network, folder = copy.deepcopy(start), name.replace(", ", "-")
        changed: dict[str, Any] = {
            "steps": CHAIN, "rate": GENTLE, "seed": course.args.seed + 1, "warm": 0.0, "batch_tokens": SMALL_BATCH,
            **changes,
        }  # fmt: skip
        updates[name] = course.train(folder, network, each, **changed)
        walks[name] = course.look(network)[0].walks
        rows = list[dict[str, Any]]()
        for workload in ("all", *sorted(set(workloads))):
            chosen = np.array([workload in ("all", mine) for mine in workloads])
            rows += gains(workload, {name: walked[chosen] for name, walked in walks.items()})
        course.found |= {
            "objectives": [row | {"updates": updates[row["objective"]]} for row in rows],
            "seconds_of_each": each,
        }
        course.keep()


PARTS: Mapping[str, Any] = {
    "main": part_main, "drift": part_drift, "objectives": part_objectives, "alike": part_alike
}  # fmt: skip


def train(args: argparse.Namespace) -> None:
    """Write texts and test answers, then every part that is asked for."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every length of the context: 34 ms a time
    course = Course(args)
    waiting = [name for name in PARTS if name in args.parts]
    while waiting:
        share = SHARES[waiting[0]] / sum(SHARES[name] for name in waiting)
        name = waiting.pop(0)
        PARTS[name](course, course.left * share)
        course.say(f"{name} done")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.gpu.train_heads", description=__doc__)
    parser.add_argument("stage", choices=["prepare", "train"])
    parser.add_argument("target", type=Path)
    parser.add_argument("seeds", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--name", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--library", type=int, default=900)
    parser.add_argument("--rank", type=int, default=72)
    parser.add_argument("--trimmed", type=int, default=6144)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--decay", type=float, default=0.8)
    parser.add_argument("--seconds", type=float, default=320.0)
    parser.add_argument("--writing-seconds", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--length", type=int, default=640)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["main", "alike"])
    parser.add_argument("--start", type=Path, help="a head's folder that the main one goes on from")
    parser.add_argument("--seeds-of-drift", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    given = _parser().parse_args()
    if given.stage == "prepare":
        prepare(given.target, given.output, given.library)
    else:
        train(given)
