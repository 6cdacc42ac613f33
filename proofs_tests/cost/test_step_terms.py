"""A step's seconds are one sum, written once: of a document's terms, of predicted ones, of logs', and a stranger's."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost import level_cost
from optimizer.plan import make_plan
from proofs_tests.plans import plan_examples as examples
from reader_theory.cost.terms import TERMS, Forwards, FunctionTerm, StepConditions, StepModel
from reader_theory.documents import Cost, DrafterCost
from reader_theory.errors import InvalidInputError
from reader_theory.estimate import Estimate

HOUSE = Path(__file__).parents[2]
READ_ONCE = {"plain_overhead_s", "plain_step_overhead_s", "step_overhead_s", "growth_step_s"}
REMOTE = '''
import numpy as np

from reader_theory.cost import TERMS, FunctionTerm, TermMaker


@TERMS.register
class Remote(TermMaker):
    """A drafter behind a network: each of its forwards waits for a round trip."""

    name = "remote"

    @classmethod
    def term(cls, drafter, cost):
        trip, token = cost.parameters["trip_s"], cost.parameters["token_s"]
        return FunctionTerm(drafter, lambda c: c.over(drafter, lambda b, tokens, context: trip + token * b * tokens))
'''


def cost() -> Cost:
    changes = {"growth_s": Estimate.exact(2e-5, "measured"), "growth_step_s": 1e-4}
    return examples.cost().model_copy(update={**changes, "closures": {"draft": Estimate.exact(1.3, "measured")}})


def readers(names: set[str]) -> Iterator[str]:
    """Modules of the product that read one of these attributes."""
    for package in ("reader_theory", "optimizer", "runtime"):
        for path in (HOUSE / package).rglob("*.py"):
            found = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            if found & names:
                yield path.relative_to(HOUSE).as_posix()


def test_the_terms_of_a_cost_are_summed_in_its_own_module_alone() -> None:
    assert list(readers(READ_ONCE)) == ["reader_theory/documents/cost.py"]


@given(batch=st.integers(1, 64), tokens=st.integers(1, 32), context=st.integers(64, 1024), ran=st.integers(0, 4))
def test_a_measured_step_is_the_sum_of_its_terms_times_its_closure(
    batch: int, tokens: int, context: int, ran: int
) -> None:
    known = cost()
    sizes = np.arange(ran) + 1.0
    asked = StepConditions(
        batch, context, tokens, forwards={"draft": Forwards(sizes), "retrieval": Forwards(1.0)}, growths=1 + ran,
        drafting=True,
    )  # fmt: skip
    assert known.draft_forward is not None
    by_hand = (
        float(known.target_forward.at(batch, tokens, context))
        + float(known.draft_forward.at(batch, sizes, context).sum())
        + batch * (known.verify_s.value + known.commit_s.value + 1e-5)
        + known.step_overhead_s.value
        + (1 + ran) * (batch * 2e-5 + 1e-4)
    )
    model = known.model(("draft",))
    assert float(model.seconds(asked)) == pytest.approx(1.3 * by_hand)
    assert model.estimate(asked).covers(1.3 * by_hand)
    assert float(known.model().seconds(StepConditions(batch, context))) == pytest.approx(
        float(known.target_forward.at(batch, 1, context)) + batch * known.plain_overhead_s.value
    )


def test_many_conditions_are_asked_at_once() -> None:
    model = cost().model(("draft",))
    batch, context = np.array([1.0, 4.0, 16.0])[:, None], np.array([64.0, 512.0])
    sizes = np.array([1.0, 2.0, 4.0])
    at_once = model.seconds(StepConditions(batch, context, 8, forwards={"draft": Forwards(sizes)}, drafting=True))
    assert at_once.shape == (3, 2)
    for i, b in enumerate(batch[:, 0]):
        for j, c in enumerate(context):
            one = StepConditions(b, c, 8, forwards={"draft": Forwards(sizes)}, drafting=True)
            assert float(model.seconds(one)) == pytest.approx(at_once[i, j])


def test_forwards_that_run_at_times_cost_their_chance() -> None:
    model = StepModel((FunctionTerm("d", lambda c: c.over("d", lambda b, n, x: b * n)),))
    asked = StepConditions(2, forwards={"d": Forwards([1.0, 3.0], [1.0, 0.5])})
    assert float(model.seconds(asked)) == 2 * (1 + 1.5)


def test_the_weakest_origin_and_all_widths_are_in_the_sum() -> None:
    def one(c: StepConditions) -> np.ndarray:
        return np.ones(())

    parts = (FunctionTerm("a", one, relative_spread=0.3), FunctionTerm("b", one, 1.0, 0.4, "assumed"))
    found = StepModel(parts, Estimate(value=2.0, low=1.8, high=2.2, origin="measured")).estimate(StepConditions())
    assert found.origin == "assumed" and found.value == 4.0
    assert found.high - found.value == pytest.approx(np.hypot(0.4, 2 * np.hypot(0.3, 0.4)))


def test_a_planner_pays_for_levels_what_the_step_pays() -> None:
    plain, drafting = cost().model(), cost().model(("draft",))
    levels = level_cost(plain, drafting, "draft", batch=4, context=512, nodes=12, depth=4)
    for widths in ((3,), (4, 2), (2, 5, 1, 3)):
        whole = drafting.seconds(StepConditions.of_levels(widths, batch=4, context=512))
        assert levels.step_s(widths) == pytest.approx(float(whole))
    assert levels.step_s(()) == pytest.approx(float(plain.seconds(StepConditions(4, 512))))


def test_a_stranger_adds_the_term_of_a_drafter_from_one_file(tmp_path: Path) -> None:
    (tmp_path / "remote.py").write_text(REMOTE)
    spec = importlib.util.spec_from_file_location("remote", tmp_path / "remote.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "remote" in TERMS

    def planned(trip_s: float) -> object:
        priced = DrafterCost(term="remote", model="far/away", parameters={"trip_s": trip_s, "token_s": 1e-6})
        known = examples.cost().model_copy(update={"drafters": {"draft": priced}})
        known.write(tmp_path / "cost.json")
        assert Cost.read(tmp_path / "cost.json") == known and known.draft == "far/away"
        trace = examples.trace(tmp_path / "trace.json")
        return make_plan(examples.fit(trace), known, trace, batches=(1,), max_nodes=8, resamples=50).entries[0]

    near, far = planned(1e-4), planned(1.0)
    assert near.policy.drafters == ("draft",) and near.prediction.terms_s["draft"] < 0.01  # type: ignore[attr-defined]
    assert far.policy.drafters == ()  # type: ignore[attr-defined]


def test_a_term_that_nobody_registered_is_named_with_those_that_are() -> None:
    unknown = examples.cost().model_copy(update={"drafters": {"draft": DrafterCost(term="magic")}})
    with pytest.raises(InvalidInputError, match=r"magic.*forwards"):
        unknown.model()


def test_a_cost_of_version_2_has_its_model_and_its_look_ups_as_drafters() -> None:
    known = examples.cost()
    assert known.draft_forward is not None
    old = known.model_dump(mode="json", exclude={"drafters"}) | {
        "schema_version": 2, "draft": "a/draft", "draft_forward": known.draft_forward.model_dump(mode="json"),
        "retrieval_s": known.drafters["retrieval"].row_s.model_dump(mode="json"),  # type: ignore[union-attr]
        "closures": {"both": Estimate.exact(1.2, "measured").model_dump()},
    }  # fmt: skip
    read = Cost.model_validate(old)
    assert read.drafters == known.drafters and read.closure_of(("retrieval", "draft")).value == 1.2
