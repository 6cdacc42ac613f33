"""A rule from one file outside of the package: found by its name, run through the battery, the engine and a record."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reader_theory.documents import policy_of  # noqa: E402
from reader_theory.errors import InvalidInputError  # noqa: E402
from reader_theory.rules import RULES, Rule  # noqa: E402
from reader_theory.rules.battery import check_rule  # noqa: E402
from reader_theory.trees import TokenTree  # noqa: E402
from runtime.engine.engine import Engine  # noqa: E402
from runtime.engine.sampling import SamplingParams  # noqa: E402
from runtime.models.table import TableModel  # noqa: E402

SOURCE = '''
from dataclasses import dataclass

import numpy as np

from reader_theory.rules import RULES, MultiRound, Rule
from reader_theory.rules.base import walk_down
from reader_theory.rules.laws import residual


@dataclass(frozen=True)
class FirstSiblings(Rule):
    """Tries the first few of independent siblings, and leaves the others."""

    name = "first_siblings"
    lossless = True
    scheme = "iid"
    schemes = frozenset({"chain", "iid"})
    streams = frozenset({"acceptance", "recovery"})

    tries: int = 1

    def acceptance(self, target, draft, draws=1):
        rates = MultiRound().acceptance(target, draft, draws)
        return np.where(np.arange(draws) < self.tries, rates, 0 * rates)

    def _walk(self, draft, target, uniforms):
        return walk_down(draft, target, uniforms, self._decide)

    def _decide(self, draft, node, target, acceptance):
        for child in draft.tree.children(node)[: self.tries]:
            law, token = draft.law_at(node), int(draft.tokens[child])
            if acceptance[child] * law[token] < target[token]:
                return child, target
            target = residual(target, law)
        return None, target


RULES.register(FirstSiblings())
'''


@pytest.fixture
def rule(tmp_path: Path) -> Iterator[Rule]:
    path = tmp_path / "first_siblings.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("first_siblings", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield RULES["first_siblings"]
    del RULES._found["first_siblings"]


def test_the_battery_runs_a_rule_of_a_third_party(rule: Rule) -> None:
    check_rule(rule)
    check_rule(rule.having({"tries": 2}))
    with pytest.raises(InvalidInputError, match="must be among: tries"):
        rule.having({"attempts": 2})


def test_the_engine_runs_a_rule_of_a_third_party_with_its_parameters(rule: Rule) -> None:
    laws = np.array([[3, 0, 1, 0], [0, 2, 0, 2], [1, 0, 0, 3], [0, 1, 3, 0]]) / 4
    tree = TokenTree.from_rank_paths([(0,), (1,), (2,)])
    accepted = []
    for tries in (1, 3):
        engine = Engine(TableModel(laws), TableModel(np.full((4, 4), 0.25)), policy=policy_of(tree), max_batch=4)
        params = SamplingParams(
            temperature=1.0, max_new_tokens=50, verification=rule.name, rule_parameters={"tries": tries}
        )
        done = engine.generate([[0], [1], [2], [3]], params)
        assert all(each.verification == "first_siblings" and each.lossless for each in done)
        assert engine.counters.rules.keys() == {"first_siblings"}
        accepted.append(sum(each.accepted for each in done))
    assert accepted[0] < accepted[1]


def test_a_parameter_that_the_rule_lacks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="parameters of chain must be among: none"):
        SamplingParams(temperature=1.0, verification="chain", rule_parameters={"epsilon": 0.1})
    with pytest.raises(InvalidInputError, match=r"must lie in \(0, 1\)"):
        SamplingParams(temperature=1.0, verification="typical_lossy", rule_parameters={"epsilon": 2.0})
    strict = SamplingParams(temperature=1.0, verification="typical_lossy", rule_parameters={"epsilon": 0.5})
    assert strict.rule.parameters == {"epsilon": 0.5, "delta": 0.3}
