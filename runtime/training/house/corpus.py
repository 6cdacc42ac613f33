"""Corpus: openly licensed text found with Python itself.

The standard library's sources, their documentation strings, and the language reference that ``help()`` shows. Every
file falls in one of three parts by the hash of its name, so that the parts are the same on every machine.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "validation", "heldout"]
Kind = Literal["source", "prose"]

# Tables, generated code and files that are broken on purpose teach nothing about code.
LEFT_OUT = ("site-packages", "encodings", "idlelib", "lib2to3/tests", "config-", "__phello__", "test/test_lib2to3")
LARGEST_FILE_BYTES = 500_000
LARGEST_SHARE_OF_DIGITS = 0.15
SHORTEST_DOCSTRING = 120
TOPICS = "pydoc_data/topics.py"
# Upper bounds, in thousandths, of the validation and held-out parts; the small reference gives more to the prompts.
VALIDATION_UNTIL, HELDOUT_UNTIL = 20, {"source": 80, "topics": 250}


@dataclass(frozen=True)
class Document:
    """One text of the corpus.

    Attributes
    ----------
    name
        File name within the standard library; a topic of the reference is ``pydoc_data/topics.py#topic``.
    kind
        ``"source"`` for code, ``"prose"`` for documentation.
    part
        Which part the file belongs to.
    text
        The text itself.
    """

    name: str
    kind: Kind
    part: Part
    text: str


def part_of(name: str) -> Part:
    """Part a file falls in, from the hash of its name alone."""
    lot = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 1000
    if lot < VALIDATION_UNTIL:
        return "validation"
    return "heldout" if lot < HELDOUT_UNTIL["topics" if name.startswith(TOPICS) else "source"] else "train"


def documents(root: Path | None = None) -> list[Document]:
    """Whole corpus in a fixed order; ``root`` is the standard library's folder (default: this interpreter's)."""
    folder = root or Path(sysconfig.get_path("stdlib"))
    found: list[Document] = []
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if not any(part in name for part in LEFT_OUT):
            found.extend(_documents_of(name, path))
    return found


def _documents_of(name: str, path: Path) -> Iterator[Document]:
    if name == TOPICS:
        yield from _topics(path)
        return
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if not 64 < len(text) < LARGEST_FILE_BYTES or sum(map(str.isdigit, text)) > LARGEST_SHARE_OF_DIGITS * len(text):
        return
    part = part_of(name)
    yield Document(name, "source", part, text)
    prose = docstrings(tree)
    if prose:
        yield Document(name, "prose", part, "\n\n".join(prose) + "\n")


def docstrings(tree: ast.Module) -> list[str]:
    """Documentation strings of a module that are long enough to be prose, dedented, in order."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and len(text) >= SHORTEST_DOCSTRING:
                found.append(inspect.cleandoc(text))
    return found


def _topics(path: Path) -> Iterator[Document]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict))
    for key, value in ast.literal_eval(table).items():
        name = f"{TOPICS}#{key}"
        yield Document(name, "prose", part_of(name), value)
