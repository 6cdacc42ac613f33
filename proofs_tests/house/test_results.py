"""A benchmark goes on with its last result only where that is of the same machine, versions, commit and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs_tests.benchmarks import _report


def test_a_result_is_gone_on_with_where_it_is_of_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _report.kept("cells", tmp_path) == {}
    monkeypatch.setenv("COMMIT", "one")
    _report.write_report("cells", {"tokens": 32, "rows": [{"dtype": "float32"}]}, tmp_path)
    assert _report.kept("cells", tmp_path)["rows"] == _report.kept("cells", tmp_path, tokens=32)["rows"] != []
    assert _report.kept("cells", tmp_path, tokens=64) == _report.kept("cells", tmp_path, repeats=3) == {}
    monkeypatch.setenv("COMMIT", "another")
    assert _report.kept("cells", tmp_path, tokens=32) == {}
