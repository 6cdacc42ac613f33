"""Draft trees: their shape, masks, value, law and bounds."""

from reader_theory.trees.batch import TokenTrees
from reader_theory.trees.bounds import (
    emitted_entropy_nats,
    entropy_bound_tokens,
    entropy_nats,
    rank_bound_tokens,
    transport_bound,
    transport_program,
    tunstall_growth,
)
from reader_theory.trees.drawing import draw, to_svg
from reader_theory.trees.growmap import Growmap, from_growmap, to_growmap
from reader_theory.trees.law import continue_with_target, emitted_law, is_lossless, joint_law
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
    "continue_with_target",
    "draw",
    "emitted_entropy_nats",
    "emitted_law",
    "entropy_bound_tokens",
    "entropy_nats",
    "from_growmap",
    "is_lossless",
    "joint_law",
    "pack_mask",
    "packed_ancestors",
    "path_probability",
    "positions",
    "rank_bound_tokens",
    "to_growmap",
    "to_svg",
    "tokens_per_step",
    "transport_bound",
    "transport_program",
    "tree_parents",
    "tunstall_growth",
    "unpack_mask",
]
