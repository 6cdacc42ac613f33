"""Tables of docs/heads.md: a head's cells and trade, the same head in vLLM, norms against drift, objectives."""

from __future__ import annotations

from typing import Any


def _rows(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---", *["--:"] * (len(header) - 1)], *rows])


def _commit(result: dict[str, Any]) -> str:
    e = result["environment"]
    return f"{e['cores']} cores of {e['cpu']}, commit {e['commit']}"


def _where(result: dict[str, Any], part: str = "") -> str:
    """The machine that trained, and the commit: the part's own where parts were run one by one."""
    device, e = result.get("device", "cpu"), result["environment"]
    commit = result.get("commits", {}).get(part, e["commit"])
    return f"{e['cores']} cores of {e['cpu']}, commit {commit}" if device == "cpu" else f"One {device}, commit {commit}"


def cells(result: dict[str, Any]) -> str:
    """Tokens a step, tokens a second beside plain decoding's, and where a step's time goes."""
    header = ["cell", "method", "tokens a step", "tokens/s", "times plain", "by median steps", "draft ms", "target ms",
              "step ms", "equal texts"]  # fmt: skip
    rows: list[list[str]] = []
    for name, methods in result.items():
        if not isinstance(methods, list):
            continue
        plain = next(each for each in methods if each["method"] == "plain")
        rows += [
            [name, each["method"], f"{each['tokens_a_step']:.2f}", f"{each['tokens_per_s']:.1f}",
             f"{each['beside_plain']:.2f}", f"{each['tokens_a_step'] * plain['step_ms'] / each['step_ms']:.2f}",
             *(f"{each[key]:.1f}" for key in ("draft_ms", "target_ms", "step_ms")),
             f"{each['equal_texts']} of {each['texts']}"]
            for each in methods
        ]  # fmt: skip
    settings = result["settings"]
    note = (
        f"At least {settings['prompts']} prompts a cell, {settings['new_tokens']} tokens each, methods in turn. "
        "By median steps: tokens a step over the ratio of median steps, which a stretch of a slow machine does not "
        f"move. {_commit(result)}."
    )
    return _rows(header, rows) + f"\n\n{note}"


def trade(result: dict[str, Any]) -> str:
    """rho_TPS of the head of low rank beside the same one multiplied out."""
    header = ["cell", "rho_tau", "nu", "kappa", "rho_TPS by the formula", "measured", "by median steps"]
    rows = [
        [name.removeprefix("trade, "), *(f"{each[key]:.3f}" for key in ("rho_tau", "nu", "kappa", "formula",
                                                                        "measured", "by_steps"))]
        for name, each in result.items() if name.startswith("trade, ")
    ]  # fmt: skip
    return _rows(header, rows) if rows else "Not run yet."


def vllm(result: dict[str, Any]) -> str:
    """Acceptance by position in vLLM beside ours."""
    if "compared" not in result:
        return "Not run yet."
    found = result["compared"]
    header = ["accepted at least", "ours", "vLLM", "difference", "95 % half width"]
    rows = [
        [str(each["position"]), f"{each['ours']:.3f}", f"{each['vllm']:.3f}", f"{each['vllm'] - each['ours']:+.3f}",
         f"{each['half_width']:.3f}"]
        for each in found["by_position"]
    ]  # fmt: skip
    note = (
        f"{found['texts']} prompts, {result['settings']['new_tokens']} tokens, float32, one request at a time. Texts "
        f"with the head equal to vLLM's plain ones: {found['equal_texts']}; to ours: {found['equal_to_ours']}. Steps: "
        f"{found['steps']['ours']} ours, {found['steps']['vllm']} vLLM. {_commit(result)}."
    )
    return _rows(header, rows) + f"\n\n{note}"


def more(result: dict[str, Any]) -> str:
    """Tokens a step before and after a training that went on."""
    before, after = result["heads"]["start"], result["heads"]["main"]
    rows = [
        [workload, *(f"{each[workload]['tokens_a_step']:.2f}" for each in (before, after)),
         f"{after[workload]['tokens_a_step'] / before[workload]['tokens_a_step'] - 1:+.0%}"]
        for workload in sorted(before.keys() - {"updates"})
    ]  # fmt: skip
    told = f"Chain of four, test prompts answered greedily, first 128 tokens. {_where(result)}."
    return f"{_rows(['prompts', 'before', 'after', 'gain'], rows)}\n\n{told}"


def drift(result: dict[str, Any]) -> str:
    """Heads with either norms, run deeper than they were trained."""
    if "drift" not in result:
        return "Not run yet."
    found = result["drift"]
    header = ["norms", "seed", "RMS of step 8 over step 1", "worst over best accepted length"]
    rows = [
        [norms, str(each["seed"]), f"{each['rms_ratio']:.2f}", f"{each['worst_over_best']:.2f}"]
        for norms in ("pre", "post") for each in found.get(norms, [])
    ]  # fmt: skip
    told = f"{_rows(header, rows)}\n\n{result['updates']} updates of {result['batch_tokens']:,} tokens each, TTT 2."
    if "deep" in found:
        deep = found["deep"]
        told += (
            f" Acceptance at depths {deep['depths'][0]} to {deep['depths'][1]}, given all before, all seeds: "
            f"pre {deep['pre']['deep']:.3f}, post {deep['post']['deep']:.3f}, difference {deep['post_less_pre']:+.3f} "
            f"[{deep['low']:+.3f}, {deep['high']:+.3f}]. Chains that got there: "
            f"pre {deep['pre']['asked'][deep['depths'][0] - 1]:.0f}, "
            f"post {deep['post']['asked'][deep['depths'][0] - 1]:.0f} of {deep['pre']['asked'][0]:.0f}."
        )
    return f"{told} {_where(result, 'drift')}."


def objectives(result: dict[str, Any]) -> str:
    """What each objective gains over the head that all go on from."""
    header = ["workload", "objective", "updates", "accepted a step", "gain", "95 %"]
    rows = [
        [each["workload"], each["objective"], str(each["updates"]), f"{each['accepted']:.3f}", f"{each['gain']:+.1%}",
         f"[{each['low']:+.1%}, {each['high']:+.1%}]"]
        for each in result.get("objectives", [])
    ]  # fmt: skip
    return f"{_rows(header, rows)}\n\n{_where(result, 'objectives')}." if rows else "Not run yet."


def shapes(result: dict[str, Any]) -> str:
    """Tokens a step of output heads that were trained alike, and beside the full one's."""
    if "shapes" not in result:
        return "Not run yet."
    found = result["shapes"]
    header = ["workload", "output head", "parameters", "tokens a step", "over full", "over trimmed"]
    rows = [
        [row["workload"], row["head"], f"{found['parameters'][row['head']] / 1e6:.1f}M", f"{row['tokens_a_step']:.2f}",
         *("" if other == row["head"] else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row[f"over {other}"])
           for other in ("full", "trimmed"))]
        for row in found["rows"]
    ]  # fmt: skip
    told = f"{found['updates']} updates each, on one text, from the target's own output head."
    return f"{_rows(header, rows)}\n\n{told} {_where(result, 'shapes')}."


