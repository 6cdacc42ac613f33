"""A drafter says which forwards it takes; its trace carries that, and a plan made of documents alone charges it so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.cost import level_cost
from optimizer.forecast import step_forecast
from optimizer.plan import make_plan
from optimizer.serving_schedule import serving_schedule
from proofs_tests.plans import plan_examples as examples
from proofs_tests.tiny import generated, random_prompts, tiny_model
from reader_theory.acceptance import RankTable, fit_acceptance, replay, simulated_trace
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Cost, DrafterCost, DraftForwards, Static, Trace, TraceDrafter
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree, TokenTrees
from runtime.drafters.base import Drafter, Proposal, roots_alone
from runtime.drafters.battery import check_drafter
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.record import record_trace, trace_of
from runtime.models.load import wrap

TREE = TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)])
LEVELS, CASCADE = DraftForwards(), DraftForwards(times=2)
BLOCK, MASKED, LOOKUP = DraftForwards(kind="block"), DraftForwards(kind="block", masks=1), DraftForwards(kind="lookup")


class Remembers(Drafter):
    """A block drafter of a stranger: all levels of texts that it knows in one forward, the right token at some rank."""

    name = "remembers"
    takes = BLOCK
    forwarded = 1

    def __init__(self, texts: Sequence[list[int]] = ()) -> None:
        self.texts = texts

    def open(self, name: str, rows: int, slots: int) -> None:
        super().open(name, rows, slots)
        self.pending = [0] * rows

    def join(self, row: int, tokens: Any, hidden: Any = None) -> None:
        self.pending[row] = len(tokens)

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        self.pending[row] += len(tokens)

    def move(self, source: int, target: int) -> None:
        self.pending[target] = self.pending[source]

    def propose(self, policy: Any, rows: Any, spare: Any) -> Proposal:
        tree = policy.tree.by_level()
        kept = [
            tree.prune(nodes=max(left, 0), depth=max(row.room - 1, 0)) for row, left in zip(rows, spare, strict=True)
        ]
        if all(each.nodes == 0 for each in kept):
            return roots_alone(rows)
        tokens = [self.offered(row.text, each) for row, each in zip(rows, kept, strict=True)]
        taken = np.array(self.pending[: len(rows)], dtype=np.int64)
        self.pending[: len(rows)] = [0] * len(rows)
        trees = TokenTrees.of(tokens, [each.parents.tolist() for each in kept], ("", self.name))
        return Proposal(trees, forwards=(taken,) * self.forwarded)

    def offered(self, text: list[int], tree: TokenTree) -> list[int]:
        known = next((each for each in self.texts if each[: len(text)] == text), text)
        ahead = [*known[len(text) :], *[0] * tree.depth]
        nodes = zip(tree.depths.tolist()[1:], tree.ranks.tolist()[1:], strict=True)
        return [text[-1], *((ahead[d - 1] + 7 * (rank - (len(text) + d) % 3)) % 64 for d, rank in nodes)]


@pytest.mark.parametrize(
    ("forwards", "expected"),
    [(LEVELS, [3, 1, 1]), (CASCADE, [3, 3, 1, 1, 1, 1]), (BLOCK, [3]), (MASKED, [6]), (LOOKUP, [1])],
)
def test_a_tree_takes_the_forwards_that_are_declared(forwards: DraftForwards, expected: list[float]) -> None:
    assert forwards.sizes(Static.of(TREE).asked_widths, pending=3).tolist() == expected
    assert forwards.sizes([], pending=3).size == 0


@pytest.mark.parametrize("forwards", [LEVELS, CASCADE, BLOCK, MASKED, LOOKUP])
@pytest.mark.parametrize("tree", [TREE, TokenTree.chain(4), TokenTree.from_rank_paths([(0,), (1,), (2,)])])
def test_planner_and_forecast_charge_a_tree_alike(forwards: DraftForwards, tree: TokenTree) -> None:
    """What the search adds up level by level is what the equation of a step says of the declared forwards."""
    cost = examples.cost()
    model = cost.model(("draft",))
    levels = level_cost(cost.model(), model, "draft", forwards, batch=4, context=64, nodes=8, depth=4)
    asked = {"draft": Forwards(forwards.sizes([1, *tree.level_widths[:-1]]))}  # the search asks at every node
    step = StepConditions(batch=4, context=64, tokens=len(tree), forwards=asked, drafting=True)
    assert levels.step_s(tree.level_widths) == pytest.approx(float(model.seconds(step)), rel=1e-12)


def traced(forwards: DraftForwards, kind: Any = "model") -> Trace:
    """The simulated trace, its draft declared otherwise; of a block, with ranks by depth that are the same."""
    made = simulated_trace(prompts=12, tokens=48, ranks=(0.6, 0.15, 0.1, 0.05), spread=0.3, seed=5)
    rank = made.columns["draft_rank"]
    columns = dict(made.columns)
    if kind == "block":
        ends = np.append(np.flatnonzero(np.diff(made.columns["prompt"])) + 1, len(rank))
        left = ends[made.columns["prompt"]] - np.arange(len(rank))
        ahead = np.minimum(np.arange(len(rank))[:, None] + np.arange(6), len(rank) - 1)
        columns["draft_rank"] = np.where(np.arange(6) < left[:, None], rank[ahead], -1).astype(np.int32)
        del columns["draft_overlap"]
    drafters = made.drafters | {"draft": TraceDrafter(kind=kind, model="x", candidates=4, forwards=forwards)}
    fields = {name: getattr(made, name) for name in ("stamp", "target", "temperature", "prompts")}
    return Trace.in_memory(columns, drafters=drafters, **fields)


def test_ranks_by_depth_that_say_the_same_replay_and_fit_the_same() -> None:
    anew, block = traced(LEVELS), traced(BLOCK, "block")
    for tree in (TREE, TokenTree.chain(5)):
        one, other = (replay(each, Static.of(tree), first_position=1) for each in (anew, block))
        assert all(np.array_equal(a, b) for a, b in zip(one.__dict__.values(), other.__dict__.values(), strict=True))
    tables = [RankTable.fit(each, depth=6).conditionals for each in (anew, block)]
    assert np.allclose(tables[0][:2], tables[1][:2], atol=0.05), "later rows serve an early depth in the first alone"
    with pytest.raises(InvalidInputError, match="no deeper than the block"):
        replay(block, Static.of(TokenTree.chain(7)))


def test_a_block_is_planned_deeper_than_a_draft_that_pays_for_every_level() -> None:
    """One acceptance, one forward's seconds; the plan differs as the forwards do, and says what each costs."""
    plans, dear = {}, examples.cost(draft_s=8e-3)
    for name, forwards, kind in (("levels", LEVELS, "model"), ("cascade", CASCADE, "model"), ("block", BLOCK, "block")):
        trace = traced(forwards, kind)
        fit = fit_acceptance(trace, depth=6, resamples=100)
        plans[name] = make_plan(fit, dear, trace, batches=(1,), max_nodes=8, max_depth=6, resamples=100).entries[0]
        schedule = serving_schedule(fit, dear, trace, rate_per_s=1.0, batches=(1,), contexts=(64,), max_nodes=8)
        assert schedule.cells[0].alternatives["draft"].policy.tree.depth == pytest.approx(
            plans[name].alternatives["draft"].policy.tree.depth, abs=2
        )
    depths = {name: entry.alternatives["draft"].policy.tree.depth for name, entry in plans.items()}
    assert depths["cascade"] <= depths["levels"] < depths["block"]
    rates = {name: entry.alternatives["draft"].tokens_per_s for name, entry in plans.items()}
    assert rates["cascade"] < rates["levels"] < rates["block"]
    assert plans["block"].gap < 1e-9 and plans["block"].certified


