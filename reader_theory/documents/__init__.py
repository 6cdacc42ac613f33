"""The documents that the stages exchange: frozen, versioned, validated, stamped."""

from reader_theory.documents.base import Document, Stamp, read_document
from reader_theory.documents.cost import Cost, CostTable, DrafterCost
from reader_theory.documents.joined import JOINED_COLUMNS, JoinedPolicy, JoinedRecord, SourceMap
from reader_theory.documents.plan import Candidate, DraftPolicy, Plan, PlanEntry, Prediction, RetrievalPolicy
from reader_theory.documents.run_record import RUN_COLUMNS, RequestRecord, RunCell, RunRecord
from reader_theory.documents.trace import TRACE_COLUMNS, Trace, TracePrompt
from reader_theory.documents.validation import Comparison, Validation

__all__ = [
    "JOINED_COLUMNS",
    "RUN_COLUMNS",
    "TRACE_COLUMNS",
    "Candidate",
    "Comparison",
    "Cost",
    "CostTable",
    "Document",
    "DraftPolicy",
    "DrafterCost",
    "JoinedPolicy",
    "JoinedRecord",
    "Plan",
    "PlanEntry",
    "Prediction",
    "RequestRecord",
    "RetrievalPolicy",
    "RunCell",
    "RunRecord",
    "SourceMap",
    "Stamp",
    "Trace",
    "TracePrompt",
    "Validation",
    "read_document",
]
