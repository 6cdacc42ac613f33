"""JSON schemas of the documents, for readers in other languages: written beside this file, shipped with the package.

``python -m reader_theory.documents.schemas`` writes them again after a document changed.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from reader_theory.documents.base import Document, write_atomically

__all__ = ["SCHEMAS", "document_kinds", "json_schema", "write_schemas"]

SCHEMAS = Path(__file__).parent / "schemas"
"""Folder of the schemas that ship with this version."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_HOMES = {
    "trace": "reader_theory.documents.trace:Trace",
    "acceptance_fit": "reader_theory.documents.fit:AcceptanceFit",
    "cost": "reader_theory.documents.cost:Cost",
    "plan": "reader_theory.documents.plan:Plan",
    "serving_schedule": "reader_theory.documents.serving_schedule:ServingSchedule",
    "run_record": "reader_theory.documents.run_record:RunRecord",
    "validation": "reader_theory.documents.validation:Validation",
    "imported_acceptance": "reader_theory.documents.imported:ImportedAcceptance",
    "head_inspection": "reader_theory.documents.head_inspection:HeadInspection",
    "diffusion_run": "reader_theory.documents.diffusion:DiffusionRun",
    "self_draft": "reader_theory.documents.self_draft:SelfDraft",
    "mined_mismatches": "reader_theory.documents.judge:MinedMismatches",
    "judge": "reader_theory.documents.judge:Judge",
    "judge_curve": "reader_theory.documents.judge:JudgeCurve",
    "kv_caches": "reader_theory.documents.kv_caches:KVCaches",
    "kv_plan": "reader_theory.documents.kv_plan:KVPlan",
}


def document_kinds() -> dict[str, type[Document]]:
    """Every kind of document that this version writes, by the name in its `kind` field."""
    found: dict[str, type[Document]] = {}
    for kind, home in _HOMES.items():
        module, _, name = home.partition(":")
        found[kind] = getattr(import_module(module), name)
    return found


def json_schema(document: type[Document]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what `document` writes.

    The schema states every field, type and bound; what needs arithmetic (a grid's shape, say) only `read` checks.
    """
    schema = document.model_json_schema(mode="serialization")
    return {"$schema": _DIALECT, "$comment": f"version {document.newest}", **schema}


def write_schemas(folder: str | Path = SCHEMAS) -> list[Path]:
    """Write one ``{kind}.json`` a document kind into `folder`, and return the paths."""
    written: list[Path] = []
    for kind, document in sorted(document_kinds().items()):
        content = json.dumps(json_schema(document), indent=1, sort_keys=True) + "\n"
        written.append(write_atomically(Path(folder) / f"{kind}.json", content.encode()))
    return written


if __name__ == "__main__":
    for path in write_schemas():
        print(path)
