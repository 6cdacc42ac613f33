"""A node sees itself and its ancestors, in the dense mask and in the packed one; every format comes back as it went."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import NotATreeError, UnsupportedByEngineError
from reader_theory.trees import (
    DraftTree,
    ancestor_mask,
    from_growmap,
    pack_mask,
    packed_ancestors,
    path_probability,
    positions,
    to_growmap,
    to_svg,
    tokens_per_step,
    tree_parents,
    unpack_mask,
)


@st.composite
def trees(draw: st.DrawFn, most: int = 40) -> DraftTree:
    """Any tree; ranks count siblings in order, so that every format can hold it."""
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(0, most)))]
    return DraftTree(parents, [parents[:node].count(parent) for node, parent in enumerate(parents)])


@settings(max_examples=30)
@given(trees())
def test_a_node_sees_exactly_its_path(tree: DraftTree) -> None:
    mask = ancestor_mask(tree, root=False)
    assert [np.flatnonzero(row).tolist() for row in mask] == [tree.path(node) for node in range(len(tree))]


@settings(max_examples=30)
@given(trees())
def test_with_the_root_every_row_gains_one_column(tree: DraftTree) -> None:
    mask = ancestor_mask(tree)
    assert mask[:, 0].all() and not mask[0, 1:].any()
    assert np.array_equal(mask[1:, 1:], ancestor_mask(tree, root=False))


@settings(max_examples=30)
@given(trees(most=90), st.booleans())
def test_packed_mask_equals_the_dense_one_both_ways(tree: DraftTree, root: bool) -> None:
    packed, dense = packed_ancestors(tree, root=root), ancestor_mask(tree, root=root)
    assert packed.dtype == np.uint64 and np.array_equal(packed, pack_mask(dense))
    assert np.array_equal(unpack_mask(packed, dense.shape[1]), dense)


def test_bit_j_of_a_row_lies_in_word_j_over_64() -> None:
    packed = packed_ancestors(DraftTree.chain(70), root=False)
    assert packed.shape == (70, 2)
    assert packed[69].tolist() == [2**64 - 1, 2**6 - 1]


@settings(max_examples=30)
@given(trees())
def test_parents_are_read_back_from_the_mask(tree: DraftTree) -> None:
    assert np.array_equal(tree_parents(ancestor_mask(tree, root=False)), tree.parents)


def test_a_mask_that_sees_a_sibling_is_caught() -> None:
    mask = ancestor_mask(DraftTree([-1, -1, 1], [0, 1, 0]), root=False)
    mask[2, 0] = True
    with pytest.raises(NotATreeError, match="ancestors only"):
        tree_parents(mask)


@settings(max_examples=30)
@given(trees())
def test_a_position_is_the_number_of_ancestors(tree: DraftTree) -> None:
    assert np.array_equal(positions(tree, first=7), 7 + ancestor_mask(tree).sum(axis=1) - 1)


@settings(max_examples=30)
@given(trees())
def test_growmap_rank_paths_and_levels_describe_one_tree(tree: DraftTree) -> None:
    growmap = json.loads(json.dumps(to_growmap(tree)))
    assert growmap["size"] == len(tree) + 1
    assert from_growmap(growmap) == DraftTree.from_rank_paths(tree.rank_paths())


def test_growmap_has_the_published_layout() -> None:
    growmap = to_growmap(DraftTree.from_rank_paths([(0, 0), (0, 1), (1,)]))
    assert growmap["roots"] == [[0], [1, 2], [3, 4]]
    assert growmap["branches"] == [[2], [2, 0], [0, 0]]
    assert growmap["Successors"] == [[1, 2], [3, 4], [], [], []]
    assert growmap["mask"][3] == [1, 1, 0, 1, 0] and growmap["depth"] == [0, 1, 1, 2, 2]


def test_growmap_refuses_a_tree_that_skips_ranks() -> None:
    with pytest.raises(UnsupportedByEngineError, match="rank paths"):
        to_growmap(DraftTree([-1, -1], [0, 2]))


@pytest.mark.parametrize("successors", [[[1], [1]], [[2], []], [[1, 2], []], []])
def test_a_growmap_that_is_no_tree_is_caught(successors: list[list[int]]) -> None:
    with pytest.raises(NotATreeError, match="name every node"):
        from_growmap({"Successors": successors})


@settings(max_examples=30)
@given(trees())
def test_a_path_is_as_likely_as_its_conditionals_together(tree: DraftTree) -> None:
    conditional = np.random.default_rng(len(tree)).random(len(tree))
    path = path_probability(tree, conditional)
    assert np.allclose(path, [np.prod(conditional[tree.path(node)]) for node in range(len(tree))])
    assert tokens_per_step(path) == pytest.approx(1 + path.sum())


@settings(max_examples=30)
@given(trees(most=12))
def test_the_picture_has_one_circle_a_node_and_one_for_the_root(tree: DraftTree) -> None:
    picture = ElementTree.fromstring(to_svg(tree, np.linspace(0, 1, len(tree)), ["<&>"] * len(tree)))
    names = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert names.count("circle") == len(tree) + 1 and names.count("line") == len(tree)


def test_matplotlib_draws_the_same_edges() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from reader_theory.trees import draw

    tree = DraftTree.from_rank_paths([(0, 0), (1,)])
    assert len(draw(tree, probability=[0.5, 0.2, 0.3]).lines) == len(tree)
