"""Devices: peaks that a roofline needs, each with where the figure comes from."""

from __future__ import annotations

import platform
import time
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from reader_theory.documents.base import Frozen
from reader_theory.errors import InvalidInputError

__all__ = ["Device", "Figure", "find_device", "load_devices", "measure_this_machine"]


class Figure(Frozen):
    """One number about a device.

    Parameters
    ----------
    value : float
        In the unit that the field's name carries.
    kind : {"vendor", "measured", "recalled"}
        The vendor's claim, a measurement, or a figure recalled and not verified.
    source : str
        Where it was read or how it was measured.
    """

    value: float = Field(ge=0)
    kind: Literal["vendor", "measured", "recalled"]
    source: str


class Device(Frozen):
    """Peaks of one accelerator or host.

    Parameters
    ----------
    bf16_flops_per_s, fp8_flops_per_s : Figure
        Dense matrix rate; `fp8_flops_per_s` is None where the card has no such units.
    bandwidth_bytes_per_s, memory_bytes, l2_bytes : Figure
        Main memory's bandwidth and size, and the last-level cache.
    link_bytes_per_s : Figure
        Both directions of the link to its peers; zero without one.
    multiprocessors : Figure
        Units over which tiles are spread in waves.
    """

    name: str
    aliases: tuple[str, ...] = ()
    bf16_flops_per_s: Figure
    fp8_flops_per_s: Figure | None = None
    bandwidth_bytes_per_s: Figure
    memory_bytes: Figure
    l2_bytes: Figure
    link_bytes_per_s: Figure
    multiprocessors: Figure

    def flops_per_s(self, dtype: str = "bf16") -> float:
        """Peak dense rate for `dtype` ("bf16", "fp16" or "fp8"); without fp8 units, fp8 runs at the bf16 rate."""
        if dtype == "fp8" and self.fp8_flops_per_s is not None:
            return self.fp8_flops_per_s.value
        return self.bf16_flops_per_s.value


def load_devices(path: str | Path | None = None) -> dict[str, Device]:
    """Devices of a TOML file by name; the file that ships with the package when `path` is None.

    Raises
    ------
    InvalidInputError
        If the file is missing, is not TOML, or a device lacks a figure; the message names it.
    """
    try:
        text = (
            files("reader_theory.cost").joinpath("devices.toml").read_text() if path is None else Path(path).read_text()
        )
        raw: dict[str, Any] = tomllib.loads(text)
        return {name: Device(name=name, **fields) for name, fields in raw.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise InvalidInputError(
            "`path` must be a TOML file with one table a device", got=f"{path}: {error}", fix="See cost/devices.toml."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            f"every device of `{path}` must give each figure as {{value, kind, source}}",
            got=f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}",
            fix="Copy a table of cost/devices.toml and change its figures.",
        ) from None


@cache
def _shipped() -> dict[str, Device]:
    return load_devices()


def find_device(name: str, extra: str | Path | None = None) -> Device:
    """The device called `name`, or with that alias, in the user's file `extra` first and then in the shipped one.

    Raises
    ------
    InvalidInputError
        If no device has that name; the message lists the known ones.
    """
    known = {**_shipped(), **(load_devices(extra) if extra else {})}
    wanted = _plain(name)
    for device in reversed(list(known.values())):
        if wanted in {_plain(device.name), *map(_plain, device.aliases)}:
            return device
    raise InvalidInputError(
        "`name` must be a known device",
        got=repr(name),
        fix=f"Use one of {', '.join(known)}, add a table to a TOML file, or measure this machine.",
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def measure_this_machine(megabytes: int = 64, side: int = 768, repeats: int = 5) -> Device:
    """This host measured with numpy: the bandwidth of a copy and the rate of a float32 matrix product.

    Parameters
    ----------
    megabytes : int
        Size of the copied array; larger than the last-level cache to measure memory.
    side : int
        Side of the square matrices.
    repeats : int
        The best of so many runs is taken.
    """
    source = np.ones(megabytes * 2**20 // 8)
    target = np.empty_like(source)
    copy_s = min(_timed(lambda: np.copyto(target, source)) for _ in range(repeats + 1))
    left = np.ones((side, side), dtype=np.float32)
    product_s = min(_timed(lambda: left @ left) for _ in range(repeats + 1))

    def measured(value: float, how: str) -> Figure:
        return Figure(value=value, kind="measured", source=how)

    return Device(
        name=f"this machine ({platform.processor() or platform.machine()})",
        aliases=("this machine",),
        bf16_flops_per_s=measured(2 * side**3 / product_s, f"numpy float32 product, side {side}"),
        bandwidth_bytes_per_s=measured(2 * source.nbytes / copy_s, f"numpy copy of {megabytes} MiB, read and write"),
        memory_bytes=measured(_memory_bytes(), "the operating system"),
        l2_bytes=measured(0.0, "not measured"),
        link_bytes_per_s=measured(0.0, "no peer"),
        multiprocessors=measured(1.0, "numpy's products are one task"),
    )


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _memory_bytes() -> float:
    info = Path("/proc/meminfo")
    if info.is_file():
        return float(info.read_text().split()[1]) * 1024
    return 0.0
