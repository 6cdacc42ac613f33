"""Explicit trees survive the way out and back: Medusa's choices and Sequoia's growmaps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from optimizer.export import engine_format, growmap_of, growmap_tensors, tree_of_choices, tree_of_growmap
from proofs_tests.documents.documents_examples import OFF, RETRIEVAL, TREE, entry, plan
from proofs_tests.export.exports import export_growmap, export_medusa
from reader_theory.documents import Candidate, policy_of
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError
from reader_theory.trees.tree import TokenTree


@st.composite
def trees(draw: st.DrawFn, gaps: bool = False) -> TokenTree:
    """Random trees, nodes in any legal order; with `gaps`, ranks may skip."""
    parents, ranks = [-1], [0]
    for node in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(0, node))
        taken = [rank for other, rank in zip(parents, ranks, strict=True) if other == parent]
        parents.append(parent)
        ranks.append(len(taken) + (draw(st.integers(0, 1)) + max(taken, default=-1) + 1 - len(taken) if gaps else 0))
    return TokenTree(parents, ranks)


def paths(tree: TokenTree) -> set[tuple[int, ...]]:
    return set(tree.rank_paths())


@given(trees(gaps=True))
def test_choices_come_back_as_the_same_tree(tree: TokenTree) -> None:
    if tree.depth > 5 or tree.ranks.max(initial=0) > 9:
        return
    choices = export_medusa(plan(entry(1, policy_of(tree))), "chat", 1)
    Draft202012Validator(engine_format("medusa").schema).validate(choices)
    assert paths(tree_of_choices(choices)) == paths(tree)
    assert len(choices) == tree.nodes, "the root is left out"


@given(trees())
def test_a_growmap_comes_back_as_the_same_tree(tree: TokenTree) -> None:
    growmap = export_growmap(plan(entry(1, policy_of(tree))), "chat", 1)
    Draft202012Validator(engine_format("growmap").schema).validate(growmap)
    assert paths(tree_of_growmap(json.loads(json.dumps(growmap)))) == paths(tree)


@given(trees())
def test_the_parts_of_a_growmap_agree(tree: TokenTree) -> None:
    growmap = growmap_of(tree)
    size, mask, depth = growmap["size"], np.array(growmap["mask"]), growmap["depth"]
    assert size == len(tree) == len(depth) == len(growmap["Successors"])
    assert [node for level in growmap["roots"] for node in level] == list(range(size)), "numbered level by level"
    for level, (nodes, widths) in enumerate(zip(growmap["roots"], growmap["branches"], strict=True)):
        assert [len(growmap["Successors"][node]) for node in nodes] == widths
        assert {depth[node] for node in nodes} == {level}
    np.testing.assert_array_equal(mask.sum(axis=1), np.array(depth) + 1)
    for node, children in enumerate(growmap["Successors"]):
        for child in children:
            np.testing.assert_array_equal(mask[child], mask[node] + np.eye(size, dtype=int)[child])


def test_a_known_growmap_is_written_as_published() -> None:
    """Two chains of two below the root: UMbreLLa's layout, by hand."""
    growmap = growmap_of(TokenTree([-1, 0, 1, 0, 3]))
    assert growmap["roots"] == [[0], [1, 2], [3, 4]]
    assert growmap["branches"] == [[2], [1, 1], [0, 0]]
    assert growmap["Successors"] == [[1, 2], [3], [4], [], []]
    assert growmap["depth"] == [0, 1, 1, 2, 2]
    assert growmap["mask"][4] == [1, 0, 1, 0, 1]


def test_sequoia_gets_tensors() -> None:
    torch: Any = pytest.importorskip("torch")
    tensors = growmap_tensors(growmap_of(TREE.tree))
    assert tensors["mask"].dtype == tensors["depth"].dtype == torch.int64
    assert tuple(tensors["mask"].shape) == (6, 6)


@pytest.mark.parametrize("export", [export_medusa, export_growmap])
def test_retrieval_is_refused_with_what_is_lost_without_it(export: Any) -> None:
    both = plan(entry(1, policy_of(TREE.tree, RETRIEVAL), tokens_per_step=3.0, tokens_per_s=150))
    with pytest.raises(UnsupportedByEngineError, match=r"chain 3, 1\.8 tokens a step instead of 3 .*-40\.0 %"):
        export(both, "chat", 1)
    assert export(both, "chat", 1, nearest=True) == export(plan(entry(1, policy_of(TokenTree.chain(3)))), "chat", 1)


def test_a_tree_that_was_weighed_is_the_nearest_by_its_values() -> None:
    both = entry(1, policy_of(TREE.tree, RETRIEVAL), tokens_per_step=3.0, tokens_per_s=150)
    tree = Candidate(policy=TREE, tokens_per_step=2.5, tokens_per_s=120)
    weighed = plan(both.model_copy(update={"candidates": (*both.candidates, tree)}))
    for export in (export_medusa, export_growmap):
        assert export(weighed, "chat", 1, nearest=True) == export(plan(entry(1, TREE)), "chat", 1)


def test_a_skipped_rank_is_refused_by_growmaps_alone() -> None:
    skipping = plan(entry(1, policy_of(TokenTree([-1, 0, 0], [0, 0, 2]))))
    assert export_medusa(skipping, "chat", 1) == [[0], [2]]
    with pytest.raises(UnsupportedByEngineError, match="without gaps"):
        export_growmap(skipping, "chat", 1)


@pytest.mark.parametrize("tree", [TokenTree.chain(6), TokenTree([-1, 0], [0, 10])])
def test_more_than_the_heads_give_is_refused(tree: TokenTree) -> None:
    with pytest.raises(UnsupportedByEngineError):
        export_medusa(plan(entry(1, policy_of(tree))), "chat", 1)


def test_drafting_nothing_is_a_tree_of_the_root_alone() -> None:
    assert export_medusa(plan(entry(1, OFF)), "chat", 1) == []
    assert export_growmap(plan(entry(1, OFF)), "chat", 1)["size"] == 1


@pytest.mark.parametrize("successors", [[[2], [], []], [[1], [1], []], [[2], [], [1]], [[1, 2], []]])
def test_a_damaged_growmap_is_refused(successors: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError, match="every node but the root once"):
        tree_of_growmap({"Successors": successors})
