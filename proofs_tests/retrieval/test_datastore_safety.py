"""A datastore is safe to open whoever wrote it, to add to from any thread, and within its bytes whatever is added.

A file is that of a datastore iff its header says how long it is and its arrays are the sorted contexts of some text:
then every number in it leads to a row.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.errors import DocumentError, InvalidInputError
from runtime.models.vocabulary import Vocabulary
from runtime.retrieval import datastore as module
from runtime.retrieval.bodies import growth, store
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.growing import growing
from runtime.retrieval.index import RetrievalIndex

HOUSE = Path(__file__).parents[2]
PREFIX = 64
Change = Callable[[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]], object]


def crafted(path: Path, change: Change, source: Datastore | None = None) -> Path:
    """A datastore's file with its header, records, backward rows and buckets changed, and right checksums."""
    made = source or Datastore.build([np.random.default_rng(n).integers(0, 50, 400) for n in range(20)])
    data = np.fromfile(made.save(path), np.uint8)
    head = data[:PREFIX].view(np.int64)
    records, backward, buckets = module._split(data, int(head[2]), int(head[3]))
    change(head, records.reshape(-1, store.ROW_BYTES), backward, buckets)
    head[5] = zlib.crc32(data[PREFIX:].data)
    head[7] = zlib.crc32(head[:7].tobytes())
    data.tofile(path)
    return path


def assign(array: int, where: Any, value: Any) -> Change:
    def change(*arrays: Any) -> None:
        arrays[array][where] = value

    return change


def swap(array: int, one: int, other: int) -> Change:
    def change(*arrays: Any) -> None:
        arrays[array][[one, other]] = arrays[array][[other, one]]

    return change


CRAFTED: dict[str, Change] = {
    "every row leads past the end": assign(1, np.s_[:, 0:4], 255),
    "one row leads past the end": assign(1, np.s_[77, 3], 255),
    "one row leads elsewhere": assign(1, np.s_[77, 0:2], 7),
    "a token beyond the vocabulary": assign(1, np.s_[77, 4:6], 255),
    "more shared tokens than are told apart": assign(1, np.s_[77, 6], 63 << 2),
    "tokens shared with the row above the first": assign(1, np.s_[0, 6], 4),
    "rows that are not in order": swap(1, 40, 4000),
    "a shorter context past the end": assign(2, 77, 1 << 30),
    "a shorter context before the start": assign(2, 77, -2),
    "a shorter context that leads elsewhere": swap(2, 40, 4000),
    "an empty context that is none": assign(2, 0, 5),
    "buckets that fall": assign(3, 7, 0),
    "buckets past the end": assign(3, -1, 1 << 30),
    "a bucket below nothing": assign(3, 0, -9),
    "fewer documents than ends": assign(0, 4, 19),
    "rows below nothing": assign(0, 2, -1),
    "documents below nothing": assign(0, 4, -5),
    "a vocabulary past the limit": assign(0, 3, 1 << 18),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_with_a_right_checksum_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="datastore"):
        Datastore.open(crafted(tmp_path / "past.reader", CRAFTED[name]))


@given(
    documents=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=20), max_size=6),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], place: float, value: int
) -> None:
    made, path = Datastore.build(documents), tmp_path_factory.mktemp("crafted") / "past.reader"

    def change(head: Any, records: NDArray[np.uint8], backward: Any, buckets: Any) -> None:
        whole = [records.reshape(-1), backward.view(np.uint8), buckets.view(np.uint8)]
        at = int(place * sum(part.size for part in whole))
        for part in whole:
            if 0 <= at < part.size:
                part[at] = value
            at -= part.size

    try:
        opened = Datastore.open(crafted(path, change, made))
    except DocumentError:
        return
    assert [text.tolist() for text in opened.texts()] == [text.tolist() for text in made.texts()]
    drafted = RetrievalIndex([0, 1, 2, 0, 1], opened).tree(16)
    assert set(drafted.tokens.tolist()) <= set(range(5))


@given(documents=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=30), max_size=8))
@settings(max_examples=150, deadline=None)
def test_every_datastore_that_is_built_is_sound(documents: list[list[int]]) -> None:
    made = Datastore.build(documents)
    assert store.unsound(*made._arrays, made.documents) == -1


