"""Every verification rule keeps, or is shown not to keep, the target's law through the engine's public interface.

The table model's laws are known exactly. Forking uniforms stand for every number of [0, 1) at once: each run of the
engine decides one cell of them, and the cells' exact probabilities add up to the law of the text, drafting included.
The engine computes its laws in float64, so that probabilities agree to rounding and not as fractions.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reader_theory.documents import Chain, Off, policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.rules import RULES
from reader_theory.rules.cases import Case
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.exact import Forks, outcome_law
from reader_theory.rules.races import race_law
from reader_theory.trees import TokenTree
from runtime.drafters import sampled as sampled_drafts
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.table import TableModel

# Order 2, so that a wrong cache entry changes the law; two or three tokens are possible after each context.
_TARGET = np.array([[3, 0, 1, 0], [0, 2, 0, 2], [1, 0, 0, 3], [0, 1, 3, 0]]) / 4
TARGET = np.stack([np.roll(_TARGET, shift, axis=1) for shift in range(4)])
DRAFT = np.array([[2, 0, 2, 0], [1, 1, 0, 2], [0, 0, 2, 2], [1, 3, 0, 0]]) / 4
PROMPT, LENGTH = [1, 2, 1], 4
PROMPTS = [PROMPT, [0], [3, 3]]
TREE = TokenTree.from_rank_paths([(0,), (1,), (0, 0)])
SHAPES = {"chain": TokenTree.chain(2), "tree": TREE}
SAMPLING = [rule.name for rule in RULES if rule.decodes == "sampling"]
DRAWN = ("chain", "block", "multi_round", "without_replacement", "traversal")
LENGTHS = [
    *((rule, LENGTH) for rule in ("chain", "block")),
    *((rule, LENGTH - 1) for rule in DRAWN[2:]),
    *(pytest.param(rule, LENGTH, marks=pytest.mark.slow) for rule in DRAWN[2:]),
]
"""Rules and tokens of a text: a tree's rule decides ten times as many cells with a token more."""
Text = tuple[int, ...]


def _exact(length: int = LENGTH, laws: NDArray[Any] = TARGET) -> dict[Text, float]:
    law = {}
    for text in product(range(4), repeat=length):
        probability, (before, last) = 1.0, PROMPT[-2:]
        for token in text:
            probability *= laws[before, last, token]
            before, last = last, token
        if probability:
            law[text] = probability
    return law


def _engine(tree: TokenTree, retrieval: Chain | None = None, target: NDArray[Any] = TARGET) -> Engine:
    policy = policy_of(tree, retrieval)
    return Engine(TableModel(target), TableModel(DRAFT), policy=policy, max_batch=1, max_context=32)


def _engine_law(engine: Engine, params: SamplingParams) -> dict[Text, float]:
    def run(forks: Forks) -> Text:
        uniforms = forks.uniforms(params.max_new_tokens)
        request = engine.add(PROMPT, params, uniforms=uniforms, streams=lambda *key: forks.uniforms(key[-1]))
        while engine.step():
            pass
        return tuple(request.output)

    return {text: float(share) for text, share in outcome_law(run).items() if share}


def _gap(law: dict[Text, float], other: dict[Text, float]) -> float:
    return sum(abs(law.get(text, 0.0) - other.get(text, 0.0)) for text in law.keys() | other.keys()) / 2


def _params(rule: str, length: int = LENGTH, **options: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, max_new_tokens=length, verification=rule, **options)


@pytest.mark.parametrize(("rule", "length"), LENGTHS)
def test_text_has_the_target_law_whatever_the_rule(rule: str, length: int) -> None:
    engine = _engine(SHAPES["chain" if rule in ("chain", "block") else "tree"])
    assert _gap(_engine_law(engine, _params(rule, length)), _exact(length)) < 1e-12
    counted = engine.counters
    assert counted.rules.keys() == {rule} and sum(counted.accepted["draft"]) > 0


def _filtered(rows: NDArray[Any], temperature: float, top_k: int) -> NDArray[np.float64]:
    """Temperature, then the `top_k` likeliest, as a law; written apart from the engine's processors."""
    powered = rows ** (1 / temperature)
    floor = np.sort(powered, axis=-1)[..., -top_k][..., None]
    kept = np.where(powered >= floor, powered, 0.0)
    return kept / kept.sum(-1, keepdims=True)


