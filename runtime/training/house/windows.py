"""Windows: training rows cut from a stream of tokens, a third of them with a passage that comes twice.

Without the copies a model of this size does not learn to copy, and then retrieval would have nothing to predict. Some
copies follow a short instruction, and some have a few identifiers renamed all through, as in editing work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEADERS = (
    "\n\n# The same text again:\n",
    "\n\n# Repeat the passage above without any change.\n",
    "\n\n# Copy of the code above:\n",
    "\n\n# Second version, with small corrections:\n",
    "\n\n# Write the code above once more.\n",
    "\n\n# Rewritten with new names:\n",
    '\n\n"""Quoted from the text above:\n\n',
    "\n\n# --- edited file ---\n",
    "\n\n# After the change:\n",
    "\n",
)
SHORTEST_COPY = 16
SHARE_RENAMED = 0.25
SHARE_WITH_HEADER = 0.6


@dataclass(frozen=True)
class CopyMaterial:
    """What a copy may be dressed with: tokens of the headers, and which tokens are names.

    Attributes
    ----------
    headers
        Token rows of the headers.
    names
        Ids of the tokens that are one whole identifier, shape (names,).
    """

    headers: tuple[NDArray[np.int64], ...]
    names: NDArray[np.int64]


def cut_windows(
    rng: np.random.Generator, stream: NDArray[np.uint16], rows: int, length: int, copies: float, material: CopyMaterial
) -> NDArray[np.int64]:
    """Rows cut at random places; a share ``copies`` of them holds a repeated passage. Shape (rows, length)."""
    starts = rng.integers(0, len(stream) - length, size=rows)
    windows = stream[starts[:, None] + np.arange(length)].astype(np.int64)
    for row in np.flatnonzero(rng.random(rows) < copies):
        plant_copy(rng, windows[row], material)
    return windows


def plant_copy(rng: np.random.Generator, window: NDArray[np.int64], material: CopyMaterial) -> None:
    """Overwrite a later part of ``window``, in place, with a copy of an earlier part, once or more often."""
    length = len(window)
    size = int(rng.integers(SHORTEST_COPY, length // 2 - 24))
    start = int(rng.integers(0, length - 2 * size - 24))
    passage = _renamed(rng, window[start : start + size].copy(), material.names)
    at = start + size + int(rng.integers(0, length - start - 2 * size - 20))
    while at + size <= length:
        if rng.random() < SHARE_WITH_HEADER:
            header = material.headers[int(rng.integers(len(material.headers)))][: length - at - size]
            window[at : at + len(header)] = header
            at += len(header)
        window[at : at + size] = passage
        at += size + int(rng.integers(1, 64))
        if rng.random() < 0.5:
            return


def _renamed(rng: np.random.Generator, passage: NDArray[np.int64], names: NDArray[np.int64]) -> NDArray[np.int64]:
    if rng.random() >= SHARE_RENAMED:
        return passage
    present = np.intersect1d(passage, names)
    for old in rng.permutation(present)[: int(rng.integers(1, 4))]:
        passage[passage == old] = rng.choice(names)
    return passage


def name_tokens(texts: Sequence[str]) -> NDArray[np.int64]:
    """Ids of the tokens whose text, without a leading blank, is an identifier of three letters or more."""
    return np.asarray([i for i, t in enumerate(texts) if len(t.strip()) >= 3 and t.strip().isidentifier()], np.int64)
