"""What the README says is run: its Python, its commands' names, its file tree, and its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proofs_tests.benchmarks.tables import PAGES, README, rewritten

ROOT = Path(__file__).parents[2]
TEXT = README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_kept_results(path: Path) -> None:
    text = path.read_text()
    assert "<!-- table: " in text
    assert rewritten(text) == text


def test_a_newcomer_can_read_it_in_one_sitting() -> None:
    assert len(README.read_bytes()) <= 9000


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_it_names_exists(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    named = re.findall(r"`((?:reader_theory|optimizer|runtime|proofs_tests|notebooks|docs)/[\w./]+)`", text)
    linked = [(path.parent / link).resolve() for link in re.findall(r"\]\((?!http)([^)#]+)", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [str(link) for link in linked if not link.exists()] == []


def test_python_blocks_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert BLOCKS
    told: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README block {number}", "exec"), told)


def test_the_file_tree_names_every_folder_and_every_room() -> None:
    tree = re.search(r"```text tree\n(.*?)```", TEXT, re.DOTALL)
    assert tree is not None
    told = dict(line.split(maxsplit=1) for line in tree[1].splitlines())
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders | {"notebooks/", "docs/"} == set(told)
    rooms = {
        path.parent for top in ("reader_theory", "optimizer", "runtime") for path in (ROOT / top).glob("*/__init__.py")
    }
    unnamed = [str(room.relative_to(ROOT)) for room in rooms if room.name not in told[f"{room.parent.name}/"]]
    assert unnamed == []


def test_every_reader_command_it_shows_exists() -> None:
    from typer.main import get_command

    from runtime.cli.main import app

    known = set(getattr(get_command(app), "commands", {}))
    shown = set(re.findall(r"^reader ([a-z]+)", TEXT, re.MULTILINE))
    assert shown and shown <= known


def test_an_empty_table_takes_nothing_of_what_follows() -> None:
    """A marker with nothing between swallowed the text up to the next table's end."""
    after = "\nkept\n\n<!-- table: speed_up -->\nold\n<!-- end -->\n"
    made = rewritten("<!-- table: loop -->\n<!-- end -->\n" + after)
    assert made.startswith("<!-- table: loop -->\n|") and "\nkept\n" in made and "old" not in made
    assert made.count("<!-- end -->") == 2
