"""Acceptance models: their fits, intervals, calibration and exact replay."""

from reader_theory.acceptance.base import AcceptanceModel, PathwiseModel, model_from_dict
from reader_theory.acceptance.geometric import Geometric, chain_tokens_per_step
from reader_theory.acceptance.intervals import Interval, bootstrap_prompts, ratio_of_sums
from reader_theory.acceptance.rank_depth import RankDepth
from reader_theory.acceptance.ranked import Ranked
from reader_theory.acceptance.replay import ReplayPolicy, ReplayResult, RetrievalCap, replay, replay_many

__all__ = [
    "AcceptanceModel",
    "Geometric",
    "Interval",
    "PathwiseModel",
    "RankDepth",
    "Ranked",
    "ReplayPolicy",
    "ReplayResult",
    "RetrievalCap",
    "bootstrap_prompts",
    "chain_tokens_per_step",
    "model_from_dict",
    "ratio_of_sums",
    "replay",
    "replay_many",
]
