"""One JSON document a benchmark: what ran, where, on what commit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("numpy", "scipy", "numba", "cvxpy", "torch", "transformers", "cupy-cuda13x")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Machine, versions and commit of this run."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": os.environ.get("COMMIT") or _commit(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _commit() -> str | None:
    """Of the checkout; none where there is no checkout, or no git. A copy of a tree says its own by ``COMMIT``."""
    git = shutil.which("git")
    command = [git or "", "rev-parse", "--short=12", "HEAD"]
    return git and subprocess.run(command, capture_output=True, text=True, cwd=RESULTS).stdout.strip()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_report(name: str, payload: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``{name}.json`` with `payload` and the environment, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({"benchmark": name, "environment": environment(), **payload}, indent=1) + "\n")
    scratch.replace(path)
    return path


def kept(name: str, folder: Path = RESULTS, **facts: Any) -> dict[str, Any]:
    """The last ``{name}.json``, to go on with: empty where machine, versions, commit or `facts` are others."""
    path = folder / f"{name}.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    same = all(held.get(key) == value for key, value in {**facts, "environment": environment()}.items())
    return held if same else {}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text."""
    marks = ["---" if i == 0 else "--:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def machine(result: dict[str, Any]) -> str:
    """Where a document was measured, as a sentence."""
    e = result["environment"]
    return f"Run on {e['cores']} cores of {e['cpu']}, commit {e['commit']}, torch {e['versions'].get('torch')}."
