"""Finished outputs as token ids, for a datastore: of a trace, of lines of JSON with prompts and outputs, of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from runtime.importers.rows import Row, read_rows, read_text
from runtime.models.text import encode_text
from runtime.retrieval.suffix_index import as_tokens

__all__ = ["read_outputs"]

_BEFORE, _AFTER = ("prompt", "question", "instruction"), ("output", "completion", "response", "answer", "text")


def read_outputs(path: str | Path, tokenizer: Any) -> Iterator[NDArray[np.int32]]:
    """Documents of one file or folder, each (n,) int32.

    A trace gives the output of each of its prompts. A line of JSON gives its prompt, if it has one, and what followed;
    both are text or token ids. Any other file is one document of text.

    Raises
    ------
    InvalidInputError
        When a row holds neither; the message names it.
    """
    path = Path(path)
    if _is_trace(path):
        columns = Trace.read(path).columns
        starts = np.flatnonzero(np.diff(columns["prompt"])) + 1
        yield from np.split(columns["token"].astype(np.int32), starts)
    elif path.is_dir() or path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json", ".parquet")):
        yield from (_document(row, tokenizer) for row in read_rows(path))
    else:
        yield encode_text(tokenizer, read_text(path)).astype(np.int32)


def _is_trace(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        raw = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(raw, dict) and raw.get("kind") == "trace"


def _document(row: Row, tokenizer: Any) -> NDArray[np.int32]:
    value = row.value if isinstance(row.value, dict) else {"text": row.value}
    names = [next((name for name in known if name in value), None) for known in (_BEFORE, _AFTER)]
    parts = [value[name] for name in names if name is not None]
    require(
        names[1] is not None,
        f"{row.where} must hold an output: {', '.join(_AFTER)}",
        got=f"{sorted(value)[:8]}",
        fix="Name the field of the output so; a prompt beside it is stored before it.",
    )
    if all(isinstance(part, str) for part in parts):
        return encode_text(tokenizer, "".join(parts)).astype(np.int32)
    whole = all(isinstance(part, list) and all(type(token) is int for token in part) for part in parts)
    require(
        whole,
        f"{row.where} must hold text, or token ids",
        got=str(parts)[:80],
        fix="Pass a string, or a flat list of whole numbers; prompt and output alike.",
    )
    return as_tokens([token for part in parts for token in part], row.where)
