"""Draft trees: their shape, masks, value, law and bounds."""

from reader_theory.trees.batch import TokenTrees
from reader_theory.trees.bounds import (
    emitted_entropy_nats,
    entropy_bound_tokens,
    entropy_nats,
    rank_bound_tokens,
    tunstall_growth,
)
from reader_theory.trees.drawing import draw, to_svg
from reader_theory.trees.growmap import Growmap, from_growmap, to_growmap
from reader_theory.trees.masks import (
    ancestor_mask,
    pack_mask,
    packed_ancestors,
    positions,
    tree_parents,
    unpack_mask,
)
from reader_theory.trees.tree import ROOT, DraftTree, TokenTree
from reader_theory.trees.value import path_probability, tokens_per_step

__all__ = [
    "ROOT",
    "DraftTree",
    "Growmap",
    "TokenTree",
    "TokenTrees",
    "ancestor_mask",
    "draw",
    "emitted_entropy_nats",
    "entropy_bound_tokens",
    "entropy_nats",
    "from_growmap",
    "pack_mask",
    "packed_ancestors",
    "path_probability",
    "positions",
    "rank_bound_tokens",
    "to_growmap",
    "to_svg",
    "tokens_per_step",
    "tree_parents",
    "tunstall_growth",
    "unpack_mask",
]
