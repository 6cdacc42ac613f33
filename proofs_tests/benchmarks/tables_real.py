"""Tables of a public model through the whole loop: predicted beside measured, and beside other engines."""

from __future__ import annotations

from typing import Any

from proofs_tests.benchmarks._report import machine, markdown

__all__ = ["floor", "real", "real_engines", "real_short"]

ENGINES = ("vLLM", "OpenVINO", "llama.cpp", "transformers")
"""That plain decoding is held against."""


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


def real_engines(result: dict[str, Any]) -> str:
    """Tokens a second of every engine and method, a line a cell, and how many texts equal those of `generate`."""
    methods = list(dict.fromkeys(name for row in result["rows"] for name in row["tokens_per_s"]))
    rows = [
        [row["dtype"], row["workload"], str(row["batch"]),
         *(f"{row['tokens_per_s'][name]:.0f}" if name in row["tokens_per_s"] else "" for name in methods)]
        for row in result["rows"]
    ]  # fmt: skip
    told = list[str]()
    for name in methods:
        mine = [row for row in result["rows"] if name in row["same_text_as_generate"]]
        for dtype in dict.fromkeys(row["dtype"] for row in mine):
            same = sum(row["same_text_as_generate"][name] for row in mine if row["dtype"] == dtype)
            told.append(f"{name} {same} of {sum(row['prompts'] for row in mine if row['dtype'] == dtype)} ({dtype})")
    words = f"Texts equal to those of `generate`: {', '.join(told)}. {machine(result)}"
    return f"{markdown(['type', 'workload', 'batch', *methods], rows)}\n\n{words}"


def real_short(result: dict[str, Any]) -> str:
    """Speed-up over plain decoding, measured and (predicted): a line a workload, types and batches side by side."""
    cells = {(row["workload"], row["dtype"], row["batch"]): row for row in result["rows"]}
    columns = list(dict.fromkeys((dtype, batch) for _, dtype, batch in cells))
    header = ["workload", *(f"{dtype}, {batch}" for dtype, batch in columns)]
    rows = [
        [workload, *(_cell(cells.get((workload, *column))) for column in columns)]
        for workload in dict.fromkeys(workload for workload, *_ in cells)
    ]
    return f"{markdown(header, rows)}\n\n{_told(result)}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["policy"] == "off":
        return "" if row is None else "off"
    return f"{row['speed_up']['measured']:.2f} ({row['speed_up']['predicted']['value']:.2f})"


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


def floor(result: dict[str, Any]) -> str:
    """Our forward over the read of its weights, and tokens a second of plain decoding beside other engines."""
    batches = (1, 4, 8)
    header = ["model", "weights", "share of the floor, 1 row", "8 rows over 1", "32 rows over 1", "ours", *ENGINES]
    rows: list[list[str]] = []
    for model, types in result["models"].items():
        for dtype, each in types.items():
            over, share = each["forward_over_one_row"], each["share_of_floor"]["median"]
            shown = [f"{share:.2f}", *(f"{over[count]['median']:.2f}" for count in ("8", "32"))]
            rows.append([model, dtype, *shown, *(_rates(each, name, batches) for name in ("ours", *ENGINES))])
    texts: dict[str, list[int]] = {}
    for types in result["models"].values():
        for name, equal in types.get("float32", {"equal_texts": {}})["equal_texts"].items():
            engine, batch = name.split(", batch ")
            if engine != "ours":
                texts.setdefault(engine, [0, 0])
                texts[engine] = [texts[engine][0] + equal, texts[engine][1] + int(batch)]
    alike = ", ".join(f"{engine} {equal} of {of}" for engine, (equal, of) in texts.items())
    note = (
        f"Tokens a second at batch {', '.join(map(str, batches))}, {result['tokens']} tokens after a prompt of 128, "
        f"prompts included; medians of {result['repeats']} repeats in turn. In brackets: ours over it, each repeat "
        f"against its own. Texts in float32 that are those of ours: {alike}. "
    )
    return markdown(header, rows) + "\n\n" + note + machine(result)


def _rates(each: dict[str, Any], engine: str, batches: tuple[int, ...]) -> str:
    keys = [key for batch in batches if (key := f"{engine}, batch {batch}") in each["tokens_per_s"]]
    rates = " / ".join(f"{each['tokens_per_s'][key]['median']:.0f}" for key in keys)
    if engine == "ours" or not keys:
        return rates
    over = " / ".join(f"{each['ours_over'][key]['median']:.2f}" for key in keys)
    return f"{rates} ({over})"
