"""The report is one file that loads nothing, says what is lossy, and shows every number that it was given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.advice import acceptance_scaled
from optimizer.export import EXPORTERS
from optimizer.imported_plan import ImportedStudy, plan_of
from optimizer.sensitivity import sensitivity, sensitivity_imported
from proofs_tests.documents import documents_examples as examples
from proofs_tests.plans.plan_examples import cost
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Plan, Policy, RunCell, RunRecord, Trace, TracePrompt
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError
from reader_theory.served import ServedRun, validate_served
from reader_theory.trees import to_svg
from reader_theory.validate import validate
from runtime.cli._report_advice import advice_of
from runtime.report.html import Part, is_lossy, render_report, write_report
from runtime.report.numbers import number

VOID = {"meta", "br", "link", "img"}


class Checked(HTMLParser):
    """Tags that close in order; ids once; every reference inside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.references += [found[name] or "" for name in ("href", "src", "xlink:href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checked:
    parser = Checked()
    parser.feed(page)
    assert parser.open == []
    return parser


def run_of(plan: Plan, path: Path, **changes: Any) -> RunRecord:
    """A run of every entry, 5 % off what was predicted."""
    record = examples.run_record(path)
    cells: list[RunCell] = []
    for entry in plan.entries:
        steps = 100
        tokens = round(entry.prediction.tokens_per_step.value * steps)
        cells.append(
            RunCell(
                workload=entry.workload, batch=entry.batch, policy=entry.policy, prompts=4,
                output_tokens=tokens + 4, steps=steps, row_steps=steps, prefill_s=0.1, lossless="greedy_identical",
                decode_s=1.05 * tokens / entry.prediction.tokens_per_s.value, decode_s_spread=(1.0, 2.0),
                plain_decode_s=tokens / 60,
            )
        )  # fmt: skip
    columns = examples.run_columns(2 * len(cells))
    columns["cell"] = np.repeat(np.arange(len(cells)), 2)
    fields = record.model_dump() | {"cells": cells, "plan": plan.fingerprint(), "requests": ()} | changes
    for name in ("arrays", "kind", "schema_version"):
        fields.pop(name)
    return RunRecord.create(path, columns, **fields)


def recorded_fit() -> tuple[Trace, AcceptanceFit]:
    """A fit of 6 simulated prompts whose draft is right about half the time, and whose matches grow."""
    rng = np.random.default_rng(7)
    columns = examples.trace_columns(120)
    columns["prompt"] = np.repeat(np.arange(6), 20).astype(np.int32)
    columns["position"] = np.tile(np.arange(20), 6).astype(np.int32)
    columns["draft_rank"] = rng.choice([0, 1, -1], 120, p=[0.5, 0.2, 0.3]).astype(np.int32)
    columns["draft_probability"] = np.sort(rng.dirichlet((2, 1, 1), 120)[:, :2])[:, ::-1].astype(np.float32)
    columns["retrieval_match"] = rng.integers(0, 20, 120).astype(np.int32)
    columns["retrieval_count"] = np.ones(120, dtype=np.int32)
    columns["retrieval_offered"] = np.minimum(columns["retrieval_match"], 8).astype(np.int32)
    columns["retrieval_run"] = rng.integers(0, columns["retrieval_offered"] + 1).astype(np.int32)
    prompts = tuple(TracePrompt(id=f"p{i}", workload="chat", prompt_tokens=4, output_tokens=20) for i in range(6))
    told: dict[str, Any] = {"target": "a/target", "drafters": examples.DRAFTERS}
    trace = Trace.in_memory(columns, **told, stamp=examples.STAMP, temperature=0.0, prompts=prompts)
    return trace, fit_acceptance(trace, depth=3, resamples=100)


@pytest.fixture(scope="module")
def plan() -> Plan:
    both = examples.policy_of(examples.TREE.tree, examples.RETRIEVAL, skip=4)
    return examples.plan(examples.entry(1, examples.TREE), examples.entry(4, both), examples.entry(8, examples.OFF))


@pytest.fixture(scope="module")
def part(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Part:
    record = run_of(plan, tmp_path_factory.mktemp("report") / "run.json")
    trace, fit = recorded_fit()
    return Part(plan, record, validate(plan, record), fit, examples.cost(), trace)


@pytest.fixture(scope="module")
def page(part: Part, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it, as it was written; nothing else lies in its folder."""
    folder = tmp_path_factory.mktemp("page")
    written = write_report(folder / "report.html", [part])
    assert list(folder.iterdir()) == [written]
    return written.read_text()


def test_a_report_is_one_file_that_loads_nothing(page: str) -> None:
    found = checked(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert all(reference.startswith("#") for reference in found.references)
    assert not re.search(r"url\((?!#)|@import", page)
    assert {url for url in re.findall(r"https?://[^\"' <>]+", page)} <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
    }  # fmt: skip


def test_no_two_elements_share_an_id(part: Part) -> None:
    bare = Part(part.plan, part.record, part.validation)
    ids = checked(render_report([bare, bare])).ids
    assert len(ids) == len(set(ids)) > 2


def test_every_inner_reference_has_its_element(page: str) -> None:
    found = checked(page)
    assert {reference[1:] for reference in found.references} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(found.ids)


def test_every_figure_is_described_for_those_who_cannot_see_it(page: str) -> None:
    heads = re.findall(r"<svg [^>]*>", page)
    assert len(heads) == 1 + 1 + 2 + 3, "comparison, terms, two trees, acceptance, reliability and cost"
    assert all('role="img"' in head and re.search(r'aria-label="[^"]{20,}"', head) for head in heads)


def test_every_comparison_is_in_the_table_with_its_verdict(part: Part, page: str) -> None:
    rows = re.findall(r'<td class="(inside|outside)">(yes|no)</td>', page)
    assert len(rows) == len(part.validation.comparisons)
    assert [verdict == "yes" for _, verdict in rows] == [row.inside for row in part.validation.comparisons]
    for row in part.validation.comparisons:
        assert number(row.measured * (1e3 if row.quantity == "step_s" else 1)) in page


def test_each_policy_is_drawn_once_and_off_is_said(page: str) -> None:
    assert page.count("Draft tree of policy") == 2
    assert "off: nothing is drafted" in page
    assert "the draft model rests where it is at least 4 long" in page


def test_the_gain_comes_first_predicted_beside_measured(part: Part, page: str) -> None:
    first = page[page.index("<section") : page.index("What was chosen")]
    assert first.index("Speed-up over plain decoding") < 600
    entry, row = part.plan.entries[0], part.validation.of("speed_up")[0]
    assert (
        f"{number(entry.prediction.speed_up.value)} &times; predicted, {number(row.measured)} &times; measured" in first
    )


def test_chains_are_one_line_and_trees_are_drawn(plan: Plan, tmp_path: Path) -> None:
    made = examples.plan(examples.entry(1, examples.CHAIN_3), examples.entry(8, examples.RETRIEVAL))
    record = run_of(made, tmp_path / "run.json")
    page = render_report([Part(made, record, validate(made, record))])
    checked(page)
    assert re.findall(r'<ol class="chain">(.*?)</ol>', page)[0].count("<li") == 3
    assert "Draft tree of policy" not in page
    assert "nothing is drafted" not in page


def test_trees_lie_on_their_side() -> None:
    picture = to_svg(examples.TREE.tree)
    across, down = zip(*re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture), strict=True)
    assert len(set(across)) == examples.TREE.tree.depth + 1, "a column a level"
    assert float(across[0]) == min(map(float, across)), "the root at the left"
    assert max(map(float, down)) <= 100, "small"


def test_what_to_paste_what_it_costs_and_what_would_change_it_are_told(tmp_path: Path) -> None:
    policies = {1: examples.CHAIN_3, 8: examples.OFF}
    made = examples.plan(*(examples.entry(b, p, 2.0 if b == 1 else 1.0, 100.0 if b == 1 else 60.0)
                           for b, p in policies.items()))  # fmt: skip
    record = run_of(made, tmp_path / "run.json")
    priced = examples.cost().model_copy(update={"kv_tokens": {"off": 9000, "draft": 8000}})
    advice = advice_of(made, None, priced, None)
    page = render_report([Part(made, record, validate(made, record), cost=priced, advice=advice)])
    checked(page)
    assert "vllm serve ... --speculative-config" in page
    assert "8,000 tokens" in page and "9,000 tokens" in page
    assert re.search(r"<td>batch 8</td><td>off</td><td>1.00</td>", page)


@pytest.mark.parametrize("policy", [examples.OFF, examples.CHAIN_3, examples.TREE, examples.RETRIEVAL, examples.GROWN])
def test_every_engine_has_something_to_paste_or_a_reason(policy: Policy) -> None:
    """Whatever the plan: what the engine takes, with the loss if it is another; or why it takes nothing."""
    names = [kind.name for kind in EXPORTERS]
    made = examples.plan(examples.entry(1, policy, 1.5, 90.0))
    told = advice_of(made, None, None, None, names).paste
    assert len(told) == len(names)
    assert all(each.text or each.loses.startswith("not this plan") for each in told)


def test_sensitivity_is_what_the_planner_says_when_asked_there() -> None:
    """Candidates under 10 % more acceptance, against the study behind them planned anew."""
    told = ImportedAcceptance.from_reached(
        [1e6], [[1e6, 7e5, 4.2e5]], [[7e5, 4.2e5, 2.1e5]], engine="vllm", source="metrics", workload="chat"
    )
    study = ImportedStudy(told, cost(), "draft", 3, risk=1.0)
    made = plan_of(study, [(1, 64), (4, 64)], new_tokens=8)
    anew = {each.condition: each for each in sensitivity_imported(study, made)}
    assert {"acceptance -10 %", "acceptance +10 %", "batch 4", "context 1024"} <= set(anew)
    for factor in (0.9, 1.1):
        entry = acceptance_scaled(study, factor).entry(1, 64)
        found = anew[f"acceptance {100 * (factor - 1):+.0f} %"]
        assert (found.policy, found.speed_up) == (entry.policy, entry.prediction.speed_up.value)
    plain = {each.condition: each for each in sensitivity(made)}
    assert plain["acceptance +10 %"].speed_up > plain["acceptance -10 %"].speed_up
    assert plain["batch 4, context 64"].policy == made.entry("chat", 4).policy


def test_a_benchmark_is_reported_without_a_run() -> None:
    made = examples.plan(examples.entry(1, examples.CHAIN_3, 2.0, 100.0))
    runs = [ServedRun("a", 1.0, 50.0, 95.0, 0.021, 2.0, 3.0), ServedRun("b", 1.0, 50.0, 60.0, 1 / 60)]
    validation = validate_served(made, runs, workload="chat", record="0" * 16)
    page = render_report([Part(made, None, validation)])
    checked(page)
    assert "1.58 &times; measured" in page
    assert "Where a step" not in page


def test_a_plan_alone_with_its_run_is_enough(part: Part) -> None:
    page = render_report([Part(part.plan, part.record, part.validation)])
    checked(page)
    assert "Step cost" not in page
    assert "Acceptance" not in page


@pytest.mark.parametrize("changes", [{"verification": "typical_lossy", "lossless": False}, {"lossless": False}])
def test_lossy_verification_is_named_lossy(plan: Plan, tmp_path: Path, changes: dict[str, Any]) -> None:
    record = run_of(plan, tmp_path / "run.json", **changes)
    page = render_report([Part(plan, record, validate(plan, record))])
    assert is_lossy(record)
    assert "LOSSY:" in page
    assert "identical to plain decoding" not in page


def test_lossless_verification_is_not_called_lossy(part: Part, page: str) -> None:
    assert not is_lossy(part.plan)
    assert "LOSSY" not in page


def test_names_are_escaped(plan: Plan, tmp_path: Path) -> None:
    record = run_of(plan, tmp_path / "run.json", target='<b>"x"</b>')
    page = render_report([Part(plan, record, validate(plan, record), title="<script>alert(1)</script>")])
    assert "<script" not in page
    assert "<b>" not in page


def test_a_validation_of_another_run_is_refused(part: Part, tmp_path: Path) -> None:
    other = run_of(part.plan, tmp_path / "other.json", new_tokens=9)
    with pytest.raises(InvalidInputError, match="must be of this plan"):
        Part(part.plan, other, part.validation)


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one run"):
        render_report([])


def test_numbers_are_written_for_people() -> None:
    assert [number(x) for x in (0.12345, 1234.5, 2.0, float("nan"))] == ["0.123", "1,234", "2", "-"]
