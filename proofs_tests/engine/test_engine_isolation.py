"""One request never costs another anything: limits, logits that are none, odd arguments, threads, cancels, seeds."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.tiny import POLICIES, generated, tiny_model
from reader_theory.documents import Chain, Grown, Policy, Static, Union, policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.rules import RULES
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.processors import Processor
from runtime.engine.request import Request
from runtime.engine.sampling import SamplingParams
from runtime.models.base import Output
from runtime.models.load import wrap
from runtime.models.table import TableModel

RNG = np.random.default_rng(0)
LAWS = RNG.dirichlet(np.full(5, 0.6), (5, 5))
DRAFT = 0.6 * LAWS.mean(0) + 0.4 * RNG.dirichlet(np.full(5, 0.8), 5)
TREE = policy_of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (1, 0)]))
CHAIN = policy_of(TokenTree.chain(3))
RETRIEVAL = Chain(min_match=1, offset=2, factor=1.0, max_tokens=8)
SAMPLING = [rule.name for rule in RULES if rule.decodes == "sampling"]
INFINITY = float("inf")
UNSOUND = {
    "NaN": [float("nan")] * 5,
    "one NaN": [float("nan"), 1.0, 0.0, 0.0, 0.0],
    "plus infinity": [1.0, INFINITY, 0.0, 0.0, 0.0],
    "minus infinity alone": [-INFINITY] * 5,
}


class Spoilt(TableModel):
    """Logits of one's own after token 4."""

    def __init__(self, laws: Any, logits: list[float]) -> None:
        super().__init__(laws)
        self.spoilt = torch.tensor(logits, dtype=torch.float64)

    def forward(self, tokens: Any, *given: Any, last_only: bool = False, **options: Any) -> Output:
        logits = super().forward(tokens, *given, last_only=last_only, **options).logits.clone()
        logits[(tokens[:, -1:] if last_only else tokens) == 4] = self.spoilt
        return Output(logits)


class Leaking(TableModel):
    """One whose masked slots count where they are no numbers, as attention's do: token 4 spoils its row."""

    def forward(self, tokens: Any, positions: Any, mask: Any, cache: Any, **options: Any) -> Output:
        logits = super().forward(tokens, positions, mask, cache, **options).logits.clone()
        keys = cache.stores[0].keys
        rows = slice(cache.first_row, cache.first_row + len(tokens))
        held = keys[rows, 0, : cache.width, 0]
        keys[rows, 0, : cache.width, 0] = torch.where(held == 4, float("nan"), held)
        logits[torch.isnan(keys[rows, 0, : cache.width, 0]).any(-1)] = float("nan")
        return Output(logits)

    def _law(self, seen: np.ndarray) -> np.ndarray:
        return super()._law(np.nan_to_num(seen, nan=4.0))


def _params(rule: str, **options: Any) -> SamplingParams:
    asked = {"max_new_tokens": 6} | options
    return SamplingParams(**asked) if rule == "greedy" else SamplingParams(temperature=1.0, verification=rule, **asked)  # type: ignore[arg-type]


def _served(engine: Engine, prompts: list[Any], params: SamplingParams) -> list[Request]:
    requests = [engine.add(prompt, params) for prompt in prompts]
    while engine.step():
        pass
    return requests


# ---- rows near a limit


def _near_limits() -> list[Policy]:
    chain = Static.of(TokenTree.chain(8))
    return [chain, TREE, RETRIEVAL, Union(static=chain, chain=RETRIEVAL), Grown(nodes=24, levels=2, draft_price=0.01)]


@pytest.mark.parametrize("policy", _near_limits(), ids=lambda policy: policy.kind)
def test_a_row_near_its_limit_stands_beside_one_that_drafts_widely(policy: Policy) -> None:
    model, draft = tiny_model("llama"), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    prompts = [np.arange(60) % 7, np.arange(10) % 5]
    done = Engine(wrap(model), draft, policy=policy, max_batch=2, max_context=85).generate(
        prompts, SamplingParams(max_new_tokens=24)
    )
    assert [each.tokens for each in done] == [generated(model, prompt, 24) for prompt in prompts]


