"""Judge decoding, LOSSY: keep a drafted token that is not the target's own where that seems not to matter.

Prefer it only where answers can be checked and their wording is free: the text is not the target's. A classifier of
both models' states says how likely a mismatch is to matter (`reader judge`), or one of three baselines does.
Garipov et al. 2025, "AutoJudge: judge decoding without manual annotation"; Bachmann et al. 2025, "Judge decoding".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents.judge import Judge
from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.base import Rule, Verified
from reader_theory.rules.draft_law import DraftLaw, Scheme
from reader_theory.rules.laws import as_laws, as_pair, most_likely
from reader_theory.rules.streams import Stream, VerifyUniforms

__all__ = ["BASELINES", "JudgeLossy"]


def _unlikely(law: NDArray[Any], token: int, uniform: Any) -> Any:
    return 1 - law[token]


def _rank(law: NDArray[Any], token: int, uniform: Any) -> Any:
    above = int(np.sum(law > law[token]))
    return above / (above + 1)


def _chance(law: NDArray[Any], token: int, uniform: Any) -> Any:
    return uniform


BASELINES: dict[str, Callable[[NDArray[Any], int, Any], Any]] = {
    "confidence": _unlikely,
    "top_k": _rank,
    "random": _chance,
}
"""How much a mismatched token is taken to matter, in [0, 1], without a classifier: 1 - p of the target, r / (r + 1) of
its rank r there (below k / (k + 1) are the k most likely tokens), or a uniform number."""


@dataclass(frozen=True)
class JudgeLossy(Rule):
    """Accepts a token that is the target's own, or whose P(important) is below the threshold; lossy.

    The longest such path is emitted (of several the one with most of the target's own tokens), then the target's most
    likely token; nothing is added to a path that was accepted to its leaf. Threshold 0 is greedy decoding, a threshold
    above 1 takes the draft as it is.

    Parameters
    ----------
    threshold : float, >= 0
        Probability of mattering below which a mismatch is accepted.
    judge : str, Path or Judge
        File of a judge, or ``confidence``, ``top_k`` or ``random``.
    """

    name = "judge_lossy"
    lossless = False
    decodes: ClassVar[Literal["sampling", "greedy"]] = "greedy"
    schemes: ClassVar[frozenset[Scheme]] = frozenset({"deterministic"})
    streams: ClassVar[frozenset[Stream]] = frozenset({"acceptance"})
    adds_after_leaf: ClassVar[bool] = False

    threshold: float = 0.9
    judge: str | Path | Judge = "confidence"

    def __post_init__(self) -> None:
        threshold, judge = cast(object, self.threshold), cast(object, self.judge)
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        require(
            number and math.isfinite(self.threshold) and self.threshold >= 0,
            "`threshold` must be a number of at least 0",
            got=repr(self.threshold),
            fix="0 is greedy decoding; `reader judge curve` shows what each threshold gives.",
        )
        require(
            isinstance(judge, str | Path | Judge),
            "`judge` must be a file of `reader judge fit`, or one of " + ", ".join(BASELINES),
            got=repr(self.judge),
            fix="Pass its path.",
        )
        _ = self.classifier  # a file that cannot be read is refused before work starts

    @cached_property
    def classifier(self) -> Judge | None:
        """The fitted judge; None for a baseline."""
        if isinstance(self.judge, Judge) or self.judge in BASELINES:
            return self.judge if isinstance(self.judge, Judge) else None
        path = Path(self.judge)
        require(
            path.is_file(),
            "`judge` must be a file of `reader judge fit`, or one of " + ", ".join(BASELINES),
            got=f"{str(self.judge)!r}, which is not a file",
            fix="Make one with `reader judge mine` and `reader judge fit`.",
        )
        return _read(path, path.stat().st_mtime_ns)

    @property
    def parameters(self) -> dict[str, Any]:
        """Threshold and judge: a fitted one by its path, or by its fingerprint where it has none."""
        told = self.judge.fingerprint() if isinstance(self.judge, Judge) else str(self.judge)
        return {"threshold": self.threshold, "judge": told}

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """Of a baseline: the target's own token where it is offered, else the first that passes. See `Rule.acceptance`.

        Raises
        ------
        InvalidInputError
            For a fitted judge: laws alone do not say what it accepts, `reader judge curve` does.
        """
        p, q = as_pair(target, draft)
        offered, own = most_likely(q, draws), int(np.argmax(p))
        if own in offered:
            return np.array([p.sum() if token == own else 0 * p.sum() for token in offered])
        passing = [self._passes(p, int(token)) for token in offered]
        left, found = p.sum(), list[Any]()
        for chance in passing:
            found.append(left * chance)
            left = left * (1 - chance)
        return np.array(found, dtype=p.dtype)

    def _passes(self, law: NDArray[Any], token: int) -> Any:
        """Chance that a baseline lets a mismatch pass."""
        if self.judge == "random":
            return min(self.threshold, 1)
        return int(self._baseline()(law, token, None) < self.threshold)

    def _baseline(self) -> Callable[[NDArray[Any], int, Any], Any]:
        if self.classifier is None:
            return BASELINES[str(self.judge)]
        raise InvalidInputError(
            "a fitted judge must be given the models' states",
            got="laws alone",
            fix="Run it in an engine, call `judged` with P(important) of each node, or choose a baseline.",
        )

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int | None]:
        measure = self._baseline()
        importance = [
            measure(target[int(draft.tree.parents[node])], int(draft.tokens[node]), uniforms.acceptance[node])
            for node in range(1, len(draft.tree))
        ]
        return self._settled(draft, target, [1, *importance])

    def judged(self, draft: DraftLaw, target: ArrayLike, importance: ArrayLike) -> Verified:
        """Verify one request's draft, given how likely each mismatch is to matter.

        Parameters
        ----------
        draft : DraftLaw of N nodes
        target : (N + 1, V)
            As `verify` takes it; of each row only the most likely token is read.
        importance : (N + 1,) in [0, 1]
            P(important) of each node's token; not read at the root, nor where the token is the target's own.
        """
        laws, told = as_laws(target, "target"), np.asarray(importance, dtype=np.float64)
        half = np.full(len(draft.tree), 0.5)
        self._check(draft, laws, VerifyUniforms(half, half))
        inside = told.shape == (len(draft.tree),) and bool(np.all((told >= 0) & (told <= 1)))
        require(
            inside,
            "`importance` must hold one probability for the root and one for each node",
            got=f"shape {told.shape}, from {np.min(told, initial=1)} to {np.max(told, initial=0)}",
            fix="Pass what `Judge.importance` gives; nodes without a mismatch may have any.",
        )
        return self._verified(draft, *self._settled(draft, laws, told.tolist()))

    def _settled(self, draft: DraftLaw, target: NDArray[Any], importance: list[Any]) -> tuple[list[int], int | None]:
        """The longest path of accepted nodes, and the target's token after it where it does not end at a leaf."""
        own = [int(np.argmax(law)) for law in target]
        parents: list[int] = draft.tree.parents.tolist()
        tokens: list[int] = draft.tokens.tolist()
        best, below = [(0, 0)] * len(parents), [0] * len(parents)
        for node in range(len(parents) - 1, 0, -1):
            above, match = parents[node], int(tokens[node] == own[parents[node]])
            reach = best[node][0] + 1, best[node][1] + match
            if (match or importance[node] < self.threshold) and reach >= best[above]:
                best[above], below[above] = reach, node
        path, node = list[int](), 0
        while below[node]:
            node = below[node]
            path.append(node)
        ended = node > 0 and not draft.tree.children(node)
        return path, None if ended else own[node]


@lru_cache(maxsize=16)
def _read(path: Path, changed_at_ns: int) -> Judge:
    """The judge in a file, read once as long as it stays."""
    return Judge.read(path)
