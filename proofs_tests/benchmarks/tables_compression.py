"""Tables of docs/compression.md: caches in few bits, what reading them takes, loads, batches, and self-drafts."""

from __future__ import annotations

from typing import Any

from proofs_tests.benchmarks._report import machine, markdown


def _interval(ends: list[float], form: str = ".2f") -> str:
    value, low, high = (format(end, form) for end in ends)
    return f"{value} [{low}, {high}]"


def kv_cache(result: dict[str, Any]) -> str:
    """Bits and perplexity of each cache; what is not a cache but a control stands last."""
    rows: list[list[str]] = []
    for row in sorted(result["rows"], key=lambda row: -row["scored_tokens"]):
        spread = f" ± {2 * row['standard_error'] * row['ratio']:.3f}" if row["standard_error"] else ""
        sizes = [f"{row['bits']:.2f}", f"{row['bits_at_2048']:.2f}", f"{row['scored_tokens']:,}"]
        rows.append([row["cache"], *sizes, f"{row['perplexity']:.3f}", f"{row['ratio']:.3f}{spread}"])
    header = ["cache", "bits a value", "of a row of 2,048 tokens", "tokens", "perplexity", "over plain on the same"]
    words = f"each token after at least {result['context_at_least']:,} others."
    return f"{markdown(header, rows)}\n\n{result['model']} in {result['dtype']}, {words} {machine(result)}"


def kv_reads(result: dict[str, Any]) -> str:
    """Milliseconds of a one-token step behind long contexts."""
    rows = [
        [row["cache"], f"{row['context']:,}", f"{row['step_s'] * 1e3:.0f}", f"{row['plain_s'] * 1e3:.0f}",
         f"{row['ratio']:.2f}"]
        for row in result["rows"]
    ]  # fmt: skip
    header = ["cache", "tokens before", "step, ms", "plain, ms", "ratio"]
    return f"{markdown(header, rows)}\n\n{result['model']} in {result['dtype']}, one row. {machine(result)}"


def kv_load(result: dict[str, Any]) -> str:
    """Tokens a second of each cache under each load; the best of a load is marked."""
    best = {load: max(r["measured"] for r in result["rows"] if r["load"] == load) for load in _loads(result)}
    rows = [
        [str(row["load"]), row["cache"], str(row["rows"]), row["policy"] or "",
         _interval(row["predicted"], ".0f") + " best" * row["best"],
         f"{row['measured']:.0f}" + " best" * (row["measured"] == best[row["load"]]), f"{row['perplexity_ratio']:.3f}"]
        for row in result["rows"]
    ]  # fmt: skip
    header = ["load", "cache", "rows that fit", "policy", "tokens/s predicted", "measured", "perplexity over plain"]
    words = f"{result['mib']} MiB, prompts of {result['context']} tokens, chunks of {result['chunk']}"
    return f"{markdown(header, rows)}\n\n{result['target']} in {result['dtype']}, {words}. {machine(result)}"


def _loads(result: dict[str, Any]) -> list[int]:
    return sorted({row["load"] for row in result["rows"]})


def kv_batch(result: dict[str, Any]) -> str:
    """How often the engine admits what was predicted, by model and cache."""
    kinds = dict.fromkeys((row["model"], row["cache"]) for row in result["rows"])
    rows = [
        [model, cache, f"{sum(r['predicted'] == r['admitted'] for r in mine)} of {len(mine)}"]
        for model, cache in kinds
        for mine in [[r for r in result["rows"] if (r["model"], r["cache"]) == (model, cache)]]
    ]
    return f"{markdown(['model', 'cache', 'admitted as predicted'], rows)}\n\nCommit {result['environment']['commit']}."


def self_draft(result: dict[str, Any]) -> str:
    """Tokens a second of each way to draft, and of found sets over their rivals."""
    rows: list[list[str]] = []
    told: list[str] = []
    for name, model in result["models"].items():
        for row in model.get("rows", ()):
            predicted = "" if row["predicted"] is None else _interval(row["predicted"])
            rates = [f"{row['tokens_per_s']:.1f}", f"{row['tokens_per_step']:.2f}", _interval(row["speed_up"])]
            rows.append([name, row["name"], row["policy"], *rates, predicted])
        told += [
            f"{name}: found over {each['over']}, {each['left_out']}: {_interval(each['ratio'], '.3f')}."
            for each in model.get("found_over", ())
        ]
    header = ["target", "layers", "policy", "tokens/s", "tokens a step", "over off", "over off, predicted"]
    return "\n\n".join((markdown(header, rows), "\n".join(told), machine(result)))
