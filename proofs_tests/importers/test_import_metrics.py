"""Acceptance comes out of an engine's metrics as it went in, whichever form they are in, and with honest intervals."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError
from reader_theory.trees.tree import TokenTree
from runtime.importers import read_acceptance

COUNTS = np.array([[1000, 800, 480, 240]])
"""Drafts, and drafts accepted to depth 1, 2, 3: conditionals 0.8, 0.6, 0.5."""


def scrape(counts: NDArray[Any], total: str = "_total", engine: int = 0) -> str:
    """One scrape of /metrics with these cumulative counts."""
    drafts, *accepted = (int(count) for count in counts)
    labels = f'engine="{engine}",model_name="a/target"'
    rows = [
        "# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.",
        "# TYPE vllm:spec_decode_num_drafts_total counter",
        f"vllm:spec_decode_num_drafts{total}{{{labels}}} {drafts}.0",
        f"vllm:spec_decode_num_drafts_created{{{labels}}} 1.7e+09",
        f"vllm:spec_decode_num_draft_tokens{total}{{{labels}}} {drafts * len(accepted)}.0",
        f"vllm:spec_decode_num_accepted_tokens{total}{{{labels}}} {sum(accepted)}.0",
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} 12.0',
    ]
    rows += [
        f'vllm:spec_decode_num_accepted_tokens_per_pos{total}{{{labels},position="{i}"}} {count}.0'
        for i, count in enumerate(accepted)
    ]
    return "\n".join(rows) + "\n"


def log_line(counts: NDArray[Any]) -> str:
    drafts, *accepted = (float(count) for count in counts)
    drafted = drafts * len(accepted)
    rates = ", ".join(f"{count / drafts:.3f}" for count in accepted)
    return (
        f"INFO 11-21 01:02:03 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: "
        f"{1 + sum(accepted) / drafts:.2f}, Accepted throughput: 10.00 tokens/s, Drafted throughput: 20.00 tokens/s, "
        f"Accepted: {sum(accepted):.0f} tokens, Drafted: {drafted:.0f} tokens, Per-position acceptance rate: {rates}, "
        f"Avg Draft acceptance rate: {100 * sum(accepted) / drafted:.1f}%\n"
    )


def stats(counts: NDArray[Any]) -> dict[str, Any]:
    drafts, *accepted = (int(count) for count in counts)
    return {
        "num_drafts": drafts,
        "num_draft_tokens": drafts * len(accepted),
        "num_accepted_tokens": sum(accepted),
        "num_accepted_tokens_per_pos": accepted,
    }


def get_metrics(counts: NDArray[Any]) -> list[dict[str, Any]]:
    told = stats(counts)
    vector = told.pop("num_accepted_tokens_per_pos")
    rows = [{"name": f"vllm:spec_decode_{name}", "labels": {}, "value": value} for name, value in told.items()]
    return [*rows, {"name": "vllm:spec_decode_num_accepted_tokens_per_pos", "labels": {}, "values": vector}]


def told(folder: Path, *texts: str) -> ImportedAcceptance:
    paths = [folder / f"metrics-{i}.txt" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return read_acceptance(paths)


FORMS = {
    "prometheus": scrape(COUNTS[0]),
    "older names": scrape(COUNTS[0], total=""),
    "two engines": scrape(COUNTS[0] // 4) + scrape(COUNTS[0] * 3 // 4, engine=1),
    "log": log_line(COUNTS[0]),
    "stats": json.dumps(stats(COUNTS[0])),
    "get_metrics": json.dumps(get_metrics(COUNTS[0])),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_vllm_metrics_tells_the_same(tmp_path: Path, form: str) -> None:
    found = told(tmp_path, FORMS[form])
    np.testing.assert_allclose(found.table, [[0.8], [0.6], [0.5]], rtol=1e-12)
    assert found.tokens_per_step.value == pytest.approx(1 + 0.8 + 0.48 + 0.24)
    assert (found.drafts, found.windows) == (1000, 1)
    assert any("too narrow" in note for note in found.notes)


SERVED = {"generation_tokens_total": 3500.0, "time_to_first_token_seconds_count": 40.0}
"""A server whose 40 requests emitted 3,500 tokens; 1,520 drafts were accepted."""


@pytest.mark.parametrize("form", ["prometheus", "get_metrics"])
def test_decode_steps_are_the_pauses_that_a_server_timed(tmp_path: Path, form: str) -> None:
    """Drafts accepted past a request's end are no tokens: they made steps too few, and a draft more of them."""
    names = {**SERVED, "inter_token_latency_seconds_count": 2000.0}
    if form == "prometheus":
        lines = "".join(f'vllm:{name}{{engine="0",model_name="a/target"}} {count}\n' for name, count in names.items())
        text = scrape(COUNTS[0]) + lines
    else:
        kinds = [("count", name.removesuffix("_count")) for name in names if name.endswith("_count")]
        counters = [("value", name.removesuffix("_total")) for name in names if name.endswith("_total")]
        values = {name.removesuffix("_count").removesuffix("_total"): count for name, count in names.items()}
        more = [{"name": f"vllm:{name}", "labels": {}, kind: values[name]} for kind, name in [*kinds, *counters]]
        text = json.dumps([*get_metrics(COUNTS[0]), *more])
    found = told(tmp_path, text)
    assert (found.row_steps, found.emitted, found.coverage) == (2000.0, 3460.0, 0.5)
    assert found.tokens_per_row_step == pytest.approx(1.73) and found.tokens_per_row_step < 1 + 1520 / 2000


