"""Which product a weight is multiplied by: measured once for a machine as a step meets it, and kept.

A step reads each weight from memory once, so a product is timed over a run of weights of its shape, in turn, after
other weights have been read: the same product again and again is measured in the cache, and picks wrongly. A weight
is held once, in one of three layouts: its rows as they came, for which there are two products of torch's and one that
streams them, or packed by oneDNN or, in float32, by MKL.
Choices lie in ``reader-theory/products.json`` in the user's cache folder, by processor, threads, version, type, shape.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional

from runtime.kernels.cpu.threads import pool
from runtime.kernels.cpu.vectors import LANES
from runtime.kernels.product import streamed
from runtime.kernels.program import Program

__all__ = ["ROWS", "ROW_BUCKETS", "STREAMED", "Choice", "choose", "chosen", "pack", "row_products"]

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Numbers of rows at which products are compared; one of m rows uses the choice of the next bucket up, or the last."""
PROMPT = 128
"""Rows from which one weight is enough to time: it is read once for so many that its read does not count."""
WORTH = 1 << 16
"""Entries of a weight from which products are compared."""
SECONDS = 3.0
"""Time that the measurement of one shape may take."""
AGREE = 1.5
"""Least times of one product that differ by more are those of a busy machine."""
EVEN = 1.5
"""How many times slower than the fastest the streamed product may be and still be taken, for every number of rows of a
step: a row's product has the same bits in any company then, and drafts do not change a text."""
EVEN_ROWS = 128
"""Most rows of a step that are kept even so: a batch of draft trees. Beyond lie prompts, whose time counts."""
MARGIN = 1.1
"""How many times faster than torch's own product another must be to be taken: less is within the noise."""
PACKED_ROWS = 8
"""Rows that oneDNN is told to expect; it is right for any number."""
DECODED = 32
"""Most rows of a step for which a layout is chosen: a plain token, a draft tree, a small batch of either."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(weight, x.t()).t().contiguous()


LINEAR, TURNED, STREAMED = "linear", "turned", "streamed"


@lru_cache
def row_products() -> dict[str, Product]:
    """Products that read a weight's rows as they came, by name."""
    ours = streamed()
    return {LINEAR: functional.linear, TURNED: _turned} | ({} if ours is None else {STREAMED: ours})


def _onednn(weight: torch.Tensor) -> PackedProduct:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _mkl(weight: torch.Tensor) -> PackedProduct:
    """MKL's product asks the weight for its shape alone where the rows are those it was told: one number stands in."""
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, PACKED_ROWS)
    shape = weight.new_zeros(1).expand(weight.shape[0], weight.shape[1])
    return lambda x: torch.ops.mkl._mkl_linear(x, packed, shape, None, x.shape[0])


PackedProduct = Callable[[torch.Tensor], torch.Tensor]
ROWS = "rows"
"""The layout in which a weight comes."""
LAYOUTS: dict[str, Callable[[torch.Tensor], PackedProduct]] = {"onednn": _onednn, "mkl": _mkl}
"""Layouts of one library each, which its own product reads; torch's private operators, so that each may be missing."""


@dataclass(frozen=True)
class Choice:
    """What a weight of one shape is multiplied by.

    Parameters
    ----------
    rows : a name of `row_products` a bucket
        The fastest product where the weight lies in rows; in a step's buckets, and as far on as `EVEN_ROWS`, the
        streamed one where it is nearly so.
    layout : `ROWS`, or a name of `LAYOUTS`
        The one whose worst bucket, of up to `DECODED` rows, is the least times slower than the fastest of that bucket:
        a weight lies in one layout, and what a row of verification costs decides a plan as much as a plain step.
    """

    rows: tuple[str, ...] = ("linear",)
    layout: str = ROWS


def pack(weight: torch.Tensor, layout: str) -> PackedProduct | None:
    """``x @ weight.T`` of a weight packed anew; None where this torch or this processor cannot for its type."""
    try:
        product = LAYOUTS[layout](weight)
        product(weight.new_zeros((2, weight.shape[1])))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product


def chosen(weight: torch.Tensor) -> bool:
    """Whether products are compared for a weight like this one."""
    return weight.numel() >= WORTH and weight.device.type == "cpu" and weight.is_floating_point()


def choose(weight: torch.Tensor, spare_bytes: int = 1 << 24, others: torch.Tensor | None = None) -> Choice:
    """The choice for weights like this one: as kept, or measured now and kept.

    Parameters
    ----------
    spare_bytes : int
        Memory that a measurement may take, for a few weights of this shape.
    others : tensor, optional
        Weights that a step reads in between; read before each timing, so that no product finds its own in the cache.
    """
    if not chosen(weight):
        return Choice()
    key = f"{_machine()} {str(weight.dtype).removeprefix('torch.')} {weight.shape[0]}x{weight.shape[1]}"
    kept = _kept()
    if key not in kept:
        kept[key], repeats = _measure(weight, spare_bytes, others)
        if repeats:
            _keep(kept)
    return kept[key]


