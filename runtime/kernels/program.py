"""Door: operations on fixed places of memory, one after the other, as one call of compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.kernels.cpu.threads import Pool

__all__ = ["Operation", "Program", "Task"]

Task = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """A product as a part of a program.

    Parameters
    ----------
    share : int
        Address of the compiled function.
    room_bytes : int
        What it writes aside, over all threads.
    task : of the addresses of inputs, outputs and room
        The function's integers.
    """

    share: int
    room_bytes: int
    task: Callable[[int, int, int], Task]


class Program:
    """Shares and their tasks; integers of tasks may be changed between two calls.

    Parameters
    ----------
    run : Pool
    parts : of a share's address and its task
        In the order in which they run, each when the one before it is done on every thread.

    Attributes
    ----------
    tasks : (n, most integers) int64
    """

    def __init__(self, run: Pool, parts: Sequence[tuple[int, Task]]) -> None:
        from runtime.kernels.cpu.program import share_of_program

        rows: NDArray[np.int64] = np.zeros((len(parts), 1 + max(len(task) for _, task in parts)), dtype=np.int64)
        for row, (share, task) in zip(rows, parts, strict=True):
            row[0], row[1 : 1 + len(task)] = share, task
        self.tasks: NDArray[np.int64] = rows[:, 1:]
        self._run, self._share, self._told = run, share_of_program.address, (rows.ctypes.data, *rows.shape)

    def __call__(self, first: int = 0, last: int | None = None) -> None:
        """Run its parts from one to another."""
        address, count, wide = self._told
        self._run(self._share, (address + 8 * first * wide, (count if last is None else last) - first, wide))