@pytest.mark.parametrize("rule", ["greedy", "target_only", "chain", "traversal", "gumbel"])
@pytest.mark.parametrize("policy", [CHAIN, Grown(nodes=6, levels=2, draft_price=0.01)], ids=lambda policy: policy.kind)
def test_a_row_past_the_drafts_positions_leaves_drafting_to_the_others(rule: str, policy: Policy) -> None:
    def run(prompts: list[Any]) -> list[Request]:
        draft = TableModel(DRAFT)
        draft.max_positions = 24
        engine = Engine(TableModel(LAWS), draft, policy=policy, max_batch=2, max_context=64)
        return _served(engine, prompts, _params(rule, max_new_tokens=12, seed=3))

    short, long = run([[1, 2, 1], [1] * 20])
    assert [short.output, short.steps, short.accepted] == [
        (alone := run([[1, 2, 1]])[0]).output,
        alone.steps,
        alone.accepted,
    ]
    assert long.output == run([[1] * 20])[0].output and len(long.output) == 12


def test_no_draft_runs_beyond_the_models_positions() -> None:
    class Short(TableModel):
        def forward(self, tokens: Any, positions: Any, *given: Any, **options: Any) -> Output:
            assert int(positions.max()) < self.max_positions
            return super().forward(tokens, positions, *given, **options)

    for policy in (CHAIN, TREE, Grown(nodes=6, levels=2, draft_price=0.01)):
        for rule in ("greedy", "chain", "traversal"):
            draft = Short(DRAFT)
            draft.max_positions = 20
            engine = Engine(TableModel(LAWS), draft, policy=policy, max_batch=3, max_context=64)
            done = _served(engine, [[1], [1] * 17, [2] * 30], _params(rule, max_new_tokens=25))
            assert [request.finish for request in done] == ["length"] * 3


# ---- logits that are none


@pytest.mark.parametrize("backend", ["eager", "graphs"])
@pytest.mark.parametrize("rule", ["greedy", *SAMPLING])
@pytest.mark.parametrize("what", UNSOUND)
def test_a_row_whose_logits_are_no_law_ends_with_its_error_and_the_others_go_on(
    rule: str, what: str, backend: Any
) -> None:
    policy = CHAIN if rule in ("chain", "block") else TREE
    prompts, params = [[1, 2], [4], [3, 3]], _params(rule, stop_token_ids=(4,))
    engine = Engine(
        Spoilt(LAWS, UNSOUND[what]), TableModel(DRAFT), policy=policy, max_batch=3, max_context=64, backend=backend
    )
    first, bad, last = _served(engine, prompts, params)
    finish = bad.finish or ""
    assert finish.startswith("error: logits must be finite") and "Got" in finish and "Run the model" in finish
    alone = [
        _served(
            Engine(Spoilt(LAWS, UNSOUND[what]), TableModel(DRAFT), policy=policy, max_batch=1, max_context=64),
            [prompt],
            params,
        )[0].output
        for prompt in (prompts[0], prompts[2])
    ]
    assert [first.output, last.output] == alone and not engine.rows


@pytest.mark.parametrize("rule", ["greedy", "target_only", "chain"])
def test_a_row_whose_logits_turn_bad_in_a_later_step_ends_there(rule: str) -> None:
    """Token 4 is emitted, and the step after it has no law; what came before stays."""
    uniforms = np.full(12, 0.999)
    laws = np.broadcast_to(np.array([0.3, 0.1, 0.1, 0.1, 0.4]), (5, 5)).copy()
    engine = Engine(Spoilt(laws, UNSOUND["NaN"]), TableModel(laws), policy=CHAIN, max_batch=2, max_context=64)
    request = engine.add([1], _params(rule, max_new_tokens=12), uniforms=uniforms)
    while engine.step():
        pass
    assert (request.finish or "").startswith("error: logits") and request.output[-1] == 4


@pytest.mark.parametrize("what", ["NaN", "plus infinity"])
@pytest.mark.parametrize("rule", ["greedy", *SAMPLING])
def test_a_draft_whose_logits_are_no_law_drafts_nothing_and_changes_no_text(rule: str, what: str) -> None:
    policy = CHAIN if rule in ("chain", "block") else TREE
    prompts, params = [[1, 2], [4], [3, 3]], _params(rule, max_new_tokens=10)
    engine = Engine(TableModel(LAWS), Spoilt(DRAFT, UNSOUND[what]), policy=policy, max_batch=3, max_context=64)
    done = _served(engine, prompts, params)
    assert [request.finish for request in done] == ["length"] * 3
    if rule in ("greedy", "target_only"):
        plain = _served(Engine(TableModel(LAWS), max_batch=3, max_context=64), prompts, params)
        assert [request.output for request in done] == [request.output for request in plain]


