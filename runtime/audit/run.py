"""Audit: sample from an engine until its law is found wrong or the tokens are used up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.audit.evidence import Evidence, Finding, Power
from reader_theory.audit.suspects import Laws
from reader_theory.errors import require
from runtime.audit.samplers import Sampler
from runtime.engine.processors import TokenLaw
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.inputs import teacher_forced

__all__ = ["Audited", "LawsOf", "audit", "planted"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Audited:
    """An audit's end: what was found, and what would have been."""

    finding: Finding
    powers: tuple[Power, ...]


class LawsOf:
    """The laws that a request's tokens should have, and its draft's, by teacher forcing.

    Parameters
    ----------
    target : LanguageModel
        Whose law the engine should keep; float32 or float64.
    draft : LanguageModel, optional
        The engine's draft, where it is known: more kinds of bugs can then be told apart.
    """

    def __init__(self, target: LanguageModel, params: SamplingParams, draft: LanguageModel | None = None) -> None:
        require(
            not params.greedy,
            "`temperature` must be above 0",
            got="0",
            fix="Greedy text is compared token by token; `reader run` does that for plans.",
        )
        self.target, self.draft, self.params = target, draft, params
        plain = SamplingParams(temperature=params.temperature)
        self._law, self._warm, self._raw = (TokenLaw(each) for each in (params, plain, replace(plain, temperature=1.0)))

    def __call__(self, prompt: Ints, output: Ints) -> Laws:
        prefixes = [[*prompt.tolist(), *output[:i].tolist()] for i in range(len(output))]
        logits = teacher_forced(self.target, prompt, output)
        own = None if self.draft is None else teacher_forced(self.draft, prompt, output)
        return Laws(
            target=_as_array(self._law(logits, prefixes)), warm=_as_array(self._warm(logits)),
            raw=_as_array(self._raw(logits)), draft=None if own is None else _as_array(self._law(own, prefixes)),
            draft_warm=None if own is None else _as_array(self._warm(own)),
        )  # fmt: skip


def _as_array(laws: torch.Tensor) -> NDArray[np.float64]:
    return laws.numpy(force=True)


def audit(
    sampler: Sampler,
    laws: LawsOf,
    prompts: Sequence[Ints],
    *,
    tokens: int = 20_000,
    error: float = 0.01,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    label: str = "audit",
) -> Audited:
    """Ask for one text after each prompt, again and again, until the law is found wrong or `tokens` are scored.

    Parameters
    ----------
    prompts : sequence of (n,) int64
        A few, so that prefixes come again.
    error : float
        Probability at most with which a lossless engine is found guilty.
    tolerance : float
        See `Evidence`.
    """
    require(
        len(prompts) > 0, "`prompts` must hold at least one", got="none", fix="Pass two or three: prefixes must recur."
    )
    evidence = Evidence(error=error, tolerance=tolerance, seed=seed)
    number = 0
    while evidence.tokens < tokens and evidence.found_after is None:
        outputs = sampler(prompts, seed + number)
        _check(outputs, len(prompts), laws)
        for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            if output:
                emitted = np.asarray(output, dtype=np.int64)
                names = [(i, *output[:place]) for place in range(len(output))]
                evidence.observe(laws(prompt, emitted), output, names)
        number += len(prompts)
        if progress:
            progress(label, min(evidence.tokens, tokens), tokens)
    return Audited(evidence.finding(), tuple(evidence.powers()))


def _check(outputs: Sequence[Sequence[int]], texts: int, laws: LawsOf) -> None:
    """What an engine says it sampled has laws: as many texts as were asked for, of tokens that the target knows."""
    require(
        len(outputs) == texts and any(outputs),
        "the engine must emit tokens, one text for each prompt",
        got=f"{len(outputs)} texts of {sum(map(len, outputs))} tokens for {texts} prompts",
        fix="Check its limits and stop tokens.",
    )
    most, size = laws.params.max_new_tokens, laws.target.vocabulary
    strange = [token for output in outputs for token in output if not 0 <= token < size]
    require(
        not strange and max(map(len, outputs)) <= most,
        f"the engine's texts must be of at most {most} tokens, with ids in [0, {size})",
        got=f"ids {strange[:3]}" if strange else f"a text of {max(map(len, outputs))} tokens",
        fix="Check that it serves this target, and honours `max_tokens`.",
    )


def planted(laws: LawsOf, name: str) -> Sampler:
    """An engine with a bug on purpose, drawn from its law: the control that an audit must find."""
    from reader_theory.audit.suspects import SUSPECTS

    suspect = next(each for each in SUSPECTS if each.name == name)

    def sample(prompts: Sequence[Ints], seed: int) -> list[list[int]]:
        generator = np.random.default_rng(seed)
        outputs: list[list[int]] = []
        for prompt in prompts:
            output: list[int] = []
            while len(output) < laws.params.max_new_tokens:
                at = laws(prompt, np.array([*output, 0]))
                law = suspect.law(_last(at))[0]
                output.append(int(generator.choice(len(law), p=law / law.sum())))
            outputs.append(output)
        return outputs

    return sample


def _last(laws: Laws) -> Laws:
    kept: dict[str, Any] = {name: None if value is None else value[-1:] for name, value in vars(laws).items()}
    return Laws(**kept)