def test_decode_steps_without_a_clock_are_tokens_that_were_not_drafts(tmp_path: Path) -> None:
    lines = "".join(f'vllm:{name}{{engine="0",model_name="a/target"}} {count}\n' for name, count in SERVED.items())
    found = told(tmp_path, scrape(COUNTS[0]) + lines)
    assert found.row_steps == 3500 - 40 - 1520 and found.tokens_per_row_step == pytest.approx(1 + 1520 / 1940)
    alone = told(tmp_path, scrape(COUNTS[0]))
    assert alone.row_steps is None and alone.tokens_per_row_step == pytest.approx(alone.tokens_per_step.value)


def growing(windows: int, seed: int = 0) -> NDArray[np.int64]:
    """Counts of separate windows."""
    rng = np.random.default_rng(seed)
    drafts = rng.integers(200, 400, size=windows)
    rows = [drafts]
    for rate in (0.8, 0.6, 0.5):
        rows.append(rng.binomial(rows[-1], rate))
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("in_one_file", [True, False])
def test_successive_scrapes_become_windows(tmp_path: Path, in_one_file: bool) -> None:
    windows = growing(6)
    texts = [scrape(total) for total in windows.cumsum(axis=0)]
    found = told(tmp_path, "".join(texts)) if in_one_file else told(tmp_path, *texts)
    drafted = float(3 * windows[:, 0].sum())
    direct = ImportedAcceptance.from_counts(
        windows, engine="vllm", source=found.source, model="a/target", draft_tokens=drafted
    )
    assert found.model_copy(update={"stamp": direct.stamp}) == direct
    assert found.windows == 6 and not found.notes


def test_a_server_that_started_anew_does_not_count_backwards(tmp_path: Path) -> None:
    windows = growing(4)
    texts = [scrape(windows[0]), scrape(windows[:2].sum(axis=0)), scrape(windows[2]), scrape(windows[2:].sum(axis=0))]
    found = told(tmp_path, *texts)
    assert [each.accepted for each in found.depths] == windows.sum(axis=0)[1:].tolist()


