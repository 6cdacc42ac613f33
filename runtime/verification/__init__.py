"""Verification rules: lossless ones, and one that is not and says so."""

from runtime.verification.base import Verified, Verifier, verify_batch
from runtime.verification.battery import check_verifier
from runtime.verification.block import Block
from runtime.verification.chain import ChainRejection
from runtime.verification.draft_law import DraftLaw, Scheme
from runtime.verification.drawing import draw_children, draw_draft
from runtime.verification.greedy import Greedy
from runtime.verification.gumbel import GumbelCoupled, race
from runtime.verification.multi_round import MultiRound
from runtime.verification.pick import pick_token, pick_tokens
from runtime.verification.sampling import TokenLaw, target_law
from runtime.verification.streams import VerifyUniforms, coupling_uniforms, stream_uniforms, verify_uniforms
from runtime.verification.target_only import TargetOnly
from runtime.verification.traversal import Traversal
from runtime.verification.typical import TypicalLossy
from runtime.verification.without_replacement import WithoutReplacement

__all__ = [
    "Block",
    "ChainRejection",
    "DraftLaw",
    "Greedy",
    "GumbelCoupled",
    "MultiRound",
    "Scheme",
    "TargetOnly",
    "TokenLaw",
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
    "target_law",
    "verify_batch",
    "verify_uniforms",
]
