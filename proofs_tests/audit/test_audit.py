"""The audit of real engines: ours by every rule, transformers', a server's on loopback, and planted ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from proofs_tests.tiny import VOCABULARY, tiny_model
from reader_theory.documents import policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from runtime.audit.run import Audited, LawsOf, audit, planted
from runtime.audit.samplers import Sampler, assisted, engine_sampler, server
from runtime.cli.main import app
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.load import wrap

PARAMS = SamplingParams(temperature=0.9, top_k=20, max_new_tokens=6)
PROMPTS = [np.arange(5), np.arange(9)[::-1].copy()]


@cache
def models() -> tuple[Any, Any]:
    return tiny_model("llama"), tiny_model("llama", hidden=32, seed=1)


@cache
def laws() -> LawsOf:
    target, draft = models()
    return LawsOf(wrap(target), PARAMS, wrap(draft))


def audited(sampler: Sampler, tokens: int, **options: Any) -> Audited:
    return audit(sampler, laws(), PROMPTS, tokens=tokens, **options)


@pytest.mark.parametrize("rule", ["target_only", "chain", "block", "gumbel"])
def test_our_engine_is_found_lossless(rule: str) -> None:
    target, draft = (wrap(model) for model in models())
    engine = Engine(target, draft, policy=policy_of(TokenTree.chain(3)), max_context=64)
    params = SamplingParams(temperature=0.9, top_k=20, max_new_tokens=6, verification=rule)
    assert audited(engine_sampler(engine, params), 600).finding.lossless


def test_a_lossy_rule_of_ours_is_found() -> None:
    target, draft = (wrap(model) for model in models())
    engine = Engine(target, draft, policy=policy_of(TokenTree.chain(3)), max_context=64)
    params = SamplingParams(temperature=0.9, top_k=20, max_new_tokens=6, verification="typical_lossy")
    assert not audited(engine_sampler(engine, params), 6_000).finding.lossless


@pytest.mark.parametrize("bug", ["temperature left out", "the most likely token", "drafts accepted too often"])
def test_a_planted_bug_is_found_and_named(bug: str) -> None:
    done = audited(planted(laws(), bug), 1_500, error=1e-4)
    assert not done.finding.lossless
    assert done.finding.likeliest == bug


def test_transformers_adds_a_top_k_of_50_that_nobody_asked_for() -> None:
    target, draft = models()
    asked = SamplingParams(temperature=1.5, max_new_tokens=6)
    done = audit(assisted(target, asked, assistant_model=draft), LawsOf(wrap(target), asked), PROMPTS, tokens=4_000)
    assert done.finding.lossless == _kept_all(target)


def _kept_all(model: Any) -> bool:
    """Whether `generate` without filters keeps the whole vocabulary."""
    config, _ = model._prepare_generation_config(None, do_sample=True)
    return config.top_k in (None, 0) or config.top_k >= VOCABULARY


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1"
        finally:
            running.shutdown()
            thread.join()


def completions(shape: str) -> Any:
    """A server around our engine that tells token ids as vLLM or llama.cpp do; "hot" leaves the temperature out."""
    target, _ = models()
    engine = Engine(wrap(target), max_context=64)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        temperature = 1.6 if shape == "hot" else body["temperature"]
        params = SamplingParams(
            temperature=temperature, top_k=max(body["top_k"], 0), top_p=body["top_p"],
            max_new_tokens=body["max_tokens"], seed=body["seed"],
        )  # fmt: skip
        tokens = list(engine.generate([np.array(body["prompt"])], params)[0].tokens)
        told: dict[str, Any] = {"finish_reason": "length", "text": "..."}
        if shape == "named":
            told["logprobs"] = {"tokens": [f"token_id:{token}" for token in tokens]}
        elif shape != "text":
            told["tokens" if shape == "llama.cpp" else "token_ids"] = tokens
        return {"choices": [told]}

    return answer


@pytest.mark.parametrize("shape", ["vllm", "llama.cpp", "named"])
def test_a_lossless_server_is_found_so_however_it_tells_tokens(shape: str) -> None:
    with serving(completions(shape)) as url:
        assert audited(server(url, "tiny", PARAMS), 400).finding.lossless


def test_a_server_that_leaves_the_temperature_out_is_found() -> None:
    with serving(completions("hot")) as url:
        assert not audited(server(url, "tiny", PARAMS), 3_000).finding.lossless


def test_a_server_that_tells_text_alone_is_refused() -> None:
    with serving(completions("text")) as url, pytest.raises(InvalidInputError, match="ids of the tokens"):
        audited(server(url, "tiny", PARAMS), 100)


@pytest.mark.parametrize("url", ["http://example.org/v1", "https://127.0.0.1:1/v1", "file:///etc/passwd", ""])
def test_addresses_beyond_this_machine_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="loopback"):
        server(url, "tiny", PARAMS)


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with pytest.raises(InvalidInputError, match="answer"):
        server("http://127.0.0.1:9/v1", "tiny", PARAMS)(PROMPTS, 0)


@pytest.mark.parametrize(
    "answer",
    [
        [], "text", None, {}, {"choices": {}}, {"choices": [None]}, {"choices": ["text"]}, {"choices": [{"tokens": 3}]},
        {"choices": [{"token_ids": [1, "2"]}]}, {"choices": [{"token_ids": [1, True]}]},
        {"choices": [{"token_ids": [1, VOCABULARY]}]}, {"choices": [{"token_ids": [-1]}]},
        {"choices": [{"token_ids": list(range(PARAMS.max_new_tokens + 1))}]}, {"choices": [{"logprobs": ["a"]}]},
        {"choices": [{"logprobs": {"tokens": ["token_id:²"]}}]},
    ],
)  # fmt: skip
def test_an_answer_that_holds_no_text_of_the_target_is_refused(answer: Any) -> None:
    with serving(lambda _: answer) as url, pytest.raises(InvalidInputError):
        audited(server(url, "tiny", PARAMS), 100)


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_a_server_that_hangs_up_or_speaks_something_else_is_refused(said: bytes) -> None:
    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(said)

    with TCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = Thread(target=listening.handle_request)
        thread.start()
        with pytest.raises(InvalidInputError, match="must answer"):
            server(f"http://127.0.0.1:{listening.server_address[1]}/v1", "tiny", PARAMS)(PROMPTS, 0)
        thread.join()


def test_greedy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="temperature"):
        LawsOf(wrap(models()[0]), SamplingParams())


def test_the_command_tells_lossless_from_planted(tmp_path: Path) -> None:
    short = ["--tokens", "200", "--new-tokens", "6", "--json"]
    done = CliRunner().invoke(app, ["audit", *short])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "no fault found"
    file = tmp_path / "audit.json"
    done = CliRunner().invoke(app, ["audit", *short, "--plant", "the most likely token", "-o", str(file)])
    assert done.exit_code == 3, done.output
    assert json.loads(file.read_text())["looks_like"] == "the most likely token"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--engine", "none"], ["--engine", "server"], ["--plant", "no such bug"], ["--url", "http://127.0.0.1:1/v1"],
        ["--engine", "server", "--url", "http://example.org/v1"],
        ["--engine", "server", "--url", "http://127.0.0.1:1/v1", "--drafts", "3"],
        ["--engine", "transformers", "--verification", "block"], ["--engine", "transformers", "--served-model", "a"],
        ["--plant", "the most likely token", "--engine", "transformers"],
        ["--plant", "the most likely token", "--drafts", "2"], ["--error", "nan"], ["--error", "0"],
        ["--tolerance", "1"], ["--tolerance", "nan"], ["--output", "audit.txt"],
    ],
)  # fmt: skip
def test_the_command_refuses_what_it_does_not_know_before_it_loads_a_model(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("runtime.cli._models.load_models", load)
    done = CliRunner().invoke(app, ["audit", *wrong, "--json"])
    assert done.exit_code == 2, done.output
