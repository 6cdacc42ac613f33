"""A document comes back as it was written, or not at all: the error names the field and the way out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from proofs_tests.documents import documents_examples as examples
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import GROWN_COLUMNS, Cost, Document, GrownRecord, Plan, RunRecord, Trace, read_document
from reader_theory.documents.schemas import document_kinds, json_schema
from reader_theory.errors import DocumentError

KINDS = ("cost", "imported_acceptance", "plan", "run_record", "serving_schedule", "trace", "validation")
KEEPERS = [("trace", Trace), ("run_record", RunRecord)]  # documents with arrays beside them


@pytest.fixture
def made(tmp_path: Path) -> dict[str, tuple[Path, Document]]:
    return examples.written(tmp_path)


def damage(path: Path, **changes: Any) -> None:
    """Change fields by dotted name; None removes one."""
    raw = json.loads(path.read_text())
    for name, value in changes.items():
        *way, last = name.split("__")
        place = raw
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        key = int(last) if last.isdigit() else last
        if value is None:
            del place[key]
        else:
            place[key] = value
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_comes_back_as_it_was_written(made: dict[str, tuple[Path, Document]], kind: str) -> None:
    path, document = made[kind]
    again = document_kinds()[kind].read(path)
    assert again == document
    assert again.fingerprint() == document.fingerprint()
    assert read_document(path, document_kinds()) == document


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_satisfies_the_schema(made: dict[str, tuple[Path, Document]], kind: str) -> None:
    path, document = made[kind]
    Draft202012Validator(json_schema(type(document))).validate(json.loads(path.read_text()))


@pytest.mark.parametrize(("kind", "keeper"), KEEPERS)
def test_arrays_come_back_equal_and_read_only(made: dict[str, tuple[Path, Any]], kind: str, keeper: Any) -> None:
    path, document = made[kind]
    for name, column in keeper.read(path).columns.items():
        np.testing.assert_array_equal(column, document.columns[name])
        assert column.dtype == document.columns[name].dtype
        assert not column.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_a_document_can_be_set(made: dict[str, tuple[Path, Document]], kind: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made[kind][1].stamp = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_document_is_refused(made: dict[str, tuple[Path, Document]], kind: str, share: float) -> None:
    path, document = made[kind]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DocumentError, match=r"whole JSON document.*make it again"):
        type(document).read(path)


def test_a_document_renamed_to_another_kind_is_refused(made: dict[str, tuple[Path, Document]], tmp_path: Path) -> None:
    renamed = made["cost"][0].rename(tmp_path / "my_plan.json")
    with pytest.raises(DocumentError, match=r"my_plan\.json.*kind 'plan'.*Got kind 'cost'"):
        Plan.read(renamed)
    with pytest.raises(DocumentError, match="kind 'cost'"):
        read_document(renamed, {"plan": Plan})


def test_a_missing_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="must exist"):
        Plan.read(tmp_path / "nowhere.json")
    with pytest.raises(DocumentError, match="must exist"):
        Plan.read(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [99, 0, -1, "1", 1.0, True])
def test_a_document_of_another_version_is_refused(
    made: dict[str, tuple[Path, Document]], kind: str, version: object
) -> None:
    path, document = made[kind]
    damage(path, schema_version=version)
    with pytest.raises(DocumentError, match=r"`schema_version`.*Upgrade"):
        type(document).read(path)


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("plan", {"target": None}, "target"),
        ("plan", {"temperature": "warm"}, "temperature"),
        ("plan", {"entries__0__batch": 0}, "entries.0.batch"),
        ("plan", {"entries__0__prediction__tokens_per_s__low": 1e9}, "entries.0.prediction.tokens_per_s"),
        ("plan", {"entries__0__policy__parents": [-1, 1, 1, 0, 0, 2]}, "entries.0.policy.static"),
        ("plan", {"entries__0__policy__ranks": [0]}, "entries.0.policy.static.ranks"),
        ("plan", {"colour": "red"}, "colour"),
        ("cost", {"target_forward__seconds": [[[1.0]]]}, "target_forward"),
        ("cost", {"target_forward__batch": [4, 1]}, "target_forward"),
        ("cost", {"target_forward__seconds__0__0__0": -1.0}, "target_forward"),
        ("trace", {"prompts__0__workload": 3}, "prompts.0.workload"),
        ("trace", {"arrays__rows": "many"}, "arrays.rows"),
        ("run_record", {"cells__0__lossless": "probably"}, "cells.0.lossless"),
        ("validation", {"comparisons__0__measured": None}, "comparisons.0.measured"),
        ("imported_acceptance", {"depths__0__depth": 2}, "the document"),
        ("imported_acceptance", {"stamp__made_at": None}, "stamp.made_at"),
    ],
)
def test_a_damaged_field_is_named(
    made: dict[str, tuple[Path, Document]], kind: str, change: dict[str, Any], field: str
) -> None:
    path, document = made[kind]
    damage(path, **change)
    with pytest.raises(DocumentError, match=f"field `{field}`") as caught:
        type(document).read(path)
    assert "damaged or edited by hand" in caught.value.fix


@pytest.mark.parametrize("content", [b"[1, 2]", b"null", b'"plan"', b"\xff\xfe", b"{", b""])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(DocumentError):
        Plan.read(path)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise") / "plan.json"


@given(st.binary(max_size=60))
def test_random_bytes_never_raise_anything_else(noise: Path, content: bytes) -> None:
    noise.write_bytes(content)
    with pytest.raises(DocumentError):
        Plan.read(noise)


@pytest.mark.parametrize(("kind", "keeper"), KEEPERS)
def test_arrays_that_are_missing_swapped_or_truncated_are_refused(
    made: dict[str, tuple[Path, Any]], kind: str, keeper: Any
) -> None:
    path, document = made[kind]
    arrays = path.parent / document.arrays.name
    content = arrays.read_bytes()

    arrays.write_bytes(content[: len(content) // 2])
    with pytest.raises(DocumentError, match="truncated, damaged or of another run"):
        keeper.read(path)

    other = next(each.arrays.name for name, (_, each) in made.items() if name != kind and name in dict(KEEPERS))
    arrays.write_bytes((path.parent / other).read_bytes())
    with pytest.raises(DocumentError, match="sha256"):
        keeper.read(path)

    arrays.unlink()
    with pytest.raises(DocumentError, match="beside their document"):
        keeper.read(path)


def test_columns_of_a_grown_record_come_back_and_are_guarded_as_those_of_its_trace(
    made: dict[str, tuple[Path, Any]],
) -> None:
    path, document = made["trace"]
    again = Trace.read(path).grown["draft"]
    assert set(again.columns) == set(GROWN_COLUMNS)
    for name, column in again.columns.items():
        np.testing.assert_array_equal(column, document.grown["draft"].columns[name])
    arrays = path.parent / again.arrays.name
    arrays.write_bytes(arrays.read_bytes()[:-9])
    with pytest.raises(DocumentError, match="truncated, damaged or of another run"):
        Trace.read(path)
    short = {**again.columns, "nodes": again.columns["nodes"][1:]}
    for broken in (short, {"policy": again.columns["policy"]}):
        with pytest.raises(DocumentError, match="exactly the columns of `GROWN_COLUMNS`"):
            GrownRecord.create(broken, again.policies, again.maps)


@pytest.mark.parametrize(
    ("kind", "command"),
    [("trace", "reader record"), ("plan", "reader plan"), ("serving_schedule", "reader plan --rate")],
)
def test_a_document_of_an_older_version_is_refused_with_the_command_that_makes_it_again(
    made: dict[str, tuple[Path, Document]], kind: str, command: str
) -> None:
    path, document = made[kind]
    damage(path, schema_version=type(document).oldest - 1)
    with pytest.raises(DocumentError, match=f"make an older one again by `{command}`"):
        type(document).read(path)


def test_a_cost_of_version_1_does_not_price_growth(made: dict[str, tuple[Path, Any]]) -> None:
    path, _ = made["cost"]
    damage(path, schema_version=1, growth_s=None, growth_step_s=None)
    assert Cost.read(path).growth_s is None
    assert "growth" not in Cost.read(path).model(("draft",)).parts(StepConditions(growths=2.0))


def test_a_trace_with_other_columns_is_not_written(tmp_path: Path) -> None:
    columns = examples.trace_columns()
    del columns["token"]
    with pytest.raises(DocumentError, match=r"missing \['token'\]"):
        Trace.create(tmp_path / "t.json", columns)
    assert not list(tmp_path.iterdir()), "nothing is written before it is known to be whole"


def test_a_failed_write_leaves_the_old_document(made: dict[str, tuple[Path, Document]], monkeypatch: Any) -> None:
    path, document = made["cost"]
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        document.write(path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.tmp"))


def test_an_error_survives_pickling(made: dict[str, tuple[Path, Document]]) -> None:
    damage(made["cost"][0], device=None)
    with pytest.raises(DocumentError) as caught:
        Cost.read(made["cost"][0])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.fix) == (DocumentError, str(caught.value), caught.value.fix)
