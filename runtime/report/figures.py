"""The figures of a report, each from one document: markup in, nothing computed that a document does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Comparison, Cost, CostTable, Plan, Policy, RunRecord, Validation
from reader_theory.documents.fit import AcceptanceFit, CalibrationFit, RankTableFit, WorkloadFit
from reader_theory.trees import TokenTree, to_svg
from runtime.report.svg import COLOURS, MARKERS, figure_svg, tree_svg

__all__ = [
    "acceptance_figure", "chain_line", "comparison_figure", "cost_figure", "reliability_figure", "terms_figure",
    "tree_figure",
]  # fmt: skip

SHOWN_RANKS, SHOWN_CHAIN = 4, 10
_PLAIN_NAMES = {
    "tokens_per_step": ("tokens a step", 1.0),
    "tokens_per_s": ("tokens a second", 1.0),
    "step_s": ("milliseconds a step", 1e3),
    "speed_up": ("times plain decoding", 1.0),
}


def comparison_figure(validation: Validation) -> str:
    """Predicted on one axis, measured on the other, a bar for the interval; a panel a quantity."""
    shown = [name for name in _PLAIN_NAMES if validation.of(name)]
    if not shown:
        return ""
    workloads = list(dict.fromkeys(row.workload for row in validation.comparisons))

    def draw(*axes: Any) -> None:
        for ax, name in zip(axes, shown, strict=True):
            _scatter(ax, name, validation.of(name), workloads)
        handles, labels = axes[0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes[0].figure.legend(once.values(), once.keys(), title="workload", loc="outside right upper")

    inside = ", ".join(f"{_PLAIN_NAMES[name][0]}: {validation.coverage(name):.0%} inside" for name in shown)
    described = f"Predicted against measured, with 95 % intervals. {inside}."
    return figure_svg(draw, described, size=(3.0 * len(shown) + 1.1, 3.1), axes=(1, len(shown)))


def _scatter(ax: Any, name: str, rows: Sequence[Comparison], workloads: Sequence[str]) -> None:
    label, factor = _PLAIN_NAMES[name]
    ends: list[float] = []
    for row in rows:
        number = workloads.index(row.workload)
        predicted, measured = row.predicted.scaled(factor), row.measured * factor
        bar = [[max(predicted.value - predicted.low, 0)], [max(predicted.high - predicted.value, 0)]]
        ax.errorbar(
            predicted.value, measured, xerr=bar, fmt=MARKERS[number % len(MARKERS)], capsize=2, ms=6,
            color=COLOURS[number % len(COLOURS)], label=row.workload, mfc="white" if row.batch > 1 else None,
        )  # fmt: skip
        ends += [predicted.low, predicted.high, measured]
    low, high = 0.95 * min(ends), 1.05 * max(ends)
    ax.plot([low, high], [low, high], color="#8a929b", lw=1, zorder=0)
    if low > 0 and high / low > 6:
        _logarithmic(ax)
    ax.set(title=label, xlabel="predicted", ylabel="measured")


def _logarithmic(ax: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def tree_figure(policy: Policy, fitted: WorkloadFit | None) -> str:
    """The tree that a policy drafts, shaded by the chance that a step emits each node; retrieval dashed."""
    drawn, probability = drawn_tree(policy, fitted)
    described = f"Draft tree of policy {policy.name}: {drawn.nodes} nodes, depth {drawn.depth}."
    return tree_svg(to_svg(drawn, probability), described)


def chain_line(policy: Policy, fitted: WorkloadFit | None) -> list[tuple[str, float | None]] | None:
    """A chain's tokens in order, each with the chance that a step emits it, where it is known; None for a tree.

    Long look-ups end in a last word that says how far they go.
    """
    drawn, probability = drawn_tree(policy, fitted)
    if not drawn.nodes or not drawn.is_chain or drawn.ranks.any():
        return None
    words = [(str(depth), None if probability is None else float(probability[depth])) for depth in drawn.depths[1:]]
    longest = policy.most_nodes
    return [*words, *([(f"... {longest}", None)] if longest > drawn.nodes else [])]


def drawn_tree(policy: Policy, fitted: WorkloadFit | None) -> tuple[TokenTree, NDArray[np.float64] | None]:
    """Tree and retrieved chain in one, and the chances of its nodes where the fit tells all of them."""
    tree, probability = policy.tree, np.ones(1)
    asked = None if fitted is None or policy.asks is None else fitted.ranks(policy.asks)
    known = fitted is not None and (asked is not None or not tree.nodes)
    if asked is not None:
        probability = asked.table().path_probability(tree)
    parents, ranks, sources = tree.parents.tolist(), tree.ranks.tolist(), [*tree.sources]
    if policy.retrieved is not None:
        chain = TokenTree.chain(min(policy.retrieved.max_tokens, SHOWN_CHAIN), "retrieval")
        parents += [0, *range(len(tree), len(tree) + chain.nodes - 1)]
        ranks += chain.ranks[1:].tolist()
        sources += chain.sources[1:]
        looked_up = None if fitted is None else fitted.drafters.get(policy.retrieved.drafter)
        known = known and looked_up is not None and looked_up.matched is not None
        if known and looked_up is not None and looked_up.matched is not None:
            probability = np.concatenate([probability, looked_up.matched.model.path_probability(chain)[1:]])
    return TokenTree(parents, ranks, sources=sources), probability if known else None


def acceptance_figure(fit: AcceptanceFit) -> str:
    """Conditional acceptance by depth, a line a rank, with intervals; a panel a workload and drafter."""
    several = sum(drafter.is_ranked for drafter in fit.drafters.values()) > 1
    shown = [
        (f"{found.workload}, {name}" if several else found.workload, each.rank_depth)
        for found in fit.workloads
        for name, each in found.drafters.items()
        if each.rank_depth is not None
    ]
    if not shown:
        return ""

    def draw(*axes: Any) -> None:
        for ax, (workload, table) in zip(axes, shown, strict=True):
            _by_depth(ax, table)
            ax.set(title=workload, xlabel="depth", ylim=(0, 1))
        axes[0].set_ylabel("acceptance, given the path before")
        axes[-1].legend(title="rank")

    described = "Acceptance by depth and rank, with intervals, for " + ", ".join(name for name, _ in shown) + "."
    return figure_svg(draw, described, size=(3.4 * len(shown), 3.2), axes=(1, len(shown)))


def _by_depth(ax: Any, table: RankTableFit) -> None:
    value, low, high = (np.array(part) for part in (table.value, table.low, table.high))
    depths = np.arange(1, len(value) + 1)
    for rank in range(min(SHOWN_RANKS, value.shape[1])):
        middle = value[:, rank]
        bar = np.maximum(np.stack([middle - low[:, rank], high[:, rank] - middle]), 0)
        ax.errorbar(
            depths + 0.08 * (rank - 1.5), middle, yerr=bar, color=COLOURS[rank], marker=MARKERS[rank], ms=4, lw=1,
            capsize=2, label=str(rank),
        )  # fmt: skip


def reliability_figure(fit: AcceptanceFit) -> str:
    """Raw score of each source against the share that was right, with the fitted monotone map."""
    sources = list(dict.fromkeys(name for found in fit.workloads for name in found.drafters))
    if not sources:
        return ""

    def draw(*axes: Any) -> None:
        for ax, source in zip(axes, sources, strict=True):
            for number, found in enumerate(fit.workloads):
                if source in found.drafters:
                    _reliability(ax, found.drafters[source].calibration, found.workload, number)
            if fit.drafters[source].is_ranked:
                ax.plot([0, 1], [0, 1], color="#8a929b", lw=1, zorder=0)
            else:
                ax.set_xscale("log", base=2)
            ax.set(title=source, ylabel="share right", ylim=(0, 1.02))
            ax.set_xlabel("its probability" if fit.drafters[source].is_ranked else "match length, tokens")
            ax.legend()

    described = "Reliability: raw score against the share of right tokens, for " + " and ".join(sources) + "."
    return figure_svg(draw, described, size=(4.2 * len(sources), 3.4), axes=(1, len(sources)))


def _reliability(ax: Any, found: CalibrationFit, workload: str, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    sizes = 10 + 120 * np.sqrt(np.array(found.weight))
    ax.scatter(found.score, found.observed, s=sizes, marker=MARKERS[number % len(MARKERS)], color=colour, alpha=0.75)
    ax.plot(found.score, found.acceptance, color=colour, lw=1.2, label=f"{workload} (error {found.error:.3f})")


def cost_figure(cost: Cost) -> str:
    """Milliseconds of a forward against query tokens, a line a batch; a panel for the target and each drafter."""
    tables = {"target": cost.target_forward}
    tables |= {name: each.forward for name, each in cost.drafters.items() if each.forward is not None}

    def draw(*axes: Any) -> None:
        for ax, (name, table) in zip(axes, tables.items(), strict=True):
            _forward_lines(ax, table)
            ax.set(title=f"{name} forward", xlabel="tokens a row", ylim=(0, None))
            ax.legend(title="batch")
        axes[0].set_ylabel("milliseconds")

    described = f"Step cost on {cost.device}: milliseconds of a forward against query tokens, by batch."
    return figure_svg(draw, described, size=(4.4 * len(tables), 3.4), axes=(1, len(tables)))


def _forward_lines(ax: Any, table: CostTable) -> None:
    styles = ("-", "--", ":", "-.")
    for b, batch in enumerate(table.batch):
        for c in range(len(table.context)):
            ms = 1e3 * table.values[b, :, c]
            ax.plot(
                table.tokens, ms, styles[c % len(styles)], color=COLOURS[b % len(COLOURS)], lw=1.2,
                marker=MARKERS[b % len(MARKERS)], ms=4, label=str(batch) if c == 0 else None,
            )  # fmt: skip
            low, high = ms * (1 - table.relative_spread), ms * (1 + table.relative_spread)
            ax.fill_between(table.tokens, low, high, color=COLOURS[b % len(COLOURS)], alpha=0.12)


def terms_figure(plan: Plan, record: RunRecord) -> str:
    """Where a step's time goes, predicted and measured side by side; a pair of bars a cell."""
    names = [f"{cell.workload} x{cell.batch}" for cell in record.cells]
    before = [_predicted(plan, cell) for cell in record.cells]
    after = [_measured(record, number) for number in range(len(record.cells))]
    terms = list(dict.fromkeys(term for seconds in (*before, *after) for term in seconds))
    places = np.arange(len(names))

    def draw(ax: Any) -> None:
        for shift, seconds, hatch in ((-0.2, before, ""), (0.2, after, "///")):
            below = np.zeros(len(names))
            for number, term in enumerate(terms):
                heights = np.array([1e3 * found.get(term, 0.0) for found in seconds])
                ax.bar(
                    places + shift, heights, 0.36, bottom=below, hatch=hatch, color=COLOURS[number % len(COLOURS)],
                    edgecolor="white", label=None if hatch else term,
                )  # fmt: skip
                below += heights
        ax.set_xticks(places, names, rotation=30, ha="right")
        ax.set_ylabel("milliseconds a step")
        ax.figure.legend(title="term", loc="outside right upper")

    described = "Seconds of a step by term in each cell: predicted (left, plain) and measured (right, hatched)."
    return figure_svg(draw, described, size=(max(6.0, 0.9 * len(names) + 2), 3.6))


def _predicted(plan: Plan, cell: Any) -> dict[str, float]:
    terms = plan.entry(cell.workload, cell.batch, cell.context_tokens).prediction.terms_s
    clocked = ("target", "retrieval", "verify", "commit", "overhead", "step")
    drafting = sum(seconds for name, seconds in terms.items() if name not in clocked)
    return {**{name: terms[name] for name in clocked if name in terms}, "draft": drafting}


def _measured(record: RunRecord, cell: int) -> dict[str, float]:
    columns = record.columns
    here = columns["cell"] == cell
    if not here.any():
        return {}
    names = ("target", "draft", "retrieval", "verify", "commit")
    found = {name: float(np.mean(columns[f"{name}_s"][here])) for name in names}
    return {**found, "overhead": max(float(np.mean(columns["step_s"][here])) - sum(found.values()), 0.0)}
