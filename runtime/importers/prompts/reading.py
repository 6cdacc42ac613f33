"""Prompts of a file or a folder, whatever it is: its first row tells the format, and every row must be of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reader_theory.errors import require
from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, PromptFormat, distinct, refused
from runtime.importers.rows import Row, read_rows
from runtime.models.text import join_messages

__all__ = ["PromptFile", "read_prompt_file"]


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts held.

    Parameters
    ----------
    format : str
        Name of the format that its rows are of.
    prompts : list of ImportedPrompt
        In the file's order, with ids that are there once.
    rows : int
        Rows that were read.
    left_out : dict of str to int
        Rows that hold no prompt, by why.
    """

    format: str
    prompts: list[ImportedPrompt]
    rows: int
    left_out: dict[str, int]


def read_prompt_file(
    path: str | Path,
    *,
    format: str | None = None,
    field: str | None = None,
    workload: str | None = None,
    turns: int = 1,
    limit: int | None = None,
    plain: bool = False,
) -> PromptFile:
    """Prompts of a file or folder in any format that is known.

    Parameters
    ----------
    path : path
        JSON, JSON lines, plain text, CSV, Parquet or Arrow, compressed by gzip, bzip2 or xz or not; or a folder of
        them, such as a data set of Hugging Face.
    format : str, optional
        Name in `PROMPT_FORMATS`; told by the first row when left out.
    field : str, optional
        Take the text in this field of each row instead.
    workload : str, optional
        File every prompt under this one; else under what its row says, or what its format is an example of.
    turns : int
        Prompts taken of each conversation, from its first answer on.
    limit : int, optional
        Prompts taken in all.
    plain : bool
        Join messages as text, for base models that know no roles though their tokenizer has a chat template.

    Raises
    ------
    InvalidInputError
        If no format fits, a row is not of the format of the first, or there is no prompt in any.
    """
    rows = read_rows(path)
    require(bool(rows), "the file must hold at least one prompt", got=f"an empty `{path}`", fix="Give it rows.")
    reader = _by_field(field) if field is not None else _reader(rows[0], format, turns)
    prompts: list[ImportedPrompt] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        if limit is not None and len(prompts) >= limit:
            break
        if not reader.matches(row.value):
            raise refused(row.where, f"every row must have {reader.keys}, as the first has", row.value, _FIX)
        try:
            prompts += reader.read(row.value, _name(path, row))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    require(
        bool(prompts),
        "the file must hold a prompt",
        got=f"none in {len(rows)} row(s) of `{Path(path).name}`: {dict(left_out)}",
        fix="Pass a file with questions in it.",
    )
    if reader.name == "text":
        _check_ids(path, prompts)
    default = reader.workload
    chosen = [replace(p, workload=workload or p.workload or default) for p in prompts[:limit]]
    if plain:
        chosen = [replace(p, text=p.text or join_messages(p.messages), messages=(), tools=()) for p in chosen]
    return PromptFile(reader.name, distinct(chosen), len(rows), dict(left_out))


_FIX = (
    "Split the file by format, or pass --field with the field that holds the prompt's text. "
    "Known formats: reader import --help."
)


def _reader(first: Row, format: str | None, turns: int) -> PromptFormat:
    if format is not None:
        reader = PROMPT_FORMATS[format](turns=turns)
        if not reader.matches(first.value):
            raise refused(first.where, f"rows of {format!r} must have {reader.keys}", first.value, _FIX)
        return reader
    for kind in PROMPT_FORMATS:
        if (reader := kind(turns=turns)).matches(first.value):
            return reader
    known = "; ".join(f"{kind.name}: {kind.keys}" for kind in PROMPT_FORMATS)
    raise refused(first.where, "rows must be of a format that is known", first.value, f"{_FIX} ({known})")


def _check_ids(path: str | Path, prompts: list[ImportedPrompt]) -> None:
    """Ids of a user's own rows are theirs: none is renamed."""
    twice = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    require(
        not twice, f"every `id` of `{path}` must be there once", got=f"twice or more: {twice[:5]}", fix="Rename them."
    )


def _by_field(field: str) -> PromptFormat:
    class Field(PromptFormat):
        name = f"field {field}"
        keys = f"the field {field!r} with text"

        def matches(self, row: Any) -> bool:
            return isinstance(row, dict) and isinstance(row.get(field), str)

        def read(self, row: Any, name: str) -> list[ImportedPrompt]:
            if not row[field].strip():
                raise LeftOut(f"an empty {field!r}")
            return [ImportedPrompt(str(row.get("id", name)), str(row.get("workload") or ""), text=row[field])]

    return Field()


def _name(path: str | Path, row: Row) -> str:
    """The id of a row that has none: the file's name and the row's number."""
    return f"{Path(path).name.split('.')[0] or 'prompt'}-{row.number:03d}"
