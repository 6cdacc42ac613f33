"""Past outputs, sorted by context: a file built offline, mapped into memory, shared by all requests.

Prefer it where answers repeat across requests (code of one project, forms, agents); it costs about 11 bytes a token
and no forward. New outputs join a delta, which is a context tree with a bound in bytes; `compact` sorts both anew.

References: He et al. 2023 (REST: a suffix array as draft source); Ferragina and Manzini 2000 (FM-index).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import DocumentError, require
from runtime.retrieval.bodies import store as kernel
from runtime.retrieval.bodies.evidence import END_TOKEN
from runtime.retrieval.bodies.sorting import END, sort_contexts
from runtime.retrieval.suffix_index import SuffixIndex, as_tokens

__all__ = ["Datastore", "datastore_bytes"]

_MAGIC, _VERSION = 0x31524F5453455246, 1
_PREFIX = 64
"""Bytes before the arrays: int64 magic, version, rows, vocabulary, documents, checksum, 0 and checksum of these."""


def datastore_bytes(tokens: int, documents: int, vocabulary: int) -> int:
    """Bytes of a datastore, exactly: 11 a row (a token or the end of a document), 4 a vocabulary entry, 76 more."""
    return _PREFIX + (4 + kernel.ROW_BYTES) * (tokens + documents) + 4 * (vocabulary + 1) + 8


class Datastore:
    """Sorted past outputs and a delta of new ones; made by `build` or `open`.

    Parameters
    ----------
    buffer : (n,) uint8
        A datastore's bytes, as `build` lays them out.
    delta_bytes : int
        Bound on the memory of the delta; the delta starts over with the newest output when it would pass it.
    """

    def __init__(self, buffer: NDArray[np.uint8], *, delta_bytes: int = 64 << 20) -> None:
        self._buffer = buffer
        _, _, rows, vocabulary, documents = (int(word) for word in buffer[:40].view(np.int64))
        self.tokens, self.documents, self.vocabulary = rows - documents, documents, vocabulary
        records, backward, buckets = self._arrays = _split(buffer, rows, vocabulary)
        self.header = np.zeros(kernel.HEADER, np.int64)
        self.header[: kernel.BUCKETS + 1] = (
            rows,
            vocabulary,
            records.ctypes.data,
            backward.ctypes.data,
            buckets.ctypes.data,
        )
        self.delta_bytes = delta_bytes
        self.delta = SuffixIndex()

    @classmethod
    def build(cls, documents: Iterable[ArrayLike], *, delta_bytes: int = 64 << 20) -> Datastore:
        """Sort `documents`, each (n,) token ids; the datastore in memory. Empty documents are left out."""
        kept = [found for found in (as_tokens(document, "documents") for document in documents) if found.size]
        text, vocabulary = _joined(kept)
        buffer = np.empty(datastore_bytes(text.size - len(kept), len(kept), vocabulary), np.uint8)
        order, rank = sort_contexts(text, vocabulary)
        kernel.build(text, order, rank, vocabulary, *_split(buffer, text.size, vocabulary))
        buffer[-8:] = 0
        checksum = zlib.crc32(buffer[_PREFIX:].data)
        head = np.array([_MAGIC, _VERSION, text.size, vocabulary, len(kept), checksum, 0, 0], np.int64)
        head[7] = zlib.crc32(head[:7].tobytes())
        buffer[:_PREFIX] = head.view(np.uint8)
        return cls(buffer, delta_bytes=delta_bytes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sorted part to `path`, whole or not at all (a temporary file beside it, renamed)."""
        final = Path(path)
        scratch = final.with_name(f"{final.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("wb") as file:
                self._buffer.tofile(file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)
        return final

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True, delta_bytes: int = 64 << 20) -> Datastore:
        """Map a saved datastore into memory, read-only.

        Parameters
        ----------
        path : path
            A file that `save` wrote.
        verify : bool
            Check every byte (about a second for each GiB). Without, only the header and the size are checked.

        Raises
        ------
        DocumentError
            When the file is no datastore, is truncated, damaged, or newer than this version reads.
        """
        size = Path(path).stat().st_size
        _check(size >= _PREFIX, path, f"{size} bytes")
        buffer = np.memmap(path, np.uint8, "r")
        head = np.array(buffer[:_PREFIX]).view(np.int64)
        _check(head[0] == _MAGIC, path, f"magic {int(head[0]):#x}")
        _check(head[1] == _VERSION, path, f"version {int(head[1])}")
        _check(head[7] == zlib.crc32(head[:7].tobytes()), path, "a header that does not match its checksum")
        rows, vocabulary, documents = (int(word) for word in head[2:5])
        expected = datastore_bytes(rows - documents, documents, vocabulary)
        _check(size == expected, path, f"{size} bytes where the header asks for {expected}")
        if verify:
            _check(zlib.crc32(buffer[_PREFIX:].data) == head[5], path, "arrays that do not match their checksum")
        return cls(buffer, delta_bytes=delta_bytes)

    def add(self, output: ArrayLike) -> None:
        """Take a finished output, (n,) token ids, into the delta; later requests find it at once."""
        fresh = as_tokens(output, "output")
        if self.delta.nbytes + _DELTA_TOKEN_BYTES * (fresh.size + 1) > self.delta_bytes:
            self.delta.clear()
            room = (self.delta_bytes - self.delta.nbytes) // _DELTA_TOKEN_BYTES - 1
            fresh = fresh[max(0, fresh.size - max(room, 0)) :]
        if fresh.size:
            self.delta.extend(fresh)
            self.delta.extend(_SEPARATOR)

    def compact(self) -> Datastore:
        """A new datastore with the delta sorted in; this one stays as it is."""
        return Datastore.build([*self.texts(), *_pieces(self.delta.text)], delta_bytes=self.delta_bytes)

    def texts(self) -> list[NDArray[np.int32]]:
        """The documents, recovered from the sorted part."""
        return _pieces(kernel.restore(self.header))

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """The bytes of the sorted part; another `Datastore` over them has a delta of its own."""
        return self._buffer

    @property
    def nbytes(self) -> int:
        """Bytes of the sorted part and the delta."""
        return self._buffer.nbytes + self.delta.nbytes


