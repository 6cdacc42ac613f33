"""Two tables of theory: cost and load against others' measurements, planners against their peers."""

from __future__ import annotations

import json
from typing import Any

from proofs_tests.benchmarks._report import RESULTS, machine

__all__ = ["cost_model", "planner"]

COST_ROWS = {
    "GEMM a100_sxm bf16, unseen (n, k)": "products, A100, unseen shapes",
    "GEMM h100_sxm bf16, unseen (n, k)": "products, H100, unseen shapes",
    "linear operators a100, unseen model": "a layer's products, A100, unseen model",
    "linear operators a40, unseen model": "the same, A40",
    "linear operators h100, unseen model": "the same, H100",
    "decode attention h100_sxm, above 100 MB of KV": "decode attention, H100, above 100 MB of KV",
    "decode attention h100_sxm, below 100 MB of KV": "the same, below",
    "attention of several query tokens, RTX 4090, unseen contexts": "attention of several tokens, RTX 4090",
    "vLLM step, k = 3 left out, concurrency <= 64": "vLLM step, H100, 3 drafts left out, concurrency to 64",
    "vLLM step, k = 3 left out, concurrency > 64": "the same, concurrency above 64",
}


def _rows(name: str) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]}


def _table(header: list[str], rows: list[list[str]]) -> str:
    marks = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def cost_model(result: dict[str, Any]) -> str:
    """Error on what the fit has not seen, beside two baselines; then load, beside planners that see less."""
    found = {row["what"]: row for row in result["rows"]}
    names = ("spec sheet", "max + c", "ours")
    rows = [
        [said, *(f"{found[what][name]:.1f} %" if name in found[what] else "" for name in names)]
        for what, said in COST_ROWS.items()
        if what in found
    ]
    load = _rows("serving_model")
    columns = ("always 3", "blind to memory", "error", "worst")
    wanted = {label: f"regret of k, mean over concurrency {label}" for label in ("<= 64", "128", "256")}
    choice = [
        [f"concurrency {label}", *(f"{load[what][name]:.1f} %" for name in columns)]
        for label, what in wanted.items()
        if what in load
    ]
    parts = [_table(["mean absolute error", "spec sheet", "max() + c, fitted", "ours"], rows)]
    if choice:
        said = "Tokens a second lost by the choice of 0, 1, 3 or 5 drafts, against the best measured of three drafters"
        parts += [f"{said}; the step is fitted on these runs:"]
        parts += [_table(["", "always 3", "blind to memory", "ours", "ours, worst"], choice)]
    return "\n\n".join([*parts, _load_in_words(load)])


def _load_in_words(load: dict[str, dict[str, Any]]) -> str:
    served = [row for what, row in load.items() if what.startswith("serving run")]
    ours, sheet = (" and ".join(f"{row[name]:+.1f} %" for row in served) for name in ("error", "spec sheet"))
    batch = [abs(row["error"]) for what, row in load.items() if what.startswith("effective batch")]
    closed = [abs(row["error"]) for what, row in load.items() if what.startswith("closed form")]
    said = [
        f"Requests running in two real serving runs, replayed from the card's data sheet alone: off by {ours}",
        f" (with a spec-sheet step {sheet}). Closed form of Little's law against the replay, to 70 % of capacity: off",
        f" by at most {max(closed):.1f} %.",
    ]
    if batch:
        said += [f" Effective batch of {len(batch)} runs that preempt, at concurrency 256: off by at most "]
        said += [f"{max(batch):.1f} %."]
    return "".join(said)


