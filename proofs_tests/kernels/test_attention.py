"""Compiled attention is attention, and what a query reads has the same bits whatever stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from runtime.kernels import attention as door
from runtime.kernels.attention import CompiledAttention, TorchAttention, attention
from runtime.models.base import hidden_value

TYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""Types, and the error of a mean of values near 1: a sum in another order, one rounding."""
CPU = torch.device("cpu")


@dataclass
class Case:
    """Queries of trees behind ragged rows, in a cache that is wider than they need."""

    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    group: int

    def by(self, kind: type[TorchAttention] | None = None) -> torch.Tensor:
        """As the door chooses, or by a kind."""
        told = self.mask, self.q.shape[1], self.group, self.q.shape[-1] ** -0.5
        made = attention(*told, dtype=self.q.dtype, device=CPU) if kind is None else kind(*told)
        return made(self.q, self.keys, self.values)

    def in_float64(self) -> torch.Tensor:
        wide = (x.double() for x in (self.q, self.keys, self.values, self.mask))
        return Case(*wide, self.group).by(TorchAttention)


def case(
    rows: int, queries: int, heads: int, group: int, size: int, slots: int, dtype: torch.dtype, seed: int = 0
) -> Case:
    drawn = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=drawn).to(dtype)

    joined = some(rows * queries, (heads + 2) * size)  # other heads lie beside them, as behind one projection
    q = joined.view(rows, queries, -1, size)[:, :, :heads]
    keys, values = (some(rows, heads // group, slots + 5, size)[:, :, :slots] for _ in range(2))
    mask = torch.full((rows, 1, queries, slots + 3), hidden_value(dtype), dtype=dtype)
    for row in range(rows):
        length = int(torch.randint(1, slots - queries + 1, (1,), generator=drawn))
        mask[row, :, :, :length] = 0
        for query in range(queries):
            above = torch.rand(query, generator=drawn) < 0.5
            mask[row, 0, query, length : length + query][above] = 0
            mask[row, 0, query, length + query] = 0
    return Case(q, keys, values, mask[..., :slots], group)


@pytest.fixture(params=TYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if not isinstance(attention(None, 1, 1, 1.0, dtype=request.param, device=CPU), CompiledAttention):
        pytest.skip("torch's threads are not GNU's here")
    return request.param


@pytest.mark.parametrize("shape", [
    (1, 1, 9, 3, 64, 100), (2, 5, 9, 3, 64, 77), (3, 8, 14, 7, 128, 300), (1, 33, 4, 1, 32, 64), (2, 3, 8, 8, 96, 50),
    (4, 1, 2, 1, 32, 2), (1, 64, 3, 1, 32, 70), (9, 2, 16, 2, 64, 19),
], ids=str)  # fmt: skip
def test_it_is_attention(dtype: torch.dtype, shape: tuple[int, int, int, int, int, int]) -> None:
    given = case(*shape, dtype)
    torch.testing.assert_close(given.by().double(), given.in_float64(), rtol=TYPES[dtype], atol=TYPES[dtype])


def test_a_query_alone_needs_no_mask(dtype: torch.dtype) -> None:
    given = case(2, 1, 6, 3, 64, 40, dtype)
    given.mask = torch.zeros_like(given.mask)
    unmasked = attention(None, 1, 3, 64**-0.5, dtype=dtype, device=CPU)(given.q, given.keys, given.values)
    assert torch.equal(unmasked, given.by())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_query_reads_the_same_bits_in_any_company(dtype: torch.dtype, threads: int) -> None:
    """Of a tree, behind other slots, in a wider cache, among other rows: as in a plain step of its own text."""
    given = case(3, 12, 9, 3, 64, 90, dtype, seed=threads)
    whole, before = given.by().view(3, 12, 9, 64), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for row in range(3):
            for query in range(12):
                seen = (given.mask[row, 0, query] == 0).nonzero()[:, 0]
                q = given.q[row : row + 1, query : query + 1]
                keys, values = (x[row : row + 1][:, :, seen] for x in (given.keys, given.values))
                alone = attention(None, 1, 3, 64**-0.5, dtype=dtype, device=CPU)(q, keys, values)
                assert torch.equal(alone.view(9, 64), whole[row, query])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("where", ["q", "keys", "values"])
def test_what_is_no_number_stays_in_its_row(dtype: torch.dtype, where: str) -> None:
    given = case(3, 4, 6, 3, 64, 30, dtype)
    clean = given.by().view(3, 4, -1)
    getattr(given, where)[1, ..., 0, :] = float("nan")  # a slot that all see, or a head of every query
    found = given.by().view(3, 4, -1)
    assert found[1].isnan().any(dim=-1).all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_infinite_scores_are_no_numbers(dtype: torch.dtype) -> None:
    given = case(1, 2, 2, 1, 32, 12, dtype)
    given.keys[:, :, 0] = float("inf")
    assert given.by().isnan().any() == given.in_float64().isnan().any()


@pytest.mark.parametrize("size", [8, 24, 40])
def test_sizes_that_are_not_compiled_go_to_torch(dtype: torch.dtype, size: int) -> None:
    given = case(2, 3, 4, 2, size, 20, dtype)
    assert torch.equal(given.by(), given.by(TorchAttention))


@pytest.mark.parametrize("other", [torch.float64, torch.float16])
def test_operands_of_another_type_go_to_torch(dtype: torch.dtype, other: torch.dtype) -> None:
    """A model that was cast after it was wrapped."""
    given = case(2, 3, 4, 2, 32, 20, other)
    made = attention(given.mask, 3, 2, 32**-0.5, dtype=dtype, device=CPU)
    assert torch.equal(made(given.q, given.keys, given.values), given.by(TorchAttention))


def test_operands_that_do_not_fit_are_refused_as_by_torch(dtype: torch.dtype) -> None:
    given = case(2, 3, 4, 2, 32, 20, dtype)
    given.keys = given.keys[:, :, :10]
    with pytest.raises(RuntimeError):
        given.by()


def test_many_queries_go_to_torch(dtype: torch.dtype) -> None:
    assert type(attention(None, door.MOST + 1, 1, 1.0, dtype=dtype, device=CPU)) is TorchAttention


@pytest.mark.parametrize("shape", [
    (1, 300, 6, 3, 64, 700), (2, 513, 4, 1, 32, 520), (3, 257, 4, 2, 16, 300), (1, 65, 2, 2, 8, 66),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("other", [*TYPES, torch.float64], ids=str)
def test_many_queries_read_what_they_see(shape: tuple[int, int, int, int, int, int], other: torch.dtype) -> None:
    """In blocks, of a tree in rows of several lengths: as the mean that attention is."""
    given, (rows, queries, heads, group, size, _) = case(*shape, other), shape
    q, keys, values, mask = (x.double() for x in (given.q, given.keys, given.values, given.mask))
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    scores = (q.transpose(1, 2) @ keys.transpose(2, 3) * size**-0.5).masked_fill(mask < 0, -torch.inf)
    mean = (scores.softmax(-1) @ values).transpose(1, 2).reshape(rows * queries, heads * size)
    bound = TYPES.get(other, 1e-12)
    torch.testing.assert_close(given.by().double(), mean, rtol=bound, atol=bound)


def test_a_query_that_sees_nothing_stays_a_number(dtype: torch.dtype) -> None:
    """Padding behind a row that ends in its block."""
    given = case(2, 300, 2, 1, 16, 310, dtype)
    given.mask[1, :, 256:] = hidden_value(dtype)
    assert given.by().isfinite().all()


@pytest.mark.parametrize("where", ["q", "keys", "values"])
def test_of_many_queries_what_is_no_number_stays_in_its_row(dtype: torch.dtype, where: str) -> None:
    given = case(3, 300, 6, 3, 64, 310, dtype)
    clean = given.by().view(3, 300, -1)
    getattr(given, where)[1, ..., 0, :] = float("nan")
    found = given.by().view(3, 300, -1)
    assert found[1].isnan().any(dim=-1).all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_threads_that_are_not_gnus_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_tried", lambda: None)
    assert type(attention(None, 1, 1, 1.0, dtype=torch.float32, device=CPU)) is TorchAttention
