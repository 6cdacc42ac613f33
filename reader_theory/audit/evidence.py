"""Evidence against a law, token by token, with one error budget whenever one stops.

Each way of betting against the law holds a wealth that no law within the tolerance lets grow on average; their mean
exceeds ``1 / error`` with probability at most `error`, at any time (Ville's inequality). Some bet on a known bug's law,
some learn what is odd: where tokens fall in the order of the law, or of the draft's share in it, how one follows the
other, and what comes after a prefix that was seen before.

References
----------
Ville 1939; Ramdas, Grünwald, Vovk, Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reader_theory.audit.suspects import SUSPECTS, Laws, Suspect
from reader_theory.errors import require

__all__ = ["Evidence", "Finding", "Power"]

Floats = NDArray[np.float64]

SHARES = (0.03, 0.2, 0.8)
"""Shares of the tokens that bets on a bug give it; the largest is that of `Power`."""
REST = 1e-6
"""Share that every bet leaves to the law without filters, so that no token ends it."""
BINS = 16
PAIRS = 5
SURE = 40.0
"""Weight of the law itself against what was seen after a prefix, in tokens."""


@dataclass(frozen=True)
class Power:
    """What an audit would have found.

    Parameters
    ----------
    name : str
        Of a bug.
    distance : float
        Mean total variation between its law and the true one at the prefixes that were seen.
    tokens : float
        After so many tokens an audit is expected to find it; infinite where the two laws are one.
    """

    name: str
    distance: float
    tokens: float


@dataclass(frozen=True)
class Finding:
    """How an audit stands.

    Parameters
    ----------
    lossless : bool
        False once the evidence has passed ``1 / error``.
    tokens : int
        Scored so far.
    found_after : int or None
        Tokens at which it passed.
    evidence : float
        Natural logarithm of the mean wealth; ``log(1 / error)`` finds.
    bets : dict from str to float
        The same of each bet.
    likeliest : str
        The bet with the most evidence: what the fault looks like.
    impossible : tuple of (prefix, token)
        Tokens that the law excludes, the first few.
    worst_prefix : hashable or None
        The prefix after which most evidence came up.
    """

    lossless: bool
    tokens: int
    found_after: int | None
    evidence: float
    bets: dict[str, float]
    likeliest: str
    impossible: tuple[tuple[Hashable, int], ...]
    worst_prefix: Hashable | None


_PLACES = {"order": "places in the order of the law", "share": "places in the order of draft against target"}


class _Histogram:
    """Learns how often each cell comes up (Krichevsky-Trofimov), and bets on it against equal shares."""

    def __init__(self, rows: int, cells: int) -> None:
        self.counts = np.full((rows, cells), 0.5)

    def bet(self, row: int, cell: int) -> float:
        counts = self.counts[row]
        factor = float(counts[cell] / counts.sum() * counts.size)
        counts[cell] += 1
        return factor


@dataclass
class Evidence:
    """An audit as it goes: `observe` tokens, then read the `finding`.

    Parameters
    ----------
    error : float
        Probability at most with which a lossless engine is ever found guilty.
    tolerance : float
        The engine's own rounding: laws up to ``(1 + tolerance)`` times the law that should be sampled, plus
        `tolerance` times the law without filters, are lossless. 0 for exact arithmetic; float32 needs about 1e-4,
        bfloat16 about 0.05.
    seed : int
        Of the uniforms that spread a token over its share of the law.
    """

    error: float = 0.01
    tolerance: float = 1e-4
    seed: int = 0
    suspects: Sequence[Suspect] = SUSPECTS
    tokens: int = 0
    found_after: int | None = None
    _bets: dict[tuple[str, float], float] = field(default_factory=dict[tuple[str, float], float])
    _growth: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    _by_prefix: dict[Hashable, float] = field(default_factory=dict[Hashable, float])
    _seen: dict[Hashable, dict[int, int]] = field(default_factory=dict[Hashable, dict[int, int]])
    _impossible: list[tuple[Hashable, int]] = field(default_factory=list[tuple[Hashable, int]])

    def __post_init__(self) -> None:
        require(
            0 < self.error < 1 and 0 <= self.tolerance < 1,
            "`error` must lie in (0, 1) and `tolerance` in [0, 1)",
            got=f"{self.error} and {self.tolerance}",
            fix="0.01 and 1e-4 suit engines in float32.",
        )
        self._random = np.random.default_rng(self.seed)
        self._places = {name: _Histogram(1, BINS) for name in ("order", "share")}
        self._pairs = _Histogram(PAIRS, PAIRS)

    def observe(self, laws: Laws, tokens: Sequence[int], prefixes: Sequence[Hashable] | None = None) -> None:
        """Score tokens of one text, in order.

        Parameters
        ----------
        laws : Laws
            After each prefix.
        tokens : (n,) ints
            What the engine emitted there.
        prefixes : n hashables, optional
            What names each prefix; equal names have equal laws.
        """
        emitted, rows = np.asarray(tokens, dtype=np.int64), np.arange(len(tokens))
        names: Sequence[Hashable] = range(len(tokens)) if prefixes is None else prefixes
        most = (1 + self.tolerance) * laws.target + self.tolerance * laws.warm
        at = most[rows, emitted]
        factors = self._known(laws, most, emitted, at)
        factors |= self._learned(laws, emitted, at, names if prefixes is not None else None)
        rest = REST * _over(laws.warm[rows, emitted], at)
        factors = {name: (1 - REST) * factor + rest for name, factor in factors.items()}
        for i, token in enumerate(emitted.tolist()):
            self._add({name: float(column[i]) for name, column in factors.items()}, names[i], token, float(at[i]))

    def _add(self, factors: dict[tuple[str, float], float], prefix: Hashable, token: int, at: float) -> None:
        if at <= 0 and len(self._impossible) < 10:
            self._impossible.append((prefix, token))
        before = self.evidence
        for name, factor in factors.items():
            self._bets[name] = self._bets.get(name, 0.0) + (math.log(factor) if at > 0 else math.inf)
        self.tokens += 1
        now = self.evidence
        gained = now - before if math.isfinite(now) else math.inf if math.isfinite(before) else 0.0
        self._by_prefix[prefix] = self._by_prefix.get(prefix, 0.0) + gained
        if self.found_after is None and now >= -math.log(self.error):
            self.found_after = self.tokens

    def _known(
        self, laws: Laws, most: Floats, emitted: NDArray[np.int64], at: Floats
    ) -> dict[tuple[str, float], Floats]:
        """Factors of the bets on bugs whose law is known; their growth is remembered for their power."""
        rows = np.arange(len(emitted))
        found: dict[tuple[str, float], Floats] = {}
        for suspect in self.suspects:
            if suspect.needs_draft and laws.draft is None:
                continue
            law = suspect.law(laws)
            for share in SHARES:
                mixed = (1 - share) * laws.target[rows, emitted] + share * law[rows, emitted]
                found[suspect.name, share] = _over(mixed, at)
            mixed = (1 - SHARES[-1]) * laws.target + SHARES[-1] * law
            gain = np.log(_over(mixed, most), where=mixed > 0, out=np.zeros_like(mixed))
            growth, distance = self._growth.get(suspect.name, (0.0, 0.0))
            self._growth[suspect.name] = (
                growth + float((mixed * gain).sum()),
                distance + float(np.abs(law - laws.target).sum()),
            )
        return found

    def _learned(
        self, laws: Laws, emitted: NDArray[np.int64], at: Floats, prefixes: Sequence[Hashable] | None
    ) -> dict[tuple[str, float], Floats]:
        """Factors of the bets that learn."""
        target = laws.target[np.arange(len(emitted)), emitted]
        exact = _over(target, at)  # at most 1: what the tolerance takes
        places = {"order": self._spread(laws.target, laws.target, emitted)}
        if laws.draft is not None:
            places["share"] = self._spread(laws.target, _over(laws.target, laws.draft), emitted)
        found = {
            (_PLACES[name], 1.0): exact
            * np.array([self._places[name].bet(0, min(int(u * BINS), BINS - 1)) for u in spread])
            for name, spread in places.items()
        }
        cells = np.minimum((places["order"] * PAIRS).astype(int), PAIRS - 1).tolist()
        follows = [1.0, *(self._pairs.bet(a, b) for a, b in pairwise(cells))]
        found["one token after the other", 1.0] = exact * np.array(follows)
        if prefixes is not None:
            shares = [
                self._again(prefix, int(y), float(p)) for prefix, y, p in zip(prefixes, emitted, target, strict=True)
            ]
            found["a prefix seen before", 1.0] = _over(np.array(shares), at)
        return found

    def _spread(self, law: Floats, key: Floats, emitted: NDArray[np.int64]) -> Floats:
        """Uniforms under the law: the law of all tokens of a higher key, and a random share of those of the same."""
        own = key[np.arange(len(emitted)), emitted][:, None]
        above = (law * (key > own)).sum(axis=-1)
        same = (law * (key == own)).sum(axis=-1)
        return above + self._random.random(len(emitted)) * same

    def _again(self, prefix: Hashable, token: int, share: float) -> float:
        """The share of a token after a prefix, learned from what came before; the law's own where nothing did."""
        counts = self._seen.setdefault(prefix, {})
        total = sum(counts.values())
        learned = (counts.get(token, 0) + SURE * share) / (total + SURE)
        counts[token] = counts.get(token, 0) + 1
        return learned

    @property
    def evidence(self) -> float:
        """Natural logarithm of the mean wealth of all bets."""
        if not self._bets:
            return 0.0
        return _log_mean(self._bets.values())

    def finding(self) -> Finding:
        """How the audit stands."""
        bets: dict[str, list[float]] = {}
        for (name, _), wealth in self._bets.items():
            bets.setdefault(name, []).append(wealth)
        by_name = {name: _log_mean(each) for name, each in bets.items()}
        worst = max(self._by_prefix, key=self._by_prefix.__getitem__, default=None)
        return Finding(
            lossless=self.found_after is None, tokens=self.tokens, found_after=self.found_after,
            evidence=self.evidence, bets=by_name,
            likeliest=max(by_name, key=by_name.__getitem__, default=""),
            impossible=tuple(self._impossible), worst_prefix=worst,
        )  # fmt: skip

    def powers(self) -> list[Power]:
        """What known bugs would have taken to be found, were they in four of five tokens."""
        needed = math.log(len(self._bets) / self.error) if self._bets else math.inf
        found: list[Power] = []
        for name, (growth, distance) in self._growth.items():
            rate = growth / self.tokens
            found.append(Power(name, distance / 2 / self.tokens, needed / rate if rate > 1e-12 else math.inf))
        return found


def _log_mean(logarithms: Iterable[float]) -> float:
    """Logarithm of the mean of numbers given by their logarithms."""
    values = list(logarithms)
    top = max(values)
    return top if math.isinf(top) else top + math.log(sum(math.exp(each - top) for each in values) / len(values))


def _over(above: Floats, below: Floats) -> Floats:
    """The quotient; infinite where only the denominator is 0, and 0 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(above / below, nan=0.0, posinf=np.inf)
