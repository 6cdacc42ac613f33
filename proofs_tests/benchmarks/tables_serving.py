"""Tables of what stands beside engines that are not ours: plans in them, and retrieval."""

from __future__ import annotations

from statistics import median
from typing import Any

from proofs_tests.benchmarks._report import machine, markdown

__all__ = ["in_llama", "in_vllm", "retrieval", "synthetic"]


def synthetic(result: dict[str, Any]) -> str:
    """Seconds of a step of llama.cpp under synthetic acceptance, predicted beside measured."""
    header = ["drafts", "accepted a depth", "batch", "ms a step, predicted", "measured", "off by",
              "tokens a second, predicted", "measured", "off by"]  # fmt: skip
    rows = [
        [
            f"{row['drafts']}",
            f"{row['acceptance']:g}",
            f"{row['batch']}",
            f"{1e3 * row['predicted_step_s']:.1f}",
            f"{1e3 * row['measured_step_s']:.1f}",
            f"{row['step_error']:+.0%}",
            f"{row['predicted_tokens_per_s']:.0f}",
            f"{row['measured_tokens_per_s']:.0f}",
            f"{row['error']:+.0%}",
        ]
        for row in sorted(result["rows"], key=lambda row: (row["batch"], row["drafts"], -row["acceptance"]))
    ]
    words = (
        f"A step is off by {result['median_step_error']:.1%} in the median and {result['worst_step_error']:.0%} at "
        f"most, tokens a second by {result['median_error']:.1%} and {result['worst_error']:.0%}; "
        f"{result['rounds']} rounds of {result['prompts']} prompts, {result['tokens']} tokens each. The pace of the "
        f"machine moved by {result['pace_spread']:.0%}; at one pace, the rounds of a setting differ by "
        f"{result['median_spread']:.0%} in the median."
    )
    return f"{markdown(header, rows)}\n\n{words} {machine(result)}"


def retrieval(result: dict[str, Any]) -> str:
    """Tokens a step at equal nodes, ours over arctic-inference's, each by its best settings."""
    corpora = result["equal_nodes"]
    nodes = [row["nodes"] for row in corpora[next(iter(corpora))]["together"]]
    rows = [
        [name, how.replace("together", "joined"), *(f"{row['ratio']:.3f}" for row in told)]
        for name, both in corpora.items()
        for how, told in both.items()
    ]
    words = (
        "Joined: finished answers are drafted from by later requests. Every drafter replays the same greedy texts, "
        "from no datastore."
    )
    return f"{markdown(['texts', 'requests', *(f'{each:g}' for each in nodes)], rows)}\n\n{words} {machine(result)}"


def in_vllm(result: dict[str, Any]) -> str:
    """Our proposer inside vLLM: tokens a step as planned, tokens a second over vLLM's own plain decoding."""
    told = result["vllm"]
    peers = [name for name in told["rows"][0]["over_plain"] if not name.startswith("ours")]
    header = ["workload", "batch", "plan for this machine", "tokens a step: predicted", "measured",
              *(f"{name}, over plain" for name in peers), "ours, over plain", "ours by an H100's plan"]  # fmt: skip
    rows: list[list[str]] = []
    for row in told["rows"]:
        gain, here = row["over_plain"], row["ours"]["here"]
        steps = "{value:.2f} [{low:.2f}, {high:.2f}]".format(**here["predicted"])
        facts = [row["workload"], f"{row['batch']}", here["policy"], steps, f"{here['measured']:.2f}"]
        rows.append([*facts, *(f"{gain[name]['median']:.2f}" for name in (*peers, "ours here", "ours h100"))])
    words = (
        f"{told['texts_equal_to_plain']} of {told['texts']} texts are those of plain decoding. Of "
        f"{told['cells_of_ours']} cells of ours, tokens a step lie in the interval in {told['within_interval']}; "
        f"decode steps are those of the replay in {told['steps_as_replayed']}; what vLLM counted gives a plan alike in "
        f"{told['planned_again_alike']}. {told['prompts']} prompts a workload (4 at batch 1), {told['tokens']} "
        f"tokens each, {told['repeats']} repeats in turn, float32, medians."
    )
    return f"{markdown(header, rows)}\n\n{words}"


def in_llama(result: dict[str, Any]) -> str:
    """Our drafts inside llama-cpp-python, beside its own prompt lookup."""
    told = result["llama"]
    lookup = next(name for name in told["rows"][0]["tokens_per_step"] if name.startswith("lookup"))
    header = ["workload", "plan", "tokens a step: its lookup", "ours, as many drafts", "ours, planned",
              "tokens a second: plain", "its lookup", "ours, planned", "over the better of both"]  # fmt: skip
    rows: list[list[str]] = []
    for row in told["rows"]:
        steps, rates = row["tokens_per_step"], row["tokens_per_s"]
        found = [f"{steps[name]:.3f}" for name in (lookup, "ours equal drafts", "ours planned")]
        found += [f"{median(rates[name]):.1f}" for name in ("plain", lookup, "ours planned")]
        over = row["over_the_better_of_plain_and_lookup"]
        span = f"{over['median']:.2f} ({min(over['all']):.2f} to {max(over['all']):.2f})"
        rows.append([row["workload"], row["policy"], *found, span])
    words = (
        f"{told['texts_equal_to_plain']} of {told['texts']} texts are those of plain decoding. {told['prompts']} "
        f"prompts a workload, {told['tokens']} tokens each, {told['repeats']} repeats in turn, weights in float32; "
        f"{lookup} is llama-cpp-python's own. {machine(result)}"
    )
    return f"{markdown(header, rows)}\n\n{words}"
