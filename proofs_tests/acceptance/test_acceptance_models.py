"""Every acceptance model passes the public battery, has its closed form, and finds the law of its trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.acceptance import (
    AcceptanceModel,
    Drift,
    Matched,
    PathwiseModel,
    RankTable,
    UnionAcceptance,
    alpha_of_mean_length,
    chain_tokens_per_step,
    check_acceptance_model,
    fit_acceptance,
    model_from_dict,
    replay,
    simulated_trace,
    tokens_from_mean_length,
)
from reader_theory.acceptance.rank_table import non_increasing
from reader_theory.acceptance.statistics import rank_depth_counts, rows_of
from reader_theory.documents import Chain, policy_of
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.trace import Trace
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree

LAW = (0.5, 0.2, 0.1, 0.05)
PLAIN = simulated_trace(LAW, prompts=60, tokens=300)
COPIES = simulated_trace(LAW, prompts=40, tokens=200, spread=0.4, copying=0.05)
MODELS: dict[str, AcceptanceModel] = {
    "of one number": RankTable.stationary(0.6, 12),
    "of ranks, extended": RankTable.fit(COPIES, depth=1).extended(12),
} | {kind.name: kind.fit(COPIES) for kind in (RankTable, Drift, Matched, UnionAcceptance)}


@pytest.mark.parametrize("name", MODELS)
def test_model_passes_the_battery(name: str) -> None:
    check_acceptance_model(MODELS[name], trees=10)


@dataclass(frozen=True)
class _Planted(PathwiseModel):
    """A geometric model with one fault at a time."""

    name: ClassVar[str] = "planted"
    fault: str

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        good = np.where(tree.ranks == 0, 0.5, 0.0)
        good[0] = 1
        if self.fault == "every rank is as likely":
            return np.append(1, np.full(tree.nodes, 0.5))
        if self.fault == "reads the order":
            return good * (0.9 ** np.arange(len(tree)))
        if self.fault == "runs away with context" and context_tokens is not None:
            return good * context_tokens
        return good.astype(np.float32) if self.fault == "float32" else good

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None) -> Self:
        return cls("ignores the trace")


FAULTS = ["every rank is as likely", "reads the order", "runs away with context", "ignores the trace"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_by_the_battery(fault: str) -> None:
    with pytest.raises((AssertionError, InvalidInputError)):
        check_acceptance_model(_Planted(fault))


@given(st.floats(0, 1), st.integers(0, 40))
def test_geometric_chain_has_its_closed_form(alpha: float, length: int) -> None:
    walked = RankTable.stationary(alpha, max(length, 1)).tokens_per_step(TokenTree.chain(length))
    assert walked == pytest.approx(chain_tokens_per_step(alpha, length), rel=1e-9)


@given(st.floats(0, 0.999), st.integers(1, 30))
def test_mean_length_gives_the_acceptance_back(alpha: float, chain: int) -> None:
    mean = chain_tokens_per_step(alpha, chain)
    assert chain_tokens_per_step(alpha_of_mean_length(mean, chain), chain) == pytest.approx(mean, abs=1e-9)


def test_mean_length_is_less_sure_of_other_lengths() -> None:
    seen, near, far = (tokens_from_mean_length(2.4, 4, length) for length in (4, 5, 8))
    assert seen.low == seen.high == pytest.approx(2.4) and far.high - far.low > near.high - near.low > 0


def test_a_rank_table_finds_an_independent_law_back() -> None:
    assert np.allclose(RankTable.fit(PLAIN, depth=1).conditionals, [LAW], atol=0.012)
    assert np.allclose(RankTable.fit(PLAIN, depth=3).conditionals, [LAW] * 3, atol=0.015)


def test_nothing_is_right_beyond_a_table_that_is_not_extended() -> None:
    table, chain = RankTable.stationary([0.5, 0.2], 2), TokenTree.chain(4)
    assert table.path_probability(chain).tolist() == [1, 0.5, 0.25, 0, 0]
    deeper = table.extended(4)
    assert (deeper.depth, deeper.extrapolated) == (4, 2) and deeper.tokens_per_step(chain) == 1.9375
    assert [deeper.within(depth).extrapolated for depth in (1, 2, 3, 9)] == [0, 0, 1, 2]
    assert table.extended(1).depth == 2 and table.extended(1).extrapolated == 0


def test_a_table_is_as_deep_as_any_position_reached() -> None:
    short = simulated_trace((0.5, 0.3), prompts=5, tokens=4)
    table, fitted = RankTable.fit(short, depth=8), fit_acceptance(short, resamples=100).workloads[0].ranks()
    assert fitted is not None and table.depth == len(fitted.value) == len(fitted.positions) <= 4
    assert min(fitted.positions) > 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_rows_are_scaled_down_only_where_they_sum_above_one(row: list[float]) -> None:
    scaled = RankTable.normalised([row]).conditionals[0]
    assert scaled.sum() <= 1 + 1e-12 and np.allclose(scaled * max(sum(row), 1), row)


def test_rank_depth_counts_are_those_of_a_plain_loop() -> None:
    trace = simulated_trace(LAW, prompts=3, tokens=12, seed=4)
    rank, prompt = trace.columns["draft_rank"], trace.columns["prompt"]
    counts = np.zeros((3, 4, 5))
    for t in range(len(rank)):
        for d in range(4):
            u = t + d
            if u < len(rank) and prompt[u] == prompt[t] and (rank[t:u] >= 0).all():
                counts[prompt[t], d, rank[u]] += 1
    assert np.array_equal(rank_depth_counts(rows_of(trace), 4, 4), counts)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=5))
def test_monotone_ranks_keep_their_sum(row: list[float]) -> None:
    fitted = non_increasing([row])[0]
    assert (np.diff(fitted) <= 1e-12).all() and fitted.sum() == pytest.approx(sum(row))


def test_drift_finds_its_slope_back() -> None:
    trace = simulated_trace(LAW, prompts=150, tokens=300)
    columns: dict[str, Any] = dict(trace.columns)
    generator = np.random.default_rng(3)
    context = 2.0 ** generator.integers(6, 14, len(columns["prompt"]))
    table = Drift(np.array([0.4, 0.1, 0.05]), 0.0, -0.2, 512.0)
    law = np.stack([table.table(1, c)[0] for c in 2.0 ** np.arange(6, 14)])[np.log2(context).astype(int) - 6]
    place = (generator.random(len(context))[:, None] >= law.cumsum(axis=1)).sum(axis=1)
    columns |= {
        "context_tokens": context.astype(np.int32),
        "draft_rank": np.where(place < 3, place, -1).astype(np.int32),
    }
    fields = {n: getattr(trace, n) for n in ("stamp", "target", "temperature", "drafters", "prompts")}
    found = Drift.fit(Trace.in_memory(columns, **fields), depth=3)
    assert found.per_doubling == pytest.approx(-0.2, abs=0.02) and found.per_depth == pytest.approx(0, abs=0.05)
    assert found.conditional(TokenTree.chain(1), context_tokens=512)[1] == pytest.approx(0.4, abs=0.02)


def test_a_longer_match_copies_further() -> None:
    model = Matched.fit(COPIES)
    short, long = model.chain_probability(1, 1, 6), model.chain_probability(8, 1, 6)
    assert long[0] > short[0] and (np.diff(long) <= 0).all()
    assert not model.chain_probability(0, 0, 6).any()


def test_sources_of_a_union_overlap_rather_than_add() -> None:
    union, chain = UnionAcceptance.fit(COPIES), TokenTree.chain(4, "retrieval")
    tree = TokenTree.chain(4)
    both = TokenTree([*tree.parents, 0, 5, 6, 7], [0] * 9, sources=[*tree.sources, *chain.sources[1:]])
    alone = union.tokens_per_step(tree) + union.tokens_per_step(chain) - 1
    assert max(union.tokens_per_step(tree), union.tokens_per_step(chain)) < union.tokens_per_step(both) < alone
    assert union.steps_share(both).sum() == pytest.approx(1)


def test_a_union_counts_by_renewal_nearer_to_the_replay() -> None:
    both = TokenTree([-1, 0, 1, 2, 0, *range(4, 11)], [0] * 12, sources=["", *["draft"] * 3, *["retrieval"] * 8])
    replayed = replay(
        COPIES, policy_of(TokenTree.chain(3), Chain(min_match=1, offset=8, factor=0, max_tokens=8))
    ).tokens_per_step
    union = UnionAcceptance.fit(COPIES)
    assert abs(union.tokens_per_renewed_step(both) - replayed) < abs(union.tokens_per_step(both) - replayed)


def test_a_fit_survives_its_file(tmp_path: Any) -> None:
    fit = fit_acceptance(COPIES, resamples=200)
    again = AcceptanceFit.read(fit.write(tmp_path / "fit.json"))
    assert again == fit
    workload = again.workload("simulated")
    draft, retrieval = workload.drafters["draft"], workload.drafters["retrieval"]
    assert draft.rank_depth is not None and retrieval.matched is not None
    assert np.array_equal(draft.rank_depth.table().conditionals, RankTable.fit(COPIES).conditionals)
    assert np.array_equal(retrieval.matched.model.hit, Matched.fit(COPIES).hit)
    assert draft.tokens_per_step["chain 4"].value == replay(COPIES, policy_of(TokenTree.chain(4))).tokens_per_step
    with pytest.raises(InvalidInputError, match="simulated"):
        again.workload("chat")


def test_a_fit_needs_neither_drafter() -> None:
    columns = {name: column for name, column in PLAIN.columns.items() if not name.startswith("draft_")}
    fields = {name: getattr(PLAIN, name) for name in ("stamp", "target", "temperature", "prompts")}
    drafters = {"retrieval": PLAIN.drafters["retrieval"]}
    workload = fit_acceptance(Trace.in_memory(columns, drafters=drafters, **fields), resamples=100).workloads[0]
    assert workload.drafters == {} and workload.ranks() is None
    workload = fit_acceptance(PLAIN.of(), resamples=100).workloads[0]
    assert workload.drafters == {} and workload.positions == len(PLAIN.columns["prompt"])


def test_a_drafter_of_any_name_is_fitted_and_replayed_as_the_draft_is() -> None:
    both = COPIES.model_copy(update={"drafters": {**COPIES.drafters, "twin": COPIES.drafters["draft"]}})
    twin = {name.replace("draft_", "twin_"): column for name, column in COPIES.columns.items()}
    fields = {name: getattr(both, name) for name in ("stamp", "target", "temperature", "drafters", "prompts")}
    both = Trace.in_memory(COPIES.columns | twin, **fields)
    fitted = fit_acceptance(both, resamples=100).workloads[0].drafters
    assert fitted["twin"] == fitted["draft"] == fit_acceptance(COPIES, resamples=100).workloads[0].drafters["draft"]
    by_twin = replay(both, policy_of(TokenTree.chain(4), drafter="twin"))
    assert by_twin.tokens_per_step == replay(COPIES, policy_of(TokenTree.chain(4))).tokens_per_step
    with pytest.raises(InvalidInputError, match="drafters that the trace recorded"):
        replay(COPIES, policy_of(TokenTree.chain(4), drafter="twin"))
    with pytest.raises(InvalidInputError, match="one that the trace recorded"):
        COPIES.of("twin")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RankTable.stationary(1.2, 1),
        lambda: RankTable.stationary([0.7, 0.6], 2),
        lambda: RankTable([[0.5, -0.1]]),
        lambda: RankTable([[0.5, np.nan]]),
        lambda: RankTable(np.zeros((0, 3))),
        lambda: RankTable([[0.5]], extrapolated=1),
        lambda: RankTable.fit(PLAIN, depth=0),
        lambda: Drift(np.array([0.5]), float("inf"), 0.0, 10.0),
        lambda: Drift(np.array([0.5]), 0.0, 0.0, 0.0),
        lambda: Matched((1,), (1,), np.array([[0.5]]), np.array([0.5, 0.5]), np.array([[1.0]])),
        lambda: alpha_of_mean_length(6.0, 4),
        lambda: alpha_of_mean_length(0.5, 4),
        lambda: chain_tokens_per_step(0.5, -1),
        lambda: model_from_dict({"name": "oracle"}),
        lambda: fit_acceptance(PLAIN, depth=0),
        lambda: fit_acceptance(simulated_trace(prompts=1, tokens=20)),
        lambda: simulated_trace(prompts=0),
        lambda: RankTable.fit(PLAIN, "chat"),
    ],
)
def test_bad_input_gets_the_rule_the_evidence_and_the_way_out(make: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert " must " in caught.value.rule and str(caught.value.got) and caught.value.fix
