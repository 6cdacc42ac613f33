"""The datastore finds the longest match exactly, keeps its bound in bytes, and refuses a damaged file.

For documents d_1 ... d_k and a context c, the match is the longest suffix of c (at most 32 tokens) that stands
somewhere in one document; no match crosses from one document into the next.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import DocumentError, InvalidInputError
from runtime.retrieval.bodies import growth
from runtime.retrieval.bodies.sorting import sort_contexts
from runtime.retrieval.datastore import Datastore, datastore_bytes
from runtime.retrieval.index import RetrievalIndex

DOCUMENTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=20), min_size=1, max_size=6)


def longest_match(documents: list[list[int]], context: list[int]) -> int:
    best = 0
    for document in documents:
        for end in range(1, len(document) + 1):
            same = 0
            while same < min(end, len(context), 32) and document[end - 1 - same] == context[-1 - same]:
                same += 1
            best = max(best, same)
    return best


def stored_match(index: RetrievalIndex) -> int:
    index.tree(1)
    header = index._index.header
    return int(max(header[growth.ABOVE], header[growth.BELOW]))


@given(text=st.lists(st.integers(-1, 3), min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_contexts_are_sorted_as_reversed_strings(text: list[int]) -> None:
    text[-1] = -1
    order, rank = sort_contexts(np.array(text, np.int32), 4)

    def reading(place: int) -> list[int]:
        return text[:place][::-1] + [-1] * (70 - place) + [place]

    assert order.tolist() == sorted(range(len(text)), key=reading)
    assert rank[order].tolist() == list(range(len(text)))


@given(documents=DOCUMENTS, context=st.lists(st.integers(0, 5), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_longest_match_equals_brute_force_at_every_position(documents: list[list[int]], context: list[int]) -> None:
    index = RetrievalIndex(context[:1], Datastore.build(documents))
    for end in range(1, len(context)):
        assert stored_match(index) == longest_match(documents, context[:end])
        index.extend(context[end : end + 1])


def test_a_rare_token_far_from_its_neighbours_is_found() -> None:
    generator = np.random.default_rng(2)
    document = generator.integers(0, 3, 4000)
    document[::500] = 7
    index = RetrievalIndex(document[:10], Datastore.build([document]))
    assert stored_match(index) == 10
    index.extend([7])
    assert stored_match(index) == longest_match([document.tolist()], [*document[:10].tolist(), 7])


@given(documents=DOCUMENTS)
@settings(max_examples=50, deadline=None)
def test_the_documents_can_be_read_back(documents: list[list[int]]) -> None:
    texts = [text.tolist() for text in Datastore.build(documents).texts()]
    assert sorted(texts) == sorted(documents)


def test_bytes_are_what_the_bound_says() -> None:
    generator = np.random.default_rng(3)
    documents = [generator.integers(0, 500, size).astype(np.int32) for size in (1, 7, 5000, 12_000)]
    store = Datastore.build(documents)
    tokens = sum(document.size for document in documents)
    assert store.nbytes - store.delta.nbytes == datastore_bytes(tokens, 4, 500)
    assert datastore_bytes(2_000_000, 1_000, 32_000) <= 12 * 2_000_000


def test_a_saved_datastore_opens_to_the_same_drafts(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    documents = [generator.integers(0, 20, 300) for _ in range(5)]
    store = Datastore.build(documents)
    opened = Datastore.open(store.save(tmp_path / "past.reader"))
    prompt = documents[2][40:60]
    one, two = RetrievalIndex(prompt, store).grow(24), RetrievalIndex(prompt, opened).grow(24)
    assert one.tokens.tolist() == two.tokens.tolist() != [[]]
    assert one.chances.tolist() == two.chances.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["past.reader"]


@pytest.mark.parametrize("place", [0, 9, 17, 60, 64, 200, -20])
def test_a_flipped_byte_is_refused(tmp_path: Path, place: int) -> None:
    path = Datastore.build([np.arange(200) % 13]).save(tmp_path / "past.reader")
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(DocumentError, match="datastore"):
        Datastore.open(path)


@pytest.mark.parametrize("size", [0, 10, 63, 64, 500])
def test_a_truncated_file_is_refused_even_unverified(tmp_path: Path, size: int) -> None:
    path = Datastore.build([np.arange(200) % 13]).save(tmp_path / "past.reader")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DocumentError, match="datastore"):
        Datastore.open(path, verify=False)


@pytest.mark.parametrize("bad", [[[1, -2]], [[1.5]], [[2**18]], [[[1, 2], [3, 4]]]])
def test_what_is_no_document_is_refused(bad: list[object]) -> None:
    with pytest.raises(InvalidInputError, match="documents"):
        Datastore.build(bad)  # type: ignore[arg-type]


def test_new_outputs_are_found_at_once_and_survive_compaction() -> None:
    store = Datastore.build([[1, 2, 3, 4]])
    index = RetrievalIndex([7, 8], store)
    assert index.tree(4).nodes == 0
    store.add([7, 8, 9, 10])
    assert index.grow(4).tokens[0].tolist()[:2] == [9, 10]
    merged = store.compact()
    assert RetrievalIndex([7, 8], merged).grow(4).tokens[0].tolist()[:2] == [9, 10]
    assert RetrievalIndex([1, 2], merged).grow(4).tokens[0].tolist()[:2] == [3, 4]


def test_no_draft_crosses_from_one_output_of_the_delta_into_the_next() -> None:
    store = Datastore.build([])
    store.add([1, 2, 3])
    store.add([4, 5, 6])
    assert RetrievalIndex([2, 3], store).tree(8).nodes == 0
    assert RetrievalIndex([9, 4], store).grow(8).tokens[0].tolist() == [5, 6]


def test_the_delta_keeps_its_bound_in_bytes() -> None:
    generator = np.random.default_rng(5)
    store = Datastore.build([], delta_bytes=300_000)
    for _ in range(60):
        output = generator.integers(0, 1000, 500)
        store.add(output)
        assert store.delta.nbytes <= 300_000
        assert RetrievalIndex(output[:20], store).grow(4).tokens[0].tolist()[:4] == output[20:24].tolist()
    store.add(generator.integers(0, 1000, 50_000))
    assert store.delta.nbytes <= 300_000