@pytest.mark.parametrize(
    "form", [lambda w: "".join(map(log_line, w)), lambda w: "\n".join(json.dumps(stats(r)) for r in w)]
)
def test_a_log_of_windows_keeps_them_apart(tmp_path: Path, form: Any) -> None:
    windows = growing(8)
    found = told(tmp_path, form(windows))
    assert found.windows == 8
    truth = windows.sum(axis=0)
    np.testing.assert_allclose(found.table[:, 0], truth[1:] / truth[:-1], atol=2e-3)  # a log rounds to 0.001


def test_drafts_that_end_early_are_said_to_understate(tmp_path: Path) -> None:
    short = FORMS["prometheus"].replace("} 3000.0", "} 2000.0")
    assert any("2.00 of 3 tokens" in note and "understated" in note for note in told(tmp_path, short).notes)


@pytest.mark.parametrize(
    "text", ["", "# nothing here\n", "vllm:num_requests_running 3.0\n", scrape(0 * COUNTS[0]), "[]", "{}"]
)
def test_metrics_without_speculation_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match="at least one draft"):
        told(tmp_path, text)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="line 2"):
        told(tmp_path, json.dumps(stats(COUNTS[0])) + "\n{half")
    with pytest.raises(InvalidInputError, match="must exist"):
        read_acceptance(tmp_path / "nowhere.txt")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise") / "metrics.txt"


@given(st.text(max_size=80))
def test_random_text_is_refused_with_the_same_error(noise: Path, text: str) -> None:
    noise.write_text(text)
    with pytest.raises(InvalidInputError):
        read_acceptance(noise)


def test_an_import_is_a_rank_table_of_a_chain() -> None:
    found = ImportedAcceptance.from_counts(COUNTS, engine="vllm", source="m")
    np.testing.assert_allclose(found.rank_depth.table().conditional(TokenTree.chain(3)), [1, 0.8, 0.6, 0.5])
    assert found.rank_depth.positions == (1000, 800, 480)


@pytest.mark.parametrize("counts", [[[0, 0]], [[10, 11]], [[10, 5, 6]], [[10, -1]], [[10]]])
def test_counts_that_cannot_be_are_refused(counts: list[list[float]]) -> None:
    with pytest.raises(InvalidInputError, match="`survivors`"):
        ImportedAcceptance.from_counts(counts, engine="vllm", source="m")


@pytest.mark.parametrize(("accepted", "low", "high"), [(0, 0.0, 0.05), (100, 0.95, 1.0)])
def test_intervals_stay_inside_at_the_ends(accepted: int, low: float, high: float) -> None:
    estimate = ImportedAcceptance.from_counts([[100, accepted]], engine="vllm", source="m").depths[0].conditional
    assert low <= estimate.low <= accepted / 100 <= estimate.high <= high


def overdispersed(rng: np.random.Generator, windows: int = 20) -> NDArray[np.int64]:
    """Windows of four requests of 25 steps, each request with its own acceptance around 0.7."""
    rates = rng.beta(7, 3, size=(windows, 4))
    accepted = rng.binomial(25, rates).sum(axis=1)
    return np.stack([np.full(windows, 100), accepted], axis=1)


def coverage(fold: int) -> float:
    """Share of 400 simulated servers whose interval holds the true 0.7; windows added up `fold` at a time."""
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(400):
        counts = overdispersed(rng).reshape(-1, fold, 2).sum(axis=1)
        inside += ImportedAcceptance.from_counts(counts, engine="vllm", source="m").depths[0].conditional.covers(0.7)
    return inside / 400


def test_intervals_cover_when_requests_differ() -> None:
    """Null: coverage is at least 0.92 (nominal 0.95 less what 20 windows cost). 400 draws, standard error 0.013."""
    assert coverage(fold=1) > 0.92 - 2 * 0.013


def test_binomial_intervals_would_not_cover() -> None:
    """The planted bug: one window knows of no spread between requests, and says so in its note."""
    assert coverage(fold=20) < 0.8