def test_filters_apply_alike_to_draft_law_and_target_law() -> None:
    length = LENGTH - 1
    params = SamplingParams(temperature=2.0, top_k=2, max_new_tokens=length, verification="without_replacement")
    law = _engine_law(_engine(TREE), params)
    assert _gap(law, _exact(length, _filtered(TARGET, 2.0, 2))) < 1e-6  # filters run in float32
    assert _gap(law, _exact(length)) > 0.05


def test_gumbel_coupled_text_has_the_target_law_with_retrieval_beside_it() -> None:
    engine = _engine(TREE, Chain(min_match=1, offset=1, factor=0, max_tokens=2))

    def run(noise: NDArray[np.float64]) -> Text:
        def streams(stream: str, at: int, count: int) -> NDArray[np.float64]:
            return noise[at] if stream == "coupling" else np.full(count, 0.5)

        request = engine.add(PROMPT, _params("gumbel"), streams=streams)
        while engine.step():
            pass
        return tuple(request.output)

    from fractions import Fraction

    def target(text: Text) -> NDArray[Any]:
        before, last = [*PROMPT, *text][-2:]
        return np.array([Fraction(int(4 * p), 4) for p in TARGET[before, last]])

    case = Case(parents=(-1, 0, 1, 2), scheme="coupled", target=target, draft=target)
    assert case.depth + 1 == LENGTH
    law = {text: float(share) for text, share in race_law(run, case).items()}
    assert _gap(law, _exact()) < 1e-12
    assert sum(engine.counters.accepted["draft"]) > 0


def test_gumbel_coupled_text_depends_on_the_noise_and_not_on_the_drafter() -> None:
    params = SamplingParams(temperature=1.0, max_new_tokens=16, verification="gumbel", seed=3)
    texts = [
        [
            done.tokens
            for done in Engine(TableModel(TARGET), draft, policy=policy, max_batch=2).generate(prompts, params)
        ]
        for prompts in [[PROMPT, [0], [3, 3]]]
        for draft, policy in (
            (None, Off()),
            (TableModel(DRAFT), policy_of(TREE)),
            (TableModel(_TARGET), policy_of(TokenTree.chain(3))),
        )
    ]
    assert texts[0] == texts[1] == texts[2]


def test_typical_acceptance_is_lossy_and_says_so() -> None:
    engine = _engine(TREE)
    assert _gap(_engine_law(engine, _params("typical_lossy")), _exact()) > 0.05
    done = engine.generate([PROMPT], _params("typical_lossy"))[0]
    assert done.verification == "typical_lossy" and not done.lossless
    assert all(engine.generate([PROMPT], _params(rule))[0].lossless for rule in SAMPLING if rule != "typical_lossy")
    greedy = engine.generate([PROMPT], SamplingParams(max_new_tokens=4, verification="typical_lossy"))[0]
    assert greedy.verification == "greedy" and greedy.lossless


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="verification"):
        SamplingParams(verification="judge")


# ---- planted bugs


def test_a_shared_stream_of_uniforms_is_caught() -> None:
    """Drafting, acceptance and recovery share their numbers."""
    engine = _engine(TokenTree.chain(2))

    def run(forks: Forks) -> Text:
        shared = {step: forks.uniforms(LENGTH) for step in range(LENGTH + 1)}
        request = engine.add(
            PROMPT, _params("chain"), uniforms=forks.uniforms(LENGTH), streams=lambda _, at, count: shared[at][:count]
        )
        while engine.step():
            pass
        return tuple(request.output)

    law = {text: float(share) for text, share in outcome_law(run).items() if share}
    assert _gap(law, _exact()) > 0.01


