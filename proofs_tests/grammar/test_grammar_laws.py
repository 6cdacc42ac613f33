"""With Phi(y) the probability that the model completes y to a string of the language, the law given the language is the
Doob transform p(v | y) Phi(yv) / Phi(y); masking renormalises p(v | y) alone, which is another law."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from reader_theory.errors import InvalidInputError
from reader_theory.grammar import (
    LOGARITHMIC,
    Automaton,
    Dyck,
    Language,
    Moves,
    NotALanguageError,
    Prefixes,
    TooManyPrefixesError,
    Trie,
    Validity,
    future_validity,
    prefixes_of,
    string_law,
)

Text = tuple[int, ...]
EXACT, MASK = Validity.of("exact"), Validity.of("mask")
OPEN, CLOSE = 0, 1


def rational_law(rng: np.random.Generator, order: int, vocabulary: int) -> dict[Text, list[Fraction]]:
    """A random law after each context of `order` tokens, zeros among them now and then."""
    found: dict[Text, list[Fraction]] = {}
    for context in product(range(vocabulary), repeat=order):
        counts = rng.integers(0, 6, vocabulary) + (rng.random(vocabulary) < 0.7)
        counts[rng.integers(vocabulary)] += 1
        found[context] = [Fraction(int(count), int(counts.sum())) for count in counts]
    return found


def moves_of(graph: Prefixes, laws: dict[Text, list[Fraction]], end: int | None = None) -> list[Moves]:
    order = len(next(iter(laws)))

    def law(path: Text) -> list[Fraction]:
        return laws[(*[0] * order, *path)[-order:]]

    return [
        Moves([law(path)[token] for token in tokens.tolist()], Fraction(1) if end is None else law(path)[end])
        for path, tokens in zip(graph.paths, graph.tokens, strict=True)
    ]


def by_definition(
    strings: list[Text], laws: dict[Text, list[Fraction]], end: int | None = None
) -> dict[Text, Fraction]:
    """p(y) of each string over the sum of all: the law given the language, without any tree."""
    order = len(next(iter(laws)))
    mass: dict[Text, Fraction] = {}
    for string in strings:
        text, mass[string] = [0] * order, Fraction(1)
        for token in (*string, *(() if end is None else (end,))):
            mass[string] *= laws[tuple(text[-order:])][token]
            text.append(token)
    total = sum(mass.values())
    return {string: part / total for string, part in mass.items()}


def masked(strings: list[Text], laws: dict[Text, list[Fraction]]) -> dict[Text, Fraction]:
    """What drawing allowed tokens one after the other gives, by definition."""
    order = len(next(iter(laws)))
    found: dict[Text, Fraction] = {}
    for string in strings:
        share, text = Fraction(1), [0] * order
        for place, token in enumerate(string):
            allowed = {other[place] for other in strings if other[:place] == string[:place]}
            law = laws[tuple(text[-order:])]
            total = sum(law[each] for each in allowed)
            share = share * law[token] / total if total else Fraction(0)
            text.append(token)
        found[string] = share
    return found


def brackets(length: int, depth: int = 0) -> list[Text]:
    if not length:
        return [()] if not depth else []
    opened = [(OPEN, *rest) for rest in brackets(length - 1, depth + 1)] if depth < length else []
    return opened + ([(CLOSE, *rest) for rest in brackets(length - 1, depth - 1)] if depth else [])


def distance(one: dict[Text, Any], other: dict[Text, Any]) -> Any:
    return sum(abs(one.get(text, 0) - other.get(text, 0)) for text in one.keys() | other.keys()) / 2


@pytest.mark.parametrize("seed", range(12))
def test_dyck_of_length_six_has_both_laws_exactly(seed: int) -> None:
    laws = rational_law(np.random.default_rng(seed), 2, 3)
    strings = brackets(6)
    graph = prefixes_of(Dyck([(OPEN, CLOSE)], 6), 6)
    moves = moves_of(graph, laws)
    faithful, projected = string_law(graph, moves, EXACT), string_law(graph, moves, MASK)
    assert {text: faithful.get(text, 0) for text in strings} == by_definition(strings, laws)
    assert {text: projected.get(text, 0) for text in strings} == masked(strings, laws)


@pytest.mark.parametrize("seed", range(6))
def test_future_validity_is_the_mass_of_the_completions(seed: int) -> None:
    """sum_v p(v | y) Phi(yv) = Phi(y), and Phi(root) = Z."""
    laws = rational_law(np.random.default_rng(100 + seed), 2, 4)
    graph = prefixes_of(Dyck([(0, 1), (2, 3)], 6), 6)
    moves = moves_of(graph, laws)
    phi = future_validity(graph, moves)
    for node, law in enumerate(moves):
        below = sum(p * phi[to] for p, to in zip(law.tokens, graph.below[node], strict=True))
        assert phi[node] == (below if len(law.tokens) else 1)
    total = Fraction(0)
    for path, done in zip(graph.paths, graph.complete, strict=True):
        if done:
            part, text = Fraction(1), [0, 0]
            for token in path:
                part *= laws[tuple(text[-2:])][token]
                text.append(token)
            total += part
    assert phi[0] == total
    logs = [Moves([float(np.log(float(p))) if p else -np.inf for p in law.tokens], 0.0) for law in moves]
    assert np.exp(future_validity(graph, logs, LOGARITHMIC)[0]) == pytest.approx(float(total), abs=1e-12)


def test_the_gap_of_three_strings_has_a_closed_form() -> None:
    """L = {AA, BA, BB}, p(A) = 1 - p(B) = a after anything: AA has a^2 / (1 - a b) under exact, a under mask."""
    a = Fraction(1, 3)
    laws = {(0,): [a, 1 - a], (1,): [a, 1 - a]}
    strings: list[Text] = [(0, 0), (1, 0), (1, 1)]
    graph = prefixes_of(Trie(strings), 2)
    moves = moves_of(graph, laws)
    whole = 1 - a * (1 - a)
    assert string_law(graph, moves, EXACT) == {
        (0, 0): a**2 / whole,
        (1, 0): a * (1 - a) / whole,
        (1, 1): (1 - a) ** 2 / whole,
    }
    assert string_law(graph, moves, MASK) == {(0, 0): a, (1, 0): (1 - a) * a, (1, 1): (1 - a) ** 2}
    assert future_validity(graph, moves)[0] == whole
    assert distance(string_law(graph, moves, EXACT), string_law(graph, moves, MASK)) == a - a**2 / whole


def _reusing_the_current_law(graph: Prefixes, laws: dict[Text, list[Fraction]]) -> dict[Text, Any]:
    """The free variant: the step's own law stands in for the one after the token, so that no forward is needed."""
    order, found = len(next(iter(laws))), dict[Text, Any]()
    waiting: list[tuple[int, Text, Any]] = [(0, (), 1.0)]
    while waiting:
        node, text, mass = waiting.pop()
        law = laws[(*[0] * order, *graph.paths[node])[-order:]]
        steps = list(zip(graph.tokens[node].tolist(), graph.below[node], strict=True))
        ahead = [
            float(law[token] * (sum(law[t] for t in graph.tokens[to].tolist()) if len(graph.tokens[to]) else 1))
            for token, to in steps
        ]
        if not steps:
            found[text] = mass
        waiting += [
            (to, (*text, token), mass * part / sum(ahead))
            for (token, to), part in zip(steps, ahead, strict=True)
            if part
        ]
    return found


