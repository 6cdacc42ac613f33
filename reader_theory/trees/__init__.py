"""Token trees: one, a batch of them, their value, law and bounds."""

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
from reader_theory.trees.drawing import to_svg
from reader_theory.trees.law import continue_with_target, emitted_law, is_lossless, joint_law
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank, path_probability, tokens_per_step

__all__ = [
    "TokenTree",
    "TokenTrees",
    "by_depth_and_rank",
    "continue_with_target",
    "emitted_entropy_nats",
    "emitted_law",
    "entropy_bound_tokens",
    "entropy_nats",
    "is_lossless",
    "joint_law",
    "path_probability",
    "rank_bound_tokens",
    "to_svg",
    "tokens_per_step",
    "transport_bound",
    "transport_program",
    "tunstall_growth",
]
