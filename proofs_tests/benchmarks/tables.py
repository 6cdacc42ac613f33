"""Tables of README and docs from the kept results, between markers: no number there is typed by hand.

python -m proofs_tests.benchmarks.tables          rewrite them
python -m proofs_tests.benchmarks.tables --check  fail if they are out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proofs_tests.benchmarks import (
    tables_compression,
    tables_diffusion,
    tables_gpu,
    tables_heads,
    tables_real,
    tables_serving,
    tables_theory,
)
from proofs_tests.benchmarks._report import RESULTS, machine, markdown
from proofs_tests.benchmarks.speed_up import summary

HOUSE = Path(__file__).parents[2]
README, RESULT_TABLES = HOUSE / "README.md", HOUSE / "docs" / "results.md"
PAGES = (
    README,
    RESULT_TABLES,
    *(
        HOUSE / "docs" / name
        for name in ("diffusion.md", "compression.md", "judge.md", "grammar.md", "heads.md", "live.md", "engines.md")
    ),
)
METHODS = ("transformers plain", "transformers prompt lookup", "transformers assisted", "ours plain", "ours planned")


def by_method(row: dict[str, Any]) -> list[float | None]:
    """Tokens a second in the order of `METHODS`; None where a method cannot run."""
    found = {next(m for m in METHODS if name.startswith(m)): rate for name, rate in row["tokens_per_s"].items()}
    return [found.get(method) for method in METHODS]


def peers(result: dict[str, Any]) -> str:
    """Tokens a second of every method; the last column is ours over the best of the others."""
    header = [
        "target",
        "T",
        "batch",
        "workload",
        "generate",
        "prompt lookup",
        "assisted",
        "ours, no drafts",
        "ours, planned",
        "plan",
        "over best other",
    ]
    rows: list[list[str]] = []
    for row, ratio in zip(result["rows"], result["ratios"], strict=True):
        plan = list(row["tokens_per_s"])[-1].removeprefix("ours planned: ")
        rates = [f"{rate:.0f}" if rate else "" for rate in by_method(row)]
        facts = [row["target"], f"{row['temperature']:g}", str(row["batch"]), row["workload"]]
        rows.append([*facts, *rates, plan, f"{ratio:.2f}"])
    first = result["rows"][0]
    note = f"{first['prompts']} unseen prompts a workload, {first['tokens']} new tokens each, prefill included. "
    return markdown(header, rows) + "\n\n" + note + machine(result)


def loop(result: dict[str, Any]) -> str:
    """Predicted beside measured on unseen prompts, and the plan's regret."""
    header = [
        "target",
        "T",
        "workload",
        "batch",
        "tokens a step: predicted",
        "measured",
        "tokens/s: predicted",
        "measured",
        "error",
        "inside",
        "speed-up",
        "regret",
    ]
    rows: list[list[str]] = []
    for part in result["results"]:
        cells: dict[tuple[str, int], dict[str, Any]] = {}
        for c in part["comparisons"]:
            cells.setdefault((c["workload"], c["batch"]), {})[c["quantity"]] = c
        losses = {(r["workload"], r["batch"]): r["regret"] for r in part["regret"]}
        for (workload, batch), q in cells.items():
            steps, rate = q["tokens_per_step"], q["tokens_per_s"]
            rows.append(
                [
                    f"{part['target']} {part['dtype']}",
                    f"{part['temperature']:g}",
                    workload,
                    str(batch),
                    _interval(steps["predicted"]),
                    f"{steps['measured']:.2f}",
                    _interval(rate["predicted"]),
                    f"{rate['measured']:.0f}",
                    f"{rate['error']:+.1%}",
                    "yes" if rate["inside"] and steps["inside"] else "no",
                    f"{q['speed_up']['measured']:.2f}" if "speed_up" in q else "",
                    f"{losses[(workload, batch)]:.1%}",
                ]
            )
    return markdown(header, rows) + "\n\n" + machine(result)


def speed_up(result: dict[str, Any]) -> str:
    """The speed-up, predicted beside measured, one line a cell; then how far off, which way, how often inside."""
    header = ["target", "T", "workload", "batch", "policy", "speed-up: predicted", "measured", "error", "inside"]
    rows: list[list[str]] = []
    for row in result["rows"]:
        gain = row["speed_up"]
        facts = [row["target"], f"{row['temperature']:g}", row["workload"], str(row["batch"]), row["policy"]]
        spans = [_interval(gain["predicted"]), _interval(gain["measured"])]
        rows.append([*facts, *spans, f"{gain['signed_error']:+.1%}", "yes" if gain["inside"] else "no"])
    told, kinds = summary(result["rows"]), dict.fromkeys(row["target"] for row in result["rows"])
    told_of = {name: summary([row for row in result["rows"] if row["target"] == name]) for name in kinds}
    by_target = "; ".join(f"{name} {_off(each)}" for name, each in told_of.items())
    note = (
        f"Over {told['cells']} cells: {_off(told)}; {by_target}. "
        f"Tokens a second, at one pace: {_off(told, 'tokens_per_s')}; plain {_off(told, 'plain_tokens_per_s')}; tokens "
        f"a step {_off(told, 'tokens_per_step')}. Speed-ups: {told['speed_up_inside']:.0%} inside, intervals "
        f"{told['speed_up_width']:.0%} wide (median). "
    )
    return markdown(header, rows) + "\n\n" + note + machine(result)


def _off(told: dict[str, float], what: str = "speed_up") -> str:
    """Mean signed error and median absolute one."""
    return f"{told[f'{what}_mean_signed']:+.1%} (mean), {told[f'{what}_median_absolute']:.1%} (median absolute)"


