"""Grown trees are trees within budget and price, depend on the prefix only, and leave the output as it is.

At a node where retrieval's weights are W and the draft's law is q, a token's score is
``(t w + e q) / (e + t sum w)`` with w = W / (escape + sum W), e = 1 - sum w and the policy's trust t; a monotone map
by who offered the token makes it acceptance.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proofs_tests.engine.test_engine_law import DRAFT, GRID, LENGTH, PROMPTS, TARGET, _exact_law
from reader_theory.documents import Grown, Policy, SourceMap, Static
from reader_theory.errors import DocumentError, InvalidInputError
from reader_theory.trees import TokenTree
from runtime.drafters.grown import GrownDrafter
from runtime.drafters.laws import NeuralLaws, gridded
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.table import TableModel
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.growing import growing
from runtime.retrieval.index import GrowthArrays, RetrievalIndex

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
RNG = np.random.default_rng(8)
SMALL = RNG.dirichlet(np.ones(4), 4)
STATIC = TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])


def laws_at_root(law: np.ndarray, trust: float = 0.5, maps: tuple[SourceMap, ...] = ()) -> NeuralLaws:
    laws = NeuralLaws(1, 1, law.size, gridded(maps, trust))
    order, none = np.argsort(-law, kind="stable"), np.array([-1])
    laws.add(0, none, none, none, order[None].astype(np.int32), law[order][None])
    return laws


def opened(rows: int, slots: int) -> NeuralDrafter:
    drafter = NeuralDrafter(TableModel(SMALL))
    drafter.open("draft", rows, slots)
    return drafter


def drafted(text: list[int], policy: Grown, budget: int = 512, static: TokenTree | None = None) -> GrowthArrays:
    neural = opened(1, 1024)
    neural.join(0, np.array(text, dtype=np.int64))
    index = RetrievalIndex(np.array(text, np.int32))
    return GrownDrafter(neural).grow(policy, [index], np.array([budget]), static)[0]


def rows(grown: GrowthArrays, row: int = 0) -> list[tuple[int, int, float]]:
    size = int(grown.sizes[row])
    arrays = (grown.tokens[row, :size], grown.parents[row, :size], grown.chances[row, :size])
    return list(zip(*(array.tolist() for array in arrays), strict=True))


@given(text=TEXTS, law=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), trust=st.floats(0.05, 3))
@settings(max_examples=80, deadline=None)
def test_scores_at_a_node_are_the_blend_of_both_sources(text: list[int], law: list[int], trust: float) -> None:
    q = np.array(law) / sum(law)
    index = RetrievalIndex(text)
    alone = dict(zip(*(array.tolist() for array in index.offers()[:2]), strict=True))
    left = 1 - sum(alone.values())
    whole = left + trust * sum(alone.values())
    tokens, scores, sources = index.offers(int(laws_at_root(q, trust).addresses[0]), 4)
    found = dict(zip(tokens.tolist(), scores.tolist(), strict=True))
    expected = {t: (trust * alone.get(t, 0.0) + left * q[t]) / whole for t in range(4) if t in alone or q[t] > 0}
    assert found == pytest.approx(expected, abs=1e-6)
    assert sources.tolist() == [(t in alone) + 2 * bool(q[t] > 0) for t in tokens.tolist()]
    assert sum(scores) <= 1 + 1e-9


@given(text=TEXTS, budget=st.integers(1, 40), price=st.floats(0, 0.3), levels=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_every_grown_draft_is_a_tree_within_budget_and_price(
    text: list[int], budget: int, price: float, levels: int
) -> None:
    grown = drafted(text, Grown(nodes=24, price=price, levels=levels, width=3, candidates=3), budget)
    nodes = rows(grown)
    assert len(nodes) <= min(budget, 24)
    assert len({(parent, token) for token, parent, _ in nodes}) == len(nodes), "equal siblings are one node"
    for node, (_, parent, chance) in enumerate(nodes):
        assert parent < node and price < chance <= (nodes[parent][2] if parent >= 0 else 1.0)
        assert node == 0 or chance <= nodes[node - 1][2]


def test_without_a_draft_the_grown_tree_is_the_retrieved_tree() -> None:
    text = RNG.integers(0, 5, 200)
    index = RetrievalIndex(text)
    grown, asked = GrownDrafter(None).grow(Grown(nodes=32), [index], np.array([32]))
    assert not asked
    assert rows(grown) == rows(index.grow(32))
    assert grown.trees([int(text[-1])])[0] == index.tree(32)


def test_without_retrieval_the_tree_holds_the_likeliest_paths_of_the_draft() -> None:
    grown = drafted([0, 1, 2], Grown(nodes=12, retrieval=None, levels=3, width=12, candidates=4))
    paths = {path: np.prod([SMALL[a, b] for a, b in zip((2, *path), path, strict=False)])
             for depth in (1, 2, 3, 4) for path in product(range(4), repeat=depth)}  # fmt: skip
    best = sorted(paths.values(), reverse=True)[:12]
    assert sorted((chance for _, _, chance in rows(grown)), reverse=True) == pytest.approx(best, abs=1e-6)


def test_retrieval_is_queried_at_the_drafts_nodes_and_the_draft_at_retrievals() -> None:
    text = [3, 1, 2, 3, 0, 0, 3]
    grown = drafted(text, Grown(nodes=60, levels=3, width=8, candidates=4))
    by_path: dict[tuple[int, ...], int] = {}
    paths: list[tuple[int, ...]] = []
    for node, (token, parent, _) in enumerate(rows(grown)):
        paths.append(((*paths[parent], token)) if parent >= 0 else (token,))
        by_path[paths[-1]] = int(grown.sources[0, node])
    assert by_path[(1, 2)] & 1, "1 was offered by both; 2 follows 3 1 in the text"
    assert by_path[(2, 3)] & 1, "2 never followed 3: the draft's node, and retrieval finds what followed 2"
    assert by_path[(1, 0)] == 2, "0 never followed 1: the draft's, below a node that retrieval offered"


def test_a_draft_depends_on_the_prefix_only() -> None:
    text = RNG.integers(0, 4, 60).tolist()
    policy = Grown(nodes=20, levels=3, width=4, candidates=4)
    neural, index = opened(2, 256), RetrievalIndex(np.array(text[:10], np.int32))
    neural.join(0, np.array(text[:10], dtype=np.int64))
    neural.join(1, np.array([1, 2, 3], dtype=np.int64))
    other, drafter = RetrievalIndex([1, 2, 3]), GrownDrafter(neural)
    for low in range(10, 60, 5):
        drafter.grow(policy, [index, other], np.array([20, 20]))
        neural.extend(0, text[low : low + 5])
        neural.extend(1, [low % 4])
        index.extend(np.array(text[low : low + 5], np.int32))
        other.extend(np.array([low % 4], np.int32))
    grown, _ = drafter.grow(policy, [index, other], np.array([20, 20]))
    assert rows(grown) == rows(drafted(text, policy))


def test_a_static_tree_asks_the_draft_at_its_ranks() -> None:
    text = [0, 1, 2]
    everywhere = drafted(text, Grown(nodes=200, retrieval=None, candidates=4), static=STATIC)
    lawful = {int(law) for law in everywhere.laws[0, : int(everywhere.sizes[0])]}
    assert lawful == {-1, 1, 2, 3}, "the root and its three inner nodes have laws"
    assert int(everywhere.sizes[0]) == 4 * 4


def test_maps_change_acceptance_by_who_offered_the_token() -> None:
    law = np.array([0.6, 0.3, 0.1, 0.0])
    halved = (SourceMap(offer="draft", score=(0.0, 1.0), acceptance=(0.0, 0.5)),)
    index = RetrievalIndex([5])
    plain = index.offers(int(laws_at_root(law).addresses[0]), 4)[1]
    mapped = index.offers(int(laws_at_root(law, maps=halved).addresses[0]), 4)[1]
    assert mapped == pytest.approx(0.5 * plain, abs=2e-3)
    assert (np.diff(gridded(halved, 0.5)[:-1].reshape(4, -1), axis=1) > 0).all(), "equal acceptances keep their order"


@pytest.mark.parametrize(
    ("score", "acceptance"),
    [((0.2, 0.1), (0.1, 0.2)), ((0.1, 0.2), (0.2, 0.1)), ((0.1,), (1.2,)), ((0.1,), (0.1, 0.2))],
)
def test_a_map_that_is_not_monotone_is_refused(score: tuple[float, ...], acceptance: tuple[float, ...]) -> None:
    with pytest.raises((InvalidInputError, DocumentError, ValueError), match="ascending"):
        SourceMap(offer="both", score=score, acceptance=acceptance)


def test_a_grown_policy_asks_ranks_of_its_own_drafter_among_its_candidates() -> None:
    with pytest.raises((InvalidInputError, ValueError), match="candidates"):
        Grown(nodes=4, candidates=2, asked=Static.of(TokenTree([-1], [2])))
    with pytest.raises((InvalidInputError, ValueError), match="tree of `drafter`"):
        Grown(nodes=4, asked=Static.of(TokenTree.chain(2), "another"))
    with pytest.raises((InvalidInputError, ValueError), match="must have a source"):
        Grown(nodes=4, drafter=None, retrieval=None)


def test_a_policy_survives_its_document() -> None:
    for policy in POLICIES.values():
        assert TypeAdapter(Policy).validate_json(policy.model_dump_json()) == policy


MAPS = (SourceMap(offer="both", score=(0.1, 0.9), acceptance=(0.2, 0.95)),)
POLICIES = {
    "dynamic": Grown(nodes=6, levels=2, width=3, candidates=3, maps=MAPS),
    "priced": Grown(nodes=12, price=0.1, draft_price=0.2, levels=3, candidates=3),
    "rests": Grown(nodes=6, levels=2, candidates=3, skip_draft_at=0.5),
    "static": Grown(nodes=8, candidates=3, asked=Static.of(STATIC)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_grown_output_has_the_target_law_exactly(name: str) -> None:
    store = Datastore.build([[1, 2, 3, 0, 1], [2, 1, 1, 2]])
    engine = Engine(
        TableModel(TARGET), TableModel(DRAFT), policy=POLICIES[name], max_batch=3, max_context=48, datastore=store
    )
    cells = (np.array(list(product(range(GRID), repeat=LENGTH))) + 0.5) / GRID
    params = SamplingParams(temperature=1.0, max_new_tokens=LENGTH)
    requests = [[engine.add(prompt, params, uniforms=u) for prompt in PROMPTS] for u in cells]
    while engine.step():
        pass
    for place, prompt in enumerate(PROMPTS):
        law: dict[tuple[int, ...], int] = {}
        for request in requests:
            text = tuple(request[place].output)
            law[text] = law.get(text, 0) + 1
        assert law == _exact_law(prompt)
    assert engine.counters.emitted > engine.counters.row_steps


@pytest.mark.parametrize("name", POLICIES)
def test_grown_output_equals_plain_greedy_on_house_prompts(name: str) -> None:
    target, draft, prompts = house()
    params = SamplingParams(max_new_tokens=40)
    plain = Engine(target, max_batch=3, max_context=900).generate(prompts, params)
    engine = Engine(target, draft, policy=POLICIES[name], max_batch=3, max_context=900)
    done = engine.generate(prompts, params)
    assert [one.tokens for one in done] == [one.tokens for one in plain]
    assert sum(one.steps for one in done) < 0.7 * sum(one.steps for one in plain)


@pytest.mark.parametrize(("retrieval", "draft", "sources"), [(True, True, 3), (False, True, 1), (True, False, 1)])
def test_counters_tell_who_offered_each_node(retrieval: bool, draft: bool, sources: int) -> None:
    grown = Grown(nodes=10, levels=2, width=3, candidates=3, retrieval="retrieval" if retrieval else None)
    text = np.array([0, 1, 2, 3, 0, 1, 2, 0, 1])
    engine = Engine(TableModel(TARGET), TableModel(DRAFT) if draft else None, policy=grown, max_context=64)
    sizes = (12, 3, 4)  # short ones: nodes that could never be emitted are left out
    done = engine.generate([text] * 3, [SamplingParams(max_new_tokens=size) for size in sizes])
    counted = engine.counters
    names = ("retrieval", "draft", "both")
    assert sum(map(sum, counted.offered.values())) == sum(step.nodes for step in engine.timings)
    assert sum(map(sum, counted.accepted.values())) == sum(one.accepted for one in done) > 0
    assert counted.offered.keys() <= set(names) and len(counted.offered) == sources
    assert sources == 3 or set(counted.offered) == {"draft" if draft else "retrieval"}


def house(count: int = 2) -> tuple:
    from runtime.measure.prompts import house_prompts
    from runtime.models.house import house_folder
    from runtime.models.load import load_model, load_tokenizer

    torch.set_num_threads(1)
    prompts = house_prompts(None, "test", load_tokenizer(house_folder("target")), count)
    short = [prompt.tokens[-400:] for prompt in prompts]
    return load_model(house_folder("target")), load_model(house_folder("draft")), short


def test_maps_fitted_on_house_outputs_lower_the_calibration_error() -> None:
    from runtime.drafters.offers import fit_offers, record_offers

    target, draft, prompts = house(4)
    outputs = [one.tokens for one in Engine(target, max_batch=3, max_context=900).generate(prompts)]
    pairs = [(prompt, np.array(output, dtype=np.int64)) for prompt, output in zip(prompts, outputs, strict=True)]
    fit = fit_offers(record_offers(draft, pairs))
    assert {one.offer for one in fit.maps} == {"retrieval unasked", "retrieval", "draft", "both"}
    both = fit.calibrations["both"]
    assert both.raw_error is not None and both.error < both.raw_error


def test_a_batch_of_laws_equals_its_rows_alone() -> None:
    texts = [RNG.integers(0, 4, size).astype(np.int32) for size in (3, 30, 12)]
    laws = NeuralLaws(3, 1, 4, gridded((), 0.5))
    for row in range(3):
        none = np.array([-1])
        laws.add(row, none, none, none, np.arange(4, dtype=np.int32)[None], SMALL[row][None])
    together = growing([RetrievalIndex(text) for text in texts], 12, laws=laws.addresses, threads=2)()
    for row, text in enumerate(texts):
        alone = growing([RetrievalIndex(text)], 12, laws=laws.addresses[row : row + 1])()
        assert rows(alone) == rows(together, row)