def test_looking_ahead_takes_the_distance_to_nothing_and_the_free_variant_adds_to_it() -> None:
    rng = np.random.default_rng(7)
    graph = prefixes_of(Dyck([(OPEN, CLOSE)], 6), 6)
    gaps, free = [], []
    for _ in range(60):
        rows = rng.dirichlet(np.ones(3), size=(3, 3))
        laws = {(i, j): [Fraction(float(p)) for p in rows[i, j]] for i in range(3) for j in range(3)}
        moves = [Moves([float(p) for p in law.tokens], 1.0) for law in moves_of(graph, laws)]
        exact = string_law(graph, moves, EXACT)
        gaps.append([distance(exact, string_law(graph, moves, Validity(k))) for k in range(6)])
        free.append(distance(exact, _reusing_the_current_law(graph, laws)))
    mean = np.mean(gaps, axis=0)
    assert (np.diff(mean[:5]) < 0).all() and mean[4] < 1e-12 and mean[5] < 1e-12, mean
    assert mean[1] < 0.95 * mean[0] < mean[0] < np.mean(free)


def test_prefixes_that_a_model_cannot_tell_apart_are_one_and_give_the_same() -> None:
    laws = rational_law(np.random.default_rng(3), 2, 4)
    language = Dyck([(0, 1), (2, 3)], 8)
    graph, merged = prefixes_of(language, 8), prefixes_of(language, 8, alike=2, before=(0, 0))
    assert len(merged) < len(graph) / 3
    assert future_validity(graph, moves_of(graph, laws))[0] == future_validity(merged, moves_of(merged, laws))[0]
    assert string_law(graph, moves_of(graph, laws), EXACT) == string_law(merged, moves_of(merged, laws), EXACT)


def test_an_end_token_belongs_to_the_mass_of_a_string() -> None:
    laws = rational_law(np.random.default_rng(11), 1, 4)
    strings: list[Text] = [(0,), (0, 1), (2, 2)]
    graph = prefixes_of(Trie(strings), 2)
    law = string_law(graph, moves_of(graph, laws, end=3), EXACT)
    assert {text: law.get(text, 0) for text in strings} == by_definition(strings, laws, end=3)
    assert by_definition(strings, laws, end=3) != by_definition(strings, laws)


def test_an_automaton_leaves_out_what_never_ends_and_what_does_not_fit() -> None:
    language = Automaton({0: {5: 1, 6: 2}, 1: {5: 0, 7: 3}, 2: {6: 2}}, 0, {3})
    assert language.tokens(0, 9).tolist() == [5] and language.least(0) == 2
    assert [path for path, done in zip(*_whole(language, 4), strict=True) if done] == [(5, 7), (5, 5, 5, 7)]
    assert language.prefix_free and not Trie([[1], [1, 2]]).prefix_free


def _whole(language: Language, room: int) -> tuple[tuple[Text, ...], list[bool]]:
    graph = prefixes_of(language, room)
    return graph.paths, graph.complete.tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Trie([]), "at least one string"),
        (lambda: Trie([[1, -1]]), "token ids"),
        (lambda: Automaton({0: {1: 0}}, 0, {5}), "a string that ends"),
        (lambda: Dyck([(0, 1)], 5), "even"),
        (lambda: Dyck([(0, 0)], 4), "all different"),
    ],
)
def test_what_is_no_language_is_refused_with_the_way_out(make: Any, said: str) -> None:
    with pytest.raises(NotALanguageError, match=said) as told:
        make()
    assert told.value.fix


def test_too_many_prefixes_are_refused_with_their_number() -> None:
    with pytest.raises(TooManyPrefixesError, match="more than 100 prefixes"):
        prefixes_of(Dyck([(0, 1), (2, 3)], 10), 10, most=100)


@pytest.mark.parametrize("text", ["", "exactly", "lookahead", "lookahead:0", "lookahead:-1", "lookahead:x", "mask:1"])
def test_a_validity_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="exact, lookahead:k"):
        Validity.of(text)
