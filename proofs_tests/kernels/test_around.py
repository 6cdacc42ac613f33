"""What stands around a layer's products: compiled as by torch's operators, whatever stands beside a row."""

from __future__ import annotations

import pytest
import torch

from runtime.kernels import around as door
from runtime.kernels.around import Around, TorchAround, around

TYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""Types, and the relative error of one rounding."""
CPU = torch.device("cpu")


@pytest.fixture(params=TYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def ours(dtype: torch.dtype) -> Around:
    found = around(dtype, CPU)
    if type(found) is TorchAround:
        pytest.skip("torch's threads are not GNU's here")
    return found


def _some(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("width", [8, 50, 576])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("sums", [True, False])
def test_norms_are_those_of_torch(ours: Around, dtype: torch.dtype, rows: int, width: int, sums: bool) -> None:
    x, weight = _some(rows, width, dtype), _some(1, width, dtype, seed=1)[0]
    added = _some(rows, width, dtype, seed=2) if sums else None
    held = x.clone()
    total, normed = ours.normed(x, added, weight, 1e-5)
    expected = TorchAround().normed(x, added, weight, 1e-5)
    assert torch.equal(total, expected[0]) and torch.equal(x, held), "the residual itself is not written to"
    torch.testing.assert_close(normed, expected[1], rtol=2 * TYPES[dtype], atol=1e-6)


@pytest.mark.parametrize(("heads", "others", "size"), [(3, 1, 8), (12, 3, 64), (2, 0, 6)])
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_heads_are_turned_as_by_torch(
    ours: Around, dtype: torch.dtype, rows: int, heads: int, others: int, size: int
) -> None:
    x = _some(rows, (heads + others) * size, dtype)
    turns = torch.polar(torch.ones(rows, 1, size // 2), _some(rows, size // 2, torch.float32, seed=3)[:, None])
    expected, kept = TorchAround().turned(x, turns, heads, size), x[:, heads * size :].clone()
    found = ours.turned(x, turns, heads, size)
    torch.testing.assert_close(found, expected, rtol=TYPES[dtype], atol=1e-6)
    assert torch.equal(x[:, heads * size :], kept), "heads of values stay as they are"


@pytest.mark.parametrize("width", [1, 24, 1537])
@pytest.mark.parametrize("rows", [1, 5, 130])
def test_gates_are_those_of_torch(ours: Around, dtype: torch.dtype, rows: int, width: int) -> None:
    x = 8 * _some(rows, 2 * width, dtype)
    held = x.clone()
    torch.testing.assert_close(ours.gated(x), TorchAround().gated(x), rtol=4 * TYPES[dtype], atol=1e-6)
    assert torch.equal(x, held)


@pytest.mark.parametrize("gate", [float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 3e38, -3e38, 100.0, -100.0])
def test_gates_at_the_ends_are_those_of_torch(ours: Around, dtype: torch.dtype, gate: float) -> None:
    x = torch.cat((torch.full((3, 40), gate), torch.ones(3, 40)), dim=1).to(dtype)
    torch.testing.assert_close(ours.gated(x), TorchAround().gated(x), rtol=0, atol=1e-30, equal_nan=True)


def test_a_row_has_the_same_bits_in_any_company(ours: Around, dtype: torch.dtype) -> None:
    x, added, weight = _some(9, 96, dtype), _some(9, 96, dtype, seed=1), _some(1, 96, dtype, seed=2)[0]
    whole, gates = ours.normed(x, added, weight, 1e-6), ours.gated(x)
    for row in range(9):
        alone = ours.normed(x[row : row + 1], added[row : row + 1], weight, 1e-6)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, whole, strict=True))
        assert torch.equal(ours.gated(x[row : row + 1])[0], gates[row])


def test_what_is_no_number_stays_in_its_row(ours: Around, dtype: torch.dtype) -> None:
    x, weight = _some(4, 32, dtype), _some(1, 32, dtype)[0]
    clean = ours.normed(x, None, weight, 1e-6)[1]
    x[2, 5] = float("nan")
    found = ours.normed(x, None, weight, 1e-6)[1]
    assert found[2].isnan().all() and torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])


def test_rows_with_gaps_are_rows_too(ours: Around, dtype: torch.dtype) -> None:
    x, weight = _some(6, 32, dtype), _some(1, 32, dtype)[0]
    gaps = x.view(3, 2, 32)[:, 1]
    assert torch.equal(ours.normed(gaps, gaps, weight, 1e-6)[1], ours.normed(x[1::2].clone(), x[1::2], weight, 1e-6)[1])


@pytest.mark.parametrize("other", [torch.float64, torch.float16])
def test_operands_of_a_type_that_is_not_compiled_go_to_torch(ours: Around, other: torch.dtype) -> None:
    """A model that was cast after it was wrapped: its bits were read as those of another type."""
    x, weight = _some(3, 32, other), _some(1, 32, other)[0]
    expected = TorchAround().normed(x, x, weight, 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(ours.normed(x, x, weight, 1e-6), expected, strict=True))
    assert torch.equal(ours.gated(x), TorchAround().gated(x))
    turns = torch.polar(torch.ones(3, 1, 4), torch.randn(3, 1, 4))
    assert torch.equal(ours.turned(x.clone(), turns, 2, 8), TorchAround().turned(x, turns, 2, 8))


def test_operands_of_another_size_are_refused_as_by_torch(ours: Around, dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError):
        ours.normed(_some(3, 32, dtype), None, _some(1, 64, dtype)[0], 1e-6)
    with pytest.raises(RuntimeError):
        ours.normed(_some(3, 32, dtype), _some(2, 32, dtype), _some(1, 32, dtype)[0], 1e-6)
    with pytest.raises(RuntimeError):
        ours.gated(_some(3, 31, dtype))
    with pytest.raises(RuntimeError):
        ours.turned(_some(3, 32, dtype), torch.ones(2, 1, 4, dtype=torch.complex64), 2, 8)


@pytest.mark.parametrize("other", [torch.float64, torch.float16])
def test_other_types_go_to_torch(other: torch.dtype) -> None:
    assert type(around(other, CPU)) is TorchAround


def test_a_pool_that_is_not_gnus_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_compiled", lambda: None)
    assert type(around(torch.float32, CPU)) is TorchAround
