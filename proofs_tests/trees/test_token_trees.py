"""One type for a tree of tokens: node 0 is the root, arrays have one entry a node, and a batch is the same in a row."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import NotATreeError
from reader_theory.trees import TokenTree, TokenTrees, path_probability, to_svg, tokens_per_step


@st.composite
def trees(draw: st.DrawFn, most: int = 30, tokens: bool = True) -> TokenTree:
    """Any tree; siblings carry distinct tokens."""
    parents = [-1, *(draw(st.integers(0, node)) for node in range(draw(st.integers(0, most))))]
    ranks = [0, *(parents[:node].count(parents[node]) for node in range(1, len(parents)))]
    sources = ["", *(draw(st.sampled_from(["draft", "retrieval"])) for _ in parents[1:])]
    return TokenTree(parents, ranks, [5 + 3 * rank for rank in ranks] if tokens else None, sources)


def slow_depth(tree: TokenTree, node: int) -> int:
    return 0 if node == 0 else 1 + slow_depth(tree, int(tree.parents[node]))


@settings(max_examples=30)
@given(trees())
def test_shape_of_a_tree_is_what_walking_up_says(tree: TokenTree) -> None:
    assert tree.depths.tolist() == [slow_depth(tree, node) for node in range(len(tree))]
    assert tree.nodes == len(tree) - 1 and tree.depth == tree.depths.max()
    assert tree.level_widths.tolist() == [tree.depths.tolist().count(d) for d in range(1, tree.depth + 1)]
    assert all(tree.path(node) == [*tree.path(int(tree.parents[node])), node] for node in range(1, len(tree)))
    assert sorted(child for node in tree.inner for child in tree.children(node)) == list(range(1, len(tree)))
    assert tree.is_chain == (max((len(tree.children(node)) for node in range(len(tree))), default=0) <= 1)


@settings(max_examples=30)
@given(trees())
def test_ranks_left_out_count_siblings_in_order(tree: TokenTree) -> None:
    assert np.array_equal(TokenTree(tree.parents).ranks, tree.ranks)


@settings(max_examples=30)
@given(trees(tokens=False))
def test_rank_paths_and_levels_hold_the_same_tree(tree: TokenTree) -> None:
    alone = TokenTree(tree.parents, tree.ranks)
    assert TokenTree.from_rank_paths(alone.rank_paths()) == alone.by_level()
    level = tree.by_level()
    assert (np.diff(level.depths) >= 0).all()
    assert sorted(zip(level.rank_paths(), level.sources, strict=True)) == sorted(
        zip(tree.rank_paths(), tree.sources, strict=True)
    )


@settings(max_examples=30)
@given(trees(), st.integers(0, 30), st.integers(0, 8))
def test_a_pruned_tree_has_the_same_nodes_less_those_cut(tree: TokenTree, nodes: int, depth: int) -> None:
    kept = [node for node in range(len(tree)) if node <= nodes and tree.depths[node] <= depth]
    pruned = tree.prune(nodes=nodes, depth=depth)
    assert pruned == tree.prune(kept) == tree.prune(np.isin(np.arange(len(tree)), kept))
    assert pruned.rank_paths() == [tree.rank_paths()[node] for node in kept]
    assert tree.tokens is not None and pruned.tokens is not None
    assert pruned.tokens.tolist() == tree.tokens[kept].tolist()
    assert pruned.sources == tuple(tree.sources[node] for node in kept)


def test_pruning_an_inner_node_alone_is_refused() -> None:
    with pytest.raises(NotATreeError, match="whole paths"):
        TokenTree([-1, 0, 1]).prune([2])


@settings(max_examples=30)
@given(trees(), st.data())
def test_following_every_path_of_tokens_comes_back_with_it(tree: TokenTree, data: st.DataObject) -> None:
    assert tree.tokens is not None
    path = tree.path(data.draw(st.integers(0, tree.nodes)))
    tokens = tree.tokens[path[1:]].tolist()
    found = tree.follow(lambda so_far: [*tokens, 1][len(so_far) - 1])
    assert found == (path, [*tokens, 1])


@settings(max_examples=30)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_a_batch_gives_back_its_trees(rows: list[TokenTree]) -> None:
    batch = TokenTrees.stack(rows)
    assert len(batch) == len(rows) and list(batch) == rows
    for row, tree in enumerate(rows):
        assert batch.depths[row, : len(tree)].tolist() == tree.depths.tolist()
        assert not batch.depths[row, len(tree) :].any()


@settings(max_examples=30)
@given(st.lists(trees(), min_size=1, max_size=4), st.data())
def test_a_batch_is_pruned_row_by_row(rows: list[TokenTree], data: st.DataObject) -> None:
    limits = st.lists(st.integers(0, 12), min_size=len(rows), max_size=len(rows))
    nodes, depth = data.draw(limits), data.draw(limits)
    pruned = TokenTrees.stack(rows).prune(np.array(nodes), np.array(depth))
    for tree, found, n, d in zip(rows, pruned, nodes, depth, strict=True):
        wanted = tree.prune(nodes=n, depth=d)
        assert np.array_equal(found.parents, wanted.parents) and found.sources == wanted.sources
        assert found.tokens is not None and wanted.tokens is not None
        assert np.array_equal(found.tokens, wanted.tokens)
    assert pruned.tokens.shape == (len(rows), int(pruned.counts.max()))


def test_a_batch_pruned_of_nothing_is_itself() -> None:
    batch = TokenTrees.of([[5, 7, 8], [6]], [[-1, 0, 1], [-1]])
    assert batch.prune(2, 2) is batch
    assert batch.prune(depth=1).counts.tolist() == [2, 1]


def test_rows_without_a_draft_and_rows_of_one_shape() -> None:
    alone, alike = TokenTrees.roots([4, 9]), TokenTrees.alike(TokenTree([-1, 0, 0]), np.array([[4, 1, 2], [9, 8, 7]]))
    assert [tree.nodes for tree in alone] == [0, 0] and alone.tokens.ravel().tolist() == [4, 9]
    assert alike[1] == TokenTree([-1, 0, 0], tokens=[9, 8, 7])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"parents": []}, "one entry a node"),
        ({"parents": [-1, 0], "ranks": [0]}, "one entry a node"),
        ({"parents": [-1, 0], "tokens": [3]}, "one entry a node"),
        ({"parents": [-1, 0], "sources": ["draft"]}, "one entry a node"),
        ({"parents": [0, 0]}, "before their children"),
        ({"parents": [-1, -1]}, "before their children"),
        ({"parents": [-1, 2, 1]}, "before their children"),
        ({"parents": [-1, 0], "ranks": [0, -1]}, "0 at the root"),
        ({"parents": [-1, 0], "ranks": [1, 0]}, "0 at the root"),
        ({"parents": [-1, 0, 0], "ranks": [0, 1, 1]}, "differ in rank or source"),
    ],
)
def test_what_is_no_tree_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(NotATreeError, match=said):
        TokenTree(**arguments)


def test_a_tree_is_a_value() -> None:
    tree, again = TokenTree([-1, 0, 0], tokens=[1, 2, 3]), TokenTree([-1, 0, 0], [0, 0, 1], [1, 2, 3])
    assert tree == again and hash(tree) == hash(again)
    assert tree != TokenTree([-1, 0, 0]) and tree != TokenTree([-1, 0, 1], tokens=[1, 2, 3])
    with pytest.raises(AttributeError, match="never changed"):
        tree.parents = again.parents
    for array in (tree.parents, tree.ranks, tree.tokens, tree.depths, tree.prune([1]).parents):
        assert array is not None and not array.flags.writeable


@settings(max_examples=30)
@given(trees())
def test_a_path_is_as_likely_as_its_conditionals_together(tree: TokenTree) -> None:
    conditional = np.append(1, np.random.default_rng(len(tree)).random(tree.nodes))
    path = path_probability(tree, conditional)
    assert np.allclose(path, [np.prod(conditional[tree.path(node)]) for node in range(len(tree))])
    assert tokens_per_step(path) == pytest.approx(path.sum())


@settings(max_examples=30)
@given(trees(most=12))
def test_the_picture_has_one_circle_a_node_and_one_for_the_root(tree: TokenTree) -> None:
    picture = ElementTree.fromstring(to_svg(tree, np.linspace(0, 1, len(tree)), ["<&>"] * len(tree)))
    names = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert names.count("circle") == len(tree) and names.count("line") == tree.nodes
