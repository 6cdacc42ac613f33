"""One call that validates the GPU path on a card, or rehearses it on a CPU, and ends in a table and one JSON document.

Twins, ceilings, a sweep of policies over batches and contexts on the house target and on its inflation to
the shape of an 8B Llama, the step's time predicted from a third of the points, the plan's regret, transformers' own
generation in the same run, and the divergence of bfloat16 output.

    python -m proofs_tests.benchmarks.gpu_validation --out "$OUT"          on a card, some four minutes
    python -m proofs_tests.benchmarks.gpu_validation --rehearsal           on a CPU, under two
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.gpu import ceilings, fitting, models, peers
from proofs_tests.benchmarks.gpu.settings import CARD, REHEARSAL, TINY, Clock, Settings
from proofs_tests.benchmarks.gpu.sweep import POLICIES, free, kernels, sweep

GOALS = {
    "plain decoding over the bandwidth floor, batch 1": (">=", 0.85),
    "commit over copy bandwidth, largest batch": (">=", 0.70),
    "step outside of the target's forward, batch 1": ("<=", 0.08),
    "median error of the step's time, held out": ("<=", 0.05),
    "worst regret of the plan": ("<=", 0.03),
    "worst regret of the plan, tokens a step known": ("<=", 0.03),
}


def validate(settings: Settings, keep: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    """Everything, in order of what it is worth, as far as the time goes; `keep` gets what there is after each part."""
    found: dict[str, Any] = {"mode": settings.name, "dtype": settings.dtype, **ceilings.environment(settings)}
    found |= {"pairs": {}}
    clock = Clock(settings.limit_s, lambda: keep(found))
    found |= {"parts_s": clock.parts_s, "left_out": clock.left_out, "failed": clock.failed}
    found["twins"] = clock.part("twins", lambda: ceilings.twins(settings))
    found["ceilings"] = clock.part("ceilings", lambda: ceilings.ceilings(settings))
    if found["ceilings"]:
        rate = found["ceilings"]["copy_bytes_per_s"]
        found["commit"] = clock.part("commit", lambda: ceilings.commit_rate(settings, rate))
    makers: dict[str, Callable[[], models.Pair]] = {
        "inflated": lambda: models.big_pair(settings, small_draft=True),
        "house": lambda: models.house_pair(settings),
    }
    for name, make in makers.items():
        pair = clock.part(f"load {name}", make, needs_s=0.05 * settings.limit_s)
        if pair is None:
            continue
        found["pairs"][name] = {"weight_bytes": pair.weight_bytes}
        _pair(pair, settings, clock, found["pairs"][name], name == "inflated")
        del pair
        free()
    found["sanitizers"] = clock.part("sanitizers", lambda: ceilings.sanitizers(settings), 40 * settings.on_card)
    found["goals"] = goals(found)
    return found


def _pair(pair: models.Pair, settings: Settings, clock: Clock, found: dict[str, Any], big: bool) -> None:
    """What one pair of models gives, into `found` as it comes."""
    rows = found["rows"] = []
    reserve = 0.3 if big else 0.05
    clock.part(f"sweep {pair.name}", lambda: sweep(pair, settings, clock, rows, reserve * settings.limit_s))
    found |= clock.part(f"fit {pair.name}", lambda: fitting.evaluate(rows, fitting.Shape.of(pair))) or {"plans": []}
    if big and settings.on_card:
        found["kernels"] = clock.part(f"kernels {pair.name}", lambda: kernels(pair, settings))
    found["peers"] = clock.part(f"peers {pair.name}", lambda: peers.peers(pair, settings), 0.05 * settings.limit_s)
    found["divergence"] = clock.part(
        f"divergence {pair.name}", lambda: peers.divergence(pair, settings), 0.05 * settings.limit_s
    )
    if big:
        other = clock.part("load inflated draft", lambda: models.with_draft(pair, settings), 0.4 * settings.limit_s)
        if other is not None:
            drafted = tuple(name for name in POLICIES if POLICIES[name].fixed or name == "off")
            more = found["inflated_draft_rows"] = []
            clock.part(
                "sweep inflated draft",
                lambda: sweep(other, settings, clock, more, 0.3 * settings.limit_s, drafted),
            )


def again(found: dict[str, Any]) -> None:
    """Fit and plans of kept rows, anew."""
    for pair in found["pairs"].values():
        pair |= fitting.evaluate(pair["rows"], fitting.Shape(**pair["shape"]))
    found["goals"] = goals(found)


def goals(found: dict[str, Any]) -> dict[str, Any]:
    """Each goal beside what was reached, None where it was not measured; only a card can meet one."""
    reached: dict[str, float | None] = dict.fromkeys(GOALS)
    if found.get("commit"):
        reached["commit over copy bandwidth, largest batch"] = found["commit"]["share_of_copy"]
    big = found["pairs"].get("inflated")
    if big is not None:
        alone = [r for r in big["rows"] if r["policy"] == "forward alone" and r["batch"] == 1]
        if alone and found["ceilings"]:
            shortest = min(alone, key=lambda row: row["context"])
            step_s, bandwidth = shortest["plain_step_s"], found["ceilings"]["copy_bytes_per_s"]
            reached["plain decoding over the bandwidth floor, batch 1"] = shortest["floor_bytes"] / bandwidth / step_s
            reached["step outside of the target's forward, batch 1"] = 1 - shortest["step_s"] / step_s
        reached["median error of the step's time, held out"] = big.get("median_error")
        plans = big.get("plans", [])
        reached["worst regret of the plan"] = max((plan["regret"] for plan in plans), default=None)
        reached["worst regret of the plan, tokens a step known"] = max(
            (plan["time_regret"] for plan in plans), default=None
        )
    return {
        name: {
            "goal": f"{sign} {limit}",
            "reached": reached[name],
            "met": _met(reached[name], sign, limit) if found["card"] else None,
        }
        for name, (sign, limit) in GOALS.items()
    }


def _met(value: float | None, sign: str, limit: float) -> bool | None:
    return None if value is None else value >= limit if sign == ">=" else value <= limit


def table(found: dict[str, Any]) -> str:
    """The short table that ends a run."""
    lines = [f"{found['mode']} on {found['card'] or 'a CPU'}; left out: {', '.join(found['left_out']) or 'nothing'}"]
    for name, why in found["failed"].items():
        lines.append(f"failed: {name}: {why.strip().splitlines()[-1]}")
    twins = found["twins"]
    if twins:
        lines.append(f"twins: {twins['compared']} compared on {twins['device']}, {len(twins['differ'])} differ")
    for name, goal in found["goals"].items():
        value = "not measured" if goal["reached"] is None else f"{goal['reached']:.3f}"
        lines.append(f"{name:52} {value:>12}  goal {goal['goal']}")
    for name, pair in found["pairs"].items():
        for plan in pair.get("plans", ()):
            lines.append(
                f"{name:9} B {plan['batch']:3} context {plan['context']:5}: {plan['choice']:18} speed-up "
                f"{plan['predicted_speed_up']:.2f} predicted, {plan['measured_speed_up']:.2f} measured; "
                f"best {plan['best']}, regret {100 * plan['regret']:.1f} %"
            )
        for row in pair.get("peers") or ():
            rate = row["tokens_per_s"]
            lines.append(f"{name:9} {row['method']:40} {'failed' if rate is None else f'{rate:.1f} tokens/s'}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearsal", action="store_true", help="on a CPU, small")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON document")
    parser.add_argument("--again", action="store_true", help="fit and plans anew from the rows of the kept document")
    args = parser.parse_args(arguments)
    settings = TINY if args.tiny else REHEARSAL if args.rehearsal else CARD
    if args.again:
        path = args.out / f"gpu_{settings.name}.json"
        found = json.loads(path.read_text())
        again(found)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found))
        return found
    if settings.on_card and not torch.cuda.is_available():
        parser.error("no CUDA device: pass --rehearsal to run on a CPU")
    found = validate(settings, lambda so_far: write_report(f"gpu_{settings.name}", so_far, args.out))
    path = write_report(f"gpu_{settings.name}", found, args.out)
    print(table(found))
    print(f"written to {path}")
    return found


if __name__ == "__main__":
    main()
