"""Ceilings and kernels: what the device can do at most, whether the twins agree on it, how near the commit comes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks.gpu.settings import Settings, median_s
from proofs_tests.kernels.kernel_twins import calls, equal
from runtime.engine.graphs.capture import Captured
from runtime.kernels.commit import KVPool, commit

TURNS = 10
"""Commits in one graph, so that the time of a launch does not count."""


def environment(settings: Settings) -> dict[str, Any]:
    """Card and driver."""
    if not settings.on_card:
        return {"card": None, "driver": None}
    card = torch.cuda.get_device_properties(0)
    smi = shutil.which("nvidia-smi")
    query = [smi or "", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if smi else None
    return {
        "card": card.name,
        "memory_bytes": card.total_memory,
        "multiprocessors": card.multi_processor_count,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def twins(settings: Settings) -> dict[str, Any]:
    """Every kernel on random batches, on the device against the CPU twin."""
    differ: list[str] = []
    compared = 0
    for seed in range(settings.twin_seeds):
        ours, theirs = (calls(np.random.default_rng(seed), device) for device in (settings.device, "cpu"))
        for name in ours:
            compared += 1
            if not equal(ours[name](), theirs[name]()):
                differ.append(f"{name} at seed {seed}")
    return {"device": settings.device, "compared": compared, "differ": differ}


def sanitizers(settings: Settings) -> dict[str, Any]:
    """Memory and race checkers over the twins, where the tools exist and there is a card."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or not settings.on_card:
        return {"ran": False, "why": "no card" if not settings.on_card else "no compute-sanitizer on the PATH"}
    found: dict[str, Any] = {"ran": True}
    code = (
        "import numpy as np\nfrom proofs_tests.kernels.kernel_twins import calls\n"
        "for seed in range(1):\n    [call() for call in calls(np.random.default_rng(seed), 'cuda').values()]"
    )
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-c", code]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=40)
            found[kind] = {"status": done.returncode, "end": (done.stdout + done.stderr)[-400:]}
        except subprocess.TimeoutExpired:
            found[kind] = {"status": None, "end": "stopped after 40 s"}
    return found


def ceilings(settings: Settings) -> dict[str, float]:
    """Bytes a second of a copy (read and written counted), and floating-point operations a second of a product."""
    dtype = getattr(torch, settings.dtype)
    source = torch.empty(settings.copy_bytes // 4, dtype=torch.float32, device=settings.device).normal_()
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), settings.device)
    n = settings.product
    a, b = (torch.randn((n, n), device=settings.device).to(dtype) for _ in range(2))
    product_s = median_s(lambda: a @ b, settings.device)
    return {"copy_bytes_per_s": 2 * source.nbytes / copy_s, "flops_per_s": 2 * n**3 / product_s}


def commit_rate(settings: Settings, copy_bytes_per_s: float) -> dict[str, float]:
    """Bytes a second that a commit of all layers moves at the largest batch, over the copy's."""
    batch, layers = settings.batches[-1], settings.big["layers"]
    heads, dim, slots = settings.big.get("kv_heads", 2), settings.big.get("head_dim", 64), settings.contexts[0] + 64
    dtype = getattr(torch, settings.dtype)
    stores = [
        torch.empty((batch, heads, slots, dim), dtype=dtype, device=settings.device).normal_()
        for _ in range(2 * layers)
    ]
    pool = KVPool.of(stores[::2], stores[1::2])
    path = torch.tensor([[1, 4, 6, 9, 13, 15, 20, 21]] * batch, device=settings.device)
    kept = torch.full((batch,), 8, device=settings.device)
    start = torch.full((batch,), slots - 32, device=settings.device)
    lengths = start.clone()

    def run() -> None:
        lengths.copy_(start)
        commit(pool, lengths, path, kept)

    several = Captured(lambda: [run() for _ in range(TURNS)], torch.device(settings.device))
    seconds = median_s(several, settings.device) / TURNS
    moved = 2 * 2 * layers * batch * heads * 8 * dim * stores[0].element_size()
    return {"bytes_per_s": moved / seconds, "share_of_copy": moved / seconds / copy_bytes_per_s, "seconds": seconds}
