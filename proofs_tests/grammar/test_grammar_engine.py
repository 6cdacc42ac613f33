"""Outputs in a language have the law that their validity names, through the engine's public interface.

The table model's laws are known exactly, and forking uniforms enumerate what the engine draws: see `test_engine_rules`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reader_theory.documents import Chain, Grown, Off, Policy, policy_of
from reader_theory.grammar import Automaton, Dyck, Language, Trie
from reader_theory.rules.exact import Forks, outcome_law
from reader_theory.trees import TokenTree
from runtime.engine.course import Course
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.engine.step import Eager
from runtime.models.table import TableModel

Text = tuple[int, ...]
END, VOCABULARY = 3, 4
_RNG = np.random.default_rng(5)
TARGET = _RNG.dirichlet(np.ones(VOCABULARY), size=(VOCABULARY, VOCABULARY))
DRAFT = _RNG.dirichlet(np.ones(VOCABULARY), size=VOCABULARY)
PROMPT = [1, 2]
STRINGS: list[Text] = [(0, 1), (1, 0), (1, 1, 2), (0,), (2, 2, 0)]
CHAIN = Chain(min_match=1, offset=2, factor=0, max_tokens=3)
TREE = TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1)])
POLICIES: dict[str, Policy] = {
    "off": Off(),
    "chain": policy_of(TokenTree.chain(3)),
    "tree": policy_of(TREE),
    "retrieval": CHAIN,
    "both": policy_of(TREE, CHAIN),
    "grown": Grown(drafter="draft", retrieval="retrieval", nodes=6, price=0.01, draft_price=0.01, levels=2, width=2),
}


def params_of(language: Language, validity: str = "exact", **options: Any) -> SamplingParams:
    kept: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 6, "stop_token_ids": (END,)}
    return SamplingParams(language=language, validity=validity, **{**kept, **options})


def engine_of(policy: Policy, target: NDArray[Any] = TARGET, rows: int = 1, **options: Any) -> Engine:
    return Engine(TableModel(target), TableModel(DRAFT), policy=policy, max_batch=rows, max_context=32, **options)


def law_of(engine: Engine, params: SamplingParams, beside: list[tuple[list[int], SamplingParams]] | None = None) -> Any:
    """Law of the text of one request, others served beside it."""

    def run(forks: Forks) -> Text:
        others = [engine.add(prompt, each) for prompt, each in beside or []]
        drawn = forks.uniforms(params.max_new_tokens)
        request = engine.add(PROMPT, params, uniforms=drawn, streams=lambda *key: forks.uniforms(key[-1]))
        while engine.step():
            pass
        assert all(each.finish in ("stop", "length") for each in (request, *others)), request.finish
        return tuple(request.output)

    return {text: float(share) for text, share in outcome_law(run).items() if share}


def faithful(strings: list[Text], laws: NDArray[Any] = TARGET, end: Text = (END,)) -> dict[Text, float]:
    mass: dict[Text, float] = {}
    for string in strings:
        text, part = [0, 0, *PROMPT], 1.0
        for token in (*string, *end):
            part *= laws[text[-2], text[-1], token]
            text.append(token)
        mass[(*string, *end)] = part
    total = sum(mass.values())
    return {text: part / total for text, part in mass.items()}


def projected(strings: list[Text], laws: NDArray[Any] = TARGET, end: Text = (END,)) -> dict[Text, float]:
    whole = [(*string, *end) for string in strings]
    found: dict[Text, float] = {}
    for string in whole:
        text, part = [0, 0, *PROMPT], 1.0
        for place, token in enumerate(string):
            allowed = {other[place] for other in whole if other[:place] == string[:place]}
            law = laws[text[-2], text[-1]]
            part *= law[token] / sum(law[each] for each in allowed)
            text.append(token)
        found[string] = part
    return found


def gap(one: dict[Text, float], other: dict[Text, float]) -> float:
    return sum(abs(one.get(text, 0.0) - other.get(text, 0.0)) for text in one.keys() | other.keys()) / 2


@pytest.mark.parametrize("policy", POLICIES)
def test_each_validity_has_its_law_whoever_drafts(policy: str) -> None:
    engine = engine_of(POLICIES[policy])
    exact, mask = faithful(STRINGS), projected(STRINGS)
    assert gap(exact, mask) > 0.05
    assert gap(law_of(engine, params_of(Trie(STRINGS))), exact) < 1e-12
    assert gap(law_of(engine, params_of(Trie(STRINGS), "mask")), mask) < 1e-12
    assert gap(law_of(engine, params_of(Trie(STRINGS), "lookahead:4")), exact) < 1e-12
    if policy in ("chain", "tree", "both"):
        assert sum(engine.counters.accepted["draft"]) > 0


@pytest.mark.parametrize(
    ("rule", "validity"),
    [("chain", "mask"), ("multi_round", "lookahead:1"), ("without_replacement", "mask"), ("traversal", "lookahead:1")],
)
def test_rules_that_draw_drafts_keep_the_law(rule: str, validity: str) -> None:
    shape = policy_of(TokenTree.chain(2) if rule == "chain" else TokenTree.from_rank_paths([(0,), (1,)]))
    asked = params_of(Trie([(0, 1), (1, 0), (1, 1)]), validity, verification=rule)
    plain = law_of(engine_of(Off()), replace(asked, verification="target_only"))
    engine = engine_of(shape)
    assert gap(law_of(engine, asked), plain) < 1e-12
    assert sum(engine.counters.accepted["draft"]) > 0


def test_dyck_of_length_six_without_an_end_token() -> None:
    def words(left: int, depth: int = 0) -> list[Text]:
        if not left:
            return [()] if not depth else []
        opened = [(0, *rest) for rest in words(left - 1, depth + 1)] if depth < left else []
        return opened + ([(1, *rest) for rest in words(left - 1, depth - 1)] if depth else [])

    strings, language = words(6), Dyck([(0, 1)], 6)
    for depth in (1, 2, 3, 4):
        engine = engine_of(policy_of(TokenTree.chain(depth)))
        for validity, law in (("exact", faithful), ("mask", projected)):
            asked = params_of(language, validity, stop_token_ids=())
            assert gap(law_of(engine, asked), law(strings, end=())) < 1e-12


def test_filters_and_temperature_are_part_of_the_law() -> None:
    powered = TARGET ** (1 / 1.7)
    floor = np.sort(powered, axis=-1)[..., -3][..., None]
    kept = np.where(powered >= floor, powered, 0.0)
    laws = kept / kept.sum(-1, keepdims=True)
    found = law_of(engine_of(POLICIES["tree"]), params_of(Trie(STRINGS), temperature=1.7, top_k=3))
    assert gap(found, {text: part for text, part in faithful(STRINGS, laws).items() if part}) < 1e-6
    assert gap(found, faithful(STRINGS)) > 0.02


def test_a_penalty_reads_the_prefix_inside_the_law() -> None:
    plain = law_of(engine_of(Off()), params_of(Trie(STRINGS), repetition_penalty=1.5))
    drafted = law_of(engine_of(POLICIES["tree"]), params_of(Trie(STRINGS), "lookahead:4", repetition_penalty=1.5))
    assert gap(plain, drafted) < 1e-12 and gap(plain, faithful(STRINGS)) > 0.01


def test_greedy_gives_the_string_least_below_the_greedy_path() -> None:
    """The limit of the faithful law as the temperature goes to 0."""
    logs = np.log(TARGET)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        strings = [tuple(rng.integers(0, 3, size).tolist()) for size in rng.integers(1, 5, 6)]

        def below(string: Text) -> float:
            text, lost = [0, 0, *PROMPT], 0.0
            for token in (*string, END):
                law = logs[text[-2], text[-1]]
                lost += law[token] - law.max()
                text.append(token)
            return lost

        engine = engine_of(POLICIES["tree"])
        done = engine.generate([PROMPT], params_of(Trie(strings), temperature=0.0))[0]
        assert tuple(done.tokens) == (*max(strings, key=below), END)
        ahead = engine.generate([PROMPT], params_of(Trie(strings), "lookahead:5", temperature=0.0))[0]
        assert ahead.tokens == done.tokens


def random_language(rng: np.random.Generator) -> list[Text]:
    return [tuple(rng.integers(0, 3, size).tolist()) for size in rng.integers(1, 4, int(rng.integers(1, 6)))]


def check_random_languages(seeds: range) -> None:
    """A language and a model a seed, beside two rows of other languages and one of none."""
    for seed in seeds:
        rng = np.random.default_rng(1000 + seed)
        target = rng.dirichlet(np.full(VOCABULARY, 0.7), size=(VOCABULARY, VOCABULARY))
        strings = sorted(set(random_language(rng)))
        validity = ("exact", "mask", "lookahead:3")[seed % 3]
        policy = (Off(), policy_of(TokenTree.chain(2)), policy_of(TREE), CHAIN)[int(rng.integers(4))]
        beside = [
            ([2], params_of(Trie(random_language(rng)), "mask", seed=seed)),
            ([0, 1, 0], params_of(Trie(random_language(rng)), "exact", seed=seed)),
            ([3, 3, 3, 3], SamplingParams(temperature=1.0, max_new_tokens=3, seed=seed)),
        ]
        engine = engine_of(policy, target, rows=4)
        law = law_of(engine, params_of(Trie(strings), validity), beside[: int(rng.integers(4))])
        expected = projected(strings, target) if validity == "mask" else faithful(strings, target)
        assert gap(law, expected) < 1e-10, (seed, strings, validity)


def test_random_languages_and_models_have_their_laws_in_ragged_batches() -> None:
    check_random_languages(range(24))


@pytest.mark.slow
def test_a_thousand_random_languages_and_models_have_their_laws_in_ragged_batches() -> None:
    check_random_languages(range(1000))


class _Counted(TableModel):
    """Counts its forwards over trees, and the prompt's apart."""

    def __init__(self, laws: NDArray[Any]) -> None:
        super().__init__(laws)
        self.trees = 0

    def forward(self, tokens: torch.Tensor, *args: Any, last_only: bool = False, **options: Any) -> Any:
        self.trees += not last_only
        return super().forward(tokens, *args, last_only=last_only, **options)