EXPOSITIONS = {
    "timestamps": lambda text: re.sub(r"(?m)^(vllm.*)$", r"\1 1762000000000", text),
    "exponents": lambda text: re.sub(r"(?m)^(vllm\S*) (\d+)\.0$", lambda m: f"{m[1]} {float(m[2]):e}", text),
    "spaces and tabs": lambda text: re.sub(r"(?m)^(vllm\S*) ", "\\1 \t ", text),
    "quotes and braces in a label": lambda text: text.replace('"a/target"', r'"a \"b\" {c}, d=\"e\" \\ f"'),
    "an exemplar": lambda text: re.sub(r"(?m)^(vllm:spec.*)$", r'\1 # {trace_id="a"} 1.0 1762000000.1', text),
    "Windows lines": lambda text: text.replace("\n", "\r\n"),
    "other metrics between": lambda text: text.replace("\n", '\nother_total{a="b"} 3\nnot a metric at all\n'),
    "a pod's labels": lambda text: text.replace('model_name="a/target"', 'pod="p-1",model_name="a/target",job="vllm"'),
}


@pytest.mark.parametrize("name", EXPOSITIONS)
def test_whatever_an_exposition_holds_is_read(tmp_path: Path, name: str) -> None:
    found = told(tmp_path, EXPOSITIONS[name](scrape(COUNTS[0])))
    np.testing.assert_allclose(found.table, [[0.8], [0.6], [0.5]], rtol=1e-12)
    assert found.model is not None


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"line 2.*half"):
        told(tmp_path, scrape(COUNTS[0]).split("\n")[2] + '\nvllm:spec_decode_num_drafts_total{a="half')


@pytest.mark.parametrize("label", ["model_name", "instance"])
def test_models_and_servers_are_never_added_up(tmp_path: Path, label: str) -> None:
    first = scrape(COUNTS[0]).replace("{engine", '{instance="one",engine')
    other = first.replace("a/target", "b/target") if label == "model_name" else first.replace("one", "two")
    other = other.replace("800.0", "900.0")
    with pytest.raises(InvalidInputError, match=f"never added up.*--only {label}="):
        told(tmp_path, first + other)
    (tmp_path / "both.txt").write_text(first + other)
    wanted = {"model_name": "b/target"} if label == "model_name" else {"instance": "two"}
    found = read_acceptance(tmp_path / "both.txt", only=wanted)
    assert found.table[0, 0] == 0.9 and found.model == wanted.get("model_name", "a/target")