def planner(result: dict[str, Any]) -> str:
    """Solvers beside the peers' in one run, and what the intervals cover."""
    slowest = max(result["rows"], key=lambda row: row["ours_s"])
    measured = next(row for row in result["rows"] if row["ranks"].startswith("measured"))
    level = json.loads((RESULTS / "allocation.json").read_text())
    grid = max(json.loads((RESULTS / "schedule.json").read_text())["rows"], key=lambda row: row["wall_s"])
    slow, fast = result["python_s"], result["python_ours_s"]
    rows = [
        ["every size to 1024 and depth to 32, slowest of 6 rank vectors", f"{1e3 * slowest['ours_s']:.1f} ms",
         f"{slowest['numpy_s']:.2f} s, the recurrence in numpy", f"{slowest['ratio']:.0f}"],
        ["64 nodes, depth 10", f"{1e3 * fast:.2f} ms", f"{slow:.2f} s, the same in plain Python", f"{slow / fast:.0f}"],
    ]  # fmt: skip
    if "sequoia_own_s" in result:
        own, ours = result["sequoia_own_s"], result["sequoia_ours_s"]
        what = f"{result['sequoia_nodes']} nodes with the root, 10 levels"
        rows.append([what, f"{1e3 * ours:.2f} ms", f"{own:.1f} s, Sequoia's planner", f"{own / ours:.0f}"])
    rows += [
        ["one million nodes by heap", f"{result['million_nodes_s']:.2f} s", "", ""],
        ["256 requests of 64 candidates, exactly", f"{1e3 * level['median_s']:.2f} ms",
         f"{level['uniform_tokens_per_s']:.0f} tokens/s by the best uniform budget",
         f"{level['tokens_per_s'] / level['uniform_tokens_per_s']:.2f} in tokens/s"],
        [f"schedule of {grid['cells']} cells, each certified", f"{grid['wall_s']:.2f} s", "", ""],
    ]  # fmt: skip
    gain = measured["value"] - measured["greedy_value"]
    widths = {
        row["prompts"]: row
        for row in json.loads((RESULTS / "coverage.json").read_text())["rows"]
        if row["statistic"] == "replay, tree 8"
    }
    cover = [
        ["interval's width over the value", *(f"{100 * row['width']:.0f} %" for row in widths.values())],
        ["holds the truth, of 1,000 traces", *(f"{100 * row['coverage']:.1f} %" for row in widths.values())],
    ]
    table = _table(["planner", "ours", "peer, same run", "ratio"], rows)
    heap = f"the frontier heap that others use falls {gain:.3f} tokens a step short at 1024 nodes"
    record = "How many prompts to record (128 tokens each; 95 % intervals on tokens a step of a tree of 8 nodes):"
    notes = f"On measured ranks, which are not monotone, {heap}. {record}"
    return "\n\n".join([table, notes, _table(["prompts", *map(str, widths)], cover)])


def search(result: dict[str, Any]) -> str:
    """Regret of each planner on scenarios of known law, mean and worst."""
    planners = list(result["summary"]["staircase"])
    rows = [
        [shape, told, *(f"{found[name][key]:.2%}" if key != "over_3" else str(found[name][key]) for name in planners)]
        for shape, found in result["summary"].items()
        for told, key in (("mean", "mean"), ("worst", "worst"), ("scenarios over 3 %", "over_3"))
    ]
    return _table(["cost", "tokens a second lost", *planners], rows)


def documents(result: dict[str, Any]) -> str:
    """Coverage of 95 % intervals on tokens a step, by documents and prompts of each."""
    rows = [
        [
            str(row["documents"]),
            str(row["prompts_each"]),
            *(f"{row['share'][name]:.1%}" for name in ("documents", "prompts")),
        ]
        for row in result.get("documents", [])
    ]
    return _table(["documents", "prompts of each", "by documents", "by prompts, sources unknown"], rows)


def water_level(result: dict[str, Any]) -> str:
    """Equal budgets beside one level across the rows of a batch, simulated and in the engine."""
    rows = [
        ["simulated", str(row["batch"]), f"{row['budget']:g}", f"{row['uniform']:.2f}", f"{row['level']:.2f}",
         f"{row['level'] / row['uniform']:.2f}", "", ""]
        for row in result["simulated"]
    ]  # fmt: skip
    for row in result["engine"]["rows"]:
        steps, rates = (
            [row[name][key] for name in ("uniform", "level")] for key in ("tokens_per_step", "tokens_per_s")
        )
        told = [*(f"{each:.2f}" for each in steps), f"{steps[1] / steps[0]:.2f}", *(f"{each:.0f}" for each in rates)]
        rows.append(["inflation", "8", str(row["nodes"]), *told])
    header = ["rows", "batch", "nodes a row", "tokens a step, equal", "one level", "times"]
    header += ["tokens/s, equal", "one level"]
    best = result["engine"]["best"]
    ratios = sorted(best["ratios"])
    words = (
        f"A quarter of the rows copies. Tokens a second of the best level over those of the best equal budget: "
        f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)."
    )
    return f"{_table(header, rows)}\n\n{words} {machine(result)}"


