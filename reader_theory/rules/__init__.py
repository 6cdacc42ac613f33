"""Verification rules: lossless ones, and two that are not and say so; each is found in `RULES` by its name."""

from reader_theory.registry import Registry
from reader_theory.rules.base import FollowingRule, Rule, Verified, verify_batch
from reader_theory.rules.block import Block
from reader_theory.rules.chain import ChainRejection
from reader_theory.rules.draft_law import DraftLaw, Scheme
from reader_theory.rules.greedy import Greedy
from reader_theory.rules.gumbel import GumbelCoupled
from reader_theory.rules.judge import JudgeLossy
from reader_theory.rules.multi_round import MultiRound
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.target_only import TargetOnly
from reader_theory.rules.traversal import Traversal
from reader_theory.rules.typical import TypicalLossy
from reader_theory.rules.window import WindowRejection
from reader_theory.rules.without_replacement import WithoutReplacement

__all__ = [
    "RULES",
    "Block",
    "ChainRejection",
    "DraftLaw",
    "FollowingRule",
    "Greedy",
    "GumbelCoupled",
    "JudgeLossy",
    "MultiRound",
    "Rule",
    "Scheme",
    "TargetOnly",
    "Traversal",
    "TypicalLossy",
    "Verified",
    "VerifyUniforms",
    "WindowRejection",
    "WithoutReplacement",
    "verify_batch",
]

RULES: Registry[Rule] = Registry("rule")
"""Every rule by its name, with its parameters as they are when a request sets none."""

for _rule in (
    Greedy(),
    TargetOnly(),
    ChainRejection(),
    MultiRound(),
    WithoutReplacement(),
    Block(),
    Traversal(),
    GumbelCoupled(),
    TypicalLossy(),
    JudgeLossy(),
):
    RULES.register(_rule)
