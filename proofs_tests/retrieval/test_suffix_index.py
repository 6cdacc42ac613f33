"""The suffix index is exact: it agrees with a brute-force search over every suffix, at every position.

For a text s and a cap D: the match is the longest suffix of s of at most D tokens that ends somewhere before the
end of s, its position the most recent such place, its count the number of them. The chain copies from there and
looks text and chain up anew when the copy reaches the end of the text.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import InvalidInputError
from runtime.retrieval.suffix_index import SuffixIndex, record_positions

TEXTS = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=70),
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(2, 12)).map(lambda x: x[0] * x[1]),
)


def brute_match(text: list[int], cap: int, end: int | None = None) -> tuple[int, int, int]:
    """Length, most recent place and count of the longest suffix of `text` with a known follower below `end`."""
    end = len(text) if end is None else end
    for length in range(min(cap, len(text)), 0, -1):
        suffix = text[len(text) - length :]
        places = [place for place in range(length, end) if text[place - length : place] == suffix]
        if places:
            return length, places[-1], len(places)
    return 0, -1, 0


def brute_chain(text: list[int], cap: int, size: int) -> list[int]:
    made: list[int] = []
    while len(made) < size:
        length, place, _ = brute_match(text + made, cap, len(text))
        if length == 0:
            break
        made += text[place : place + size - len(made)]
    return made


@given(text=TEXTS, cap=st.integers(1, 12), cut=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_match_and_chain_equal_brute_force_at_every_position(text: list[int], cap: int, cut: float) -> None:
    start = int(cut * len(text))
    index = SuffixIndex(text[:start], max_depth=cap)
    for end in range(start, len(text) + 1):
        seen = text[:end]
        assert (index.match_length, index.match_position, index.match_count) == brute_match(seen, cap)
        assert index.chain(9).tolist() == brute_chain(seen, cap, 9)
        index.extend(text[end : end + 1])


@given(text=TEXTS, cuts=st.lists(st.integers(0, 70), max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_index_does_not_depend_on_how_the_text_arrives(text: list[int], cuts: list[int]) -> None:
    whole, pieces = SuffixIndex(text), SuffixIndex()
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
        pieces.extend(text[low:high])
    assert (whole.match_length, whole.match_position, whole.match_count) == (
        pieces.match_length,
        pieces.match_position,
        pieces.match_count,
    )
    assert whole.chain(20).tolist() == pieces.chain(20).tolist()


@given(text=TEXTS, output=TEXTS)
@settings(max_examples=60, deadline=None)
def test_recorded_positions_are_what_the_live_index_offers(text: list[int], output: list[int]) -> None:
    columns = record_positions(text, output, max_tokens=7)
    index = SuffixIndex(text)
    for place, token in enumerate(output):
        chain = index.chain(7).tolist()
        agreed = 0
        while agreed < min(len(chain), len(output) - place) and chain[agreed] == output[place + agreed]:
            agreed += 1
        live = (index.match_length, index.match_count, len(chain), agreed)
        assert tuple(int(column[place]) for column in columns) == live
        index.extend([token])


def test_growth_keeps_every_earlier_match() -> None:
    text = np.random.default_rng(0).integers(0, 400, 5000).astype(np.int32)
    index = SuffixIndex(text[:3])
    for token in text[3:]:
        index.extend(np.array([token], np.int32))
    again = SuffixIndex(np.concatenate([text, text[1000:1010]]))
    index.extend(text[1000:1010])
    assert index.match_length == again.match_length >= 10
    assert index.match_position == again.match_position == 1010


@pytest.mark.parametrize("kind", ["random", "copies", "one token", "few tokens"])
def test_the_index_stays_under_100_bytes_a_token(kind: str) -> None:
    generator = np.random.default_rng(1)
    text = {
        "random": generator.integers(0, 30_000, 20_000),
        "copies": np.tile(generator.integers(0, 30_000, 2_000), 10),
        "one token": np.ones(20_000, np.int64),
        "few tokens": generator.integers(0, 12, 20_000),
    }[kind].astype(np.int32)
    grown = SuffixIndex(text[:10_000])
    for low in range(10_000, 20_000, 7):
        grown.extend(text[low : low + 7])
        assert grown.nbytes < 100 * len(grown)


@pytest.mark.parametrize("bad", [[-1], [3, -100], [2**31], [[1, 2]], [0.5]])
def test_what_is_no_token_id_is_refused_and_leaves_no_trace(bad: list[object]) -> None:
    index = SuffixIndex([1, 2, 3, 1, 2])
    with pytest.raises(InvalidInputError, match="tokens"):
        index.extend(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="tokens"):
        index.extend(np.array([1, -1], np.int32))
    assert (len(index), index.match_length, index.chain(4).tolist()) == (5, 2, [3, 1, 2, 3])


def test_a_depth_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="max_depth"):
        SuffixIndex([1, 2], max_depth=97)