def update(result: dict[str, Any]) -> str:
    """An update of a head's training, in parts and by torch's operators."""
    rows = [
        [row["way"], f"{row['seconds']:.2f}", "{times:.2f} [{low:.2f}, {high:.2f}]".format(**row)]
        for row in result["rows"]
    ]  # fmt: skip
    told = f"Medians and quartiles of {result['rounds']} rounds, {result['tokens']:,} tokens, {result['steps']} steps."
    return f"{_rows(['an update', 'seconds', 'times as fast'], rows)}\n\n{told} {_commit(result)}."


def plan(result: dict[str, Any]) -> str:
    """One plan over heads, a block and look-ups: predicted beside measured, and the best of every other drafter."""
    rows, told = result["rows"], result["summary"]
    names = sorted({name for row in rows for name in row["rivals"]})
    header = ["workload", "batch", "plan", "speed-up: predicted", "measured", "regret", *names]
    lines = [
        [
            row["workload"], str(row["batch"]), row["policy"],
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["predicted"]), f"{row['measured']:.2f}",
            f"{row['regret']:.1%}", *(_rival(row["rivals"].get(name)) for name in names),
        ]
        for row in rows
    ]  # fmt: skip
    note = (
        f"Regret {told['mean_regret']:.1%} in the mean, {told['worst_regret']:.1%} at most. Of {told['cells']} plans "
        f"{told['drafting']} draft: their speed-up is off by {told['median_error']:.1%} in the median, "
        f"{told['worst_error']:.0%} at most, {told['inside']} inside. All {told['rivals']} policies: off by "
        f"{told['rivals_median_error']:.1%} in the median, {told['rivals_mean_signed_error']:+.1%} in the mean"
        f"{_of_what(told)}, {told['rivals_inside']} inside. {result['dtype']}, {result['tests']} prompts a workload, "
        f"{result['tokens']} tokens each, {result['repeats']} repeats. {_commit(result)}."
    )
    return f"{_rows(header, lines)}\n\n{note}"


def _of_what(told: dict[str, Any]) -> str:
    if "rivals_mean_tokens_error" not in told:
        return ""
    tokens, pace = told["rivals_mean_tokens_error"], told["rivals_mean_pace_error"]
    return f" (tokens a step {tokens:+.1%}, seconds of plain steps over theirs {pace:+.1%})"


def _rival(rival: dict[str, Any] | None) -> str:
    return "" if rival is None else f"{rival['predicted']:.2f} / {rival['measured']:.2f}"
