"""Memory as a constraint: what is left for KV, the largest batch for a law of contexts, and the price of a GiB."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from reader_theory.cost.device import Device
from reader_theory.cost.model import ModelShape
from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.memory.kv import kv_bytes_per_token, token_capacity
from reader_theory.memory.scratch import activation_bytes, logit_bytes

__all__ = ["MemoryBudget", "largest_batch", "memory_budget"]


class MemoryBudget(Frozen):
    """Where a device's memory goes, in bytes; `free_bytes` is what KV may take, and may be negative."""

    usable_bytes: float
    weight_bytes: float
    drafter_bytes: float
    activation_bytes: float
    logit_bytes: float
    other_bytes: float = Field(description="graphs, workspaces, the runtime's own")
    bytes_per_token: float
    page_tokens: int

    @property
    def free_bytes(self) -> float:
        """Bytes left for keys and values."""
        taken = self.weight_bytes + self.drafter_bytes + self.activation_bytes + self.logit_bytes + self.other_bytes
        return self.usable_bytes - taken

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit; zero when the models alone do not."""
        return token_capacity(max(self.free_bytes, 0.0), self.bytes_per_token, self.page_tokens)


def memory_budget(
    device: Device,
    target: ModelShape,
    drafters: tuple[ModelShape, ...] = (),
    *,
    share: float = 0.9,
    tensor_parallel: int = 1,
    batch_tokens: int = 8192,
    verified_tokens: int = 256,
    kv_element_bits: float = 16.0,
    other_bytes: float = 1.5 * 2**30,
    page_tokens: int = 16,
) -> MemoryBudget:
    """Predict a device's memory budget.

    Parameters
    ----------
    share : float
        Share of the device's memory that the engine may use.
    batch_tokens : int
        Tokens of the largest forward (the chunk of a prefill).
    verified_tokens : int
        Rows of logits that are held at once.
    """
    require(0 < share <= 1, "`share` must be in (0, 1]", got=share, fix="Engines use 0.85 to 0.95.")
    return MemoryBudget(
        usable_bytes=share * device.memory_bytes.value,
        weight_bytes=target.weight_bytes(tensor_parallel),
        drafter_bytes=sum(drafter.weight_bytes() for drafter in drafters),
        activation_bytes=activation_bytes(target, batch_tokens, tensor_parallel=tensor_parallel),
        logit_bytes=logit_bytes(verified_tokens, 1, target.vocabulary),
        other_bytes=other_bytes,
        bytes_per_token=kv_bytes_per_token(target, drafters, bits=kv_element_bits, tensor_parallel=tensor_parallel),
        page_tokens=page_tokens,
    )


def largest_batch(
    kv_tokens: int, contexts: ArrayLike, *, page_tokens: int = 16, extra_tokens: int = 0, risk: float | None = None
) -> int:
    r"""Largest batch whose contexts fit, on average or with probability 1 - `risk`.

    Parameters
    ----------
    kv_tokens : int
        Capacity in tokens.
    contexts : (n,) tokens
        A sample of the contexts that a running request has at a random moment.
    extra_tokens : int
        Slots a request for the tree and the engine's lookahead.
    risk : float, optional
        Accepted probability of overflow; the batch then leaves z standard deviations of room,
        :math:`B \mu + z \sqrt{B} \sigma \le K` (normal approximation). The mean must fit when None.
    """
    sample: NDArray[np.float64] = np.atleast_1d(np.asarray(contexts, dtype=np.float64))
    require(
        sample.size > 0 and bool((sample >= 0).all()) and (risk is None or 0 < risk < 1),
        "`contexts` must be a non-empty sample of token counts, and `risk` in (0, 1)",
        got=(sample[:4], risk),
        fix="Pass contexts drawn at random moments of requests.",
    )
    pages = np.ceil((sample + extra_tokens) / page_tokens) * page_tokens
    mean, spread = max(float(np.mean(pages)), 1.0), float(np.std(pages))
    if risk is None:
        return int(kv_tokens // mean)
    from scipy.stats import norm

    slack = float(norm.isf(risk)) * spread
    root = (-slack + (slack**2 + 4 * mean * kv_tokens) ** 0.5) / (2 * mean)
    return int(max(root, 0.0) ** 2)