def _measure(weight: torch.Tensor, spare_bytes: int, others: torch.Tensor | None) -> tuple[Choice, bool]:
    """The choice, and whether its times repeat: what a machine busy with other work says is used, but not kept."""
    rows = min(weight.shape[0], max(64, spare_bytes // 2 // (weight.shape[1] * weight.element_size()) // 64 * 64))
    count = max(1, spare_bytes // 2 // (rows * weight.shape[1] * weight.element_size()))
    plain = [weight[:rows].clone() for _ in range(count)]
    tried = {name: [pack(one, name) for one in plain] for name in LAYOUTS}
    packed = {name: kept for name, made in tried.items() if len(kept := [one for one in made if one]) == len(made)}
    in_rows = {name: product for name, product in row_products().items() if name != STREAMED or product.fits(plain[0])}
    taken, end, repeats = list[dict[str, float]](), perf_counter() + SECONDS, True
    for size in ROW_BUCKETS:
        x = torch.randn(size, weight.shape[1]).to(weight.dtype)
        weights = plain if size < PROMPT else plain[:1]
        runs: dict[str, Callable[[], Any]] = {
            name: partial(_run, product, x, weights) for name, product in in_rows.items() if name != STREAMED
        }
        if STREAMED in in_rows:
            runs[STREAMED] = _as_a_step_runs_it(x, weights)
        runs |= {name: partial(_run_packed, x, products[: len(weights)]) for name, products in packed.items()}
        timed = _seconds(runs, others, end)
        if timed is None:
            repeats = False
            break
        seconds, repeats = timed[0], repeats and timed[1]
        taken.append(seconds | {LINEAR: seconds[LINEAR] / MARGIN})
    if taken:
        return _chosen(taken, list(in_rows), list(packed)), repeats
    # No time at all: what is packed for 16 bits wins over torch's other products, and for 32 seldom by much.
    if STREAMED in in_rows:
        return Choice((STREAMED,) * len(ROW_BUCKETS)), False
    return Choice(layout=ROWS if weight.element_size() > 2 else next(iter(packed), ROWS)), False


def _chosen(taken: list[dict[str, float]], in_rows: Sequence[str], packed: Sequence[str]) -> Choice:
    """The choice by the seconds of each product in each bucket, of which the last may be missing."""
    rows = [min(in_rows, key=seconds.__getitem__) for seconds in taken]
    steps = [i for i in range(len(taken)) if ROW_BUCKETS[i] <= DECODED]
    if STREAMED in in_rows and all(taken[i][STREAMED] <= EVEN * taken[i][rows[i]] for i in steps):
        slow = (i for i in range(len(taken)) if taken[i][STREAMED] > EVEN * taken[i][rows[i]])
        even = min(next(slow, len(taken)), ROW_BUCKETS.index(EVEN_ROWS) + 1)
        rows = [STREAMED] * even + rows[even:]
        if all(taken[i][STREAMED] <= EVEN * min(taken[i][name] for name in (STREAMED, *packed)) for i in steps):
            packed = ()
    worst = dict.fromkeys((ROWS, *packed), 1.0)
    for i in steps:
        seconds = {ROWS: taken[i][rows[i]]} | {name: taken[i][name] for name in packed}
        worst = {name: max(worst[name], seconds[name] / min(seconds.values())) for name in worst}
    return Choice(tuple(rows), min(worst, key=worst.__getitem__))


def _run(product: Product, x: torch.Tensor, weights: list[Any]) -> None:
    for weight in weights:
        product(x, weight)


def _as_a_step_runs_it(x: torch.Tensor, weights: list[torch.Tensor]) -> Callable[[], Any]:
    """The streamed products of some weights as one program."""
    ours, run = streamed(), pool()
    assert ours is not None and run is not None
    operations = [ours.operation(weight, len(x)) for weight in weights]
    out = x.new_empty((len(x), weights[0].shape[0]))
    room = torch.empty(max(each.room_bytes for each in operations), dtype=torch.uint8)
    places = x.data_ptr(), out.data_ptr(), room.data_ptr()
    program = Program(run, [(each.share, each.task(*places)) for each in operations])
    return lambda: (program(), x, out, room)


def _run_packed(x: torch.Tensor, products: list[PackedProduct]) -> None:
    for product in products:
        product(x)


def _seconds(
    runs: dict[str, Callable[[], Any]], others: torch.Tensor | None, end: float, repeats: int = 6
) -> tuple[dict[str, float], bool] | None:
    """The least of some turns of each, in turn, and whether the two least agree; None where time is up before that."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            if others is not None:
                others.sum()
            start = perf_counter()
            if start > end:
                return None
            run()
            if turn:  # the first turn touches
                taken[name].append(perf_counter() - start)
    least = {name: sorted(each)[:2] for name, each in taken.items()}
    return {name: first for name, (first, _) in least.items()}, all(b <= AGREE * a for a, b in least.values())


@lru_cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return f"{found['model name']} {found.get('cpu family')}.{found.get('model')}.{found.get('stepping')}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _machine() -> str:
    products = f"{'+'.join(row_products())} of {LANES} lanes, even to {EVEN_ROWS}"
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {products},"


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reader-theory" / "products.json"


@lru_cache
def _kept() -> dict[str, Choice]:
    """Choices of this process, from the file where it can be read; what is no choice in it is left out."""
    try:
        held = json.loads(_file().read_text())
        return {
            key: Choice(tuple(each["rows"]), each["layout"])
            for key, each in held.items()
            if len(each["rows"]) == len(ROW_BUCKETS)
            and set(each["rows"]) <= {LINEAR, TURNED, STREAMED}
            and each["layout"] in (ROWS, *LAYOUTS)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return {}


def _keep(choices: dict[str, Choice]) -> None:
    """Write the file anew beside itself and rename it; a machine without a writable cache folder does without."""
    text = json.dumps({key: {"rows": each.rows, "layout": each.layout} for key, each in choices.items()}, indent=1)
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_file().parent, delete=False) as out:
            out.write(text)
        Path(out.name).replace(_file())
    except (OSError, RuntimeError):
        return
