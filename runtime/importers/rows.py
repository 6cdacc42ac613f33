"""Rows of what people have on disk: JSON and JSON lines, plain text, tables, compressed or not, or a folder of them.

What a file is, is told by its content: compression, encoding and kind are looked for in the bytes; the name decides
only between text and JSON that does not parse.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader_theory.errors import InvalidInputError, require

__all__ = ["Row", "csv_rows", "json_values", "read_rows", "read_text"]

_UNPACK: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"1AY&SY": ("bzip2", bz2.decompress),  # after four bytes of its own
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
}
_PACKED = {b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"PK\x03\x04": ("zip", "unzip"), b"7z\xbc\xaf": ("7z", "7z x")}
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TABLES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
_ROWS = (".jsonl", ".ndjson", ".json", ".txt")
_WRAPPERS = ("data", "rows", "items", "prompts", "examples", "instances", "questions", "train", "validation", "test")
_SHARD = re.compile(r"[-_.]?\d{2,}(-of-\d+)?$")


@dataclass(frozen=True)
class Row:
    """A value of a file, and where it stands, for error messages."""

    where: str
    number: int
    value: Any


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a file, or of the files of a folder; none of an empty one.

    Raises
    ------
    InvalidInputError
        If there is nothing at `path`, or what is there cannot be read as rows; the message says where it stops.
    """
    path = Path(path)
    require(
        _is_there(path),
        "the file must exist",
        got=f"`{path}`, which is not a file",
        fix="Check the path.",
        error=InvalidInputError,
    )
    return list(_of_folder(path) if path.is_dir() else _of_file(path))


def read_text(path: str | Path) -> str:
    """Text of a file, compressed or not, in UTF-8, or in what its byte order mark says.

    Raises
    ------
    InvalidInputError
        If it is no such text; the message names the first byte that is none, and how to convert it.
    """
    path = Path(path)
    require(
        _is_there(path) and path.is_file(), "the file must exist", got=f"`{str(path)[:120]}`, which is not a file",
        fix="Check the path.",
        error=InvalidInputError,
    )  # fmt: skip
    return _text(path, _bytes(path))


def json_values(name: str, text: str) -> list[Row] | None:
    """Values of a JSON document or of JSON lines; None where neither the whole nor the first line is JSON.

    Raises
    ------
    InvalidInputError
        If the first line is JSON and another is not.
    """
    whole = _parsed(text)
    if whole is not None:
        return list(_items(name, whole[0]))
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines or not isinstance((_parsed(lines[0][1]) or (None,))[0], dict | list | str):
        return None
    return [Row(f"line {number} of `{name}`", number, _line(name, number, line)) for number, line in lines]


def csv_rows(name: str, text: str, delimiter: str = ",") -> list[Row]:
    """Rows of a table of text under a head, without what is empty.

    Raises
    ------
    InvalidInputError
        If it is no such table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InvalidInputError(
            f"`{name}` must be a table of text", got=str(error), fix="Copy or download it again."
        ) from None
    filled = [{k: v for k, v in row.items() if k is not None and v} for row in rows]
    return [Row(f"row {number} of `{name}`", number, row) for number, row in enumerate(filled, 1)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null
        return False


def _of_folder(folder: Path) -> Iterator[Row]:
    """Rows of a data set as Hugging Face saves or ships it, or of a folder of files of rows."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not _hidden(p, folder) and _kind(p) in _known()]
    tables = [p for p in found if _kind(p) in _TABLES]
    files = tables or [p for p in found if _kind(p) != ".txt" and not _is_about(p)] or found
    require(
        bool(files),
        "the folder must hold a data set",
        got=f"no {', '.join((*_TABLES, *_ROWS))} in `{folder}`",
        fix="Pass a folder as `save_to_disk` writes it or the hub ships it, or a file of rows.",
        error=InvalidInputError,
    )
    if all(_kind(p) == ".txt" for p in files):
        yield from (Row(f"`{p.name}`", n, {"text": read_text(p), "id": p.stem, "source": p.stem})
                    for n, p in enumerate(files, 1))  # fmt: skip
        return
    splits = sorted({str(p.parent.relative_to(folder) / _SHARD.sub("", p.name.split(".")[0])) for p in files})
    require(
        len(splits) == 1,
        "the folder must hold one split of one data set",
        got=f"{len(splits)}: {splits[:12]}",
        fix="Pass the folder or the file of one of them.",
        error=InvalidInputError,
    )
    for path in files:
        yield from _of_file(path)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "cache-")) for part in path.relative_to(folder).parts)


