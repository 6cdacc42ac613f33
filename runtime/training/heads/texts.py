"""Texts that a head is trained on: rows of tokens, who wrote each token, and which document a row belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require

__all__ = ["ANSWERED", "ASKED", "GIVEN", "PADDING", "Texts", "read_texts"]

PADDING, GIVEN, ASKED, ANSWERED = 0, 1, 2, 3
"""Who wrote a token: nobody, the prompt or its template, the target as the user, the target as itself."""

HELD_OUT = 20
"""One document in so many is held out."""


@dataclass(frozen=True)
class Texts:
    """Rows of one length.

    Attributes
    ----------
    tokens : (N, T) int32
    roles : (N, T) uint8
    documents : (N,) int64
        Rows of one document are never on both sides of the split.
    heats : (N,) float32
        Temperature that the target answered at; NaN for text that it did not write.
    """

    tokens: NDArray[np.int32]
    roles: NDArray[np.uint8]
    documents: NDArray[np.int64]
    heats: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, seed: int = 0) -> tuple[Texts, Texts]:
        """Rows to train on and rows held out, by document."""
        known = np.unique(self.documents)
        require(
            len(known) >= 2,
            "there must be at least two documents, one of them to hold out",
            got=len(known),
            fix="Give more prompts or texts.",
        )
        chosen = np.random.default_rng(seed).permutation(known)[: max(1, len(known) // HELD_OUT)]
        held = np.isin(self.documents, chosen)
        return self.at(~held), self.at(held)

    def at(self, rows: NDArray[Any]) -> Texts:
        """Some of the rows."""
        return Texts(self.tokens[rows], self.roles[rows], self.documents[rows], self.heats[rows])

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """All rows; shorter ones padded."""
        length = max(part.tokens.shape[1] for part in parts)

        def padded(x: NDArray[Any]) -> NDArray[Any]:
            return np.pad(x, ((0, 0), (0, length - x.shape[1])))

        return cls(
            np.concatenate([padded(part.tokens) for part in parts]),
            np.concatenate([padded(part.roles) for part in parts]),
            np.concatenate([part.documents for part in parts]),
            np.concatenate([part.heats for part in parts]),
        )

    def batches(self, rng: np.random.Generator, tokens: int) -> Iterator[NDArray[np.intp]]:
        """Rows of batches of about so many tokens, for ever, each row once an epoch; rows of like length together."""
        lengths = (self.roles != PADDING).sum(1)
        while True:
            order = rng.permutation(len(self))
            order = order[np.argsort(-(-lengths[order] // 256), kind="stable")]
            cuts, start = [], 0
            while start < len(order):
                longest = int(lengths[order[start : start + max(1, tokens // 64)]].max(initial=1))
                size = max(1, tokens // longest)
                cuts.append(order[start : start + size])
                start += size
            for number in rng.permutation(len(cuts)):
                yield cuts[number]

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, tokens=self.tokens, roles=self.roles, documents=self.documents, heats=self.heats)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Texts:
        """Read what `save` wrote."""
        with np.load(path) as held:
            return cls(held["tokens"], held["roles"], held["documents"], held["heats"])


def read_texts(paths: Sequence[Path], tokenizer: Any, length: int) -> Texts:
    """Files of plain text, or folders of them, in rows of `length` tokens; a file is a document.

    Raises
    ------
    InvalidInputError
        If nothing readable is there, or every text is shorter than 16 tokens.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    rows: list[NDArray[np.int32]] = []
    documents: list[int] = []
    for number, file in enumerate(file for file in files if file.is_file()):
        text = file.read_text(encoding="utf-8", errors="ignore")
        ids = np.asarray(tokenizer(text)["input_ids"], dtype=np.int32)
        for start in range(0, len(ids), length):
            part = ids[start : start + length]
            if len(part) >= 16:
                rows.append(np.pad(part, (0, length - len(part)), constant_values=-1))
                documents.append(number)
    require(
        bool(rows),
        "`data` must hold text",
        got=f"{len(files)} files without 16 tokens",
        fix="Pass text files, or folders of them.",
    )
    held = np.stack(rows)
    roles = np.where(held >= 0, ANSWERED, PADDING).astype(np.uint8)
    heats = np.full(len(rows), np.nan, np.float32)
    return Texts(np.maximum(held, 0), roles, np.asarray(documents, np.int64), heats)
