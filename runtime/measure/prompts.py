"""Prompts as tokens: from a file of the user's, or the ones that ship with the house models."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.models.text import encode_chat, encode_text

__all__ = ["Progress", "PromptLike", "PromptTokens", "house_prompts", "public_prompts", "read_prompts"]

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)."""

PUBLIC = Path(__file__).parent / "sets" / "public.jsonl.gz"
DEFAULT_WORKLOAD = "default"
"""Workload of a prompt that names none."""


class PromptLike(Protocol):
    """A prompt as token ids."""

    @property
    def id(self) -> str: ...
    @property
    def workload(self) -> str: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...


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
    """Prompts of a file or folder in any format that `runtime.importers` knows, in its order.

    Parameters
    ----------
    path : str or Path
        Rows ``{"text": ..., "id": optional, "workload": optional}``, or see `read_prompt_file`.
    tokenizer : transformers tokenizer
        Its chat template renders conversations, its special tokens are added once.
    workloads : sequence of str, optional
        Only these.
    limit : int, optional
        At most so many a workload.

    Raises
    ------
    InvalidInputError
        If a row is none of these, an id is there twice, or nothing is left.
    """
    from runtime.importers.prompts import read_prompt_file

    _check_limit(limit)
    prompts = read_prompt_file(path).prompts
    chosen = _chosen(workloads, sorted({prompt.workload for prompt in prompts}), f"`{path}`")
    rows = ((p.id, p.workload, (p.messages, p.tools) if p.messages else p.text, p.source) for p in prompts)
    return _encoded(rows, chosen, tokenizer, limit)


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


def public_prompts(
    split: str | None, tokenizer: Any, workloads: Sequence[str] | None = None, limit: int | None = None
) -> list[PromptTokens]:
    """Prompts of public sets that ship with the package, as the tokenizer's chat template makes them.

    Parameters
    ----------
    split : {"fit", "test", None}
    workloads : sequence of str, optional
        Of ``"chat"``, ``"code"``, ``"math"``, ``"qa"``, ``"rag"``, ``"summarization"`` and ``"translation"``.
    limit : int, optional
        At most so many a workload.
    """
    with gzip.open(PUBLIC, "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if split in (None, row["split"])]
    chosen = _chosen(workloads, sorted({row["workload"] for row in rows}), "the public prompts")
    told = ((row["id"], row["workload"], (row["messages"],), row["source"]) for row in rows)
    return _encoded(told, chosen, tokenizer, limit)


def _chosen(wanted: Sequence[str] | None, known: Sequence[str], where: str) -> Sequence[str]:
    unknown = sorted(set(wanted or ()) - set(known))
    require(
        not unknown,
        f"`workload` must be one of those in {where}",
        got=f"{unknown}; there are {list(known)}",
        fix="Choose among these.",
    )
    return wanted or known


def _check_limit(limit: int | None) -> None:
    require(limit is None or limit >= 1, "`limit` must be >= 1", got=limit, fix="Leave it out for every prompt.")


def _encoded(
    rows: Iterable[tuple[str, str, Any, str]], workloads: Sequence[str], tokenizer: Any, limit: int | None
) -> list[PromptTokens]:
    _check_limit(limit)
    kept: list[PromptTokens] = []
    taken: Counter[str] = Counter()
    for name, workload, told, source in rows:
        if workload not in workloads or (limit is not None and taken[workload] >= limit):
            continue
        taken[workload] += 1
        tokens = encode_text(tokenizer, told) if isinstance(told, str) else encode_chat(tokenizer, *told)
        kept.append(PromptTokens(name, workload, tokens, source))
    require(bool(kept), "there must be at least one prompt", got="none", fix="Give a file with prompts, or a workload.")
    return kept
