"""Tables of the run on a card: goals, predicted beside measured, peers, and where a step's time goes."""

from __future__ import annotations

from typing import Any

FAMILIES = {
    "products": ("nvjet", "splitK", "gemm", "gemv"),
    "attention": ("sdpa", "fmha"),
    "norms": ("layer_norm",),
    "writing keys and values": ("index_put",),
    "our kernels": ("verify_", "commit_", "merge_", "fill_tree"),
}
"""Kernels by what their names hold; others are the rest."""


def _table(header: list[str], rows: list[list[str]]) -> str:
    marks = ["---" if i == 0 else "--:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def goals(result: dict[str, Any]) -> str:
    """Every goal with what was reached."""
    rows = [
        [name, goal["goal"], f"{goal['reached']:.3f}", "met" if goal["met"] else "missed"]
        for name, goal in result["goals"].items()
    ]
    e, c = result["environment"], result["ceilings"]
    told = (
        f"Run on one {result['card']}, driver {result['driver']}, CUDA {result['cuda']}, torch "
        f"{e['versions']['torch']}, commit {e['commit']}. Ceilings of the same run: {c['copy_bytes_per_s'] / 1e12:.2f} "
        f"TB/s of copy (read and written), {c['flops_per_s'] / 1e12:.0f} TFLOP/s of bfloat16. "
        f"{result['twins']['compared']} calls of kernels compared with the CPU's, {len(result['twins']['differ'])} "
        f"differ; {result['tests']['passed']} GPU tests passed, {result['tests']['failed']} failed."
    )
    if result["sanitizers"]:
        status = [result["sanitizers"][name]["status"] for name in ("memcheck", "racecheck")]
        told += f" compute-sanitizer's memcheck and racecheck: status {status[0]} and {status[1]}."
    if apart := result["pairs"]["inflated"].get("divergence"):
        told += (
            f" Greedy output of a tree differs from plain decoding's in {apart['tree_against_plain']:.0%} of "
            f"{apart['requests']} requests of {apart['tokens']} tokens."
        )
    if result["left_out"]:
        told += f" No time was left for: {', '.join(result['left_out'])}."
    return _table(["goal", "", "reached", ""], rows) + "\n\n" + told


def plans(result: dict[str, Any]) -> str:
    """By batch and context: the plan's choice and the best, predicted beside measured."""
    header = ["pair", "batch", "context", "plan", "speed-up: predicted", "measured", "best", "regret", "by time alone"]
    rows = [
        [
            name,
            str(plan["batch"]),
            str(plan["context"]),
            plan["choice"],
            f"{plan['predicted_speed_up']:.2f}",
            f"{plan['measured_speed_up']:.2f}",
            plan["best"],
            f"{plan['regret']:.1%}",
            f"{plan['time_regret']:.1%}",
        ]
        for name, pair in result["pairs"].items()
        for plan in pair["plans"]
    ]
    told = "; ".join(
        f"{name}: median {pair['median_error']:.1%}, worst {pair['worst_error']:.1%}"
        for name, pair in result["pairs"].items()
    )
    return _table(header, rows) + f"\n\nError of a step's time on held-out points: {told}."


def peers(result: dict[str, Any]) -> str:
    """Tokens a second beside transformers' own generation."""
    pairs = result["pairs"]
    methods = [row["method"] for row in pairs["inflated"]["peers"]]
    rates = {name: {row["method"]: row["tokens_per_s"] for row in pair["peers"]} for name, pair in pairs.items()}
    rows = [[method, *(f"{rates[name][method]:.0f}" for name in pairs)] for method in methods]
    return _table(["batch 1, 512 tokens of context, prefill included", *pairs], rows)


def kernels(result: dict[str, Any]) -> str:
    """Milliseconds a step of each family of kernels."""
    cells = result["pairs"]["inflated"]["kernels"]
    rows: list[list[str]] = []
    for cell, found in cells.items():
        spent = dict.fromkeys([*FAMILIES, "rest"], 0.0)
        for row in found:
            marks = (name for name, parts in FAMILIES.items() if any(part in row["kernel"] for part in parts))
            spent[next(marks, "rest")] += row["seconds"]
        rows.append([cell, *(f"{1e3 * s:.2f}" for s in spent.values()), f"{1e3 * sum(spent.values()):.2f}"])
    return _table(["ms a step", *FAMILIES, "rest", "all"], rows)


def card(result: dict[str, Any]) -> str:
    """All of them."""
    return "\n\n".join(make(result) for make in (goals, plans, peers, kernels))


def short(result: dict[str, Any]) -> str:
    """One sentence."""
    big = result["pairs"]["inflated"]
    rates = {row["method"]: row["tokens_per_s"] for row in big["peers"]}
    ours = max(rate for name, rate in rates.items() if name.startswith("ours"))
    theirs = max(rate for name, rate in rates.items() if not name.startswith("ours") and rate is not None)
    missed = sum(not goal["met"] for goal in result["goals"].values())
    reached = result["goals"]["plain decoding over the bandwidth floor, batch 1"]["reached"]
    name = result["card"].removeprefix("NVIDIA ")
    return (
        f"- One GPU run ({name}, `docs/results.md`): an 8B Llama shape makes {ours:.0f} tokens/s, "
        f"`generate` {theirs:.0f},\n  plain decoding reaches {reached:.0%} of the bandwidth floor; {missed} of "
        f"{len(result['goals'])} goals missed. Else: 2-core CPUs."
    )
