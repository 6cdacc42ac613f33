"""What every document has: kind, version, stamp of how it was made; frozen, validated, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reader_theory.errors import DocumentError, require
from reader_theory.json_files import load_object

__all__ = ["Document", "Frozen", "Stamp", "read_document", "write_atomically"]

_STAMPED = ("reader-theory", "numpy", "scipy", "torch", "transformers")


class Frozen(BaseModel):
    """Base of every part of a document: frozen, and closed to fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __eq__(self, other: object) -> bool:
        """Same type and same fields; columns and caches follow from the fields and are left out."""
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)


class Stamp(Frozen):
    """How a document was made."""

    made_at: str = Field(description="UTC time, ISO 8601")
    machine: str = Field(description="processor or card, as the system names it")
    cores: int
    python: str
    versions: dict[str, str]
    seed: int | None = None
    commit: str | None = Field(default=None, description="of this package's own repository, where it runs from one")

    @classmethod
    def now(cls, *, seed: int | None = None, machine: str | None = None) -> Stamp:
        """A stamp of this process on this machine."""
        return cls(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine or _processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            python=platform.python_version(),
            versions={name: found for name in _STAMPED if (found := _installed(name))},
            seed=seed,
            commit=_commit(),
        )


class Document(Frozen):
    """A frozen, versioned document; subclasses set `kind` and `schema_version` and add fields."""

    kind: Any  # each document narrows it to its own literal
    schema_version: int
    stamp: Stamp

    newest: ClassVar[int] = 1
    oldest: ClassVar[int] = 1
    """Versions that `read` takes; an older document is made again by the command `made_by`."""
    made_by: ClassVar[str] = "reader"

    def write(self, path: str | Path) -> Path:
        """Write the document to `path` as JSON, whole or not at all, and return the path."""
        return write_atomically(Path(path), (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a document of this kind from `path`.

        Raises
        ------
        DocumentError
            If the file is missing, truncated, of another kind, newer or older than this version reads, or
            damaged; the message names the field.
        """
        raw = load_object(Path(path), "the document")
        kind = cls.model_fields["kind"].default
        require(
            raw.get("kind") == kind,
            f"`{path}` must be a document of kind {kind!r}",
            got=f"kind {raw.get('kind')!r}",
            fix=f"Pass the file that `reader` wrote as {kind!r}; a document keeps its kind when it is renamed.",
            error=DocumentError,
        )
        found = raw.get("schema_version")
        require(
            type(found) is int and cls.oldest <= found <= cls.newest,
            f"`schema_version` of `{path}` must be between {cls.oldest} and {cls.newest}",
            got=f"schema_version {found!r}",
            fix=f"Upgrade reader-theory to read a newer document; make an older one again by `{cls.made_by}`.",
            error=DocumentError,
        )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise _damaged(path, error) from None

    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the document's JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def read_document(path: str | Path, kinds: dict[str, type[Document]]) -> Document:
    """Read a document whose kind is one of `kinds`, whichever the file says."""
    kind = load_object(Path(path), "the document").get("kind")
    require(
        isinstance(kind, str) and kind in kinds,
        f"`{path}` must be a document of kind {', '.join(sorted(kinds))}",
        got=f"kind {kind!r}",
        fix="Pass a file that `reader` wrote.",
        error=DocumentError,
    )
    return kinds[str(kind)].read(path)


def write_atomically(path: Path, content: bytes | memoryview) -> Path:
    """Write `content` to a temporary file beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _damaged(path: str | Path, error: ValidationError) -> DocumentError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return DocumentError(
        f"field `{where}` of `{path}` must be valid",
        got=f"{first.get('input')!r:.200}: {first['msg']}{more}",
        fix="The file was damaged or edited by hand: correct the field or make the document again.",
    )


@lru_cache
def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache
def _commit() -> str | None:
    """Commit of this package's repository; None where the files around it are somebody else's."""
    house = Path(__file__).resolve().parents[2]
    project = house / "pyproject.toml"
    if not project.is_file() or not re.search(r'^name = "reader-theory"$', project.read_text("utf-8"), re.MULTILINE):
        return None
    where = _git(house, "rev-parse", "--show-toplevel")
    return _git(house, "rev-parse", "--short=12", "HEAD") if where and Path(where).resolve() == house else None


def _git(folder: Path, *words: str) -> str | None:
    """What git says in `folder`, whichever repository the process itself was started for."""
    free = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, env=free)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


@lru_cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
