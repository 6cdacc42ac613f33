"""Operations of a forward on fixed places of memory, laid down once for a number of tokens, to run as one call.

Each operator of a forward takes 10 to 30 microseconds to be called from Python, which is a third of a small model's
step. The operations are those that are called one by one elsewhere, but for the gates, which are torch's to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.cache.rows import RowCache
from runtime.kernels.around import Around, CompiledAround
from runtime.kernels.attention import CompiledAttention, attention
from runtime.kernels.cpu.lanes import LINE
from runtime.kernels.cpu.threads import Pool, float_bits, pool
from runtime.kernels.program import Operation, Program, Task
from runtime.models.packing import Packing

__all__ = ["MOST", "Heads", "Laid", "LaidForwards", "fits", "operations_of"]

MOST = 64
"""Tokens of a forward, at most: more, as in prompts, take so long that calls do not count."""

F = TypeVar("F")


@dataclass(frozen=True)
class Heads:
    """Query heads and key-value heads of a layer, entries of each, and what scores are multiplied by."""

    queries: int
    kv: int
    size: int
    scale: float

    @property
    def wide(self) -> int:
        """Entries of a token's queries, keys and values, one behind the other."""
        return (self.queries + 2 * self.kv) * self.size


def operations_of(
    products: Sequence[Any], rows: int, heads: Heads, around: Around, dtype: torch.dtype, device: torch.device
) -> list[Operation] | None:
    """Those of products of so many inputs; None where one of them, or of what is around them, is not compiled."""
    from runtime.kernels.cpu import attention as twin

    made = attention(None, rows, heads.queries // heads.kv, heads.scale, dtype=dtype, device=device)
    compiled = isinstance(made, CompiledAttention) and isinstance(around, CompiledAround)
    if not compiled or heads.size % twin.STEP:
        return None
    found = [operation for each in products if (operation := each.operation(rows)) is not None]
    return found if len(found) == len(products) else None


class LaidForwards(Generic[F]):
    """Forwards by their number of tokens and threads, laid when they are first asked for.

    Attributes
    ----------
    made : dict
        By tokens and threads; None where a forward is not to be had.
    lock : Lock
        Held while one runs: places are those of one forward at a time.
    """

    def __init__(self) -> None:
        self.made: dict[tuple[int, int], F | None] = {}
        self.lock = Lock()

    def of(self, tokens: int, lay: Callable[[Pool], F | None]) -> F | None:
        """The forward of so many tokens; None where it is not to be had."""
        key = tokens, torch.get_num_threads()
        if key not in self.made:
            run = pool()
            self.made[key] = None if run is None else lay(run)
        return self.made[key]


class Laid:
    """A forward of so many tokens, its parts added in the order in which they run.

    Places are (at least `rows`, entries) tensors of one type; they and the weights of norms are kept as long as it is.

    Parameters
    ----------
    rows : int
        Tokens.
    dtype : torch.dtype
        Of places and weights.
    heads : Heads
    eps : float
        Of the norms.
    operations : list of Operation
        Of the products, in the order in which they are multiplied.
    """

    def __init__(
        self, rows: int, dtype: torch.dtype, heads: Heads, eps: float, operations: Sequence[Operation]
    ) -> None:
        from runtime.kernels.cpu import around
        from runtime.kernels.cpu import attention as twin

        self._around, self._twin = around, twin
        self._rows, self._entry, self._heads, self._eps = rows, dtype.itemsize, heads, float_bits(eps)
        self._left = iter(operations)
        self._aside = torch.empty(max(each.room_bytes for each in operations) + LINE, dtype=torch.uint8)
        self._room = -(-self._aside.data_ptr() // LINE) * LINE
        self._read_aside = torch.empty(0, dtype=torch.uint8)
        self._parts, self._kept, self._reads = list[tuple[int, Task]](), list[int](), list[int]()
        self._held, self._qkv = list[torch.Tensor](), list[torch.Tensor]()

    def _at(self, *held: torch.Tensor) -> tuple[int, ...]:
        """Addresses, of tensors that are kept from now on."""
        self._held.extend(held)
        return tuple(each.data_ptr() for each in held)

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        out: torch.Tensor,
        more: torch.Tensor | None = None,
        total: torch.Tensor | None = None,
    ) -> None:
        """The norm of x, or of its sum with `more`, which is written to `total`; `out` may be columns of a place."""
        (added,) = (0,) if more is None else self._at(more)
        of_x, *others = self._at(x, weight, x if total is None else total, out)
        task = (self._entry, of_x, added, *others, self._rows, x.shape[1], self._eps, out.stride(0))
        self._parts.append((self._around.share_of_norms.address, task))

    def multiply(
        self, x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None = None
    ) -> Callable[[torch.Tensor], None]:
        """The next product; what it gives back sets where its outputs are written from then on."""
        operation, index = next(self._left), len(self._parts)
        of_x, of_out = self._at(x, out)
        self._parts.append((operation.share, operation.task(of_x, of_out, self._room)))
        if bias is not None:
            task = (self._entry, of_out, *self._at(bias), self._rows, out.shape[1])
            self._parts.append((self._around.share_of_biases.address, task))

        def onto(there: torch.Tensor) -> None:
            task = operation.task(of_x, there.data_ptr(), self._room)
            self._program.tasks[index, : len(task)] = task

        return onto

    def attend(self, qkv: torch.Tensor, turns: torch.Tensor, read: torch.Tensor) -> None:
        """Queries and keys turned, keys and values into the cache of the next layer, and what its queries read."""
        entry, heads, (of_qkv, of_turns, of_read) = self._entry, self._heads, self._at(qkv, turns, read)
        apart, size = heads.wide * entry, heads.size
        self._qkv.append(qkv)
        task = (entry, of_qkv, of_turns, self._rows, heads.wide, heads.queries + heads.kv, size)
        self._parts.append((self._around.share_of_turns.address, task))
        self._kept.append(len(self._parts))
        told = (entry, of_qkv + heads.queries * size * entry, 0, 0, 0, heads.kv, size, apart, *[0] * 9)
        self._parts.append((self._around.share_of_entries.address, told))
        self._reads.append(len(self._parts))
        group = heads.queries // heads.kv
        told = (entry, of_qkv, 0, 0, 0, of_read, 0, 0, heads.kv, group, 0, size, 0)
        strides = (apart, size * entry, *[0] * 8, float_bits(heads.scale), 0)
        self._parts.append((self._twin.share_of_attention.address, (*told, *strides)))

    def gate(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The first half of a token's entries, as a SiLU, times its second half."""
        task = (self._entry, *self._at(x, out), self._rows, out.shape[1])
        self._parts.append((self._around.share_of_gates.address, task))

    def close(self, run: Pool) -> None:
        """No more parts."""
        self._program = Program(run, self._parts)

    def __call__(self, mask: torch.Tensor | None, cache: RowCache, rows: Packing) -> None:
        """Run it on the tokens of some rows, with the keys and values of a cache; layer by layer if these move."""
        firsts = np.concatenate([[0], np.cumsum(rows.counts)])
        if cache.in_place:
            aimed = self._aim(mask, cache, rows, firsts)
            self._program()
            del aimed
            return
        begun = 0
        for i, (store, kept) in enumerate(zip(cache.stores, self._kept, strict=True)):
            self._program(begun, kept)
            keys, values = store.update(*(rows.pad(each).transpose(1, 2) for each in self._new(i, rows.tokens)))
            apart = [[self._entry * stride for stride in each.stride()[:3]] for each in (keys, values)]
            self._see(kept + 1, (keys.data_ptr(), values.data_ptr()), apart, keys.shape[2], mask, rows, firsts)
            begun = kept + 1
        self._program(begun)

    def _new(self, layer: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, kv heads, entries) turned keys, and values, that a layer's queries have been made with."""
        heads = self._qkv[layer][:tokens].unflatten(1, (-1, self._heads.size))
        keys, values = heads[:, self._heads.queries :].chunk(2, dim=1)
        return keys, values

    def _aim(
        self, mask: torch.Tensor | None, cache: RowCache, rows: Packing, firsts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Tell where keys and values lie, and what queries see of them; what is given back holds what was told."""
        batch, queries = rows.batch, rows.queries
        if cache.start is not None:
            slots_of = np.tile(cache.start + np.arange(queries), (batch, 1))
        else:
            slots_of = np.ascontiguousarray(cache.slot_index.numpy())
        keys, values = cache.stores[0].keys, cache.stores[0].values
        assert keys is not None and values is not None
        apart = [[self._entry * stride for stride in each.stride()[:3]] for each in (keys, values)]
        first = [cache.first_row * strides[0] for strides in apart]
        lie = np.array([(store.keys.data_ptr(), store.values.data_ptr()) for store in cache.stores]) + first  # pyright: ignore[reportOptionalMemberAccess]
        tasks, kept = self._program.tasks, self._kept
        tasks[kept, 2], tasks[kept, 3], tasks[kept, 4] = slots_of.ctypes.data, batch, queries
        tasks[kept, 8], tasks[kept, 12] = lie.T
        tasks[kept, 9:12], tasks[kept, 13:16], tasks[kept, 16] = *apart, firsts.ctypes.data
        self._see(self._reads, lie.T, apart, cache.width, mask, rows, firsts)
        return slots_of

    def _see(
        self,
        reads: Any,
        lie: Any,
        apart: Sequence[Sequence[int]],
        slots: int,
        mask: torch.Tensor | None,
        rows: Packing,
        firsts: NDArray[np.int64],
    ) -> None:
        """Tell some reads where keys and values lie, how far their rows, heads and slots are apart, and what counts."""
        needed = torch.get_num_threads() * self._twin.room_bytes(slots, self._heads.size)
        if self._read_aside.numel() < needed:
            self._read_aside = torch.empty(needed, dtype=torch.uint8)
        tasks = self._program.tasks
        tasks[reads, 2], tasks[reads, 3] = lie
        tasks[reads, 4], tasks[reads, 6], tasks[reads, 12] = 0, self._read_aside.data_ptr(), slots
        tasks[reads, 7], tasks[reads, 10], tasks[reads, 24] = rows.batch, rows.queries, firsts.ctypes.data
        tasks[reads, 15:18], tasks[reads, 18:21] = apart
        if mask is not None:
            tasks[reads, 4] = mask.data_ptr()
            tasks[reads, 21], tasks[reads, 22] = self._entry * mask.stride(0), self._entry * mask.stride(2)


def fits(mask: torch.Tensor | None, rows: Packing, cache: RowCache, dtype: torch.dtype) -> bool:
    """Whether a laid forward can read what the queries of some rows see, and the cache."""
    keys = cache.stores[0].keys
    assert keys is not None
    seen = mask is None or (mask.shape == (rows.batch, 1, rows.queries, cache.seen) and mask.stride(-1) == 1)
    return rows.tokens <= MOST and seen and keys.dtype == dtype and (mask is None or mask.dtype == dtype)