def test_an_engine_that_started_anew_leaves_the_other_alone(tmp_path: Path) -> None:
    w = growing(4)
    texts = [
        scrape(w[0]) + scrape(w[1], engine=1),
        scrape(w[2]) + scrape(w[1] + w[3], engine=1),
    ]
    if w[2][0] >= w[0][0]:
        texts[1] = scrape(w[2] // 2) + scrape(w[1] + w[3], engine=1)
        expected = w[0] + w[1] + w[2] // 2 + w[3]
    else:
        expected = w.sum(axis=0)
    found = told(tmp_path, *texts)
    assert [found.drafts, *(each.accepted for each in found.depths)] == expected.tolist()


def test_windows_of_other_lengths_tell_their_own_depths(tmp_path: Path) -> None:
    """A server that drafts 3 tokens, then 1: depth 1 has all drafts, depths 2 and 3 those of the first alone."""
    found = told(tmp_path, log_line(COUNTS[0]) + log_line(np.array([1000, 400])))
    np.testing.assert_allclose(found.table[:, 0], [0.6, 0.6, 0.5], atol=2e-3)
    assert [each.reached for each in found.depths] == pytest.approx([2000, 800, 480], rel=2e-3)
    assert found.tokens_per_step.value == pytest.approx((1000 + 1520 + 1000 + 400) / 2000, rel=2e-3)
    assert any("1, 3 tokens" in note for note in found.notes)


def test_a_survivor_row_that_ends_early_is_told_apart_from_one_that_rejects() -> None:
    found = ImportedAcceptance.from_counts([[100, 50, 25], [100, 50, np.nan]], engine="vllm", source="m")
    assert [(each.reached, each.accepted) for each in found.depths] == [(200, 100), (50, 25)]
    with pytest.raises(InvalidInputError, match="`survivors`"):
        ImportedAcceptance.from_counts([[100, np.nan, 25]], engine="vllm", source="m")


OLDER = {
    "0.9": "SpecDecoding metrics: Draft acceptance rate: 50.7%, Mean acceptance length: 2.52, Accepted: 1520 tokens, "
    "Drafted: 3000 tokens, Per-position acceptance rate: 0.800, 0.480, 0.240",
    "0.8": "SpecDecoding metrics: Draft acceptance rate: 50.7%, Accepted: 1520 tokens, Drafted: 3000 tokens",
    "first": "Speculative metrics: Draft acceptance rate: 0.642, System efficiency: 0.630, Number of speculative "
    "tokens: 3, Number of accepted tokens: 1520, Number of draft tokens: 3000, Number of emitted tokens: 2520.",
}


@pytest.mark.parametrize("version", OLDER)
def test_older_log_lines_of_vllm_are_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "server.log"
    path.write_text(f"INFO 04-01 [metrics.py:1] {OLDER[version]}\n")
    found = read_acceptance(path, depth=3)
    assert found.tokens_per_step.value == pytest.approx(2.52)
    assert (found.depth, found.by_depth) == (3, version == "0.9")
    if version == "0.8":
        with pytest.raises(InvalidInputError, match="--num-steps"):
            read_acceptance(path)


def test_the_first_version_counts_from_the_start(tmp_path: Path) -> None:
    lines = [OLDER["first"], OLDER["first"].replace("3000", "6000").replace("2520", "4040")]
    (tmp_path / "s.log").write_text("\n".join(lines))
    found = read_acceptance(tmp_path / "s.log")
    assert (found.windows, found.drafts) == (2, 2000)
    assert found.tokens_per_step.value == pytest.approx(2.02)


def test_a_mean_length_with_steps_that_changed_is_one_acceptance(tmp_path: Path) -> None:
    """0.7 at every depth, drafts of 1 and of 3: the one acceptance that makes both means is found."""
    lengths = [1.7, 1 + 0.7 + 0.7**2 + 0.7**3]
    found = ImportedAcceptance.from_mean_lengths(lengths, [50, 50], depth=[1, 3], engine="sglang", source="m")
    np.testing.assert_allclose(found.table[:, 0], 0.7, atol=1e-9)
    assert [each.reached for each in found.depths] == pytest.approx([100, 35, 24.5])


def test_few_drafts_have_wide_intervals() -> None:
    """One line of eight requests cannot tell a mean length to better than what eight drafts tell."""
    narrow = ImportedAcceptance.from_mean_lengths([2.0], [8000], depth=3, engine="sglang", source="m").tokens_per_step
    wide = ImportedAcceptance.from_mean_lengths([2.0], [8], depth=3, engine="sglang", source="m").tokens_per_step
    assert wide.high - wide.low > 20 * (narrow.high - narrow.low) > 0
    full = ImportedAcceptance.from_counts([[10, 10, 10]], engine="vllm", source="m")
    assert full.tokens_per_step.low < 3 == full.tokens_per_step.value
    assert all(each.conditional.low < 0.9 for each in full.depths)


def test_a_compressed_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "server.log.gz").write_bytes(gzip.compress(log_line(COUNTS[0]).encode()))
    assert read_acceptance(tmp_path / "server.log.gz").depth == 3


def test_nothing_is_told_past_the_depth_that_was_counted() -> None:
    found = ImportedAcceptance.from_counts([[100, 50, 0, 0]], engine="vllm", source="m")
    assert (found.depth, found.rank_depth.table().conditionals.shape) == (2, (2, 1))
