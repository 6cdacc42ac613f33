"""How well bits a layer of a target's cache keep its text: the fitness of a search under a budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.cache.quantised.fit import fit_aqua
from runtime.cache.quantised.scheme import Aqua, Scheme
from runtime.measure.kv import keys_and_values, losses, named
from runtime.models.lean import LeanModel
from runtime.models.quantised import quantised

__all__ = ["LEVELS", "KVBits", "steps_within"]

LEVELS = 4
"""A part has 1 to so many bits a number: the grids that ship."""


def steps_within(layers: int, bits: float) -> int:
    """Steps above one bit that keys and values of `layers` layers may take together for `bits` a number in the mean.

    Every step costs the same bytes, for every part has as many numbers: the mean is a budget of bytes.

    Examples
    --------
    >>> steps_within(layers=30, bits=2.5)
    90
    """
    require(
        1 <= bits <= LEVELS,
        f"`--bits` must lie between 1 and {LEVELS}",
        got=bits,
        fix="Scales come on top; 2 to 3 are usual.",
    )
    return int(round(2 * layers * (bits - 1), 6))


def even(parts: int, steps: int) -> tuple[int, ...]:
    """As many steps a part as can be, the rest for the first parts.

    Examples
    --------
    >>> even(4, 6)
    (2, 2, 1, 1)
    """
    whole, rest = divmod(steps, parts)
    return (whole + 1,) * rest + (whole,) * (parts - rest)


class KVBits:
    """Scores bits a layer by the text's likelihood; callable as a fitness: level k of a part stands for k + 1 bits.

    Parts are the keys of layer 0, its values, the keys of layer 1, ...

    Parameters
    ----------
    fitted : Aqua
        Whose predictors and window are used, whatever the bits.
    spans : (n, T) int64
        Text, of which the first `context` tokens of a span are not scored.
    """

    def __init__(self, model: LeanModel, fitted: Aqua, spans: NDArray[np.int64], context: int) -> None:
        require(
            spans.shape[1] > context > fitted.window.buffer,
            "`--length` must exceed `--context`, and that the buffer that is kept as it is",
            got=f"spans of {spans.shape[1]}, {context} not scored, a buffer of {fitted.window.buffer}",
            fix="Pass longer spans, or fit the caches with fewer --recent and --chunk.",
        )
        self.model, self.fitted, self.spans, self.context = model, fitted, spans, context

    def __call__(self, candidates: Sequence[tuple[int, ...]], tokens: int, sample: int) -> list[float]:
        """Mean log likelihood of `tokens` scored tokens, in nats, of each candidate."""
        each = min(self.spans.shape[1] - self.context, tokens)
        rows = np.random.default_rng(sample).permutation(len(self.spans))[: max(tokens // each, 1)]
        spans = self.spans[rows, : self.context + each]
        targets = (quantised(self.model, self.scheme(each)) for each in candidates)
        return [-float(losses(target, spans, self.context).mean()) for target in targets]

    def rivals(self, candidate: Sequence[int], fit: NDArray[np.int64]) -> dict[str, Scheme]:
        """The candidate and even bits of the same budget, each with predictors of its own, by name."""
        found = keys_and_values(self.model, fit)
        usable = len(found[0][0]) // self.fitted.window.chunk * self.fitted.window.chunk
        keys, values = ([each[:usable] for each in part] for part in found)
        heads = (self.model.kv_heads, self.model.head_dim)
        chosen = {"evolved": tuple(candidate), "even": even(len(candidate), sum(candidate))}
        fitted = (
            fit_aqua(name, self.scheme(levels).bits, keys, values, heads, self.fitted.window)
            for name, levels in chosen.items()
        )
        return {each.name: each for each in (named(self.model, scheme) for scheme in fitted)}

    def scheme(self, candidate: Sequence[int]) -> Aqua:
        """The cache that a candidate stands for."""
        bits = np.array(candidate).reshape(-1, 2) + 1
        return replace(self.fitted, name="evolved", bits=tuple((int(key), int(value)) for key, value in bits))
