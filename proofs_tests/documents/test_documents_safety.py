"""A document leads nowhere but beside itself, its numbers are what they may be, its stamp names this package alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs_tests.documents import documents_examples as examples
from reader_theory.documents import RunRecord, Trace
from reader_theory.documents.arrays import ArrayFile
from reader_theory.errors import DocumentError

HOUSE = Path(__file__).parents[2]


def rewritten(path: Path, **arrays: Any) -> Path:
    """The document with other fields in its `arrays`."""
    raw = json.loads(path.read_text())
    raw["arrays"] |= arrays
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize("kind", ["trace", "run_record"])
@pytest.mark.parametrize("way", ["../{}", "there/{}", "{folder}/{}", "..\\{}", "..", ".", "\0{}", "c:{}"])
def test_a_document_never_leads_out_of_its_folder(kind: str, way: str, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    made: Any = getattr(examples, kind)(folder / "one.json")
    arrays = folder / made.arrays.name
    for other in (tmp_path, folder / "there"):
        other.mkdir(exist_ok=True)
        shutil.copy(arrays, other)
    rewritten(folder / "one.json", name=way.format(arrays.name, folder=tmp_path))
    with pytest.raises(DocumentError, match="bare name"):
        type(made).read(folder / "one.json")


def test_arrays_of_another_length_or_form_are_refused(tmp_path: Path) -> None:
    examples.trace(tmp_path / "one.json")
    with pytest.raises(DocumentError, match="must have the 7 rows"):
        Trace.read(rewritten(tmp_path / "one.json", rows=7))
    noise = b"no Parquet at all"
    (tmp_path / "one.parquet").write_bytes(noise)
    with pytest.raises(DocumentError, match="Parquet"):
        Trace.read(rewritten(tmp_path / "one.json", sha256=hashlib.sha256(noise).hexdigest()))


def changed(name: str, value: Any, row: int = 2) -> dict[str, Any]:
    columns = dict(examples.trace_columns())
    column = np.array(columns[name])
    column[row] = value
    return columns | {name: column}


DAMAGED = {
    "a negative run": changed("retrieval_run", -50),
    "a run longer than the chain": changed("retrieval_run", 9_999),
    "a negative chain": changed("retrieval_offered", -1),
    "a negative match": changed("retrieval_match", -3),
    "a rank below -1": changed("draft_rank", -2),
    "a rank that was not recorded": changed("draft_rank", 2),
    "a probability above 1": changed("draft_probability", 1.5),
    "a probability that is no number": changed("target_probability", np.nan),
    "a prompt that is not there": changed("prompt", 5),
    "a prompt out of order": changed("prompt", -1),
    "a gap in the positions": changed("position", 5),
    "a negative token": changed("token", -1),
    "floats for whole numbers": changed("retrieval_match", 1) | {"retrieval_match": np.zeros(6)},
    "one number for a row of them": changed("token", 1) | {"draft_probability": np.zeros(6, np.float32)},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_trace_out_of_range_is_refused_when_made_and_when_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    kept = examples.trace(path)
    fields = {field: getattr(kept, field) for field in ("stamp", "target", "temperature", "drafters")}
    with pytest.raises(DocumentError):
        Trace.in_memory(DAMAGED[name], prompts=kept.prompts, **fields)
    arrays = ArrayFile.write(path.with_suffix(".parquet"), DAMAGED[name])
    with pytest.raises(DocumentError):
        Trace.read(rewritten(path, **arrays.model_dump()))


@pytest.mark.parametrize(("column", "value"), [("cell", 1), ("cell", -1), ("step_s", np.inf), ("nodes", -4)])
def test_a_run_record_out_of_range_is_refused(column: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    examples.run_record(path)
    columns = examples.run_columns(4)
    columns[column][1] = value
    arrays = ArrayFile.write(path.with_suffix(".parquet"), columns)
    with pytest.raises(DocumentError, match=column):
        RunRecord.read(rewritten(path, **arrays.model_dump()))


def commit_seen_by(house: Path, environment: dict[str, str] | None = None) -> str:
    code = "from reader_theory.documents.base import Stamp; print(Stamp.now().commit)"
    done = subprocess.run([sys.executable, "-c", code], cwd=house, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """Make a repository of what lies in `folder`; its commit."""

    def git(*words: str) -> str:
        named = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", str(folder), *named, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    return git("rev-parse", "--short=12", "HEAD")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_stamp_names_the_commit_of_this_package_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, project in (("theirs", "somebody-elses"), ("ours", "reader-theory")):
        house = tmp_path / name
        shutil.copytree(HOUSE / "reader_theory", house / "reader_theory", ignore=shutil.ignore_patterns("__pycache__"))
        (house / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    theirs, ours = repository(tmp_path / "theirs"), repository(tmp_path / "ours")
    assert commit_seen_by(tmp_path / "theirs") == "None"
    assert commit_seen_by(tmp_path / "ours") == ours
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    assert commit_seen_by(tmp_path / "ours") == ours != theirs
    inside = tmp_path / "theirs" / "site-packages"
    shutil.copytree(tmp_path / "ours", inside, ignore=shutil.ignore_patterns(".git"))
    assert commit_seen_by(inside) == "None"
