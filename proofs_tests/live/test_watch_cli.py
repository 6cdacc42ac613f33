"""`reader watch`: follows a file or a server on loopback, writes on change, outlives the server, ends when told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from optimizer.imported_plan import ImportedStudy, plan_of
from proofs_tests.documents import documents_examples as examples
from proofs_tests.live.test_prometheus import exposed
from proofs_tests.plans.plan_examples import cost
from reader_theory.documents import Plan
from reader_theory.documents.imported import ImportedAcceptance
from runtime.cli._shared import guarded
from runtime.cli.watch import watch

app = typer.Typer()
app.command("watch")(guarded(watch))


def planned(good: float) -> Plan:
    """Chains of up to 3 tokens, each right with chance `good`, at batches of 1 and 4."""
    accepted = [1e6 * good**d for d in (1, 2, 3)]
    told = ImportedAcceptance.from_reached(
        [1e6], [[1e6, *accepted[:-1]]], [accepted], engine="vllm", source="m", workload="chat"
    )
    study = ImportedStudy(told, cost(), "draft", 3, risk=1.0)
    return plan_of(study, [(1, 64), (4, 64)], new_tokens=8)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return planned(0.3).write(tmp_path / "plan.json")


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == expect, done.output
    return done.output


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_what_is_served_better_than_planned_is_drafted_longer(plan: Path, tmp_path: Path) -> None:
    """Acceptance of 0.8, 0.5, 0.3 where 0.3, 0.09, 0.027 were planned; a change costs nothing to speak of."""
    metrics, schedule = tmp_path / "metrics.txt", tmp_path / "schedule.json"
    metrics.write_text("".join(exposed(20_000.0 * i) for i in range(1, 8)))
    output = run(plan, "--prometheus", metrics, "--once", "-o", schedule, "--json", "--max-batch", 64)
    first, *changes, summary = lines(output)
    assert len(changes) == summary["changes"] == 1
    assert summary["looks"] == 7 and summary["failed"] == 0
    before, after = (each["schedule"]["num_speculative_tokens_per_batch_size"] for each in (first, changes[0]))
    assert after[-1][2] > before[-1][2]
    assert after[-1][1] == 64
    assert json.loads(schedule.read_text()) == changes[0]["schedule"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_served_as_planned_changes_nothing(tmp_path: Path) -> None:
    good = planned(0.65).write(tmp_path / "plan.json")
    metrics = tmp_path / "metrics.txt"
    metrics.write_text("".join(exposed(20_000.0 * i) for i in range(1, 3)))
    (_, summary) = lines(run(good, "--prometheus", metrics, "--once", "-o", tmp_path / "s.json", "--json"))
    assert summary["changes"] == 0


@pytest.mark.parametrize(
    "url", ["http://example.org/metrics", "https://127.0.0.1/metrics", "http://127.0.0.1:no/metrics", "ftp://localhost/x",
            "http://127.0.0.1.example.org/metrics", "http://[::1/metrics"],
)  # fmt: skip
def test_only_loopback_is_asked(plan: Path, tmp_path: Path, url: str) -> None:
    assert "loopback" in run(plan, "--prometheus", url, "--once", "-o", tmp_path / "s.json", expect=2)
    assert not (tmp_path / "s.json").exists(), "nothing is written before the work can begin"


def test_a_file_that_is_not_there_and_a_damaged_one_are_refused(plan: Path, tmp_path: Path) -> None:
    assert "not there" in run(plan, "--prometheus", tmp_path / "no.txt", "--once", "-o", tmp_path / "s.json", expect=2)
    bad = tmp_path / "bad.txt"
    bad.write_text('vllm:spec_decode_num_drafts_total{engine="0 12\n')
    assert "line 1" in run(plan, "--prometheus", bad, "--once", "-o", tmp_path / "s.json", expect=2)


def test_a_plan_that_weighed_no_chains_is_refused(tmp_path: Path) -> None:
    lone = examples.entry(1, examples.OFF, 1.0, 60.0)
    lone = lone.model_copy(update={"candidates": lone.candidates[:1]})
    path = examples.plan(lone).write(tmp_path / "plan.json")
    metrics = tmp_path / "metrics.txt"
    metrics.write_text(exposed(10.0))
    assert "plain decoding, and chains" in run(
        path, "--prometheus", metrics, "--once", "-o", tmp_path / "s.json", expect=2
    )


class Server:
    """A server of metrics on loopback that counts on with every scrape, unless it is told to answer something else."""

    def __init__(self) -> None:
        outer = self
        self.scrapes, self.answer = 0, ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.scrapes += 1
                if outer.answer.startswith("http"):
                    self.send_response(302)
                    self.send_header("Location", outer.answer)
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write((outer.answer or exposed(20_000.0 * outer.scrapes)).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/metrics"
        Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_redirect_is_not_followed(plan: Path, tmp_path: Path, server: Server) -> None:
    other = Server()
    server.answer = other.url
    assert "302" in run(plan, "--prometheus", server.url, "--once", "-o", tmp_path / "s.json", expect=2)
    assert other.scrapes == 0
    other.http.shutdown()
    other.http.server_close()


def following(plan: Path, server: Server, schedule: Path) -> list[str]:
    """What follows a server, in a process of its own."""
    asked = [plan, "--prometheus", server.url, "--every", 0.1, "--json", "-o", schedule]
    start = "from runtime.cli.main import main; main()"
    return [sys.executable, "-c", start, "watch", *map(str, asked), "--rest", "0", "--switch-seconds", "0"]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_it_follows_a_server_and_ends_when_told(
    plan: Path, tmp_path: Path, server: Server, which: signal.Signals
) -> None:
    schedule = tmp_path / "schedule.json"
    command = following(plan, server, schedule)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(which)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == ""
    summary = json.loads(rest.splitlines()[-1])
    assert summary["looks"] >= 2 and summary["changes"] >= 1
    assert {"schedule"} == set(told[0]) == set(told[1])
    assert json.loads(schedule.read_text())["num_speculative_tokens"] == 3


def test_a_server_that_goes_away_is_said_once_and_waited_for(plan: Path, tmp_path: Path) -> None:
    server = Server()
    command = following(plan, server, tmp_path / "s.json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline()) for _ in range(2)]
        server.http.shutdown()
        server.http.server_close()
        gone = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        (summary,) = lines(process.communicate(timeout=60)[0])
    assert process.returncode == 0
    assert all("schedule" in each for each in first) and "failed" in gone
    assert summary["failed"] >= 1
