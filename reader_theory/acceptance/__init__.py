"""Acceptance models: their fits, intervals, calibration and exact replay."""

from reader_theory.acceptance.base import AcceptanceModel, PathwiseModel, model_from_dict
from reader_theory.acceptance.battery import check_acceptance_model
from reader_theory.acceptance.calibration import Calibration, calibrate, expected_calibration_error
from reader_theory.acceptance.chain import alpha_of_mean_length, chain_tokens_per_step, tokens_from_mean_length
from reader_theory.acceptance.drift import Drift
from reader_theory.acceptance.drift_test import DriftReport, drift_test
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.acceptance.intervals import Interval, bootstrap_prompts, ratio_of_sums
from reader_theory.acceptance.matched import Matched
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.acceptance.replay import ReplayResult, replay, replay_many
from reader_theory.acceptance.simulated import simulated_trace
from reader_theory.acceptance.union import UnionAcceptance

__all__ = [
    "AcceptanceModel",
    "Calibration",
    "Drift",
    "DriftReport",
    "Interval",
    "Matched",
    "PathwiseModel",
    "RankTable",
    "ReplayResult",
    "UnionAcceptance",
    "alpha_of_mean_length",
    "bootstrap_prompts",
    "calibrate",
    "chain_tokens_per_step",
    "check_acceptance_model",
    "drift_test",
    "expected_calibration_error",
    "fit_acceptance",
    "model_from_dict",
    "ratio_of_sums",
    "replay",
    "replay_many",
    "simulated_trace",
    "tokens_from_mean_length",
]
