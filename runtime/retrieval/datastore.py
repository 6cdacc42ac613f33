"""Past outputs, sorted by context: a file built offline, mapped into memory, shared by all requests.

Prefer it where answers repeat across requests (code of one project, forms, agents); it costs about 11 bytes a token
and no forward. New outputs join a delta, which is a context tree with a bound in bytes; `compact` sorts both anew.

Threads: any number may add to and draft from one datastore at once. Whatever reads or grows its delta holds `lock`
meanwhile, in compiled code that does not hold the interpreter; a request's own index belongs to one thread at a time.

References: He et al. 2023 (REST: a suffix array as draft source); Ferragina and Manzini 2000 (FM-index).
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents.base import write_atomically
from reader_theory.errors import DocumentError, InvalidInputError, require
from runtime.models.vocabulary import Vocabulary, check_pair
from runtime.retrieval.bodies import store as kernel
from runtime.retrieval.bodies.evidence import END_TOKEN
from runtime.retrieval.bodies.sorting import END, sort_contexts
from runtime.retrieval.suffix_index import SuffixIndex, as_tokens

__all__ = ["Datastore", "datastore_bytes"]

_MAGIC, _VERSION = 0x31524F5453455246, 1
_PREFIX = 64
"""Bytes before the arrays, int64: magic, version, rows, vocabulary, documents, checksum of the arrays, fingerprint of
the tokenizer (0 where it is not known), checksum of these."""


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
        Bound on the memory of the delta, copies made while it grows included; the delta starts over with the newest
        output when it would pass it.

    Attributes
    ----------
    tokens, documents : int
        Of the sorted part.
    name : str
        The file that it was opened from; empty where it was built in memory.
    tokenizer : str
        Fingerprint of the tokenizer that numbered the tokens; empty where it is not known.
    limit : int
        Token ids that may be added are below this.
    lock : threading.Lock
        Held by whatever reads or grows the delta.
    """

    def __init__(self, buffer: NDArray[np.uint8], *, delta_bytes: int = 64 << 20) -> None:
        self._buffer = buffer.view()
        self._buffer.flags.writeable = False
        head = np.array(buffer[:_PREFIX]).view(np.int64)
        rows, vocabulary, documents = (int(word) for word in head[2:5])
        self.tokens, self.documents = rows - documents, documents
        self.name = ""
        self.tokenizer = f"{int(head[6]) & (1 << 64) - 1:016x}" if head[6] else ""
        self.limit, self._ids = kernel.VOCABULARY_LIMIT, vocabulary
        self.lock = threading.Lock()
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
    def build(cls, documents: Iterable[ArrayLike], *, tokenizer: str = "", delta_bytes: int = 64 << 20) -> Datastore:
        """Sort `documents`, each (n,) token ids; the datastore in memory. Empty documents are left out.

        `tokenizer` is the fingerprint of the tokenizer that numbered them, as `fingerprint_of` gives it.
        """
        kept = [found for found in (as_tokens(document, "documents") for document in documents) if found.size]
        text, vocabulary = _concatenated(kept)
        buffer = np.empty(datastore_bytes(text.size - len(kept), len(kept), vocabulary), np.uint8)
        order, rank = sort_contexts(text, vocabulary)
        kernel.build(text, order, rank, vocabulary, *_split(buffer, text.size, vocabulary))
        buffer[-8:] = 0
        checksum = zlib.crc32(buffer[_PREFIX:].data)
        head = np.array([_MAGIC, _VERSION, text.size, vocabulary, len(kept), checksum, 0, 0], np.int64)
        head[6:7] = np.array([int(tokenizer or "0", 16)], np.uint64).view(np.int64)
        head[7] = zlib.crc32(head[:7].tobytes())
        buffer[:_PREFIX] = head.view(np.uint8)
        return cls(buffer, delta_bytes=delta_bytes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sorted part to `path`, whole or not at all (a temporary file beside it, renamed)."""
        return write_atomically(Path(path), self._buffer.data)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True, delta_bytes: int = 64 << 20) -> Datastore:
        """Map a saved datastore into memory, read-only.

        Parameters
        ----------
        path : path
            A file that `save` wrote.
        verify : bool
            Check every byte, and that the arrays are the sorted contexts of some text, so that no number in them leads
            astray whoever wrote them (a second for each 20 million tokens). Without, only the header and the size are
            checked: for files of your own.

        Raises
        ------
        DocumentError
            When the file is no datastore, is truncated, damaged, or newer than this version reads.
        """
        size = Path(path).stat().st_size
        _check(Path(path).is_file() and size >= _PREFIX, path, f"{size} bytes")
        buffer = np.memmap(path, np.uint8, "r")
        head = np.array(buffer[:_PREFIX]).view(np.int64)
        _check(head[0] == _MAGIC, path, f"magic {int(head[0]):#x}")
        _check(head[1] == _VERSION, path, f"version {int(head[1])}")
        _check(head[7] == zlib.crc32(head[:7].tobytes()), path, "a header that does not match its checksum")
        rows, vocabulary, documents = (int(word) for word in head[2:5])
        sound = 0 <= documents <= rows < 2**31 and 0 <= vocabulary <= kernel.VOCABULARY_LIMIT
        _check(sound, path, f"{rows} rows of {documents} documents over {vocabulary} tokens")
        expected = datastore_bytes(rows - documents, documents, vocabulary)
        _check(size == expected, path, f"{size} bytes where the header asks for {expected}")
        if verify:
            _check(zlib.crc32(buffer[_PREFIX:].data) == head[5], path, "arrays that do not match their checksum")
            bad = kernel.unsound(*_split(buffer, rows, vocabulary), documents)
            _check(bad < 0, path, f"row {bad}, which is no row of sorted contexts")
            _check(not buffer[-8:].any(), path, "no end behind the last row")
        opened = cls(buffer, delta_bytes=delta_bytes)
        opened.name = str(path)
        return opened

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids that are held, delta included, and who numbered them."""
        return Vocabulary(self._ids, self.tokenizer)

    def admit(self, target: Vocabulary) -> None:
        """Serve a model of this vocabulary: from now on, ids that it does not know are not taken either.

        Raises
        ------
        InvalidInputError
            When ids are held that it has no logits for, or another tokenizer numbered them.
        """
        with self.lock:
            check_pair(target, self.vocabulary, "datastore")
            self.limit = min(self.limit, target.size)

    def add(self, output: ArrayLike) -> None:
        """Take a finished output, (n,) token ids, into the delta; later requests find it at once.

        Raises
        ------
        InvalidInputError
            When one is no token id, or not below `limit`; nothing is taken then.
        """
        fresh = as_tokens(output, "output")
        if not fresh.size:
            return
        with self.lock:
            largest = int(fresh.max())
            if largest >= self.limit:
                raise InvalidInputError(
                    f"`output` must be token ids below {self.limit}, the vocabulary of the models that draft from here",
                    got=f"{largest} at {int(fresh.argmax())}",
                    fix="Add what those models' tokenizer numbered.",
                )
            if not self.delta.reserve(fresh.size + 1, self.delta_bytes):
                self.delta.clear()
                fresh = fresh[max(0, fresh.size + 1 - self.delta.room_within(self.delta_bytes)) :]
                if not fresh.size or not self.delta.reserve(fresh.size + 1, self.delta_bytes):
                    return
            self._ids = max(self._ids, largest + 1)
            self.delta.extend(fresh)
            self.delta.extend(_SEPARATOR)

    def for_tenant(self) -> Datastore:
        """A datastore over the same sorted part, without a copy, with a delta of its own."""
        fresh = Datastore(self._buffer, delta_bytes=self.delta_bytes)
        fresh.limit, fresh.name = self.limit, self.name
        return fresh

    def compact(self) -> Datastore:
        """A new datastore with the delta sorted in; this one stays as it is."""
        with self.lock:
            learned = _pieces(np.array(self.delta.text))
        fresh = Datastore.build([*self.texts(), *learned], tokenizer=self.tokenizer, delta_bytes=self.delta_bytes)
        fresh.limit = self.limit
        return fresh

    def texts(self) -> list[NDArray[np.int32]]:
        """The documents, recovered from the sorted part."""
        return _pieces(kernel.restore(self.header))

    @property
    def nbytes(self) -> int:
        """Bytes of the sorted part and the delta."""
        return self._buffer.nbytes + self.delta.nbytes


_SEPARATOR = np.array([END_TOKEN], np.int32)


def _concatenated(documents: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], int]:
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


def _check(holds: object, path: object, got: str) -> None:
    require(
        bool(holds),
        f"`{path}` must be a datastore of version {_VERSION}, whole",
        got=got,
        fix="Build it again with `Datastore.build(documents).save(path)`.",
        error=DocumentError,
    )