def test_a_drafted_node_that_spoils_its_rows_memory_costs_a_step_and_no_text() -> None:
    """A node that is never emitted leaves what is no number behind: the row is cleaned and goes on."""
    laws = LAWS.copy()
    laws[..., 4] = 0
    laws /= laws.sum(-1, keepdims=True)
    ahead = policy_of(TokenTree.from_rank_paths([(0,), (1,), (2,), (3,), (4,)]))
    engine = Engine(Leaking(laws), TableModel(DRAFT), policy=ahead, max_batch=2, max_context=64)
    done = _served(engine, [[1, 2], [3]], _params("greedy", max_new_tokens=8))
    plain = _served(
        Engine(TableModel(laws), max_batch=2, max_context=64), [[1, 2], [3]], _params("greedy", max_new_tokens=8)
    )
    assert [request.output for request in done] == [request.output for request in plain]
    spoilt = engine.add([4], _params("greedy"))
    after = _served(engine, [[1, 2], [3]], _params("greedy", max_new_tokens=8))
    assert (spoilt.finish or "").startswith("error") and [r.output for r in after] == [r.output for r in plain]


class _Raises(Processor):
    """A user's processor with a bug."""

    name = "raises"

    def __call__(self, logits: Any, prefixes: Any) -> Any:
        raise KeyError("a bug of the user's")


def test_a_processor_that_raises_ends_its_own_request() -> None:
    engine = Engine(TableModel(LAWS), TableModel(DRAFT), policy=TREE, max_batch=2, max_context=64)
    good = engine.add([1, 2], _params("greedy"))
    bad = engine.add([1, 2], _params("target_only", processors=(_Raises(),)))
    while engine.step():
        pass
    assert good.finish == "length" and (bad.finish or "").startswith("error: `processors`")


# ---- odd arguments


@pytest.mark.parametrize(
    "prompt",
    [[1.7, 2.0], [float("nan")], [[1, 2], [3, 4]], None, [True], [[1], [2, 3]], [10**30], {"a": 1}, [1, 99], [-1], []],
    ids=str,
)
def test_an_odd_prompt_ends_alone_before_any_work(prompt: Any) -> None:
    engine = Engine(TableModel(LAWS), max_batch=2, max_context=64)
    bad, good = _served(engine, [prompt, [1, 2]], _params("greedy"))
    assert (bad.finish or "").startswith("error: ") and not bad.output
    assert good.finish == "length" and engine.counters.finished == {"error": 1, "length": 1}


@pytest.mark.parametrize(
    "uniforms", [[], [0.5], [2.5] * 6, [1.0] * 6, [-0.1] * 6, [float("nan")] * 6, "abc", [[0.5] * 6]], ids=str
)
def test_odd_uniforms_end_alone_before_any_work(uniforms: Any) -> None:
    engine = Engine(TableModel(LAWS), max_batch=2, max_context=64)
    good = engine.add([1, 2], _params("target_only"))
    bad = engine.add([1, 2], _params("target_only"), uniforms=uniforms)
    assert (bad.finish or "").startswith("error: `uniforms` must hold 6 numbers in [0, 1)")
    while engine.step():
        pass
    assert good.finish == "length" and not bad.output


def test_a_text_for_a_list_of_prompts_and_params_of_another_length_are_refused() -> None:
    engine = Engine(TableModel(LAWS), max_batch=2, max_context=64)
    for prompts, params in (("abc", None), ([[1], [2]], [SamplingParams()]), ([[1]], [SamplingParams()] * 2)):
        with pytest.raises(InvalidInputError, match="must be"):
            engine.generate(prompts, params)
    assert not engine.waiting


# ---- threads, and calls from within


def test_an_engine_may_be_used_from_many_threads() -> None:
    engine = Engine(TableModel(LAWS), TableModel(DRAFT), policy=TREE, max_batch=3, max_context=64)
    found: dict[int, list[int]] = {}
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            params = _params("target_only", max_new_tokens=20, seed=seed)
            found[seed] = engine.generate([[seed % 5]], params)[0].tokens
            gone = engine.add([seed % 5], params)
            engine.step()
            engine.cancel(gone)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not engine.rows and not engine.waiting
    for seed, tokens in found.items():
        alone = Engine(TableModel(LAWS), max_batch=1, max_context=64)
        assert alone.generate([[seed % 5]], _params("target_only", max_new_tokens=20, seed=seed))[0].tokens == tokens