@pytest.mark.parametrize("rule", ["chain", "without_replacement"])
def test_a_draft_that_is_not_drawn_from_its_declared_law_is_refused(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = sampled_drafts.draw_children
    wrong = lambda law, uniforms, scheme: right(np.roll(law, 1), uniforms, scheme)  # noqa: E731
    monkeypatch.setattr(sampled_drafts, "draw_children", wrong)
    with pytest.raises(InvalidInputError, match="law"):
        _engine(TokenTree.chain(2)).generate([PROMPT] * 8, _params(rule))


@pytest.mark.parametrize("rule", ["chain", "traversal"])
def test_a_wrong_law_declared_with_its_draws_changes_the_law(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft's law is replaced where it is declared, and the evidence of the draws with it."""

    def lies(tree: TokenTree, scheme: Any, law: Any = None, drawn_with: Any = None) -> DraftLaw:
        return DraftLaw(tree, scheme, None if law is None else 0.5 * np.asarray(law) + 0.125)

    monkeypatch.setattr(sampled_drafts, "DraftLaw", lies)
    tree = TokenTree.chain(2)
    assert _gap(_engine_law(_engine(tree), _params(rule)), _exact()) > 0.01


def test_batches_of_mixed_rules_equal_single_runs() -> None:
    prompts = [PROMPT, [0, 3], [2], [3, 1, 0, 2], [1], [2, 2, 0], [0, 1], [3]]
    asked = [SamplingParams(temperature=1.0, max_new_tokens=12, verification=rule, seed=4) for rule in SAMPLING]
    asked[0] = SamplingParams(max_new_tokens=12)
    policy = policy_of(TREE, Chain(min_match=2, offset=1, factor=0, max_tokens=2))
    texts = []
    for batch in (1, 3, 8):
        engine = Engine(TableModel(TARGET), TableModel(DRAFT), policy=policy, max_batch=batch, max_context=32)
        texts.append([done.tokens for done in engine.generate(prompts, asked)])
    assert texts[0] == texts[1] == texts[2]


def test_penalties_see_the_path_in_draft_and_target() -> None:
    """With a model that drafts for itself and a penalty on both, every drawn token of a chain is kept."""
    laws = np.full((4, 4), 0.25) + 0.1 * np.eye(4) - 0.025
    policy = policy_of(TokenTree.chain(3))
    engine = Engine(TableModel(laws), TableModel(laws), policy=policy, max_batch=2, max_context=64)
    params = SamplingParams(temperature=1.0, max_new_tokens=33, repetition_penalty=1.7, verification="chain")
    done = engine.generate([PROMPT, [0]], params)
    assert [(each.steps, each.accepted) for each in done] == [(8, 24), (8, 24)]


def _penalised(presence: float, frequency: float, length: int = LENGTH) -> dict[Text, float]:
    """The law of the text under penalties on what the output holds, written apart from the engine's processors."""
    law = {}
    for text in product(range(4), repeat=length):
        probability = 1.0
        for place, token in enumerate(text):
            before, last = [*PROMPT, *text[:place]][-2:]
            times = np.bincount(text[:place], minlength=4)
            weights = TARGET[before, last] * np.exp(-presence * (times > 0) - frequency * times)
            probability *= weights[token] / weights.sum()
        if probability:
            law[text] = probability
    return law


@pytest.mark.parametrize(("rule", "length"), LENGTHS)
def test_presence_and_frequency_penalties_have_the_exact_law_under_rules_that_reject(rule: str, length: int) -> None:
    engine = _engine(SHAPES["chain" if rule in ("chain", "block") else "tree"])
    law = _engine_law(engine, _params(rule, length, presence_penalty=0.7, frequency_penalty=-1.1))
    assert _gap(law, _penalised(0.7, -1.1, length)) < 1e-6
    assert _gap(law, _exact(length)) > 0.05 and _gap(law, _penalised(0.7, 0.0, length)) > 0.05
    assert sum(engine.counters.accepted["draft"]) > 0


@pytest.mark.parametrize("rule", SAMPLING)
def test_rules_say_whether_a_seed_alone_fixes_the_text(rule: str) -> None:
    other = TokenTree.chain(1) if rule in ("chain", "block") else TREE
    policies = (Off(), policy_of(TokenTree.chain(3)), policy_of(other))
    texts = set()
    for policy in policies:
        engine = Engine(TableModel(TARGET), TableModel(DRAFT), policy=policy, max_batch=1, max_context=64)
        params = SamplingParams(temperature=1.0, max_new_tokens=40, verification=rule, seed=11)
        texts.add(tuple(engine.generate([PROMPT], params)[0].tokens))
    told = type(RULES[rule]).__doc__ or ""
    assert ("A seed fixes the text" in told, "A seed alone does not" in told) == (len(texts) == 1, len(texts) > 1)
