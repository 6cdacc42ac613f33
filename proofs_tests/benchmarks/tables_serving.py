"""Tables of what stands beside engines that are not ours: plans in them, and retrieval."""

from __future__ import annotations

from typing import Any

from proofs_tests.benchmarks._report import machine, markdown

__all__ = ["retrieval", "synthetic"]


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