def grown(result: dict[str, Any]) -> str:
    """Tokens a second of every kind of policy in the engine; last, the better grown tree over the best of the rest."""
    kinds = ("off", "draft", "retrieval", "both", "retrieved tree", "grown tree")
    rows: list[list[str]] = []
    for name, part in result["results"].items():
        target, temperature, batch = name.replace("temperature ", "").replace("batch ", "").split(", ")
        for row in part["rows"]:
            rates = row["best"]
            ratio = max(rates[k] for k in kinds[4:]) / max(rates[k] for k in kinds[:4])
            facts = [target, temperature, batch, row["workload"]]
            rows.append([*facts, *(f"{rates[kind]:.0f}" for kind in kinds), f"{ratio:.2f}"])
    return markdown(["target", "T", "batch", "workload", *kinds, "grown over fixed"], rows) + "\n\n" + machine(result)


def _interval(e: dict[str, float]) -> str:
    return f"{e['value']:.3g} [{e['low']:.3g}, {e['high']:.3g}]"


def real_lossless(result: dict[str, Any]) -> str:
    """Texts of real models that equal `generate`'s, and the greatest gap of two logits where one does not."""
    header = ["model", "drafts", "batch", "texts equal", "largest gap of two logits where one parts", "tokens a step"]
    rows = [
        [
            name,
            cell["drafts"],
            f"{cell['batch']}",
            f"{cell['equal']} of {cell['of']}",
            max((f"{each['logit_gap']:.1e}" for each in cell["differ"]), key=float, default=""),
            f"{cell['tokens_per_step']:.2f}",
        ]
        for name, model in result["results"].items()
        for cell in model["cells"]
    ]
    lengths = {f"{model['tokens']}" for model in result["results"].values()}
    past = [f"{model['texts_past_the_window']} of {name}'s go past its window of {model['window']}"
            for name, model in result["results"].items() if model["window"]]  # fmt: skip
    words = "; ".join([f"Texts of {', '.join(sorted(lengths))} tokens, float32, greedy", *past])
    return f"{markdown(header, rows)}\n\n{words}. {machine(result)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "peers": peers,
    "loop": loop,
    "speed_up": speed_up,
    "grown_rates": grown,
    "cost_model": tables_theory.cost_model,
    "planner": tables_theory.planner,
    "search": tables_theory.search,
    "documents": tables_theory.documents,
    "synthetic": tables_serving.synthetic,
    "in_vllm": tables_serving.in_vllm,
    "in_llama": tables_serving.in_llama,
    "retrieval": tables_serving.retrieval,
    "water_level": tables_theory.water_level,
    "grammar": tables_theory.grammar,
    "judge": tables_theory.judge,
    "judge_speed": tables_theory.judge_speed,
    "kv_cache": tables_compression.kv_cache,
    "kv_reads": tables_compression.kv_reads,
    "kv_load": tables_compression.kv_load,
    "kv_batch": tables_compression.kv_batch,
    "self_draft": tables_compression.self_draft,
    "real": tables_real.real,
    "real_engines": tables_real.real_engines,
    "real_short": tables_real.real_short,
    "real_lossless": real_lossless,
    "floor": tables_real.floor,
    "diffusion": tables_diffusion.rounds,
    "diffusion_likelihood": tables_diffusion.likelihood,
    "heads": tables_heads.cells,
    "heads_bfloat16": tables_heads.cells,
    "heads_bfloat16_batch8": tables_heads.cells,
    "head_trade": tables_heads.trade,
    "heads_vllm": tables_heads.vllm,
    "head_plan": tables_heads.plan,
    "head_plan_mixed": tables_heads.plan,
    "head_update": tables_heads.update,
    "head_drift": tables_heads.drift,
    "head_objectives": tables_heads.objectives,
    "head_more": tables_heads.more,
    "head_shapes": tables_heads.shapes,
    "head_objectives_smollm2": tables_heads.objectives,
    "head_drift_card": tables_heads.drift,
    "head_objectives_card": tables_heads.objectives,
    "gpu_card": tables_gpu.card,
    "gpu_card_before": tables_gpu.card,
    "gpu_short": tables_gpu.short,
}
FILES = {"in_vllm": "in_engines", "in_llama": "in_engines",
         "planner": "solvers", "documents": "coverage", "gpu_short": "gpu_card",
         "real_short": "real", "real_engines": "real",
         "diffusion_likelihood": "diffusion", "head_trade": "heads", "head_drift": "head_training",
         "head_objectives": "head_training", "head_drift_card": "head_training_card",
         "head_more": "head_training_card", "head_shapes": "head_training_smollm2",
         "head_objectives_smollm2": "head_training_smollm2",
         "head_objectives_card": "head_training_card"}  # fmt: skip
"""Tables whose result has another name."""


def rewritten(text: str) -> str:
    """`text` with every table made anew from the results."""
    for name, make in TABLES.items():
        path = RESULTS / f"{FILES.get(name, name)}.json"
        if not path.exists():
            continue
        table = make(json.loads(path.read_text()))
        pattern = re.compile(rf"(<!-- table: {name} -->\n)(?:(?!<!-- table: ).)*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = [path.name for path in PAGES if rewritten(path.read_text()) != path.read_text()]
    if args.check:
        sys.exit(f"out of date: {', '.join(stale)}; run this module without --check" if stale else 0)
    for path in PAGES:
        path.write_text(rewritten(path.read_text()))


if __name__ == "__main__":
    main()
