"""What a step costs: devices, models' operators, rooflines fitted to measurements, a step term by term, calibration."""

from reader_theory.cost.attention import AttentionFit, fit_decode_attention, predict_decode_attention
from reader_theory.cost.communication import AllReduce
from reader_theory.cost.corrections import Calibration, calibrate, confounded_terms, next_point
from reader_theory.cost.device import Device, find_device, load_devices, measure_this_machine
from reader_theory.cost.gemm import GemmFit, fit_gemm, predict_gemm
from reader_theory.cost.head import DrafterHead
from reader_theory.cost.known import known_shape
from reader_theory.cost.linear import fit_linear, predict_linear
from reader_theory.cost.logged_steps import fit_steps, predict_steps
from reader_theory.cost.model import ModelShape
from reader_theory.cost.roofline import Roofline, fit_roofline, p_norm, spec_sheet_s
from reader_theory.cost.step import StepCost
from reader_theory.cost.terms import TERMS, Forwards, FunctionTerm, StepConditions, StepModel, Term, TermMaker
from reader_theory.cost.tree_attention import fit_tree_attention, predict_tree_attention

__all__ = [
    "TERMS",
    "AllReduce",
    "AttentionFit",
    "Calibration",
    "Device",
    "DrafterHead",
    "Forwards",
    "FunctionTerm",
    "GemmFit",
    "ModelShape",
    "Roofline",
    "StepConditions",
    "StepCost",
    "StepModel",
    "Term",
    "TermMaker",
    "calibrate",
    "confounded_terms",
    "find_device",
    "fit_decode_attention",
    "fit_gemm",
    "fit_linear",
    "fit_roofline",
    "fit_steps",
    "fit_tree_attention",
    "known_shape",
    "load_devices",
    "measure_this_machine",
    "next_point",
    "p_norm",
    "predict_decode_attention",
    "predict_gemm",
    "predict_linear",
    "predict_steps",
    "predict_tree_attention",
    "spec_sheet_s",
]