def test_a_forecast_charges_what_the_trace_declares() -> None:
    trace, policy = traced(CASCADE), Static.of(TokenTree.chain(3))
    result = replay(trace, policy, first_position=1)
    once, twice, block = (
        step_forecast(examples.cost().as_declared({"draft": each}), policy, result, 1, 64.0).terms_s["draft"]
        for each in (LEVELS, CASCADE, BLOCK)
    )
    assert twice == pytest.approx(2 * once, rel=1e-12) and block < once / 2
    measured = examples.cost()
    told = measured.drafters | {"draft": measured.drafters["draft"].model_copy(update={"forwards": LEVELS})}
    with pytest.raises(InvalidInputError, match="that it was recorded with"):
        measured.model_copy(update={"drafters": told}).as_declared({"draft": CASCADE})


def test_a_strangers_block_drafter_is_recorded_planned_and_serves(tmp_path: Path) -> None:
    check_drafter(Remembers, Static.of(TREE, "remembers"), 64)
    target, prompts = wrap(tiny_model("llama")), random_prompts(4, workload="a", seed=0)
    texts = [[*prompt.tokens.tolist(), *generated(tiny_model("llama"), prompt.tokens, 24)] for prompt in prompts]

    def make() -> Remembers:
        return Remembers(texts)

    record_trace(target, {"remembers": make}, prompts, path=tmp_path / "trace.json", new_tokens=24, candidates=3)
    trace = Trace.read(tmp_path / "trace.json")
    told = trace.drafters["remembers"]
    assert (told.kind, told.forwards, told.candidates) == ("block", BLOCK, 3)
    engine = Engine(target, drafters={"remembers": make()}, policy=Static.of(TREE, "remembers"), max_batch=1)
    done = engine.generate([prompt.tokens for prompt in prompts], SamplingParams(max_new_tokens=24))
    assert [each.tokens for each in done] == [text[-24:] for text in texts]
    assert sum(each.accepted for each in done) > 0
    found = replay(trace, Static.of(TREE, "remembers"), first_position=1)
    assert [each.steps for each in done] == found.steps.tolist(), "a replay of the trace is what the engine does"
    fit, measured = fit_acceptance(trace, depth=4, resamples=100), examples.cost()
    priced = DrafterCost(model="a stranger's", forward=measured.drafters["draft"].forward)
    cost = Cost.model_validate(measured.model_dump() | {"drafters": {"remembers": priced}})
    entry = make_plan(fit, cost, trace, batches=(1,), max_nodes=6, max_depth=4, resamples=100).entries[0]
    assert "remembers" in entry.alternatives and entry.certified


