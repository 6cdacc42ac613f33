"""Records of keys and values: what they take, how far off they are, and that compiled and plain forms agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError
from runtime.cache.quantised.codec import Codec, GridCodec, IntegerCodec
from runtime.cache.quantised.grid import best_grid, gaussian_grid
from runtime.cache.quantised.hadamard import grouping, hadamard_of
from runtime.kernels.cpu.dequantise import nearest_points

ERRORS = {16: 0.1073, 64: 0.0297, 256: 0.0077}
"""Of the best grids, a dimension."""


@pytest.mark.parametrize("points", ERRORS)
def test_the_gaussian_grid_is_the_best_known(points: int) -> None:
    numbers = np.random.default_rng(points).standard_normal((200_000, 2)).astype(np.float32)
    grid = gaussian_grid(points)
    near = (numbers @ grid.T - np.square(grid).sum(axis=1) / 2).argmax(axis=1)
    assert np.mean(np.square(numbers - grid[near])) == pytest.approx(ERRORS[points], rel=0.01)


def test_the_grids_that_ship_are_those_that_are_computed() -> None:
    assert np.array_equal(gaussian_grid(4), best_grid(4))


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 44, 64, 80, 96, 192, 240, 320, 768])
def test_hadamard_matrices_are_orthogonal_and_of_ones(order: int) -> None:
    turn = hadamard_of(order)
    assert turn is not None
    matrix = turn.matrix
    assert np.allclose(matrix @ matrix.T, np.eye(order), atol=1e-5)
    assert np.allclose(np.abs(matrix), order**-0.5)


def test_groups_are_as_many_whole_heads_as_one_matrix_turns() -> None:
    assert [grouping(*shape).order for shape in ((3, 64), (2, 64), (8, 128), (5, 80), (1, 96), (32, 128))] == [
        192, 128, 1024, 400, 96, 1024,
    ]  # fmt: skip
    for shape in ((1, 6), (3, 34), (1, 92), (1, 2048)):
        with pytest.raises(InvalidInputError, match=r"Hadamard.*Got .*--kv int8"):
            grouping(*shape)


def _plain_grid(codec: GridCodec, record: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a record says, by its definition."""
    codes, pairs = record[: codec.chunk * codec.code_bytes].reshape(codec.chunk, -1), codec.channels // 2
    digits = np.unpackbits(codes, axis=1, bitorder="little")[:, : pairs * codec.bits].reshape(codec.chunk, pairs, -1)
    points = codec.grid[digits @ (1 << np.arange(codec.bits))].reshape(codec.chunk, codec.groups, -1)
    scales = record[codec.chunk * codec.code_bytes :].copy().view(np.float16).reshape(codec.chunk, -1, 1)
    return ((points.astype(np.float64) @ codec.turn.matrix) * scales).reshape(codec.chunk, codec.channels)


def _plain_integers(codec: IntegerCodec, record: NDArray[np.uint8]) -> NDArray[np.float64]:
    codes = record[: codec.chunk * codec.code_bytes].reshape(codec.chunk, -1)
    digits = np.unpackbits(codes, axis=1, bitorder="little")[:, : codec.channels * codec.bits]
    steps, least = record[codec.chunk * codec.code_bytes :].copy().view(np.float16).astype(np.float64).reshape(2, -1)
    return digits.reshape(codec.chunk, codec.channels, -1) @ (1 << np.arange(codec.bits)) * steps + least


