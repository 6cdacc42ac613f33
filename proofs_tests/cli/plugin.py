"""A distribution of a stranger: a module each for a drafter, a rule, a cost term, a law processor and an exporter.

`install` lays it out as a package installer does: modules, and a dist-info folder that names them under the entry
point group. Nothing here is imported by the test that uses it: only `reader` may find it.
"""

from __future__ import annotations

from pathlib import Path

MODULES = {
    "echo": '''
import numpy as np
from runtime.drafters.base import DRAFTERS, Drafter, Proposal, gathered


@DRAFTERS.register
class Echo(Drafter):
    """Offers what stood `period` tokens ago, and on from there."""

    name, priced_by = "echo", "by_the_row"

    def __init__(self, period):
        self.period = period

    @classmethod
    def load(cls, source):
        return cls(int(source or 1))

    def join(self, row, tokens, hidden=None): pass
    def extend(self, row, tokens, hidden=None): pass
    def move(self, source, target): pass

    def propose(self, policy, rows, spare):
        found = []
        for row, left in zip(rows, spare):
            text, most = row.text, max(min(policy.tree.depth, row.room - 1, left), 0)
            found.append([text[-self.period + i % self.period] if len(text) >= self.period else 0 for i in range(most)])
        return Proposal(gathered(rows, found, name=self.name))
''',
    "cautious": '''
from dataclasses import dataclass

import numpy as np
from reader_theory.rules import RULES
from reader_theory.rules.base import FollowingRule
from reader_theory.rules.target_only import TargetOnly


@dataclass(frozen=True)
class Cautious(TargetOnly):
    """Target-only under a name of its own."""

    name = "cautious"


RULES.register(Cautious())
''',
    "by_the_row": '''
from reader_theory.cost.terms import TERMS, FunctionTerm, TermMaker


@TERMS.register
class ByTheRow(TermMaker):
    """Ten times what was measured a row, however often it is asked: a tax."""

    name = "by_the_row"

    @classmethod
    def term(cls, drafter, cost):
        return FunctionTerm(drafter, lambda c: 10 * cost.row_s.value * c.batch * (drafter in c.forwards))
''',
    "shouting": '''
from runtime.engine.processors import PROCESSORS, Processor


@PROCESSORS.register
class Only(Processor):
    """Keeps a range of tokens."""

    name = "only"

    def __init__(self, low, high):
        self.low, self.high = low, high

    @classmethod
    def load(cls, source):
        return cls(*map(int, source.split("-")))

    def __call__(self, logits, prefixes):
        kept = logits.clone()
        kept[:, : self.low] = kept[:, self.high :] = -float("inf")
        return kept
''',
    "abacus": """
from optimizer.export import EXPORTERS, EngineFormat, Exporter


@EXPORTERS.register
class Abacus(Exporter):
    name = "abacus"
    one_entry = True

    @property
    def format(self):
        return EngineFormat("abacus", "1", "a tree", {}, {})

    def families(self, policies, options):
        return {"any": lambda policy, number: True}

    def write(self, settled, options):
        return {"beads": settled.policies[0].most_nodes, "drafter": settled.policies[0].drafted_by}
""",
}


def install(folder: Path, modules: dict[str, str] = MODULES) -> Path:
    """The distribution laid out in `folder`, which `sys.path` must then hold."""
    package, told = folder / "strange", folder / "strange_reader-1.0.dist-info"
    package.mkdir(parents=True)
    told.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-reader\nVersion: 1.0\n")
    points = "".join(f"{name} = strange.{name}\n" for name in modules)
    (told / "entry_points.txt").write_text(f"[reader_theory.plugins]\n{points}")
    return folder