def _is_about(path: Path) -> bool:
    return path.name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def _known() -> tuple[str, ...]:
    return (*_TABLES, *_ROWS)


def _kind(path: Path) -> str:
    """Last suffix but for that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bz2", ".xz")]
    return suffixes[-1] if suffixes else ""


def _of_file(path: Path) -> Iterator[Row]:
    content = _bytes(path)
    if content[:4] == b"PAR1" or content[:6] == b"ARROW1" or _kind(path) in (".parquet", ".arrow", ".feather"):
        yield from _of_table(path, content)
        return
    text = _text(path, content)
    if _kind(path) in (".csv", ".tsv"):
        yield from csv_rows(path.name, text, "\t" if _kind(path) == ".tsv" else ",")
        return
    if not text.strip():
        return
    values = json_values(path.name, text)
    if values is not None:
        yield from values
        return
    looks = _kind(path) in (".jsonl", ".ndjson", ".json") or (_kind(path) != ".txt" and text.lstrip()[:1] in ("{", "["))
    if looks:
        _refuse_json(path.name, text)
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Row(f"line {number} of `{path.name}`", number, line.removesuffix("\r"))


def _of_table(path: Path, content: bytes) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if content[:4] == b"PAR1":
            table = parquet.read_table(pa.BufferReader(content))
        elif content[:6] == b"ARROW1":
            table = ipc.open_file(pa.BufferReader(content)).read_all()
        else:
            table = ipc.open_stream(pa.BufferReader(content)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(
            f"`{path.name}` must be a whole table",
            got=str(error).splitlines()[0][:200],
            fix="Copy or download it again.",
        ) from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield Row(f"row {number} of `{path.name}`", number, _without_nulls(row))


def _without_nulls(value: Any) -> Any:
    """A table gives every row every field; those that a row has not are null, nested ones too."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    for magic, (name, tool) in _PACKED.items():
        require(
            not content.startswith(magic),
            "the file must be unpacked, or packed by gzip, bzip2 or xz",
            got=f"`{path.name}`, which is {name}",
            fix=f"Unpack it first: {tool} {path.name}",
        )
    for magic, (name, unpack) in _UNPACK.items():
        if content.startswith(magic) or (name == "bzip2" and content.startswith(b"BZh") and content[4:10] == magic):
            try:
                return unpack(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise InvalidInputError(
                    f"`{path.name}` must be a whole {name} file", got=str(error), fix="Copy or download it again."
                ) from None
    return content


def _text(path: Path, content: bytes) -> str:
    encoding = next((name for bom, name in _BOMS.items() if content.startswith(bom)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"`{path.name}` must be UTF-8 text",
            got=f"byte {content[error.start]:#04x} at offset {error.start}",
            fix=f"Convert it, for example from Latin-1: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}",
        ) from None


def _items(name: str, value: Any) -> Iterator[Row]:
    """Items of an array; of an object that only wraps one array of rows, that array's; else the value itself."""
    if isinstance(value, dict):
        inner = next(iter(value.values())) if len(value) == 1 and next(iter(value)) in _WRAPPERS else None
        value = inner if isinstance(inner, list) else [value]
    for number, each in enumerate(value if isinstance(value, list) else [value], 1):
        yield Row(f"item {number} of `{name}`", number, each)


def _parsed(text: str) -> tuple[Any] | None:
    """The value, in a tuple so that null is told from no JSON; None for that."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (_mended(value) if "\\ud" in text or "\\uD" in text else value,)


def _mended(value: Any) -> Any:
    """The same with what is half of a character, which no encoding has, replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(each) for key, each in value.items()}
    return [_mended(each) for each in value] if isinstance(value, list) else value


def _line(name: str, number: int, line: str) -> Any:
    found = _parsed(line)
    if found is None:
        raise InvalidInputError(
            f"`{name}` must be JSON in every line",
            got=f"{_complaint(line)} in line {number}: {line[:60]!r}",
            fix="Pass a whole file.",
        )
    return found[0]


def _refuse_json(name: str, text: str) -> None:
    """Say where JSON stops: in its first line where the file is of lines, else where the whole does."""
    raise InvalidInputError(
        f"`{name}` must be JSON, or JSON in every line",
        got=_complaint(text),
        fix="Pass a whole file; plain text, a prompt a line, ends in .txt.",
    )


def _complaint(text: str) -> str:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    except RecursionError:
        return "values nested too deeply"
    except ValueError as error:
        return str(error).split(";")[0]
    return "no value"
