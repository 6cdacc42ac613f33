"""Tables of a public model through the whole loop: predicted beside measured, and beside other engines."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from proofs_tests.benchmarks._report import machine, markdown

__all__ = ["real", "real_short"]


def _others(rates: dict[str, float]) -> dict[str, float]:
    return {name: rate for name, rate in rates.items() if not name.startswith("ours")}


def real(result: dict[str, Any]) -> str:
    """One line a cell: every rate that matters, the speed-up predicted beside measured."""
    header = ["type", "workload", "batch", "plan", "ours plain", "ours planned", "best other", "which", "over it",
              "speed-up: predicted", "measured", "error", "inside"]  # fmt: skip
    rows: list[list[str]] = []
    for row in result["rows"]:
        rates, told, gain = row["tokens_per_s"], row["speed_up"]["predicted"], row["speed_up"]["measured"]
        others = _others(rates)
        best = max(others, key=others.__getitem__)
        rows.append([
            row["dtype"], row["workload"], str(row["batch"]), row["policy"], f"{rates['ours plain']:.0f}",
            f"{rates['ours planned']:.0f}", f"{others[best]:.0f}", best, f"{rates['ours planned'] / others[best]:.2f}",
            f"{told['value']:.2f} [{told['low']:.2f}, {told['high']:.2f}]", f"{gain:.2f}",
            *(("", "") if row["policy"] == "off" else _verdict(told, gain)),
        ])  # fmt: skip
    return f"{markdown(header, rows)}\n\n{_told(result)}"


def _verdict(told: dict[str, float], gain: float) -> tuple[str, str]:
    return f"{told['value'] / gain - 1:+.1%}", "yes" if told["low"] <= gain <= told["high"] else "no"


def real_short(result: dict[str, Any]) -> str:
    """One line a type, where there are several, and workload, batches side by side; then over all cells."""
    batches = sorted({row["batch"] for row in result["rows"]})
    lines = defaultdict[tuple[str, str], dict[int, dict[str, Any]]](dict)
    for row in result["rows"]:
        lines[row["dtype"], row["workload"]][row["batch"]] = row
    kept = slice(0 if len({dtype for dtype, _ in lines}) > 1 else 1, None)
    header = ["type", "workload"][kept]
    header += [f"{what} at {batch}" for batch in batches for what in ("tokens/s", "speed-up")]
    rows = [
        [*key[kept], *(part for batch in batches for part in _cell(cells.get(batch)))] for key, cells in lines.items()
    ]
    return f"{markdown(header, rows)}\n\n{_told(result)}"


def _cell(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    gain = row["speed_up"]
    return f"{row['tokens_per_s']['ours planned']:.0f}", f"{gain['measured']:.2f} ({gain['predicted']['value']:.2f})"


def _told(result: dict[str, Any]) -> str:
    rows = result["rows"]
    over = [row["tokens_per_s"]["ours planned"] / max(_others(row["tokens_per_s"]).values()) for row in rows]
    gains = [row["speed_up"] for row in rows if row["policy"] != "off"]
    errors = sorted(abs(gain["predicted"]["value"] / gain["measured"] - 1) for gain in gains)
    below = sum(ratio < 0.995 for ratio in over)
    names = sorted({name.split()[0] for row in rows for name in _others(row["tokens_per_s"])})
    return (
        f"Over {len(rows)} cells: {min(over):.2f} to {max(over):.2f} times the best of {', '.join(names)}, {below} "
        f"below 1.00. {len(errors)} plans draft; their speed-up is off by {errors[len(errors) // 2]:.0%} (median), "
        f"{errors[-1]:.0%} at most. "
        f"{machine(result)}"
    )