def grammar(result: dict[str, Any]) -> str:
    """Languages on a real model: both laws against separate forwards, and what a text takes."""
    header = ["language", "strings", "trie nodes", "forwards", "law, TV to separate forwards", "mask, TV to the law",
              "exact, ms", "masked, ms", "exact over masked"]  # fmt: skip
    rows = [
        [row["language"], str(row["strings"]), str(row["prefixes"] - 1), str(row["forwards"]),
         f"{row['law_against_enumeration']:.0e}", f"{row['mask_against_law']:.3f}", f"{1e3 * row['exact_s']:.0f}",
         f"{1e3 * row['mask_s']:.0f}", f"{row['exact_s'] / row['mask_s']:.2f}"]
        for row in result["rows"]
    ]  # fmt: skip
    small = [row for row in result["rows"] if row["prefixes"] <= 65]
    worst = [max(row[name] for row in result["rows"]) for name in LAWS_AGAINST]
    notes = (
        f"{result['folder']}, laws in float64, times in float32, prompts left out. Of {len(small)} languages of at "
        f"most 64 trie nodes {sum(row['forwards'] == 1 for row in small)} take one forward, and "
        f"{sum(row['exact_s'] < row['mask_s'] for row in small)} less time than masked decoding token by token: its "
        f"forwards are as many as a text has tokens. Greatest distance of the law from separate forwards "
        f"{worst[0]:.0e}, of masking from llguidance's masks {worst[1]:.0e}. Commit {result['environment']['commit']}."
    )
    return _table(header, rows) + "\n\n" + notes


LAWS_AGAINST = ("law_against_enumeration", "mask_against_library_masks")


def judge(result: dict[str, Any]) -> str:
    """A judge and its baselines at equal acceptance: tokens a round, what it is over lossless, what is lost."""
    header = ["features", "drafts", "rule", "threshold", "accepted", "tokens a round", "over lossless", "right",
              "points lost", "points below the judge"]  # fmt: skip
    rows: list[list[str]] = []
    for row in result["rows"]:
        facts = [row["features"], str(row["drafts"])]
        own = row["lossless"]
        rows.append([*facts, "lossless", "", "", f"{own['tokens_per_round']:.2f}", "1", f"{own['score']:.1%}", "0", ""])
        at = {"threshold": row["threshold"]}
        for name, shown in (("file", "judge"), *((each, each) for each in ("random", "confidence", "top_k"))):
            told = {**at, **row[name]}
            below = _span(told["points_below_judge"], 1) if "points_below_judge" in told else ""
            rows.append(
                [*facts, shown, f"{told['threshold']:.3g}", f"{told['alpha']:.1%}", f"{told['tokens_per_round']:.2f}",
                 _span(told["times_lossless"], 2), f"{told['score']:.1%}", _span(told["points_lost"], 1), below]
            )  # fmt: skip
    areas = {row["features"]: row["auc"] for row in result["rows"]}
    held = "; ".join(f"{name} {_span((a['value'], a['low'], a['high']), 3)}" for name, a in areas.items())
    counts = result["questions"]
    spared = any(not any(row["file"]["points_lost"]) for row in result["rows"])
    most = (
        f" No answer in {counts['test']} lost: with 95 % at most {300 / counts['test']:.2g} points." if spared else ""
    )
    notes = (
        f"{counts['mine']} questions mined, {counts['curve']} to choose the threshold on, {counts['test']} to judge "
        f"the choice; the target is right on {result['target_right']:.1%} of the last. ROC-AUC held out: {held}. "
        f"{result['rows'][0]['important']:.0%} of {result['rows'][0]['mismatches']:,} mismatches were important."
    )
    return _table(header, rows) + "\n\n" + notes + most


def judge_speed(result: dict[str, Any]) -> str:
    """The judged and the lossless plan of one cost, run: tokens a second and times plain, predicted beside measured."""
    header = ["points given up", "batch", "policy", "threshold", "tokens a step", "predicted", "tokens/s", "predicted",
              "times plain", "predicted"]  # fmt: skip
    rows = [
        [f"{row['budget']:g}", str(row["batch"]), row["policy"],
         "" if row["threshold"] is None else f"{row['threshold']:.2f}",
         f"{row['tokens_per_step']:.2f}", f"{row['predicted_tokens_per_step']['value']:.2f}",
         f"{row['tokens_per_s']:.0f}", _told(row["predicted_tokens_per_s"], 0), _told(row["times_plain"], 2),
         _told(row["predicted_times_plain"], 2)]
        for row in result["rows"]
    ]  # fmt: skip
    words = f"{result['prompts']} questions that no fit, threshold or plan has seen. {machine(result)}"
    return f"{_table(header, rows)}\n\n{words}"


def _told(e: dict[str, float], digits: int) -> str:
    return _span((e["value"], e["low"], e["high"]), digits)


def _span(told: Any, digits: int) -> str:
    value, low, high = told
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
