"""Token trees: one, a batch of them, their value, their picture and their bounds."""

from reader_theory.trees.batch import TokenTrees
from reader_theory.trees.bounds import (
    entropy_bound_tokens,
    entropy_nats,
    rank_bound_tokens,
    tunstall_growth,
)
from reader_theory.trees.drawing import to_svg
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank, path_probability, tokens_per_step

__all__ = [
    "TokenTree",
    "TokenTrees",
    "by_depth_and_rank",
    "entropy_bound_tokens",
    "entropy_nats",
    "path_probability",
    "rank_bound_tokens",
    "to_svg",
    "tokens_per_step",
    "tunstall_growth",
]
