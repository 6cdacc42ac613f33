"""The one door to numba: it loads with the first solver, and the type checker still sees through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function` compiled by numba on first call and kept on disk; used by solver modules, which load on first use."""
    import numba  # pyright: ignore[reportMissingTypeStubs]

    # no NaN ever enters a kernel, and the sign of zero is never read; infinities are used, so "ninf" must stay off
    options: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"nnan", "nsz", "contract"}}
    return cast(Callable[[F], F], numba.njit(**options))(function)  # pyright: ignore
