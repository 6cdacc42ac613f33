"""The rules of the house, read off its own source: which way imports flow, what loads when, what is documented."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import reader_theory
from reader_theory.documents.base import Document
from reader_theory.documents.schemas import SCHEMAS, document_kinds, json_schema, write_schemas

HOUSE = Path(reader_theory.__file__).parents[1]
PACKAGES = ("reader_theory", "optimizer", "runtime")
HEAVY = ("torch", "transformers", "cupy", "cvxpy", "matplotlib", "distributed", "networkx", "simpy", "pandas")
# What a module may import where it is read from top to bottom; anything else waits inside a function.
AT_THE_TOP = {"reader_theory": {"numpy", "scipy", "pydantic", "numba"}}
AT_THE_TOP["optimizer"] = AT_THE_TOP["reader_theory"] | {"joblib"}


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (HOUSE / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax of a file; whoever changes it takes a copy."""
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(full module name, line) of every import below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield str(node.module), node.lineno


def allowed(path: Path) -> set[str]:
    """Packages of the house that the module at `path` may import."""
    package, *rooms = path.relative_to(HOUSE).parts
    if package == "runtime" and rooms[0] == "cli":
        return set(PACKAGES)
    return {package, "reader_theory"}


def wrong_way(path: Path, text: str) -> list[str]:
    found = [(name.split(".")[0], line) for name, line in imports(ast.parse(text))]
    return [f"line {line}: {name}" for name, line in found if name in PACKAGES and name not in allowed(path)]


def at_the_top(text: str) -> set[str]:
    """Third-party packages that a module imports as soon as it is imported itself."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        later = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if later or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    names = {name.split(".")[0] for name, _ in imports(tree)}
    return names - set(sys.stdlib_module_names) - set(PACKAGES)


def test_imports_flow_one_way() -> None:
    broken = {module_name(path): wrong_way(path, path.read_text()) for path in sources(*PACKAGES)}
    assert {name: lines for name, lines in broken.items() if lines} == {}


def test_an_import_against_the_stream_is_caught() -> None:
    assert wrong_way(HOUSE / "optimizer/solving.py", "from runtime.engine.engine import Engine")
    assert wrong_way(HOUSE / "runtime/engine/engine.py", "def f():\n    import optimizer.solving")
    assert wrong_way(HOUSE / "reader_theory/estimate.py", "import optimizer")
    assert not wrong_way(HOUSE / "runtime/cli/plan.py", "import optimizer.solving")


def test_heavy_libraries_wait_inside_functions() -> None:
    for package, light in AT_THE_TOP.items():
        heavy = {module_name(path): at_the_top(path.read_text()) - light for path in sources(package)}
        assert {name: libraries for name, libraries in heavy.items() if libraries} == {}


def test_a_heavy_import_at_the_top_is_caught() -> None:
    assert at_the_top("class A:\n    import torch") == {"torch"}
    assert at_the_top("def f():\n    import torch") == set()
    assert at_the_top("if TYPE_CHECKING:\n    import torch") == set()


@pytest.mark.parametrize("module", [*PACKAGES, "runtime.cli.main"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    if module.count(".") and not (HOUSE / (module.replace(".", "/") + ".py")).is_file():
        pytest.skip(f"{module} does not exist")
    look = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_in_all_exists() -> None:
    absent: dict[str, list[str]] = {}
    for path in sources(*PACKAGES):
        name = module_name(path)
        installed = all(find_spec(library) is not None for library in at_the_top(path.read_text()))
        if name.endswith("__main__") or not installed:
            continue
        module = import_module(name)
        absent[name] = [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)]
    assert {name: missing for name, missing in absent.items() if missing} == {}


def uses(text: str, modules: set[str]) -> set[str]:
    """Modules of the house that a module imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & modules


def circles(texts: dict[str, str]) -> list[list[str]]:
    """Sets of modules that import one another; a package's own `__init__` does not count against what lies in it."""
    import networkx as nx

    graph: Any = nx.DiGraph()
    for name, text in texts.items():
        graph.add_edges_from((name, other) for other in uses(text, set(texts)) if not name.startswith(f"{other}."))
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({module_name(path): path.read_text() for path in sources(*PACKAGES)}) == []


def test_a_circle_is_caught() -> None:
    assert circles({"a": "import b", "b": "def f():\n    from c import x", "c": "import a"}) == [["a", "b", "c"]]
    assert circles({"a": "import b", "b": "import c", "c": ""}) == []


def undocumented(text: str) -> list[str]:
    """Public functions and classes at the top of a module, and public methods, without a docstring."""
    top = ast.parse(text).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in top if isinstance(node, kinds) and not node.name.startswith("_")]
    return [node.name for node in public if not ast.get_docstring(node)]


def test_every_public_name_is_documented() -> None:
    bare: dict[str, list[str]] = {}
    for path in sources("reader_theory", "optimizer"):
        text = path.read_text()
        silent = bool(text.strip()) and not ast.get_docstring(ast.parse(text))
        bare[module_name(path)] = undocumented(text) + ["the module itself"] * silent
    assert {name: missing for name, missing in bare.items() if missing} == {}


def subclasses(kind: type[Document]) -> set[type[Document]]:
    return {kind} | {deeper for child in kind.__subclasses__() for deeper in subclasses(child)}


def test_every_document_has_a_schema() -> None:
    for path in sources("reader_theory", "optimizer"):
        import_module(module_name(path))
    in_the_house = {kind for kind in subclasses(Document) if kind.__module__.startswith(PACKAGES)} - {Document}
    assert in_the_house == set(document_kinds().values()), "list the document in documents/schemas.py"


def test_shipped_schemas_are_those_of_the_documents(tmp_path: Path) -> None:
    fresh = {path.name: json.loads(path.read_text()) for path in write_schemas(tmp_path)}
    shipped = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    assert shipped == fresh, "run `python -m reader_theory.documents.schemas`"


@pytest.mark.parametrize("kind", sorted(document_kinds()))
def test_schema_is_a_valid_schema_of_its_kind(kind: str) -> None:
    schema = json_schema(document_kinds()[kind])
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["kind"]["const"] == kind
    assert schema["additionalProperties"] is False


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def test_every_dependency_has_a_tested_version() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    lines = [line for line in (HOUSE / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert {canonical(each) for each in wanted} <= {canonical(line) for line in lines}


def test_import_packages_ship_their_data() -> None:
    data = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for package, globs in data.items() for each in globs for path in (HOUSE / package).glob(each)}
    suffixes = {".json", ".toml", ".cu", ".safetensors"}
    there = {path for package in PACKAGES for path in (HOUSE / package).rglob("*") if path.suffix in suffixes}
    assert there <= shipped
