"""How a head drafts deeper than it was trained to: its states, where it attends, what is accepted, prompts disturbed.

Attention is written out, as fused kernels hand no weights back. The target answers each disturbed prompt anew and
greedily, so that walking its answer is what an engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Stamp
from reader_theory.documents.head_inspection import HeadInspection, HeadVariant
from reader_theory.errors import require
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import Progress, PromptLike
from runtime.models.load import wrap
from runtime.training.heads.texts import ANSWERED, GIVEN, Texts
from runtime.training.heads.watching import watch

__all__ = ["inspect_head"]

Ints = NDArray[np.int64]
FOREIGN = "Weather report: light rain, wind from the west.\n"
HEADER = 8
"""Tokens of a header that is given twice."""


def disturbances(tokenizer: Any) -> dict[str, Callable[[Ints], Ints]]:
    """Ways of giving a prompt by name, as it is first; each gives at least two tokens."""
    foreign = np.asarray(tokenizer(FOREIGN, add_special_tokens=False)["input_ids"], dtype=np.int64)
    special = np.asarray(sorted(set(getattr(tokenizer, "all_special_ids", []) or [])), dtype=np.int64)
    line = np.asarray(tokenizer("\n", add_special_tokens=False)["input_ids"], dtype=np.int64)

    def template_removed(tokens: Ints) -> Ints:
        kept = tokens[~np.isin(tokens, special)]
        kept = kept if len(kept) < len(tokens) else tokens[~np.isin(tokens, line)]
        return kept if len(kept) >= 2 else tokens

    return {
        "as it is": lambda tokens: tokens,
        "first token dropped": lambda tokens: tokens[1:] if len(tokens) > 2 else tokens,
        "another text before": lambda tokens: np.concatenate((foreign, tokens)),
        "header given twice": lambda tokens: np.concatenate((tokens[:HEADER], tokens)),
        "template removed": template_removed,
    }


def inspect_head(
    target: Any,
    network: HeadNetwork,
    prompts: Sequence[PromptLike],
    tokenizer: Any,
    *,
    names: tuple[str, str],
    steps: int = 8,
    new_tokens: int = 96,
    progress: Progress | None = None,
) -> HeadInspection:
    """Look at a head beside its target on prompts, as they are and disturbed.

    Parameters
    ----------
    target : transformers causal model
    names : (str, str)
        Of the target and of the head, as the document calls them.
    steps : int, >= 4
        Draft steps, however many it was trained for; those of a block at most as many as it has.
    """
    require(
        len(prompts) > 0 and steps >= 4 and new_tokens > steps + 1,
        "there must be a prompt, at least 4 steps, and more new tokens than steps",
        got=f"{len(prompts)} prompts, {steps} steps, {new_tokens} new tokens",
        fix="Leave the options out for 8 steps and 96 tokens.",
    )
    model, ways, found = wrap(target, check=False), disturbances(tokenizer), list[HeadVariant]()
    for number, (name, disturbed) in enumerate(ways.items()):
        if progress:
            progress("inspect", number, len(ways))
        given = [disturbed(np.asarray(prompt.tokens, dtype=np.int64)) for prompt in prompts]
        engine = Engine(model, max_batch=8, max_context=max(map(len, given)) + new_tokens + 2)
        done = engine.generate(given, SamplingParams(max_new_tokens=new_tokens))
        texts = _texts(given, [np.array(one.tokens, dtype=np.int64) for one in done])
        turns = rotations(network.shape, texts.tokens.shape[1] + steps)
        seen = watch(target, network, texts, turns, steps=min(steps, network.shape.block or steps), most=len(texts))
        found.append(
            HeadVariant(
                name=name, positions=seen.positions, acceptance=tuple(seen.by_depth), rms=tuple(seen.rms),
                sink=tuple(seen.sink), recent=tuple(seen.recent), tokens_per_step=seen.walked,
            )
        )  # fmt: skip
    return HeadInspection(stamp=Stamp.now(), target=names[0], head=names[1], variants=tuple(found))


def _texts(given: Sequence[Ints], answers: Sequence[Ints]) -> Texts:
    """Rows of a prompt and its answer."""
    parts = [
        Texts(
            np.concatenate((prompt, answer))[None].astype(np.int32),
            np.repeat([GIVEN, ANSWERED], [len(prompt), len(answer)])[None].astype(np.uint8),
            np.array([number]), np.zeros(1, np.float32),
        )
        for number, (prompt, answer) in enumerate(zip(given, answers, strict=True))
    ]  # fmt: skip
    return Texts.joined(parts)
