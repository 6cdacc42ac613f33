"""The GPU twins: compiled for two generations of cards, run on threads of the CPU, and on a card."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.kernels.cuda_emulator import Emulator, compiler
from proofs_tests.kernels.kernel_twins import calls, equal
from runtime.kernels import commit, dequantise, merge, tree_inputs, verify
from runtime.kernels.gpu import _launch

HOUSE = Path(__file__).parents[2]
CARDS = (80, 90)
STRICT = ("-std=c++17", "-Werror", "all-warnings")
CASES = list(calls(np.random.default_rng(0)))


@lru_cache
def nvrtc() -> ctypes.CDLL | None:
    """NVRTC from the wheel of the `dev` extra, or from the system."""
    wheels = [Path(entry) / "nvidia" / "cu13" / "lib" for entry in sys.path]
    for folder in (*(folder for folder in wheels if folder.is_dir()), None):
        try:
            for builtins in sorted(folder.glob("libnvrtc-builtins.so*")) if folder else ():
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(folder / "libnvrtc.so.13") if folder else "libnvrtc.so.13")
        except OSError:
            continue
    return None


def compile_with_nvrtc(text: str, card: int) -> tuple[int, str]:
    """Status and log of a compilation."""
    library = nvrtc()
    assert library is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture=sm_{card}".encode(), b"-std=c++17"]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


def test_every_cuda_source_is_listed() -> None:
    there = {path.stem for path in Path(_launch.__file__).parent.glob("*.cu")}
    assert there == {*_launch.SOURCES, "common"}


def test_torchs_stream_is_taken_by_the_protocol_and_by_the_older_class_where_there_is_none() -> None:
    """CuPy deprecates `ExternalStream`, and older releases have no `Stream.from_external`."""

    class Stream:
        from_external = staticmethod(lambda stream: ("protocol", stream.__cuda_stream__()))

    stream = _launch._Borrowed(7)
    old: dict[str, Any] = {"ExternalStream": lambda address: ("class", address)}
    assert stream.to(SimpleNamespace(Stream=Stream, **old)) == ("protocol", (0, 7))
    assert stream.to(SimpleNamespace(Stream=object, **old)) == ("class", 7)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("source", _launch.SOURCES)
def test_sources_compile_with_nvrtc_without_a_warning(source: str, card: int) -> None:
    if nvrtc() is None:
        pytest.skip("no NVRTC: install the `dev` extra (nvidia-cuda-nvrtc, Linux only)")
    status, log = compile_with_nvrtc(_launch.source_of(source), card)
    assert (status, log.strip()) == (0, "")


def test_the_log_of_a_compilation_holds_its_warnings() -> None:
    if nvrtc() is None:
        pytest.skip("no NVRTC: install the `dev` extra (nvidia-cuda-nvrtc, Linux only)")
    status, log = compile_with_nvrtc('extern "C" __global__ void f(int* x) { int unused; *x = 1; }', 90)
    assert status == 0 and "never referenced" in log


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("source", _launch.SOURCES)
def test_sources_assemble_with_nvcc_without_spills(source: str, card: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on the PATH")
    path = tmp_path / f"{source}.cu"
    path.write_text(_launch.source_of(source))
    command = [
        nvcc,
        *STRICT,
        f"-arch=sm_{card}",
        "-Xptxas",
        "-warn-spills,-Werror",
        "-cubin",
        "-o",
        tmp_path / "out",
        path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """The CUDA sources on threads of the CPU, three to a block."""
    if compiler() is None:
        pytest.skip("no C++ compiler to emulate the CUDA sources with")
    return Emulator(tmp_path_factory.mktemp("emulator"), threads=3)


@pytest.mark.parametrize("name", CASES)
def test_cuda_sources_do_what_the_cpu_twin_does(name: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(12):
        expected = calls(np.random.default_rng(seed))[name]()
        with monkeypatch.context() as patch:
            through_the_gpu_door(patch, emulator)
            found = calls(np.random.default_rng(seed))[name]()
        assert equal(found, expected), f"seed {seed}"


def through_the_gpu_door(patch: pytest.MonkeyPatch, emulator: Emulator) -> None:
    patch.setattr(_launch, "launch", emulator.launch)
    for door in (verify, commit, tree_inputs, merge, dequantise):
        patch.setattr(door, "on_gpu", lambda *arrays: True)
    plain = commit.KVPool.of

    def pool(keys: Any, values: Any) -> commit.KVPool:
        made = plain(keys, values)
        return commit.KVPool(made.stores, torch.from_numpy(made.table), made.entry_bytes)

    patch.setattr(commit.KVPool, "of", pool)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_twins_agree_on_the_card(name: str) -> None:
    for seed in range(40):
        expected = calls(np.random.default_rng(seed))[name]()
        assert equal(calls(np.random.default_rng(seed), "cuda")[name](), expected), f"seed {seed}"