def test_a_small_language_takes_one_forward_and_a_large_one_is_split() -> None:
    target = _Counted(TARGET)
    engine = Engine(target, max_batch=3, max_context=64)
    asked = params_of(Trie(STRINGS))
    done = engine.generate([PROMPT], asked)[0]
    assert target.trees == 1 and done.steps == 1 and done.law == "grammar_faithful (exact)"
    target.trees = 0
    engine.generate([PROMPT, [0], [2, 1, 1]], asked)
    assert target.trees == 1, "rows that join together share a forward"
    target.trees = 0
    digits = Automaton({place: {0: place + 1, 1: place + 1, 2: place + 1} for place in range(6)}, 0, {6})
    blind = Engine(_blind(target), max_batch=1, max_context=64)
    many = blind.generate([PROMPT], params_of(digits, max_new_tokens=7))[0]
    assert many.finish == "stop" and len(many.tokens) == 7 and target.trees > 4
    target.trees = 0
    engine.generate([PROMPT], params_of(digits, max_new_tokens=7))
    assert target.trees == 1, "a model of order 2 cannot tell most of 1,092 prefixes apart"


def _blind(model: _Counted) -> _Counted:
    """The same model, which does not say how little it reads."""
    twin = _Counted(model.laws)
    twin.reads, twin.forward = None, model.forward  # type: ignore[method-assign]
    return twin