def test_a_model_recorded_by_what_it_offers_has_the_ranks_of_its_law() -> None:
    """Asked anew at every node, so one rank a position: the same as those of the law, for the same model."""
    target, prompts = wrap(tiny_model("llama")), random_prompts(2, workload="a", seed=1)
    small = wrap(tiny_model("llama", hidden=16, layers=1, seed=3))
    outputs = [np.array(generated(tiny_model("llama"), prompt.tokens, 12)) for prompt in prompts]
    drafts = {"law": small, "offers": lambda: NeuralDrafter(small)}
    trace = trace_of(target, drafts, prompts, outputs, candidates=4)
    assert np.array_equal(trace.columns["law_rank"], trace.columns["offers_rank"])
    assert trace.drafters["offers"].forwards == trace.drafters["law"].forwards == LEVELS


def test_forwards_that_were_not_declared_are_caught() -> None:
    class Twice(Remembers):
        forwarded = 2

    with pytest.raises(InvalidInputError, match="the forwards that it declares"):
        check_drafter(Twice, Static.of(TREE, "remembers"), 64)


def test_a_trace_of_before_keeps_its_fingerprint() -> None:
    """What is as it was is not written: a fit made of an older trace still names it."""
    assert "forwards" not in traced(LEVELS).model_dump_json()
    assert "forwards" in traced(BLOCK, "block").model_dump_json()