def test_whatever_reads_or_grows_the_delta_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query runs in compiled code, without the interpreter's lock, while an `add` moves the buffers that it reads."""
    made, alone, seen = Datastore.build([]), RetrievalIndex([5]), []

    def watched(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def held(*arguments: Any) -> Any:
            seen.append(name)
            assert made.lock.locked()
            return plain(*arguments)

        monkeypatch.setattr(owner, name, held)

    for name in ("grow_many", "offers", "locate"):
        watched(growth, name)
    for name in ("extend", "clear", "reserve"):
        watched(made.delta, name)
    made.add([1, 2, 3, 4])
    index = RetrievalIndex([1, 2], made)
    index.tree(4)
    index.offers()
    growing([index, alone], 4)()
    growing([index], 4)()
    made.delta_bytes = made.delta.nbytes
    made.add([4, 3, 2, 1] * 50)
    assert set(seen) == {"grow_many", "offers", "locate", "extend", "clear", "reserve"}
    assert not made.lock.locked()


BESIDE = """
import faulthandler, threading
import numpy as np
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.growing import growing
from runtime.retrieval.index import RetrievalIndex
faulthandler.enable()
text = np.random.default_rng(0).integers(0, 500, 100_000).astype(np.int32)
stores = [Datastore.build([], delta_bytes=size) for size in (1 << 20, 200_000)]
rows = [RetrievalIndex(text[i * 600 : i * 600 + 600], stores[i % 2]) for i in range(32)]
growing(rows[::2], 32)(), growing(rows[1::2], 32)()
def learn(store):
    for start in range(0, 99_000, 500):
        store.add(text[start : start + 500])
threads = [threading.Thread(target=learn, args=(store,)) for store in stores for _ in range(2)]
for thread in threads:
    thread.start()
batches = 0
while any(thread.is_alive() for thread in threads) or batches == 0:
    for part in (rows, rows[::2], rows[1::2]):
        trees = growing(part, 32, threads=2)().trees(0)
        assert len(trees) == len(part) and trees.tokens.max() < 500
    batches += 1
print("batches", batches)
"""


def test_queries_run_beside_threads_that_add() -> None:
    command = [sys.executable, "-c", BESIDE]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("batches")


@pytest.mark.parametrize("bound", [8_000, 100_000, 1 << 20, 3_000_000])
@pytest.mark.parametrize("kind", ["random", "periodic", "single", "long"])
def test_the_delta_never_passes_its_bound(bound: int, kind: str) -> None:
    """Nor do its copies while it grows: every buffer that numpy holds counts."""
    generator = np.random.default_rng(6)
    made, total = Datastore.build([], delta_bytes=bound), 0
    size = {"random": 700, "periodic": 700, "single": 1, "long": 40_000}[kind]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        while total < min(4 * bound // 60, 900 * size):
            output = generator.integers(0, 30_000, size) if kind != "periodic" else np.arange(size) % 7
            made.add(output)
            total += size
            assert made.delta.nbytes <= bound
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    outputs = 4 * 8 * size + 8_192
    assert peak - before <= bound + outputs
    assert len(made.delta) > 0


def test_a_bound_of_nothing_keeps_nothing() -> None:
    made = Datastore.build([[1, 2, 3]], delta_bytes=0)
    made.add([4, 5, 6])
    assert len(made.delta) == 0 and RetrievalIndex([1, 2], made).grow(2).tokens[0].tolist() == [3]


def test_ids_beyond_the_models_vocabulary_are_refused_when_admitted_and_when_added() -> None:
    target = Vocabulary(4096)
    sorted_in, learned = Datastore.build([[1, 2, 60_000]]), Datastore.build([])
    learned.add([7, 4096])
    for made in (sorted_in, learned):
        with pytest.raises(InvalidInputError, match="4096"):
            made.admit(target)
    made = Datastore.build([[1, 2, 4095]])
    made.admit(target)
    with pytest.raises(InvalidInputError, match=r"below 4096.*4096 at 1"):
        made.add([3, 4096, 5])
    assert len(made.delta) == 0
    for other in (made.for_tenant(), made.compact()):
        with pytest.raises(InvalidInputError, match="below 4096"):
            other.add([4096])


def test_no_token_stands_for_the_end_of_an_output() -> None:
    with pytest.raises(InvalidInputError, match="output"):
        Datastore.build([]).add([1, 2**31 - 1, 2])


def test_the_tokenizer_is_kept_in_the_file_and_another_is_refused(tmp_path: Path) -> None:
    for mark in ("f0e1d2c3b4a59687", "00000000000000a1", ""):
        made = Datastore.open(Datastore.build([[1, 2, 3]], tokenizer=mark).save(tmp_path / "past.reader"))
        assert (made.tokenizer, made.compact().tokenizer, made.for_tenant().tokenizer) == (mark,) * 3
        made.admit(Vocabulary(10))
        made.admit(Vocabulary(10, mark))
        if mark:
            with pytest.raises(InvalidInputError, match="one tokenizer"):
                made.admit(Vocabulary(10, "1234567812345678"))


def test_tenants_share_the_sorted_bytes_and_nothing_that_they_learn() -> None:
    common = Datastore.build([np.arange(5000) % 97])
    one, other = common.for_tenant(), common.for_tenant()
    assert np.shares_memory(one._buffer, common._buffer)
    one.add([50, 200, 201])
    drafted = [RetrievalIndex([50, 200], made).grow(1).tokens[0].tolist() for made in (one, other, common)]
    assert drafted == [[201], [], []]


def test_the_sorted_part_is_read_only() -> None:
    made = Datastore.build([[1, 2, 3]])
    with pytest.raises(ValueError, match="read-only"):
        made._buffer[0] = 1


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Datastore.build([[1, 2, 3]]).save(tmp_path / "past.reader")
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Datastore.build([[4, 5, 6, 7]]).save(path)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["past.reader"]
