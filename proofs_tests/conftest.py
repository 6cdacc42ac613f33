"""What every test shares: hypothesis that repeats itself, read-only inputs, skips said aloud."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("deterministic")  # `--hypothesis-profile=search` looks further, at random


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="fail the tests marked gpu where they would skip")


@lru_cache
def _why_no_gpu() -> str:
    if find_spec("cupy") is None:
        return "cupy is not installed (the `gpu` extra)"
    import cupy

    try:
        return "" if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and (why := _why_no_gpu()):
        pytest.skip(f"needs a GPU: {why}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    demanded = item.config.getoption("--require-gpu") and item.get_closest_marker("gpu") is not None
    if demanded and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under --require-gpu: {report.longrepr}"
    return report


@pytest.fixture
def read_only() -> Callable[..., Any]:
    """``read_only(x)`` is x as an array that nobody may write to; ``read_only(x, y)`` a tuple of two."""

    def freeze(*values: Any) -> Any:
        arrays = tuple(np.array(value) for value in values)
        for array in arrays:
            array.setflags(write=False)
        return arrays[0] if len(arrays) == 1 else arrays

    return freeze


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20260101)
