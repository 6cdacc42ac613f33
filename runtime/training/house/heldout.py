"""Held-out texts for the prompts: the part of the corpus that no training saw, and for prose some files left out.

IDLE's documentation strings, its notes and its help page, and Python's licence, are in the standard library's folder
too, but the corpus holds none of them; they widen the little prose of the held-out part.
"""

import ast
import json
import re
import sysconfig
from html import unescape
from pathlib import Path

from runtime.training.house.corpus import Kind, docstrings

NOTES = ("idlelib/*.txt", "idlelib/idle_test/README.txt", "LICENSE.txt", "email/architecture.rst")


def heldout_texts(work: Path, kind: Kind) -> dict[str, str]:
    """Text by file name; ``work`` is the folder that ``prepare`` wrote."""
    texts: dict[str, str] = {}
    with (work / "heldout.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["kind"] == kind:
                texts[row["name"]] = row["text"]
    if kind == "prose":
        texts |= _left_out_whole(Path(sysconfig.get_path("stdlib")))
    first = {text: name for name, text in reversed(texts.items())}  # a topic of the reference can have two names
    return {name: text for name, text in texts.items() if first[text] == name}


def _left_out_whole(root: Path) -> dict[str, str]:
    texts = {path.relative_to(root).as_posix(): _text(path) for note in NOTES for path in root.glob(note)}
    for path in sorted(root.glob("idlelib/**/*.py")):
        texts[path.relative_to(root).as_posix()] = "\n\n".join(docstrings(ast.parse(_text(path))))
    help_page = root / "idlelib/help.html"
    if help_page.exists():
        texts["idlelib/help.html"] = _without_tags(_text(help_page))
    return {name: text for name, text in texts.items() if text}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _without_tags(page: str) -> str:
    body = re.sub(r"<(script|style|head)\b.*?</\1>", "", page, flags=re.DOTALL)
    lines = (line.strip() for line in unescape(re.sub(r"<[^>]+>", "", body)).replace("¶", "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