@given(
    chunk=st.integers(1, 9),
    shape=st.sampled_from([(1, 4), (3, 4), (1, 12), (2, 20), (3, 64), (8, 16)]),
    bits=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_grid_records_say_what_the_plain_form_reads(chunk: int, shape: tuple[int, int], bits: int, seed: int) -> None:
    rng, turn = np.random.default_rng(seed), grouping(*shape)
    codec = GridCodec(chunk, shape[0] * shape[1], turn, rng.standard_normal((4**bits, 2)).astype(np.float32))
    numbers = (rng.standard_normal((chunk, codec.channels)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    record = codec.encode(numbers)
    assert record.nbytes == codec.record_bytes == chunk * (-(-codec.channels * bits // 8) + 2 * codec.groups)
    assert np.allclose(codec.decode(record[None]), _plain_grid(codec, record), atol=1e-4 * np.abs(numbers).max())


@given(chunk=st.integers(1, 9), channels=st.integers(1, 50), bits=st.integers(1, 8), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_integer_records_say_what_the_plain_form_reads(chunk: int, channels: int, bits: int, seed: int) -> None:
    rng, codec = np.random.default_rng(seed), IntegerCodec(chunk, channels, bits)
    numbers = (rng.standard_normal((chunk, channels)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    record = codec.encode(numbers)
    read = codec.decode(record[None])
    assert record.nbytes == codec.record_bytes == chunk * -(-channels * bits // 8) + 4 * channels
    assert np.allclose(read, _plain_integers(codec, record), rtol=1e-5, atol=1e-6)
    spread = np.ptp(numbers, axis=0)
    assert (np.abs(read - numbers) <= spread / (2**bits - 1) + 2e-3 * np.abs(numbers).max(axis=0) + 1e-4).all()


@given(
    chunk=st.integers(1, 9),
    shape=st.sampled_from([(1, 1), (3, 5), (2, 20), (3, 64), (4, 33)]),
    bits=st.one_of(st.sampled_from([4, 8]), st.integers(1, 8)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_integers_are_written_where_attention_reads_them(
    chunk: int, shape: tuple[int, int], bits: int, dtype: torch.dtype, seed: int
) -> None:
    rng, (heads, size) = np.random.default_rng(seed), shape
    codec = IntegerCodec(chunk, heads * size, bits)
    numbers = (rng.standard_normal((5, chunk, heads * size)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    records = np.stack([codec.encode(each) for each in numbers])
    room = torch.full((heads, 7 + 5 * chunk, size), 77.0, dtype=dtype)
    codec.decode_to(records, room[:, 3 : 3 + 5 * chunk])
    wanted = torch.from_numpy(codec.decode(records)).view(-1, heads, size).transpose(0, 1).to(dtype)
    assert torch.equal(room[:, 3 : 3 + 5 * chunk], wanted)
    assert (room[:, :3] == 77).all() and (room[:, 3 + 5 * chunk :] == 77).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("records", [1, 2, 5])
def test_records_are_shared_among_threads_whole(threads: int, records: int) -> None:
    rng, turn = np.random.default_rng(records), grouping(3, 64)
    before = torch.get_num_threads()
    integers, grid = IntegerCodec(4, 192, 4), GridCodec(4, 192, turn, gaussian_grid(16))
    numbers = rng.standard_normal((records, 4, 192)).astype(np.float32)
    whole, turned = (np.stack([codec.encode(each) for each in numbers]) for codec in (integers, grid))
    one_by_one = np.concatenate([grid.decode(each[None]) for each in turned])
    out = torch.zeros((3, 4 * records, 64))
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(grid.decode(turned), one_by_one)
        integers.decode_to(whole, out)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(out.transpose(0, 1).reshape(-1, 192).numpy(), integers.decode(whole))


def test_a_place_for_other_tokens_than_the_records_have_is_refused() -> None:
    codec = IntegerCodec(4, 6, 8)
    with pytest.raises(InvalidInputError, match="place for each token"):
        codec.decode_to(np.zeros((2, codec.record_bytes), np.uint8), torch.zeros((3, 9, 2)))


def test_codes_are_those_of_the_nearest_points() -> None:
    pairs = np.random.default_rng(7).standard_normal((500, 2)).astype(np.float32)
    codes, grid = np.empty(500, dtype=np.uint8), gaussian_grid(64)
    nearest_points(pairs, grid, codes)
    distance = np.square(pairs[:, None] - grid[None]).sum(axis=-1)
    assert np.allclose(distance[np.arange(500), codes], distance.min(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: IntegerCodec(4, 8, 4), lambda: GridCodec(4, 8, grouping(1, 8), gaussian_grid(16))]
)
def test_zeros_and_huge_numbers_are_read_back_finite(make: object) -> None:
    codec = make()  # pyright: ignore[reportCallIssue]
    assert isinstance(codec, Codec)
    assert (codec.decode(codec.encode(np.zeros((4, 8), np.float32))[None]) == 0).all()
    huge = np.array([[1e30, -1e30] * 4] * 4, dtype=np.float32)
    assert np.isfinite(codec.decode(codec.encode(huge)[None])).all()


def test_gaussian_numbers_have_the_grids_error_whatever_turned_them() -> None:
    numbers = np.random.default_rng(0).standard_normal((256, 192)).astype(np.float32)
    spiky = np.zeros_like(numbers)
    spiky[:, 5] = 20 * numbers[:, 5]
    for points, error in ERRORS.items():
        codec = GridCodec(256, 192, grouping(3, 64), gaussian_grid(points))
        read = codec.decode(codec.encode(numbers)[None])
        assert np.mean(np.square(read - numbers)) / np.mean(np.square(numbers)) == pytest.approx(error, rel=0.03)
        read = codec.decode(codec.encode(spiky)[None])
        assert np.mean(np.square(read - spiky)) < 1.5 * error * np.mean(np.square(spiky))


def test_bits_a_value_of_192_channels_are_those_of_the_paper() -> None:
    codec = {bits: GridCodec(64, 192, grouping(3, 64), gaussian_grid(4**bits)) for bits in (2, 3, 4)}
    bits = {name: 8 * each.record_bytes / (64 * 192) for name, each in codec.items()}
    assert [bits[2], bits[3], bits[4]] == [2 + 1 / 12, 3 + 1 / 12, 4 + 1 / 12]
    assert (bits[4] + 29 * bits[2]) / 30 == pytest.approx(2.15)