@pytest.mark.parametrize("others", [0, 1])
def test_a_policy_may_cancel(others: int) -> None:
    held: list[Request] = []

    def choose(_rows: int, _context: float) -> Policy:
        if held and len(held[0].output) > 3:
            engine.cancel(held[0])
        return TREE

    engine = Engine(TableModel(LAWS), TableModel(DRAFT), policy=choose, max_batch=2, max_context=64)
    held += [engine.add([1], _params("greedy", max_new_tokens=30)) for _ in range(1 + others)]
    while engine.step():
        pass
    assert [request.finish for request in held] == ["cancelled", *["length"] * others]
    assert engine.counters.finished["cancelled"] == 1


class _Cancels:
    """A monitor that cancels all others as soon as one has finished."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.others: list[Request] = []
        self.seen: list[str] = []

    def note(self, request: Request) -> None:
        assert self.engine is not None
        self.seen.append(request.id)
        for other in self.others:
            self.engine.cancel(other)


def test_a_monitor_may_cancel_and_sees_each_request_once() -> None:
    monitor = _Cancels()
    engine = monitor.engine = Engine(TableModel(LAWS), monitor=monitor, max_batch=2, max_context=64)
    engine.add([1], _params("greedy", max_new_tokens=3), id="short")
    monitor.others = [engine.add([2], _params("greedy", max_new_tokens=30), id=name) for name in ("runs", "waits")]
    while engine.step():
        pass
    assert monitor.seen == ["short", "runs"] and engine.counters.finished == {"length": 1, "cancelled": 2}


def test_a_step_within_a_step_is_refused_and_the_engine_goes_on() -> None:
    calls: list[Callable[[], bool]] = []

    def choose(_rows: int, _context: float) -> Policy:
        for call in calls:
            call()
        return TREE

    engine = Engine(TableModel(LAWS), TableModel(DRAFT), policy=choose, max_batch=2, max_context=64)
    request = engine.add([1], _params("greedy"))
    calls.append(engine.step)
    with pytest.raises(InvalidInputError, match="within a step"):
        engine.step()
    calls.clear()
    while engine.step():
        pass
    assert request.finish == "length"


def test_another_engines_request_is_not_cancelled() -> None:
    engine, other = (Engine(TableModel(LAWS), max_batch=2, max_context=64) for _ in range(2))
    request = other.add([1], _params("greedy"))
    with pytest.raises(InvalidInputError, match="this engine's"):
        engine.cancel(request)
    while other.step():
        pass
    assert request.finish == "length"


# ---- what is counted


@pytest.mark.parametrize("backend", ["eager", "graphs"])
def test_drafts_behind_a_stop_token_do_not_count(backend: Any) -> None:
    """A chain of 3 is accepted as a whole, and its first token ends the request."""
    laws = np.roll(np.eye(5), 1, axis=1)
    engine = Engine(TableModel(laws), TableModel(laws), policy=CHAIN, max_batch=1, max_context=64, backend=backend)
    (done,) = engine.generate([[0]], SamplingParams(max_new_tokens=20, stop_token_ids=(2,)))
    assert done.tokens == [1, 2] and done.accepted == 1
    counters = engine.counters
    assert counters.emitted == 1 and counters.accepted["draft"] == (1, 0, 0)


# ---- seeds


@pytest.mark.parametrize("rule", SAMPLING)
@pytest.mark.parametrize("policy", ["off", "chain"])
def test_a_seed_alone_fixes_a_text(rule: str, policy: str) -> None:
    def engine(rows: int) -> Engine:
        return Engine(TableModel(LAWS), TableModel(DRAFT), policy=POLICIES[policy], max_batch=rows, max_context=64)

    params = _params(rule, max_new_tokens=15, seed=7)
    (alone,) = engine(1).generate([[1, 2, 1]], params)
    others = [_params("target_only", seed=1), params, _params("greedy", max_new_tokens=9), params]
    batch = engine(3).generate([[3] * 5, [1, 2, 1], [2], [1, 2, 1]], others)
    assert batch[1].tokens == alone.tokens == batch[3].tokens
    assert engine(1).generate([[1, 2, 1]], _params(rule, max_new_tokens=15, seed=8))[0].tokens != alone.tokens
