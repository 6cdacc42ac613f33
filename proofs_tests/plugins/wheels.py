"""What engines call, read from their own wheels where they are installed (`make engines`), without importing them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import reader_theory

HOUSE = Path(reader_theory.__file__).parents[1]
ENGINES = HOUSE / ".venv-engines"


def source(path: str) -> ast.Module:
    """The module at `path` of the engines' site-packages; skips aloud where it is not there."""
    found = sorted(ENGINES.glob(f"lib/python*/site-packages/{path}"))
    if not found:
        pytest.skip(f"needs `make engines`: no {path} in {ENGINES.name}")
    return ast.parse(found[0].read_text("utf-8"))


def named(tree: ast.AST, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The class or function of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise AssertionError(f"the wheel has no {name} any more")


def calls(tree: ast.AST, method: str) -> list[ast.Call]:
    """Calls of a method of that name."""
    return [
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]  # fmt: skip


def fields(node: ast.AST) -> set[str]:
    """Annotated names and methods of a class."""
    held: set[str] = set()
    for part in getattr(node, "body", []):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            held.add(part.target.id)
        elif isinstance(part, ast.FunctionDef):
            held.add(part.name)
    return held


def executed(nodes: list[ast.stmt], names: dict[str, object]) -> dict[str, object]:
    """What these statements define, run with `names` known to them."""
    future = ast.parse("from __future__ import annotations").body
    space = dict(names)
    exec(compile(ast.fix_missing_locations(ast.Module(future + nodes, [])), "wheel", "exec"), space)
    return space
