"""Each idea has one place: held by what modules define and read, not by how long they are."""

from __future__ import annotations

import ast
from collections.abc import Callable

from proofs_tests.house.test_house_rules import HOUSE, PACKAGES, parsed, sources
from reader_theory.rules import RULES

AROUND = {"step_overhead_s", "plain_overhead_s", "plain_step_overhead_s", "growth_s", "growth_step_s"}
"""What a measured cost spends around its forwards: who reads two of these adds up a step."""
CHAIN_RULE = {"min_match", "offset", "factor", "max_tokens"}


def where(found: Callable[[ast.Module], bool]) -> set[str]:
    return {str(path.relative_to(HOUSE)) for path in sources(*PACKAGES) if found(parsed(path))}


def reads(tree: ast.AST, names: set[str]) -> set[str]:
    """Which of `names` are read as attributes."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & names


def fields(node: ast.ClassDef) -> set[str]:
    return {
        part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def methods(node: ast.ClassDef) -> set[str]:
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def listed_rules(tree: ast.Module) -> bool:
    """Whether a literal holds the names of three rules or more."""
    known = set(RULES.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict | ast.Tuple | ast.List | ast.Set):
            parts = node.keys if isinstance(node, ast.Dict) else node.elts
            if len({part.value for part in parts if isinstance(part, ast.Constant)} & known) >= 3:
                return True
    return False


def scales_rows(tree: ast.Module) -> bool:
    """Whether something is divided by the larger of its own sum and another number."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(
                left, ast.Div(), ast.Call(ast.Attribute(attr="maximum"), [ast.Call(ast.Attribute(whole, "sum")), _])
            ):
                if ast.dump(left) == ast.dump(whole):
                    return True
            case _:
                pass
    return False


def test_the_seconds_of_a_step_are_summed_in_one_place() -> None:
    summing = where(lambda tree: any(node.name == "StepModel" for node in classes(tree)))
    assert summing == {"reader_theory/cost/terms.py"}
    assert where(lambda tree: len(reads(tree, AROUND)) >= 2) <= {"reader_theory/documents/cost.py"}


def test_rules_are_listed_nowhere_but_in_their_registry() -> None:
    assert where(listed_rules) == set()


def test_laws_are_enumerated_in_one_place() -> None:
    choosing = where(lambda tree: any("choose" in methods(node) for node in classes(tree)))
    assert choosing == {"reader_theory/rules/exact.py"}


def test_a_policy_is_described_in_one_place() -> None:
    described = where(lambda tree: any(fields(node) >= CHAIN_RULE for node in classes(tree)))
    assert described == {"reader_theory/documents/policy.py"}


def test_acceptance_by_rank_and_depth_is_one_table() -> None:
    assert where(scales_rows) == {"reader_theory/acceptance/base.py"}
    tables = where(lambda tree: any({"is_monotone", "is_stationary"} & methods(node) for node in classes(tree)))
    assert tables == {"reader_theory/acceptance/rank_table.py"}


def test_rows_are_closed_up_in_one_place() -> None:
    """A row that leaves is filled by the last: lists by `compact`, a drafter's own state by its `move`.

    A cache that holds more takes its own along, and leaves the rest to `RowCache.move_row`.
    """

    def defines(tree: ast.Module) -> bool:
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "move_row"]
        return any("super().move_row(" not in ast.unparse(node) for node in found)

    assert {name for name in where(defines) if "kernels" not in name} == {"runtime/cache/rows.py"}
    filled = where(lambda tree: bool(reads(tree, {"move_row"})))
    held_more = {"runtime/drafters/head/cache.py", "runtime/cache/quantised/cache.py"}
    assert filled == {"runtime/engine/engine.py", "runtime/drafters/neural.py", *held_more}


def test_there_is_one_engine_and_one_tree() -> None:
    def named(*names: str) -> set[str]:
        return where(lambda tree: any(node.name in names for node in classes(tree)))

    assert named("Engine", "GraphEngine") == {"runtime/engine/engine.py"}
    assert named("TokenTree", "DraftTree", "DraftTrie") == {"reader_theory/trees/tree.py"}


def test_a_second_table_of_rules_is_caught() -> None:
    assert scales_rows(ast.parse("law = law / np.maximum(law.sum(axis=1, keepdims=True), 1.0)"))
    assert listed_rules(ast.parse("KNOWN = ('chain', 'block', 'gumbel')"))
    twice = "def f(c):\n    return c.step_overhead_s.value + 2 * c.growth_s.value"
    assert reads(ast.parse(twice), AROUND) == {"step_overhead_s", "growth_s"}
