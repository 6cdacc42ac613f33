"""Heads for a target, trained on one card: the target writes its texts, then several heads are trained alike.

    python -m proofs_tests.benchmarks.gpu.train_heads prepare TARGET -o out/heads/seeds.npz     # anywhere
    python -m proofs_tests.benchmarks.gpu.train_heads train TARGET out/heads/seeds.npz -o out/heads --seconds 320

`prepare` turns prompts into tokens, so that the card needs no tokenizer. `train` stops by itself before its seconds are
used up; every head is written when it is done. Each is then looked at on test prompts that no training saw, answered
greedily by the target: acceptance by depth, and tokens a step where steps begin as in the engine.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.shape import HeadShape
from runtime.models.load import load_tokenizer, wrap
from runtime.models.transformers import load_transformers
from runtime.training.heads.initial import start_from
from runtime.training.heads.making import common_tokens, states_seen
from runtime.training.heads.texts import ANSWERED, ASKED, PADDING, Texts
from runtime.training.heads.train import HeadRegime, train_head
from runtime.training.heads.watching import watch
from runtime.training.heads.writing import Opening, Turns, openings, turns_of, write

WORKLOAD_SHARES = {"chat": 8.0, "math": 8.0, "code": 4.0, "library": 0.5}
"""How often a prompt of a workload is taken, beside one of the others."""
WATCHED_STEPS = 8


def prepare(target: Path, output: Path, library: int) -> None:
    """Tokens of the public prompts, both splits, and of questions about the standard library."""
    from runtime.measure.prompts import public_prompts
    from runtime.models.text import encode_chat
    from runtime.training.heads.asking import library_questions

    tokenizer = load_tokenizer(target)
    turns = turns_of(tokenizer)
    assert turns is not None, "the target's tokenizer has a chat template"
    kept: dict[str, Any] = {"turns": json.dumps([turns.before, turns.answer, turns.question])}
    for split in ("fit", "test"):
        found = [(p.workload, p.tokens) for p in public_prompts(split, tokenizer)]
        if split == "fit":
            asked = library_questions(library)
            found += [("library", encode_chat(tokenizer, [{"role": "user", "content": text}])) for text in asked]
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
            self.prompts = {split: self._split(held, split) for split in ("fit", "test")}
            self.workloads = {split: held[f"{split}_workloads"].tolist() for split in ("fit", "test")}

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


def tests(model: Any, seeds: Seeds, length: int) -> dict[str, Texts]:
    """Greedy answers to the test prompts by workload, the first 128 tokens; prompts that leave no room are left out."""
    pairs = zip(seeds.prompts["test"], seeds.workloads["test"], strict=True)
    mine = [(tuple(p.tolist()), name) for p, name in pairs if len(p) < length * 2 // 3]
    texts = write(model, [Opening(p, n, False, 0.0) for n, (p, _) in enumerate(mine)], seeds.turns, length)
    over = np.cumsum(texts.roles == ASKED, axis=1) > 0
    late = np.cumsum(texts.roles == ANSWERED, axis=1) > 128
    texts.roles[over | late] = PADDING
    names = np.array([name for _, name in mine])
    return {name: texts.at(names == name) for name in sorted(set(names.tolist()))}


def jobs(shape: HeadShape, args: argparse.Namespace) -> list[tuple[str, HeadShape, float, bool]]:
    """Name, shape, share of the training time, and whether it is stopped where the first short one stopped."""
    pre = {"fc_norm": False, "norm_output": False}
    return [
        ("main", shape, args.main_share, False),
        ("short", shape, 0.18 * (1 - args.main_share), False),
        ("pre", replace(shape, **pre), 0.25 * (1 - args.main_share), True),
        ("full", replace(shape, rank=None), 0.3 * (1 - args.main_share), True),
        ("trimmed", replace(shape, rank=None, draft_vocabulary=args.trimmed), 0.2 * (1 - args.main_share), True),
    ]


def train(args: argparse.Namespace) -> None:
    """Write texts and test answers, train every head, look at each."""
    began = time.monotonic()
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every length of the context: 34 ms a time
    args.output.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    target = load_transformers(args.target, dtype, args.device)
    model, seeds = wrap(target, check=False), Seeds(args.seeds)
    print(f"ready after {time.monotonic() - began:.1f} s on {args.device}", flush=True)
    test = tests(model, seeds, args.length)
    texts = written(model, seeds, args)
    texts.split(args.seed)[1].save(args.output / "heldout.npz")
    print(f"{texts.tokens.size} tokens in {len(texts)} rows after {time.monotonic() - began:.1f} s", flush=True)
    shape, results = HeadShape.of(target.config, rank=args.rank), dict[str, Any]()
    updates: int | None = None
    left = args.seconds - (time.monotonic() - began)
    for name, each, share, alike in jobs(shape, args):
        seconds = min(left * share, args.seconds - (time.monotonic() - began) - 8.0)
        if seconds < 3.0:
            print(f"no time left for {name}", flush=True)
            continue
        torch.manual_seed(args.seed)
        network = HeadNetwork(each, common_tokens(texts, each)).to(args.device)
        start_from(network, target, "weighted_svd", states_seen(target, texts))
        regime = HeadRegime(
            minutes=seconds / 60, steps=args.steps, decay=args.decay, batch_tokens=args.batch_tokens, seed=args.seed,
            most_updates=updates if alike else None,
        )  # fmt: skip
        folder = args.output / name
        told = lambda share, text, name=name: print(f"{name} {share:4.0%} {text}", flush=True)  # noqa: E731
        found = train_head(target, network, texts, regime, folder, name=args.name, tell=told)
        done = json.loads((folder / "training.json").read_text())
        (folder / "resume.pt").unlink()
        updates = done["updates"] if name == "short" else updates
        results[name] = {"held_out": found.told(), "updates": done["updates"], "seconds": done["seconds"]}
        turns = rotations(each, args.length * 2, args.device)
        for workload, answers in test.items():
            looked = watch(target, network, answers, turns, steps=WATCHED_STEPS)
            results[name][workload] = looked.told()
            print(f"{name} on {workload}: {looked}", flush=True)
        (args.output / "results.json").write_text(json.dumps(results, indent=1))
    print(f"done after {time.monotonic() - began:.1f} s", flush=True)


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
    parser.add_argument("--main-share", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    given = _parser().parse_args()
    if given.stage == "prepare":
        prepare(given.target, given.output, given.library)
    else:
        train(given)
