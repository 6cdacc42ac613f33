"""Acceptance comes out of an engine's metrics as it went in, whichever form they are in, and with honest intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.acceptance.rank_depth import RankDepth
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.errors import InvalidInputError
from reader_theory.trees.tree import TokenTree
from runtime.importers import read_sglang_log, read_vllm_metrics

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
        'vllm:request_success_total{finished_reason="stop"} 12.0',
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
    return read_vllm_metrics(paths)


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
    direct = ImportedAcceptance.from_counts(windows, engine="vllm", source=found.source)
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
        read_vllm_metrics(tmp_path / "nowhere.txt")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise") / "metrics.txt"


@given(st.text(max_size=80))
def test_random_text_is_refused_with_the_same_error(noise: Path, text: str) -> None:
    noise.write_text(text)
    with pytest.raises(InvalidInputError):
        read_vllm_metrics(noise)


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
    found = read_sglang_log(path)
    np.testing.assert_allclose(found.table, np.full((3, 1), 0.7), atol=2e-3)
    assert found.depths[0].conditional.low < 0.7 < found.depths[0].conditional.high
    assert found.tokens_per_step.value == pytest.approx(length, abs=5e-3)
    assert found.windows == 9 and found.depths[0].conditional.origin == "fitted"
    assert any("one acceptance at every depth is assumed" in note for note in found.notes)


def test_running_requests_weigh_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(sglang_log([1.0, 4.0], [1, 3]))
    assert read_sglang_log(path).tokens_per_step.value == pytest.approx(3.25)


def test_what_an_sglang_log_does_not_say_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(sglang_log([2.0], [1], arguments=""))
    with pytest.raises(InvalidInputError, match="--num-steps"):
        read_sglang_log(path)
    assert len(read_sglang_log(path, num_steps=5).depths) == 5
    with pytest.raises(InvalidInputError, match=r"between 1 and depth \+ 1 = 2"):
        path.write_text(sglang_log([2.5], [1]))
        read_sglang_log(path, num_steps=1)
    with pytest.raises(InvalidInputError, match="decode lines"):
        path.write_text("nothing of interest")
        read_sglang_log(path)
    path.write_text(sglang_log([2.0], [1], arguments="speculative_num_steps=3, speculative_eagle_topk=4, "))
    assert any("best of topk" in note for note in read_sglang_log(path).notes)


def test_an_import_is_a_rank_depth_model_of_a_chain() -> None:
    found = ImportedAcceptance.from_counts(COUNTS, engine="vllm", source="m")
    model = found.rank_depth.model
    assert isinstance(model, RankDepth)
    np.testing.assert_allclose(model.conditional(TokenTree.chain(3)), [1, 0.8, 0.6, 0.5])
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
