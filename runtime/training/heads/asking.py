"""Questions for a target to answer, beside those of the public sets: functions and prose of the standard library.

The sources and documentation that come with Python are there on every machine, and openly licensed.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.training.house.corpus import documents

__all__ = ["library_edits", "library_questions"]

LONGEST, SHORTEST = 1400, 120
"""Characters of the text that a question quotes."""
EDITS = (
    "Rewrite this Python function with better names.\n```python\n{whole}\n```",
    "Add comments to this Python function.\n```python\n{whole}\n```",
)
ABOUT_CODE = (
    "Complete this Python function. Answer with the whole function.\n```python\n{stub}\n```",
    "Explain what this Python function does.\n```python\n{whole}\n```",
    *EDITS,
)
ABOUT_PROSE = (
    "Summarize: {text}",
    "Rewrite the following text in simpler words:\n\n{text}",
    "{text}\n\nWhat are the main points of this text? Quote it where you can.",
)


def library_questions(count: int, seed: int = 0, root: Path | None = None) -> list[str]:
    """Up to `count` questions, two thirds of them about code; the same on every machine with the same Python."""
    rng = np.random.default_rng(seed)
    root = root or Path(sysconfig.get_path("stdlib"))
    texts = [one for one in documents(root) if one.part == "train"]
    codes = [pair for one in texts if one.kind == "source" for pair in _functions(one.text)]
    prose = [part for one in texts if one.kind == "prose" for part in _passages(one.text)]
    asked: list[str] = []
    for number in range(count):
        if number % 3 < 2 and codes:
            stub, whole = codes[int(rng.integers(len(codes)))]
            asked.append(ABOUT_CODE[int(rng.integers(len(ABOUT_CODE)))].format(stub=stub, whole=whole))
        elif prose:
            text = prose[int(rng.integers(len(prose)))]
            asked.append(ABOUT_PROSE[int(rng.integers(len(ABOUT_PROSE)))].format(text=text))
    return asked


def library_edits(count: int, root: Path | None = None) -> list[tuple[str, str]]:
    """Up to `count` edits of functions that no question above is about, each after its file; one of a file."""
    root = root or Path(sysconfig.get_path("stdlib"))
    held = [one for one in documents(root) if one.part != "train" and one.kind == "source"]
    first = [(one.name, next(_functions(one.text), None)) for one in held]
    found = [(name, pair[1]) for name, pair in first if pair is not None]
    return [(name, EDITS[n % len(EDITS)].format(whole=whole)) for n, (name, whole) in enumerate(found[:count])]


def _functions(source: str) -> Iterator[tuple[str, str]]:
    """Functions with a docstring: up to its end, and whole."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            whole = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            stub = "\n".join(lines[node.lineno - 1 : node.body[0].end_lineno])
            if SHORTEST <= len(whole) <= LONGEST:
                yield stub, whole


def _passages(text: str) -> Iterator[str]:
    passage = ""
    for paragraph in text.split("\n\n"):
        passage = f"{passage}\n\n{paragraph}".strip()
        if len(passage) >= LONGEST // 2:
            yield passage[:LONGEST]
            passage = ""
