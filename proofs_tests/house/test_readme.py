"""What the README says is run: its Python, its commands' names, its file tree, and its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proofs_tests.benchmarks.readme_tables import README, rewritten

ROOT = Path(__file__).parents[2]
TEXT = README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_tables_are_those_of_the_kept_results() -> None:
    assert rewritten(TEXT) == TEXT


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})


def test_every_path_of_the_file_tree_exists_and_every_package_is_in_it() -> None:
    tree = re.search(r"```text tree\n(.*?)```", TEXT, re.DOTALL)
    assert tree is not None
    named = [line.split()[0].rstrip("/") for line in tree[1].splitlines() if line.strip()]
    missing = [name for name in named if not (ROOT / name).exists()]
    packages = [p for top in ("reader_theory", "optimizer", "runtime") for p in (ROOT / top).glob("*/__init__.py")]
    unnamed = [str(p.parent.relative_to(ROOT)) for p in packages if str(p.parent.relative_to(ROOT)) not in named]
    assert not missing and not unnamed


def test_every_reader_command_it_shows_exists() -> None:
    from typer.main import get_command

    from runtime.cli.main import app

    known = set(getattr(get_command(app), "commands", {}))
    shown = set(re.findall(r"^reader ([a-z]+)", TEXT, re.MULTILINE))
    assert shown and shown <= known
