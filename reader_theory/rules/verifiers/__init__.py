"""Verification rules: lossless ones, and one that is not and says so."""

from reader_theory.rules.base import Verified, Verifier, verify_batch
from reader_theory.rules.battery import check_verifier
from reader_theory.rules.draft_law import DraftLaw, Scheme
from reader_theory.rules.drawing import draw_children, draw_draft
from reader_theory.rules.greedy import Greedy
from reader_theory.rules.pick import pick_token, pick_tokens
from reader_theory.rules.race import race
from reader_theory.rules.streams import VerifyUniforms, coupling_uniforms, stream_uniforms, verify_uniforms
from reader_theory.rules.verifiers.block import Block
from reader_theory.rules.verifiers.chain import ChainRejection
from reader_theory.rules.verifiers.gumbel import GumbelCoupled
from reader_theory.rules.verifiers.multi_round import MultiRound
from reader_theory.rules.verifiers.target_only import TargetOnly
from reader_theory.rules.verifiers.traversal import Traversal
from reader_theory.rules.verifiers.typical import TypicalLossy
from reader_theory.rules.verifiers.without_replacement import WithoutReplacement

__all__ = [
    "Block",
    "ChainRejection",
    "DraftLaw",
    "Greedy",
    "GumbelCoupled",
    "MultiRound",
    "Scheme",
    "TargetOnly",
    "Traversal",
    "TypicalLossy",
    "Verified",
    "Verifier",
    "VerifyUniforms",
    "WithoutReplacement",
    "check_verifier",
    "coupling_uniforms",
    "draw_children",
    "draw_draft",
    "pick_token",
    "pick_tokens",
    "race",
    "stream_uniforms",
    "verify_batch",
    "verify_uniforms",
]
