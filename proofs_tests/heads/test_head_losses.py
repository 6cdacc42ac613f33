"""A draft step's loss in parts is torch's own, and its gradients; in float32 and in bfloat16."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from proofs_tests.tiny import tiny_model
from reader_theory.errors import InvalidInputError
from runtime.kernels.divergences import divergences
from runtime.training.heads.losses import ROWS, summed
from runtime.training.heads.making import Wanted, make_head
from runtime.training.heads.objectives import OBJECTIVES
from runtime.training.heads.watching import cast_as

WIDTH, RANK, SIZE = 24, 8, 517


def _case(dtype: torch.dtype, seed: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An output head of low rank, states, laws of which some are one token's and some lack a part, and weights."""
    torch.manual_seed(seed)
    head = torch.nn.Sequential(torch.nn.Linear(WIDTH, RANK, bias=False), torch.nn.Linear(RANK, SIZE, bias=False))
    out = (torch.randn(3, ROWS, WIDTH) * 4).requires_grad_()
    law = (torch.randn(3, ROWS, SIZE) * 3).softmax(-1) * torch.rand(3, ROWS, 1).clamp_min(0.3)
    law[0, :5] = torch.nn.functional.one_hot(torch.arange(5), SIZE).float()
    weights = torch.rand(3, ROWS) * (torch.rand(3, ROWS) > 0.3)
    return head, out, law.to(dtype), weights


def _led(loss: torch.Tensor, head: Any, out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss * 3.0, [out, *head.parameters()])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_in_parts_is_torchs_own_with_its_gradients(objective: str, seed: int) -> None:
    head, out, law, weights = _case(torch.float32, seed)
    assert sys.platform != "linux" or divergences() is not None
    mine = summed(head, out, law, weights, objective)
    theirs = (OBJECTIVES[objective](law, head(out)) * weights).sum()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    for ours, own in zip(_led(mine, head, out), _led(theirs, head, out), strict=True):
        assert float((ours - own).norm()) < 1e-5 * float(own.norm())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_in_bfloat16_it_is_near_what_autocast_gives(objective: str) -> None:
    head, out, law, weights = _case(torch.bfloat16, 0)
    exact = (OBJECTIVES[objective](law.float(), head(out)) * weights).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = summed(head, out, law, weights, objective)
        theirs = (OBJECTIVES[objective](law, head(out)) * weights).sum()
    ours, torchs, right = (_led(each, head, out) for each in (mine, theirs, exact))
    assert abs(mine - exact) < 0.02 * exact.abs()
    for one, other, best in zip(ours, torchs, right, strict=True):
        assert one.dtype == best.dtype
        allowed = max(2.0 * float((other - best).norm()), 0.01 * float(best.norm()))
        assert float((one - best).norm()) < allowed


def test_float64_is_left_to_torch() -> None:
    head, out, law, weights = _case(torch.float64, 2)
    head, out = head.double(), out.detach().double().requires_grad_()
    mine = summed(head, out, law, weights.double(), "kl")
    assert mine.dtype == torch.float64
    assert torch.equal(mine, (OBJECTIVES["kl"](law, head(out)) * weights.double()).sum())


def test_positions_that_count_nothing_are_not_run() -> None:
    head, out, law, weights = _case(torch.float32, 1)
    weights[:, 10:] = 0.0
    seen = list[int]()
    head[1].register_forward_hook(lambda _module, _args, made: seen.append(made.shape[0]))
    summed(head, out, law, weights, "kl")
    assert divergences() is None or sum(seen) == int((weights > 0).sum())
    nothing = summed(head, out, law, torch.zeros_like(weights), "kl")
    assert nothing.item() == 0.0
    assert all(float(each.abs().sum()) == 0.0 for each in _led(nothing, head, out))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_far_logits_give_finite_gradients(objective: str) -> None:
    head = torch.nn.Linear(2, SIZE, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-4000, 4000, SIZE)[:, None].expand(SIZE, 2))
    out = torch.tensor([[[1.0, 1.0], [-1.0, 0.0]]], requires_grad=True)
    law = torch.full((1, 2, SIZE), 1 / SIZE)
    loss = summed(head, out, law, torch.ones(1, 2), objective)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(each).all() for each in _led(loss, head, out))


def test_products_are_computed_in_the_targets_type() -> None:
    whole = tiny_model("llama")
    with cast_as(whole):
        assert (whole.lm_head.weight.float() @ torch.ones(whole.lm_head.in_features)).dtype == torch.float32
    with cast_as(whole.bfloat16()):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_an_unknown_type_is_refused_before_the_target_is_read(tmp_path: Any) -> None:
    with pytest.raises(InvalidInputError, match="auto, float32 or bfloat16"):
        make_head("nowhere", "none", None, [], Wanted(dtype="int8"), tmp_path / "head", lambda *_: None)
    assert not (tmp_path / "head").exists()
