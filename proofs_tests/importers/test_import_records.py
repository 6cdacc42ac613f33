"""Other engines and tools tell acceptance too: llama.cpp, SGLang, records of requests, speculators' table."""

from __future__ import annotations

import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs_tests.importers.test_import_metrics import COUNTS, FORMS, OLDER, scrape, told
from reader_theory.errors import InvalidInputError
from runtime.importers import ACCEPTANCE_FORMATS, read_acceptance
from runtime.importers.acceptance import AcceptanceFormat, MeanWindow, Window


def sglang_log(lengths: list[float], running: list[int], arguments: str = "speculative_num_steps=3, ") -> str:
    lines = [f"[2026-01-01 00:00:00] server_args=ServerArgs(model_path='t', {arguments}tp_size=1)"]
    lines += [
        f"[2026-01-01 00:00:01 TP0] Decode batch, #running-req: {n}, #token: 100, token usage: 0.01, "
        f"accept len: {length:.2f}, accept rate: 0.33, cuda graph: True, gen throughput (token/s): 99.00, #queue-req: 0"
        for length, n in zip(lengths, running, strict=True)
    ]
    return "\n".join(lines)


def test_sglang_lengths_give_the_acceptance_that_would_make_them(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    length = 1 + 0.7 + 0.7**2 + 0.7**3
    path.write_text(sglang_log([length - 0.2, length + 0.2, length] * 3, [4, 4, 9] * 3))
    found = read_acceptance(path)
    np.testing.assert_allclose(found.table, np.full((3, 1), 0.7), atol=2e-3)
    assert found.depths[0].conditional.low < 0.7 < found.depths[0].conditional.high
    assert found.tokens_per_step.value == pytest.approx(length, abs=5e-3)
    assert found.windows == 9 and found.depths[0].conditional.origin == "fitted"
    assert any("one acceptance at every depth is assumed" in note for note in found.notes)


def test_running_requests_weigh_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(sglang_log([1.0, 4.0], [1, 3]))
    assert read_acceptance(path).tokens_per_step.value == pytest.approx(3.25)


def test_what_an_sglang_log_does_not_say_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(sglang_log([2.0], [1], arguments=""))
    with pytest.raises(InvalidInputError, match="--num-steps"):
        read_acceptance(path)
    assert len(read_acceptance(path, depth=5).depths) == 5
    with pytest.raises(InvalidInputError, match=r"between 1 and depth \+ 1 = 2"):
        path.write_text(sglang_log([2.5], [1]))
        read_acceptance(path, depth=1)
    with pytest.raises(InvalidInputError, match="decode log lines"):
        path.write_text("nothing of interest")
        read_acceptance(path)
    path.write_text(sglang_log([2.0], [1], arguments="speculative_num_steps=3, speculative_eagle_topk=4, "))
    assert any("best of topk" in note for note in read_acceptance(path).notes)


LLAMA = (
    "0.06.896.015 I slot print_timing: id  1 | task 0 | draft acceptance = 0.64479 (  167 accepted /   259 generated), "
    "mean acceptance length =  2.92, acceptance rate per position = (0.805, 0.632, 0.483)\n"
    "0.06.896.057 I statistics     draft-eagle3: #calls(b,g,a) =    1     87     87, #gen drafts =     87, "
    "#acc drafts =    70, #gen tokens =    259, #acc tokens =   167, "
    "#mean acc len = 2.92, #acc rate/pos = (0.805, 0.632, 0.483), "
    "dur(b,g,a) = 0.005, 325.555, 0.114 ms\n"
)


def test_llama_cpp_tells_each_request_by_position(tmp_path: Path) -> None:
    (tmp_path / "s.log").write_text(LLAMA)
    found = read_acceptance(tmp_path / "s.log")
    assert (found.engine, found.drafts, found.depth) == ("llama.cpp", 87, 3)
    assert [each.accepted for each in found.depths] == pytest.approx([70, 55, 42], abs=0.1)


def test_llama_cpp_statistics_count_on_and_tell_kinds_apart(tmp_path: Path) -> None:
    line = LLAMA.split("\n")[1]
    grown = {"87,": "174,", "259": "518", "167": "300", "0.805, 0.632, 0.483": "0.700, 0.580, 0.444"}
    later = reduce(lambda text, item: text.replace(*item), grown.items(), line)
    (tmp_path / "s.log").write_text(f"{line}\n{later}\n")
    found = read_acceptance(tmp_path / "s.log", engine="llama.cpp")
    assert (found.windows, found.drafts) == (2, 174)
    assert found.depths[0].accepted == pytest.approx(0.7 * 174, rel=1e-3)
    other = (
        "statistics ngram_simple: #calls = 15, #gen drafts = 5, #acc drafts = 5, #gen tokens = 187, #acc tokens = 73"
    )
    (tmp_path / "s.log").write_text(f"{line}\n{other}\n")
    with pytest.raises(InvalidInputError, match="--only kind="):
        read_acceptance(tmp_path / "s.log")
    mean = read_acceptance(tmp_path / "s.log", only={"kind": "ngram_simple"})
    assert (mean.depth, mean.by_depth, mean.tokens_per_step.value) == (38, False, pytest.approx(1 + 73 / 5))


def test_llama_cpp_counters_are_vllms(tmp_path: Path) -> None:
    text = re.sub(r'engine="0",model_name="a/target",?', "", scrape(COUNTS[0], total="").replace("vllm:", "llamacpp:"))
    found = told(tmp_path, text.replace("{}", ""))
    np.testing.assert_allclose(found.table, [[0.8], [0.6], [0.5]])
    assert found.engine == "llama.cpp"


def sglang_gauges(lengths: list[float], extra: str = "") -> str:
    labels = '{engine_type="unified",model_name="t",tp_rank="0"}'
    return "".join(
        f"# TYPE sglang:spec_accept_length gauge\nsglang:spec_accept_length{labels} {length}\n"
        f"sglang:num_running_reqs{labels} 4.0\n{extra.replace('LABELS', labels)}"
        for length in lengths
    )


def test_the_gauge_of_sglang_is_a_mean_length(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    path.write_text(sglang_gauges([2.0, 2.2, 0.0], "sglang:spec_num_stepsLABELS 3.0\n"))
    found = read_acceptance(path)
    assert (found.engine, found.depth, found.windows, found.model) == ("sglang", 3, 2, "t")
    assert found.tokens_per_step.value == pytest.approx(2.1)
    path.write_text(sglang_gauges([2.0]))
    with pytest.raises(InvalidInputError, match="--num-steps"):
        read_acceptance(path)
    assert read_acceptance(path, depth=5).depth == 5


def steps_record(seed: int = 0, requests: int = 40) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """Records of requests with drafts of any length, 0.8 then 0.5 accepted, and their steps."""
    rng = np.random.default_rng(seed)
    records, steps = [], []
    for _ in range(requests):
        offered = rng.integers(0, 4, size=30)
        accepted = [next((i for i in range(d) if rng.random() > (0.8, 0.5, 0.5)[i]), int(d)) for d in offered]
        steps += list(zip(accepted, offered.tolist(), strict=True))
        histogram = np.bincount(accepted, minlength=4).tolist()
        records.append({
            "acceptance_histogram": histogram, "num_spec_steps": 30, "num_spec_tokens": 3,
            "num_draft_tokens": int(offered.sum()), "num_accepted_draft_tokens": sum(accepted),
            "per_step_accepted": accepted, "per_step_drafted": offered.tolist(),
        })  # fmt: skip
    return records, steps


def as_responses(records: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps({"model": "m", "metrics": {"speculative_decoding": r}}) for r in records)


def as_stream(records: list[dict[str, Any]]) -> str:
    chunks = [
        f'data: {{"choices": [{{}}]}}\n\ndata: {json.dumps({"model": "m", "metrics": {"speculative_decoding": r}})}'
        for r in records
    ]
    return "\n\n".join(chunks) + "\n\ndata: [DONE]\n"


def as_aiperf(records: list[dict[str, Any]]) -> str:
    rows = []
    for r in records:
        sparse = {str(j): n for j, n in enumerate(r["acceptance_histogram"]) if n}
        rows.append({"metadata": {}, "metrics": {}, "spec_decode_acceptance": r | {"acceptance_histogram": sparse,
                                                                                   "engine": "vllm"}})  # fmt: skip
    return "\n".join(map(json.dumps, rows))


def as_guidellm(records: list[dict[str, Any]]) -> str:
    done = [{"request_id": "a", "response_metrics": {"speculative_decoding": r}} for r in records]
    failed = [{"response_metrics": {"speculative_decoding": records[0]}}] * 5
    return json.dumps({"benchmarks": [{"requests": {"successful": done, "errored": failed, "incomplete": failed}}]})


@pytest.mark.parametrize("form", [as_responses, as_stream, as_aiperf, as_guidellm])
def test_records_of_steps_count_each_depth_on_the_drafts_that_had_it(tmp_path: Path, form: Any) -> None:
    records, steps = steps_record()
    found = told(tmp_path, form(records))
    assert (found.windows, found.drafts) == (40, sum(d > 0 for _, d in steps))
    for each in found.depths:
        assert each.reached == sum(a >= each.depth - 1 and d >= each.depth for a, d in steps)
        assert each.accepted == sum(a >= each.depth for a, _ in steps)
    assert found.depths[0].conditional.covers(0.8) and found.depths[1].conditional.covers(0.5)


def test_histograms_alone_take_drafts_as_full_and_say_so(tmp_path: Path) -> None:
    records, steps = steps_record()
    summary = [{k: v for k, v in r.items() if not k.startswith("per_step")} for r in records]
    found = told(tmp_path, as_responses(summary))
    assert found.drafts == len(steps) and found.depths[0].accepted == sum(a >= 1 for a, _ in steps)
    assert any("understated" in note for note in found.notes)


@pytest.mark.parametrize("damage", [{"acceptance_histogram": "x"}, {"acceptance_histogram": [1, -2]},
                                    {"acceptance_histogram": {"a": 1}}, {"per_step_accepted": [9] * 30}])  # fmt: skip
def test_damaged_records_are_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    records, _ = steps_record(requests=2)
    if "acceptance_histogram" in damage:
        damage |= {"per_step_accepted": None}
    with pytest.raises(InvalidInputError, match=r"line 2 of .metrics"):
        told(tmp_path, as_responses([records[0], records[1] | damage]))


SPECULATORS = (
    "subset,num_drafts,num_draft_tokens,num_accepted_tokens,acceptance_length,acceptance_at_pos_0,acceptance_at_pos_1\n"
    "HumanEval,1000.0,2000.0,1200.0,2.2,0.8,0.4\nqa,500.0,1000.0,300.0,1.6,0.5,0.1\n"
)


BENCH = {
    "model_id": "a/target", "completed": 100, "request_throughput": 2.0, "mean_e2el_ms": 1500.0,
    "total_output_tokens": 12800, "spec_decode_num_drafts": 1000, "spec_decode_draft_tokens": 3000,
    "spec_decode_acceptance_length": 2.52, "spec_decode_per_position_acceptance_rates": [0.8, 0.48, 0.24],
}  # fmt: skip


def test_results_of_vllm_bench_tell_acceptance(tmp_path: Path) -> None:
    found = told(tmp_path, json.dumps(BENCH, indent=2))
    np.testing.assert_allclose(found.table, [[0.8], [0.6], [0.5]])
    assert (found.drafts, found.model) == (1000, "a/target")


def test_subsets_of_speculators_are_workloads(tmp_path: Path) -> None:
    path = tmp_path / "acceptance.csv"
    path.write_text(SPECULATORS)
    with pytest.raises(InvalidInputError, match="--only subset=qa"):
        read_acceptance(path)
    found = read_acceptance(path, only={"subset": "HumanEval"})
    np.testing.assert_allclose(found.table, [[0.8], [0.5]])
    assert (found.workload, found.engine) == ("HumanEval", "speculators")
    path.write_text(SPECULATORS.replace("500.0", "many"))
    with pytest.raises(InvalidInputError, match="row 2"):
        read_acceptance(path)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise") / "metrics.txt"


def test_a_form_is_added_from_outside(tmp_path: Path) -> None:
    class Tally(AcceptanceFormat):
        name = "tally"
        engine = "pencil"
        looks = "a tally"

        def matches(self, text: str) -> bool:
            return text.startswith("tally")

        def read(self, texts: Any) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
            return [Window.of_survivors({}, 10, [5])], ()

    ACCEPTANCE_FORMATS.register(Tally)
    try:
        assert told(tmp_path, "tally").engine == "pencil"
    finally:
        ACCEPTANCE_FORMATS._found.pop("tally")


WHOLE = [json.dumps(BENCH), *FORMS.values(), *OLDER.values(), LLAMA, SPECULATORS,
         sglang_gauges([2.0]), sglang_log([2.0], [1]),
         as_responses(steps_record(requests=1)[0]), as_guidellm(steps_record(requests=1)[0])]  # fmt: skip


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.text(max_size=2)), max_size=3))
def test_damaged_files_are_read_or_refused(noise: Path, whole: str, damage: list[tuple[float, int, str]]) -> None:
    for where, cut, put in damage:
        at = int(where * len(whole))
        whole = whole[:at] + put + whole[at + cut :]
    noise.write_text(whole)
    try:
        found = read_acceptance(noise, depth=3)
    except InvalidInputError:
        return
    assert np.isfinite(found.table).all() and (found.table >= 0).all() and (found.table <= 1).all()
    assert found.tokens_per_step.low <= found.tokens_per_step.value <= found.tokens_per_step.high