def test_merging_prefixes_does_not_change_the_law() -> None:
    language = Dyck([(0, 1)], 6)
    asked = params_of(language, stop_token_ids=())
    merged = law_of(engine_of(Off()), asked)
    blind = Engine(_blind(_Counted(TARGET)), max_batch=1, max_context=32)
    assert gap(merged, law_of(blind, asked)) < 1e-12


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "off"])
@pytest.mark.parametrize("rule", ["target_only", "gumbel"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_outside_the_language_are_never_offered(policy: str, rule: str, temperature: float) -> None:
    offered: list[tuple[Text, bool]] = []
    language = Trie([*STRINGS, (0, 1, 2, 0), (1, 1, 2, 2, 1)])

    class Watched(Eager):
        def verify(self, rows: Any, proposal: Any) -> Any:
            for row, request in enumerate(rows):
                tree = proposal.trees[row]
                for node in range(1, len(tree)):
                    path = tuple(tree.tokens[each] for each in tree.path(node)[1:])
                    offered.append((path, request.course.lies_within((*request.output, *path))))
            return super().verify(rows, proposal)

    engine = engine_of(POLICIES[policy], rows=3, backend=Watched)
    for seed in range(6):
        asked = params_of(language, "mask", seed=seed, temperature=temperature, verification=rule)
        texts = engine.generate([[1, 2, 0, 1, 1, 2], [0], [2, 2]], asked)
        assert {each.finish for each in texts} == {"stop"}
    assert all(inside for _, inside in offered)
    assert offered or (policy, rule) == ("grown", "gumbel")  # grown trees are not coupled


def test_static_shapes_give_the_same_texts() -> None:
    prompts = [[1, 2, 1], [0], [2, 3, 2, 1, 2]]
    for validity in ("exact", "lookahead:2", "mask"):
        asked = [params_of(Trie(STRINGS), validity, seed=3), params_of(Dyck([(0, 1)], 4), validity), SamplingParams()]
        both = [
            [done.tokens for done in engine_of(POLICIES["tree"], rows=3, backend=each).generate(prompts, asked)]
            for each in ("eager", "graphs")
        ]
        assert both[0] == both[1]


class _ForgetsTheEnd(Course):
    """A planted bug: the mass of the end token is left out of Phi."""

    def note(self, output: Text, scores: NDArray[np.float64]) -> None:
        changed = scores.copy()
        if not len(self._tokens(self.place(output).state, len(output))):
            changed[list(self.stops)] = 0.0
        super().note(output, changed)


class _CurrentLaw(Course):
    """A planted bug: the law of the empty prefix stands in for all others, which then need no forward."""

    def note(self, output: Text, scores: NDArray[np.float64]) -> None:
        if not output:
            self._first = scores
        super().note(output, self._first)


@pytest.mark.parametrize("mutant", [_ForgetsTheEnd, _CurrentLaw])
def test_a_planted_bug_changes_the_law(mutant: type[Course], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engine.request.Course", mutant)
    assert gap(law_of(engine_of(Off()), params_of(Trie(STRINGS))), faithful(STRINGS)) > 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_new_tokens": 1}, "room for a string.*at least 2 new tokens"),
        ({"stop_token_ids": (0,)}, "end token must not stand within"),
        ({"stop_token_ids": ()}, "one string begins another"),
        ({"language": Trie([[9]])}, "must be below 4"),
        ({"language": Trie([[1]]).tokenized_by("other")}, "tokens of the engine's tokenizer"),
        ({"temperature": 1.0, "top_k": 1}, "some string of the language must have mass"),
        ({"validity": "mask", "top_k": 1, "language": Trie([[2, 2, 0]])}, "kept by the sampler's filters"),
    ],
)
def test_a_request_that_cannot_be_served_says_why_and_the_others_go_on(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    laws = np.full((4, 4, 4), 0.01)
    laws[..., 3] = 0.97
    engine = engine_of(POLICIES["tree"], laws, rows=3)
    monkeypatch.setattr(Engine, "_fingerprint", "ours")
    bad = replace(params_of(Trie(STRINGS)), **change)
    done = engine.generate([PROMPT, PROMPT, [0]], [params_of(Trie(STRINGS)), bad, SamplingParams(max_new_tokens=4)])
    assert done[1].finish.startswith("error: ")
    assert re.search(said, done[1].finish), done[1].finish
    assert done[0].finish == "stop" and done[2].finish == "length"
    assert engine.generate([PROMPT], params_of(Trie(STRINGS)))[0].finish == "stop"


def test_stop_texts_beside_a_language_are_refused() -> None:
    with pytest.raises(ValueError, match="`stop` must be left out"):
        params_of(Trie(STRINGS), stop=("x",))
