"""The README's figure from the kept results: the speed-up predicted, with its interval, beside what was measured.

python -m proofs_tests.benchmarks.figure
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofs_tests.benchmarks._report import RESULTS

TICKS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0)
FIGURE = Path(__file__).parents[2] / "notebooks" / "figures" / "predicted_measured.svg"


@dataclass(frozen=True)
class Point:
    """One cell that drafts; `kind` is its marker and fill."""

    workload: str
    kind: str
    predicted: dict[str, float]
    measured: float


def of_public_model(result: dict[str, Any]) -> list[Point]:
    """Cells of `real`, by number format."""
    return [
        Point(row["workload"], row["dtype"], row["speed_up"]["predicted"], row["speed_up"]["measured"])
        for row in result["rows"]
        if row["policy"] != "off"
    ]


def of_steady(result: dict[str, Any]) -> list[Point]:
    """Cells of `speed_up`, by temperature."""
    return [
        Point(row["workload"], f"temperature {row['temperature']:g}", gain["predicted"], gain["measured"]["value"])
        for row in result["rows"]
        for gain in [row["speed_up"]]
    ]


def draw(panels: dict[str, list[Point]], path: Path = FIGURE) -> Path:
    """One panel a set of points, both axes logarithmic; filled markers for a panel's first kind."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "reader-theory"
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.6), constrained_layout=True)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        workloads, kinds = (list(dict.fromkeys(getattr(p, name) for p in points)) for name in ("workload", "kind"))
        for p in points:
            colour = f"C{workloads.index(p.workload)}"
            axis.errorbar(
                p.predicted["value"],
                p.measured,
                xerr=[[p.predicted["value"] - p.predicted["low"]], [p.predicted["high"] - p.predicted["value"]]],
                color=colour, marker="o", markersize=5, linewidth=1,
                markerfacecolor=colour if p.kind == kinds[0] else "white",
            )  # fmt: skip
        ends = [end for p in points for end in (p.predicted["value"], p.measured)]
        axis.axline((min(ends), min(ends)), (max(ends), max(ends)), color="0.7", zorder=0)
        for i, workload in enumerate(workloads):
            axis.plot([], [], "o", color=f"C{i}", label=workload)
        for kind in kinds if len(kinds) > 1 else []:
            axis.plot([], [], "o", color="0.4", markerfacecolor="0.4" if kind == kinds[0] else "white", label=kind)
        axis.legend(frameon=False, fontsize=8)
        axis.set(title=title, xscale="log", yscale="log", xlabel="speed-up, predicted", ylabel="speed-up, measured")
        for each in (axis.xaxis, axis.yaxis):
            each.set_ticks(TICKS, labels=[f"{tick:g}" for tick in TICKS])
            each.set_minor_locator(NullLocator())
        reach = [p.predicted[end] for p in points for end in ("low", "high")]
        axis.set(xlim=(min(reach) / 1.1, max(reach) * 1.1), ylim=(min(ends) / 1.1, max(ends) * 1.1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return path


def main() -> None:
    kept = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("real", "speed_up")}
    steady = "SmolLM2-135M and house models, drafting where the plan is off too"
    print(draw({"SmolLM2-135M": of_public_model(kept["real"]), steady: of_steady(kept["speed_up"])}))


if __name__ == "__main__":
    main()
