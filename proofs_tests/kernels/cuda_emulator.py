"""Run the CUDA sources without a card: compiled by g++ against `cuda_emulator.h`, threads as threads."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.kernels.gpu._launch import SOURCES, source_of

HEADER = Path(__file__).with_name("cuda_emulator.h")


def compiler() -> str | None:
    """A C++ compiler, if there is one."""
    return shutil.which("g++") or shutil.which("clang++")


def build(folder: Path, source: str, flags: Sequence[str] = ()) -> Path:
    """Shared library with a ``launch_...`` for every kernel of a source."""
    names = kernels_of(source)
    text = [f'#include "{HEADER}"', source_of(source), *(f"EXPORT({name})" for name in names)]
    path = folder / f"{source}.cpp"
    path.write_text("\n".join(text))
    library = folder / f"{source}.so"
    command = [str(compiler()), "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", *flags, "-o", library, path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def kernels_of(source: str) -> list[str]:
    """Names of a source's kernels, macros written out by the preprocessor."""
    done = subprocess.run(
        [str(compiler()), "-E", "-P", "-xc++", "-"], input=source_of(source), check=True, capture_output=True, text=True
    )
    return re.findall(r'extern "C" __global__ void (\w+)\(', done.stdout)


class Emulator:
    """Stands in for `runtime.kernels.gpu._launch.launch`."""

    def __init__(self, folder: Path, threads: int, flags: Sequence[str] = ()) -> None:
        self.threads = threads
        self.libraries = {name: ctypes.CDLL(str(build(folder, name, flags))) for name in SOURCES}

    def launch(self, source: str, kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Run a kernel on tensors of the CPU."""
        if 0 in grid:
            return
        values = [self._value(x) for x in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        x, y, z = (*grid, 1, 1)[:3]
        self.libraries[source][f"launch_{kernel}"](x, y, z, self.threads, pointers)

    @staticmethod
    def _value(x: Any) -> np.ndarray:
        if isinstance(x, torch.Tensor):
            return np.array([x.data_ptr()], dtype=np.int64)
        return np.array([np.int64(x) if isinstance(x, int) else x])
