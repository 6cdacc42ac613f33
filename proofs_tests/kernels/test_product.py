"""The streamed product is the product, whatever stands beside a row, and falls back where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runtime.kernels import product
from runtime.kernels.product import Streamed, streamed
from runtime.models import low_bits
from runtime.models.low_bits import Codes

TYPES = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
"""Types, and the relative error of one rounding and of a sum in another order."""
SHAPES = [(64, 96), (60, 96), (32, 32), (4, 64), (992, 576), (96, 1536)]


@pytest.fixture(params=["as this processor is", "without tiles"])
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streamed]:
    found = streamed()
    if found is None:
        pytest.skip("torch's threads are not GNU's here")
    if request.param == "without tiles":
        monkeypatch.setattr(found, "_tiles", None)
    yield found


def _weight(n: int, k: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_it_is_the_product_for_any_number_of_inputs(ours: Streamed, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight = _weight(*shape, dtype)
    for inputs in (*range(1, 10), 15, 16, 17, 31, 32, 33, 48, 65):
        x = _weight(inputs, shape[1], dtype, seed=inputs)
        expected = x.double() @ weight.double().T
        scale = (x.double().abs() @ weight.double().abs().T).max()
        found = ours(x, weight)
        assert found.dtype == dtype and found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=TYPES[dtype], atol=1e-6 * float(scale))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads(
    ours: Streamed, dtype: torch.dtype, threads: int
) -> None:
    weight, x = _weight(480, 160, dtype), _weight(40, 160, dtype, seed=1)
    whole, before = ours(x, weight), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for first, last in ((0, 1), (3, 4), (5, 13), (7, 24), (1, 39), (20, 40)):
            assert torch.equal(ours(x[first:last], weight), whole[first:last])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_row(ours: Streamed, dtype: torch.dtype, value: float) -> None:
    weight, x = _weight(64, 96, dtype), _weight(20, 96, dtype, seed=1)
    clean = ours(x, weight)
    x[5, 7] = value
    found = ours(x, weight)
    others = [i for i in range(20) if i != 5]
    assert torch.equal(found[others], clean[others]) and not found[5].isfinite().any()


def test_it_does_not_write_beside_its_outputs(ours: Streamed) -> None:
    """Outputs of a fresh tensor alone: the operands stay as they were."""
    weight, x = _weight(64, 96, torch.bfloat16), _weight(3, 96, torch.bfloat16)
    held = weight.clone(), x.clone()
    ours(x, weight)
    assert torch.equal(weight, held[0]) and torch.equal(x, held[1])


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(3, 96), torch.randn(62, 96)),
        (torch.randn(3, 90), torch.randn(64, 90)),
        (torch.randn(96, 3).T, torch.randn(64, 96)),
        (torch.randn(3, 96), torch.randn(96, 64).T),
        (torch.randn(3, 96).double(), torch.randn(64, 96).double()),
        (torch.randn(0, 96), torch.randn(64, 96)),
    ],
    ids=["outputs", "inputs", "x with gaps", "weight with gaps", "float64", "no rows"],
)
def test_operands_that_do_not_fit_go_to_torch(ours: Streamed, x: torch.Tensor, weight: torch.Tensor) -> None:
    torch.testing.assert_close(ours(x, weight), torch.nn.functional.linear(x, weight))


def test_operands_of_another_size_are_refused_as_by_torch(ours: Streamed) -> None:
    """The weight's rows were read at the inputs' distance, beyond its end."""
    with pytest.raises(RuntimeError, match="shapes"):
        ours(torch.randn(3, 128), torch.randn(64, 96))


def test_a_pool_that_is_not_gnus_is_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "pool", lambda: None)
    assert product.streamed.__wrapped__() is None


def test_a_product_that_is_wrong_is_not_handed_out(ours: Streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Streamed, "__call__", lambda _self, x, weight: x.new_zeros((len(x), len(weight))))
    assert product.streamed.__wrapped__() is None


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("n", "k"), [(64, 96), (16, 32), (480, 160)])
def test_codes_are_multiplied_as_what_they_stand_for(ours: Streamed, bits: int, n: int, k: int) -> None:
    """Through `Codes.packed`, one rounding to bfloat16 from the exact sum; many inputs go another way."""
    held = Codes.of(_weight(n, k, torch.float32), bits)
    packed = held.packed()
    for inputs in (*range(1, 10), 17, 33, 63, 64, 90):
        x = _weight(inputs, k, torch.bfloat16, seed=inputs)
        expected, found = x.double() @ held.values.double().T, packed(x)
        scale = float((x.double().abs() @ held.values.double().abs().T).max())
        error = 2**-8 if inputs >= low_bits.MANY[4] and bits == 4 else 1e-6
        assert found.dtype == torch.bfloat16
        rtol = 2**-8 if inputs < low_bits.MANY[bits] else 2**-7  # many inputs are rounded before the scale, and after
        torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=error * scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_of_codes_has_the_same_bits_in_any_company(ours: Streamed, bits: int) -> None:
    packed, x = Codes.of(_weight(64, 96, torch.float32), bits).packed(), _weight(31, 96, torch.bfloat16, seed=1)
    whole = packed(x)
    assert all(torch.equal(packed(x[first:last]), whole[first:last]) for first, last in ((0, 1), (3, 8), (20, 31)))


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_go_by_torchs_products_where_ours_are_not(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held, x = Codes.of(_weight(64, 96, torch.float32), bits), _weight(5, 96, torch.bfloat16)
    ours = held.packed()(x)
    monkeypatch.setattr(low_bits, "streamed", lambda: None)
    torch.testing.assert_close(held.packed()(x), ours, rtol=2**-6, atol=0.05)
