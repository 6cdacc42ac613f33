"""Tables of docs/diffusion.md: rounds and forwards, predicted beside measured; likelihood at equal steps."""

from __future__ import annotations

from typing import Any


def _rows(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["--:"] * len(header), *rows])


def _interval(e: dict[str, float]) -> str:
    return f"{e['value']:.3g} [{e['low']:.3g}, {e['high']:.3g}]"


def rounds(result: dict[str, Any]) -> str:
    """By denoising steps, drafts and window."""
    header = ["denoising steps", "drafts by", "window", "one at a time", "rounds", "predicted", "error",
              "share of rounds", "forwards"]  # fmt: skip
    rows = [
        [str(row["steps"]), row["drafts"], str(row["window"]), f"{row['one_at_a_time']:.1f}", _interval(row["rounds"]),
         _interval(row["predicted_rounds"]), f"{row['error']:+.1%}", _interval(row["share_of_rounds"]),
         f"{row['forwards']['value']:.0f}"]
        for row in result["windows"]
    ]  # fmt: skip
    note = (
        f"Means a text of {result['new_tokens']} tokens over {result['prompts']} prompts that the counts have not seen."
    )
    return _rows(header, rows) + f"\n\n{note} Commit {result['environment']['commit']}."


def likelihood(result: dict[str, Any]) -> str:
    """At equal denoising steps."""
    header = ["denoising steps", "chain", "independent", "difference"]
    rows = [
        [str(row["steps"]), f"{row['chain']:.2f}", f"{row['parallel_lossy']:.2f}", _interval(row["difference"])]
        for row in result["likelihood"]
    ]
    return _rows(header, rows) + "\n\nMean log probability of a token under the house target, in nats."
