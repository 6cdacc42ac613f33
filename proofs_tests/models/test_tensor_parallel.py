"""Two processes that share a model give the tokens that one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proofs_tests.models.tensor_parallel import PARAMS
from proofs_tests.tiny import POLICIES, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.models.load import load_model
from runtime.models.parallel import load_parallel

HOUSE = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_give_the_tokens_of_one(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "proofs_tests.models.tensor_parallel", str(tmp_path / "model"), str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOUSE)}
    done = subprocess.run(command, cwd=HOUSE, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out.json").read_text())
    engine = Engine(load_model(tmp_path / "model"), policy=POLICIES["retrieval"], max_batch=3, max_context=128)
    expected = engine.generate([prompt.tokens for prompt in random_prompts(4)], PARAMS)
    assert found == {"tokens": [each.tokens for each in expected], "kv_heads": 1, "processes": 2}


def test_a_parallel_model_outside_of_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InvalidInputError, match="torchrun"):
        load_parallel("anywhere")


def test_heads_that_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_model("llama").config.save_pretrained(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InvalidInputError, match="2 heads for 3"):
        load_parallel(tmp_path)
