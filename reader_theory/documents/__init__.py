"""The documents that the stages exchange: frozen, versioned, validated, stamped."""

from reader_theory.documents.base import Document, Stamp, read_document
from reader_theory.documents.cost import Cost, CostTable, DrafterCost
from reader_theory.documents.forwards import DraftForwards
from reader_theory.documents.grown import GROWN_COLUMNS, GrownRecord
from reader_theory.documents.plan import Candidate, Plan, PlanEntry, Prediction
from reader_theory.documents.policy import Chain, Grown, Off, Policy, SourceMap, Static, Union, policy_of
from reader_theory.documents.run_record import RUN_COLUMNS, RequestRecord, RunCell, RunRecord
from reader_theory.documents.trace import DRAFTER_COLUMNS, TRACE_COLUMNS, Trace, TraceDrafter, TracePrompt
from reader_theory.documents.validation import Comparison, Validation

__all__ = [
    "DRAFTER_COLUMNS",
    "GROWN_COLUMNS",
    "RUN_COLUMNS",
    "TRACE_COLUMNS",
    "Candidate",
    "Chain",
    "Comparison",
    "Cost",
    "CostTable",
    "Document",
    "DraftForwards",
    "DrafterCost",
    "Grown",
    "GrownRecord",
    "Off",
    "Plan",
    "PlanEntry",
    "Policy",
    "Prediction",
    "RequestRecord",
    "RunCell",
    "RunRecord",
    "SourceMap",
    "Stamp",
    "Static",
    "Trace",
    "TraceDrafter",
    "TracePrompt",
    "Union",
    "Validation",
    "policy_of",
    "read_document",
]
