"""Prompts as tokens: from a JSONL file of the user's, or the ones that ship with the house models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require

__all__ = ["DEFAULT_WORKLOAD", "PromptTokens", "house_prompts", "read_prompts"]

DEFAULT_WORKLOAD = "default"
"""Workload of a prompt that names none."""

_ROW = 'Write one JSON object a line, such as {"id": "a-1", "workload": "chat", "text": "..."}; `text` alone will do.'


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """One prompt, encoded.

    Parameters
    ----------
    id : str
        Unique within a set of prompts.
    workload : str
        What it is an example of; acceptance is fitted, and plans are made, by workload.
    tokens : (P,) int64, P >= 1
    source : str
        Document or user that it comes from; prompts of one source are alike, and are resampled together.
    """

    id: str
    workload: str
    tokens: NDArray[np.int64]
    source: str = ""

    def __post_init__(self) -> None:
        tokens = np.array(self.tokens, dtype=np.int64)
        require(
            tokens.size > 0, "a prompt must have at least one token", got=f"none in {self.id!r}", fix="Give it text."
        )
        object.__setattr__(self, "tokens", tokens)


def read_prompts(
    path: str | Path, tokenizer: Any, *, workloads: Sequence[str] | None = None, limit: int | None = None
) -> list[PromptTokens]:
    """Prompts of a JSONL file, in its order.

    Parameters
    ----------
    path : str or Path
        Rows ``{"text": ..., "id": optional, "workload": optional}``; blank lines are skipped.
    tokenizer : transformers tokenizer
    workloads : sequence of str, optional
        Only these.
    limit : int, optional
        At most so many a workload.

    Raises
    ------
    InvalidInputError
        If a line is not such a row, an id is there twice, or nothing is left.
    """
    path = Path(path)
    require(
        path.is_file(), "`prompts` must be a JSONL file", got=f"`{path}`, which is not a file", fix="Check the path."
    )
    rows = [_row(path, number, line) for number, line in enumerate(_lines(path), start=1) if line.strip()]
    found = Counter(row["id"] for row in rows)
    twice = [name for name, count in found.items() if count > 1]
    require(
        not twice, f"every `id` of `{path}` must be there once", got=f"twice or more: {twice[:5]}", fix="Rename them."
    )
    known = sorted({row["workload"] for row in rows})
    chosen = _chosen(workloads, known, f"`{path}`")
    return _encoded((tuple(row.values()) for row in rows), chosen, tokenizer, limit)


def house_prompts(
    workloads: Sequence[str] | None, split: str | None, tokenizer: Any, limit: int | None = None
) -> list[PromptTokens]:
    """Prompts that ship with the house models.

    Parameters
    ----------
    workloads : sequence of str, optional
        Of ``"code"``, ``"copy"`` and ``"prose"``; all when left out.
    split : {"fit", "test", None}
        The prompts for fitting, the ones that a fit must not see, or both.
    limit : int, optional
        At most so many a workload.
    """
    from runtime.models.house import WORKLOADS, load_prompts

    chosen = _chosen(workloads, list(WORKLOADS), "the house prompts")
    rows = [(p.id, p.workload, p.text, p.source) for name in chosen for p in load_prompts(name, split)]
    return _encoded(rows, chosen, tokenizer, limit)


def _lines(path: Path) -> list[str]:
    content = path.read_bytes()
    try:
        return content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        bad = f"byte {content[error.start]:#04x} at offset {error.start}"
        require(False, f"`{path}` must be UTF-8 text", got=bad, fix="Save it as UTF-8.")
        raise


def _row(path: Path, number: int, line: str) -> dict[str, str]:
    where = f"line {number} of `{path}`"
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        require(False, f"{where} must be one JSON object", got=str(error), fix=_ROW)
        raise
    right = isinstance(raw, dict) and isinstance(raw.get("text"), str) and raw["text"].strip() != ""
    require(right, f"{where} must be an object with a `text` that is not empty", got=f"{raw!r:.120}", fix=_ROW)
    return {
        "id": str(raw.get("id", f"{path.stem}-{number:03d}")),
        "workload": str(raw.get("workload", DEFAULT_WORKLOAD)),
        "text": raw["text"],
        "source": str(raw.get("source", "")),
    }


def _chosen(wanted: Sequence[str] | None, known: Sequence[str], where: str) -> Sequence[str]:
    unknown = sorted(set(wanted or ()) - set(known))
    require(
        not unknown,
        f"`workload` must be one of those in {where}",
        got=f"{unknown}; there are {list(known)}",
        fix="Choose among these.",
    )
    return wanted or known


def _encoded(
    rows: Iterable[tuple[str, ...]], workloads: Sequence[str], tokenizer: Any, limit: int | None
) -> list[PromptTokens]:
    require(limit is None or limit >= 1, "`limit` must be >= 1", got=limit, fix="Leave it out for every prompt.")
    kept: list[PromptTokens] = []
    taken: Counter[str] = Counter()
    for name, workload, text, source in rows:
        if workload not in workloads or (limit is not None and taken[workload] >= limit):
            continue
        taken[workload] += 1
        kept.append(PromptTokens(name, workload, np.asarray(tokenizer(text)["input_ids"], dtype=np.int64), source))
    require(bool(kept), "there must be at least one prompt", got="none", fix="Give a file with prompts, or a workload.")
    return kept
