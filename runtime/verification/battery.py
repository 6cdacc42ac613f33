"""What a verifier's declarations mean, run on anyone's verifier: `check_verifier(MyRule())`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError
from reader_theory.trees import ROOT
from reader_theory.trees.law import Law, continue_with_target, joint_law
from runtime.verification.base import Verified, Verifier, verify_batch
from runtime.verification.cases import Case, Text, cases_for, node_paths
from runtime.verification.draft_law import DRAWN, SCHEMES, DraftLaw
from runtime.verification.exact import Forks, outcome_law
from runtime.verification.streams import VerifyUniforms, coupling_uniforms, stream_uniforms, verify_uniforms

__all__ = ["check_verifier", "emitted_law", "law_gap"]


def check_verifier(verifier: Verifier) -> None:
    """Check, on small cases, every claim that a verifier makes.

    Lossless: for every scheme it declares, over trees of several shapes and laws with zeros, the emitted string continued by the
    target has exactly the target's law, by enumeration in fractions; lossy: some case shows it, and the name says it. What is
    emitted is always the accepted path's tokens and one more, all possible. What it cannot verify it refuses. A request
    is verified alike alone and in a ragged batch, in fractions and in float64.

    Parameters
    ----------
    verifier : Verifier

    Raises
    ------
    AssertionError
        Naming the claim that fails, and the case that shows it.
    """
    cases = [case for scheme in sorted(verifier.schemes) for case in cases_for(scheme)]
    _check_names(verifier)
    _check_law(verifier, cases)
    _check_refusals(verifier, cases)
    _check_batch(verifier, cases)


def emitted_law(verifier: Verifier, case: Case) -> Law:
    """Exact law of the emitted string, drafting included, through `verify` alone.

    Strings that are reached at an end point of a cell only come with probability 0.
    """
    if case.scheme == "coupled" or "coupled" in verifier.schemes and verifier.decodes == "sampling" and _races(verifier):
        return _coupled_law(verifier, case)

    def run(forks: Forks) -> Text:
        drafting = forks.uniforms(len(case.parents)) if case.scheme in DRAWN else None
        draft = case.drafted(drafting)
        uniforms = VerifyUniforms(forks.uniforms(len(draft)), forks.uniforms(len(draft) + 1))
        return _verified(verifier, case, draft, uniforms).emitted

    return outcome_law(run)