_SEPARATOR = np.array([END_TOKEN], np.int32)
_DELTA_TOKEN_BYTES = 200


def _joined(documents: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], int]:
    """Documents with END after each, and the vocabulary (largest token + 1)."""
    size = sum(document.size + 1 for document in documents)
    require(size < 2**31 - 64, "`documents` must hold less than 2^31 tokens", got=size, fix="Build several datastores.")
    text = np.full(size, END, np.int32)
    at = 0
    for document in documents:
        text[at : at + document.size] = document
        at += document.size + 1
    vocabulary = int(text.max(initial=-1)) + 1
    require(
        vocabulary <= kernel.VOCABULARY_LIMIT,
        f"`documents` must hold token ids below {kernel.VOCABULARY_LIMIT}",
        got=vocabulary - 1,
        fix="Number the tokens from 0, as tokenizers do.",
    )
    return text, vocabulary


def _split(
    buffer: NDArray[np.uint8], rows: int, vocabulary: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
    """Records, backward rows and buckets of a datastore as views of its bytes."""
    middle = _PREFIX + 4 * rows
    last = middle + 4 * (vocabulary + 1)
    backward = np.ndarray((rows,), np.int32, buffer, _PREFIX)
    buckets = np.ndarray((vocabulary + 1,), np.int32, buffer, middle)
    return buffer[last : last + kernel.ROW_BYTES * rows], backward, buckets


def _pieces(text: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Documents between separators."""
    ends = np.flatnonzero((text == END) | (text == END_TOKEN))
    pieces = [piece[(piece != END) & (piece != END_TOKEN)] for piece in np.split(text, ends)]
    return [piece for piece in pieces if piece.size]


def _check(holds: bool, path: object, got: str) -> None:
    require(
        bool(holds),
        f"`{path}` must be a datastore of version {_VERSION}, whole",
        got=got,
        fix="Build it again with `Datastore.build(documents).save(path)`.",
        error=DocumentError,
    )
