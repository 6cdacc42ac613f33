"""A peer engine in a process of its own: JSON lines in, JSON lines out, one generation a line.

The process says what it is when its model is loaded. Then each line in has ``prompts`` (token ids), ``max_tokens`` and
``end`` (None to go on past it), and each line out ``tokens``, ``counts``, ``texts`` and ``seconds``: its own, the pipe
not in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

__all__ = ["Worker", "serve"]

MARK = "@@"
"""Before each line of ours: engines print what they like."""


class Worker:
    """Runs ``python script folder *options`` and asks it to generate.

    Parameters
    ----------
    python : str or Path
        Interpreter of the peer's own environment.
    script : str
        Name of the worker beside this file.
    """

    def __init__(self, python: str | Path, script: str, *options: str, environment: dict[str, str] | None = None):
        command = [str(python), str(Path(__file__).with_name(script)), *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip
        self.about: dict[str, Any] = self._read()

    def generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, end: int | None, **options: float
    ) -> dict[str, Any]:
        """Greedy continuations of all prompts at once; `options` are the worker's own, such as a temperature."""
        asked = {"prompts": [list(map(int, p)) for p in prompts], "max_tokens": max_tokens, "end": end, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        raise RuntimeError(f"the peer ended with code {self._process.wait()} before it answered")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def serve(generate: Any, about: dict[str, Any]) -> None:
    """The worker's side: `generate` takes a request's fields as keywords and returns the answer's."""
    _say(about)
    for line in sys.stdin:
        _say(generate(**json.loads(line)))


def _say(answer: dict[str, Any]) -> None:
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)
