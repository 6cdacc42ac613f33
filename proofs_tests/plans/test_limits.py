"""A plan says at which limits of the search its choice stops, so that no limit binds silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.limits import limits_met
from optimizer.plan import make_plan
from optimizer.serving_schedule import serving_schedule
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.documents import Chain, Off, Policy, Static
from reader_theory.trees.tree import TokenTree

DEEP = Static.of(TokenTree.chain(6))


@pytest.mark.parametrize(
    ("policy", "nodes", "depth", "names"),
    [
        (DEEP, 32, 8, ("depth of acceptance",)),
        (DEEP, 32, 6, ("depth of acceptance",)),
        (Static.of(TokenTree.chain(4)), 32, 4, ("max_depth",)),
        (DEEP, 6, 9, ("max_nodes", "depth of acceptance")),
        (Static.of(TokenTree.chain(3)), 32, 8, ()),
        (Off(), 1, 1, ()),
        (Chain(min_match=1, factor=1.0, max_tokens=24), 32, 8, ("longest retrieved chain",)),
    ],
)
def test_each_limit_is_told_by_name(policy: Policy, nodes: int, depth: int, names: tuple[str, ...]) -> None:
    assert limits_met(policy, {"draft": 6}, nodes, depth, longest=24) == names


def test_a_wider_limit_gains_where_a_plan_says_that_one_binds(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.npz")
    fitted, costs = fit(recorded), cost(row_s=1e-5)
    tight, loose = (
        make_plan(fitted, costs, recorded, batches=(1,), max_nodes=n, max_depth=2 * n, resamples=100).entries[0]
        for n in (2, 12)
    )
    assert "max_nodes" in tight.binding
    assert loose.prediction.tokens_per_s.value > tight.prediction.tokens_per_s.value


def test_nothing_binds_where_nothing_pays(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.npz")
    entry = make_plan(fit(recorded), cost(draft_s=1.0).of(["draft"]), recorded, batches=(1,), resamples=100).entries[0]
    assert (entry.policy, entry.binding) == (Off(), ())


def test_a_schedule_says_it_too(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.npz")
    found = serving_schedule(
        fit(recorded), cost(row_s=1e-5), recorded, rate_per_s=1.0, batches=(1,), contexts=(64,), max_nodes=2
    )
    drafting = [cell for cell in found.cells if cell.policy is not None and cell.policy.kind == "static"]
    assert drafting and all("max_nodes" in cell.binding for cell in drafting)
    assert all("max_nodes" in entry.binding for entry in found.plan(64).entries if entry.policy.kind == "static")
