"""A name in `__all__` has a user outside its module: nothing is offered that nobody takes.

Users are other modules of the product, benchmarks, notebooks, README and docs; a registry is the user of what is
registered, and a public function is that of the types in its signature. `reader_theory` is a library of theory: there a
proof is a user too.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

from proofs_tests.house.test_house_rules import HOUSE, PACKAGES, parsed, sources

DOCUMENTS = ("*.md", "docs/**/*.md", "notebooks/*.ipynb", "notebooks/*.md")
FOR_THE_PUBLIC = {
    "check_solver": "the battery that a user runs on a solver of theirs",
    "check_drafter": "the battery that a user runs on a drafter of theirs",
    "BatteryError": "what the battery raises",
    "random_problem": "instances for the battery",
    "TableModel": "a model whose laws are known exactly: what proofs run the engine on",
    "load_parallel": "ranks of a tensor-parallel target, started by torchrun",
    "datastore_bytes": "how large a datastore will be, before it is built",
    "reserved_kv_slots": "what SGLang sets aside, for memory plans by hand",
    "growmap_of": "foreign trees, by hand",
    "growmap_tensors": "foreign trees, by hand",
    "tree_of_growmap": "foreign trees, by hand",
    "tree_of_choices": "foreign trees, by hand",
    "linear_bound": "an upper bound for problems that no solver takes",
    "schedule_problem": "the problem behind a schedule, for other solvers",
    "Replan": "what a monitor calls",
    "DriftMonitor": "what an engine is given as its monitor",
    "calibrate_bench": "calibration on a bench of one's own, such as a virtual one",
    "PROCESSORS": "where law processors are registered from outside",
    "PACKAGED": "models that `reader fetch` knows",
}
"""Offered to users of the library, with the reason."""


@cache
def texts() -> dict[Path, str]:
    code = [*sources(*PACKAGES, "proofs_tests"), *(HOUSE / "notebooks").glob("*.py")]
    return {p: p.read_text() for p in [*code, *(p for glob in DOCUMENTS for p in HOUSE.glob(glob))]}


@cache
def words_of(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", texts()[path]))


def exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def used_within(tree: ast.Module) -> set[str]:
    """Names that are registered, and those in the signatures and fields of what is public."""
    found: set[str] = set()
    for node in ast.walk(tree):
        marks = node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
        found |= {node.name for each in marks if "register" in ast.unparse(each)}  # type: ignore[union-attr]
        said: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
            said = [node.returns, *(each.annotation for each in every if each is not None)]
        elif isinstance(node, ast.AnnAssign):
            said = [node.annotation]
        elif isinstance(node, ast.ClassDef):
            said = [*node.bases]
        found |= {word for each in said if each is not None for word in re.findall(r"\w+", ast.unparse(each))}
    return found


@cache
def readers(proofs_count: bool) -> Counter[str]:
    """In how many files each word stands; proofs among them or not."""
    proofs = HOUSE / "proofs_tests"
    counted = [
        path
        for path in texts()
        if path != Path(__file__)
        and path.name != "__init__.py"
        and (proofs_count or not path.is_relative_to(proofs) or path.is_relative_to(proofs / "benchmarks"))
    ]
    return Counter(word for path in counted for word in words_of(path))


def unused(path: Path) -> list[str]:
    tree = parsed(path)
    found = readers(path.is_relative_to(HOUSE / "reader_theory"))
    known = used_within(tree) | FOR_THE_PUBLIC.keys()
    own = int(path.name != "__init__.py")
    return [name for name in exported(tree) if name not in known and found[name] <= own]


def test_every_exported_name_has_a_user() -> None:
    idle = {str(path.relative_to(HOUSE)): unused(path) for path in sources(*PACKAGES)}
    assert {path: names for path, names in idle.items() if names} == {}, "use it, or take it out"


def test_what_is_offered_to_the_public_is_exported() -> None:
    offered = {name for path in sources(*PACKAGES) for name in exported(parsed(path))}
    assert FOR_THE_PUBLIC.keys() <= offered
