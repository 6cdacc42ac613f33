"""Columns beside a document: one Parquet file, named in the document with its digest."""

from __future__ import annotations

import hashlib
import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from reader_theory.documents.base import Frozen, write_atomically
from reader_theory.errors import DocumentError, require

__all__ = ["ArrayFile", "Columns"]

Columns = dict[str, NDArray[Any]]
"""Column name -> (T,) or (T, K) array; every column has the same T."""


class ArrayFile(Frozen):
    """Where a document's columns lie, and how to know that they are the ones it was written with."""

    name: str
    sha256: str
    rows: int

    @field_validator("name")
    @classmethod
    def _beside(cls, name: str) -> str:
        """A bare file name: what a document names lies in the document's own folder."""
        require(
            name not in (".", "..") and not any(mark in name for mark in "/\\:\0"),
            "`name` must be the bare name of a file beside the document",
            got=repr(name),
            fix="Move the arrays beside their document and name them without a folder.",
            error=DocumentError,
        )
        return name

    @classmethod
    def write(cls, path: Path, columns: Columns) -> ArrayFile:
        """Write `columns` to `path` as Parquet, whole or not at all."""
        pa, pq = _pyarrow()

        arrays = {name: pa.array(list(c)) if c.ndim == 2 else pa.array(c) for name, c in columns.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table(arrays), buffer, compression="zstd")
        content = buffer.getvalue()
        write_atomically(path, content)
        rows = len(next(iter(columns.values())))
        return cls(name=path.name, sha256=hashlib.sha256(content).hexdigest(), rows=rows)

    def read(self, folder: Path) -> Columns:
        """Read the columns that lie in `folder`, read-only.

        Raises
        ------
        DocumentError
            If the file is missing or is not the one the document was written with.
        """
        _, pq = _pyarrow()
        path = folder / self.name
        require(
            path.is_file(),
            "the arrays must lie beside their document",
            got=f"no `{path}`",
            fix="Move both files together, or record the trace again.",
            error=DocumentError,
        )
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        require(
            digest == self.sha256,
            f"`{path}` must be the file that its document was written with",
            got=f"sha256 {digest[:12]}..., expected {self.sha256[:12]}...",
            fix="It is truncated, damaged or of another run: restore it, or make the document again.",
            error=DocumentError,
        )
        try:
            table = pq.read_table(io.BytesIO(content))
            columns = {name: _column(table[name]) for name in table.column_names}
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
            raise DocumentError(
                f"`{path}` must be Parquet with flat columns, or rows of one length in each",
                got=str(error)[:200],
                fix="The file was not written by `reader`: make the document again.",
            ) from None
        require(
            table.num_rows == self.rows,
            f"`{path}` must have the {self.rows} rows that its document says",
            got=table.num_rows,
            fix="The document was edited: restore it, or make it again.",
            error=DocumentError,
        )
        return columns


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet, loaded on first use; they carry no types."""
    return import_module("pyarrow"), import_module("pyarrow.parquet")


def _column(chunked: Any) -> NDArray[Any]:
    pa, _ = _pyarrow()
    if pa.types.is_list(chunked.type):
        flat = chunked.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        array = np.array(flat).reshape(len(chunked), -1) if len(chunked) else np.zeros((0, 0), flat.dtype)
    else:
        array = np.array(chunked.to_numpy())
    array.setflags(write=False)
    return array
