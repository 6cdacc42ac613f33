"""A drafter and a law processor of a stranger, each one file outside the package, run through engine and battery."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs_tests.tiny import generated, random_prompts, tiny_model
from reader_theory.documents import Chain, Static
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from runtime.drafters.base import DRAFTERS
from runtime.drafters.battery import check_drafter
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.retrieval import RetrievalDrafter
from runtime.engine.engine import Engine
from runtime.engine.processors import PROCESSORS
from runtime.engine.sampling import SamplingParams
from runtime.models.load import wrap
from runtime.models.table import TableModel

DRAFTER = '''
import numpy as np
from runtime.drafters.base import DRAFTERS, Drafter, Proposal, gathered

class Echo(Drafter):
    """Offers the last token again and again."""
    name = "echo"
    def join(self, row, tokens, hidden=None): pass
    def extend(self, row, tokens, hidden=None): pass
    def move(self, source, target): pass
    def propose(self, policy, rows, spare):
        sizes = [max(min(policy.most_nodes, row.room - 1, left), 0) for row, left in zip(rows, spare)]
        return Proposal(gathered(rows, [[row.output[-1]] * n for row, n in zip(rows, sizes)], name=self.name))

DRAFTERS.register(Echo)
'''
PROCESSOR = '''
from runtime.engine.processors import PROCESSORS, Processor

class Banned(Processor):
    """Takes tokens out of the law."""
    name = "banned"
    def __init__(self, tokens): self.tokens = tokens
    def __call__(self, logits, prefixes):
        logits = logits.clone()
        logits[:, self.tokens] = -float("inf")
        return logits

PROCESSORS.register(Banned)
'''


def _module(path: Path, text: str) -> Any:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    yield _module(tmp_path / "echo.py", DRAFTER).Echo, _module(tmp_path / "banned.py", PROCESSOR).Banned
    DRAFTERS._found.pop("echo")
    PROCESSORS._found.pop("banned")


def test_a_strangers_drafter_passes_the_battery_and_serves(strangers: tuple[Any, Any]) -> None:
    echo, policy = strangers[0], Static.of(TokenTree.chain(4), "echo")
    assert DRAFTERS["echo"] is echo
    check_drafter(echo, policy, 64)
    prompts = [prompt.tokens for prompt in random_prompts(4)]
    engine = Engine(wrap(tiny_model("llama")), drafters={"echo": echo()}, policy=policy, max_batch=3, max_context=96)
    done = engine.generate(prompts, SamplingParams(max_new_tokens=16))
    assert [each.tokens for each in done] == [generated(tiny_model("llama"), prompt, 16) for prompt in prompts]
    assert set(engine.counters.offered) == {"echo"}


def test_a_strangers_processor_acts_alike_on_draft_and_target(strangers: tuple[Any, Any]) -> None:
    """A model that drafts for itself under a processor of its own: every drawn token of a chain is kept."""
    laws, banned = np.full((4, 4), 0.25) + 0.1 * np.eye(4) - 0.025, strangers[1]([2])
    engine = Engine(TableModel(laws), TableModel(laws), policy=Static.of(TokenTree.chain(3)), max_context=64)
    for rule in ("chain", "target_only"):
        params = SamplingParams(temperature=1.0, max_new_tokens=33, verification=rule, processors=(banned,), seed=3)
        done = engine.generate([[1, 2, 1], [0]], params)
        assert all(2 not in each.tokens for each in done)
        if rule == "chain":
            assert [(each.steps, each.accepted) for each in done] == [(8, 24), (8, 24)]
    greedy = SamplingParams(max_new_tokens=5, processors=(strangers[1]([1]),))
    assert 1 not in engine.generate([[1]], greedy)[0].tokens
    with pytest.raises(InvalidInputError, match="processors"):
        SamplingParams(processors=("banned",))


LAWS = np.random.default_rng(8).dirichlet(np.ones(8), 8)


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (lambda: NeuralDrafter(TableModel(LAWS)), Static.of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1)]))),
        (RetrievalDrafter, Chain(min_match=1, offset=1, factor=1, max_tokens=6)),
    ],
)
def test_drafters_of_the_house_pass_the_battery(make: Any, policy: Any) -> None:
    check_drafter(make, policy, 8)


def test_a_drafter_that_forgets_to_move_is_caught() -> None:
    class Forgets(RetrievalDrafter):
        def move(self, source: int, target: int) -> None:
            pass

    with pytest.raises(InvalidInputError, match="its row's text alone"):
        check_drafter(Forgets, Chain(min_match=1, offset=1, factor=1, max_tokens=6), 8)


def _accepted(monkeypatch: pytest.MonkeyPatch, forget: bool) -> float:
    """Acceptance of a model that drafts for itself, where the first row leaves early."""
    engine = Engine(
        wrap(tiny_model("llama")),
        wrap(tiny_model("llama")),
        policy=Static.of(TokenTree.chain(3)),
        max_batch=3,
        max_context=120,
    )
    if forget:
        cache = engine.drafters["draft"].cache
        assert cache is not None
        monkeypatch.setattr(cache, "move_row", lambda source, target: None)
    sizes = [SamplingParams(max_new_tokens=size) for size in (5, 33, 33)]
    done = engine.generate([prompt.tokens for prompt in random_prompts(3)], sizes)
    whole = [generated(tiny_model("llama"), prompt.tokens, 33) for prompt in random_prompts(3)]
    assert [each.tokens for each in done] == [text[: len(each.tokens)] for text, each in zip(whole, done, strict=True)]
    return sum(each.accepted for each in done) / sum(each.steps for each in done)


def test_a_drafts_cache_row_that_is_not_moved_is_caught_by_its_acceptance(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _accepted(monkeypatch, False) == 3.0 > 1.2 * _accepted(monkeypatch, True), "the text alone would not tell"
