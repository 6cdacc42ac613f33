"""The README's figure from the kept results: predicted against measured tokens a second, with the stated intervals.

python -m proofs_tests.benchmarks.figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proofs_tests.benchmarks._report import RESULTS

FIGURE = Path(__file__).parents[2] / "notebooks" / "figures" / "predicted_measured.svg"
COLOURS = {"code": "tab:blue", "copy": "tab:green", "prose": "tab:orange"}


def draw(results: list[dict[str, Any]], path: Path = FIGURE) -> Path:
    """One panel a quantity; filled points at temperature 0, open ones at temperature 1."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "reader-theory"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), constrained_layout=True)
    for panel, (quantity, label) in zip(
        panels, (("speed_up", "speed-up over plain decoding"), ("tokens_per_s", "tokens a second")), strict=True
    ):
        ends: list[float] = []
        for part in results:
            for c in (c for c in part["comparisons"] if c["quantity"] == quantity):
                p, colour = c["predicted"], COLOURS[c["workload"]]
                panel.errorbar(
                    p["value"],
                    c.get("at_pace", c["measured"]),
                    xerr=[[p["value"] - p["low"]], [p["high"] - p["value"]]],
                    color=colour,
                    marker="o" if part["dtype"] == "float32" else "s",
                    markersize=5,
                    linewidth=1,
                    markerfacecolor=colour if part["temperature"] == 0 else "white",
                )
                ends += [p["value"], c.get("at_pace", c["measured"])]
        panel.axline((min(ends), min(ends)), (max(ends), max(ends)), color="0.7", zorder=0)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(f"{label}, predicted")
        panel.set_ylabel(f"{label}, measured")
    for workload, colour in COLOURS.items():
        panels[0].plot([], [], "o", color=colour, label=workload)
    panels[0].plot([], [], "o", color="0.4", label="float32")
    panels[0].plot([], [], "s", color="0.4", label="bfloat16, inflated")
    panels[0].plot([], [], "o", color="0.4", markerfacecolor="white", label="temperature 1")
    panels[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    print(draw(json.loads((RESULTS / "loop.json").read_text())["results"]))
