"""`reader cost`: a model's configuration and a card to a Cost, without either at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_document

if TYPE_CHECKING:
    from reader_theory.cost.tabulated import MeasuredStep

__all__ = ["cost", "measured_steps"]


def cost(
    model: options.Config,
    device: options.DeviceName = "h100",
    draft: options.DraftConfig = "none",
    measured: options.MeasuredFile = None,
    bench: options.BenchFiles = None,
    dtype: options.ServedDtype = "bfloat16",
    quantization: options.Quantization = None,
    kv_dtype: options.KvDtype = "auto",
    tensor_parallel: options.TensorParallel = 1,
    device_file: options.DeviceFile = None,
    memory_share: options.MemoryShare = 0.9,
    kv_tokens: options.KvTokens = None,
    batch: options.Batches = None,
    context: Annotated[
        list[int] | None, typer.Option(min=1, max=10**8, help="Cached tokens a row; repeatable.")
    ] = None,
    max_nodes: Annotated[int, typer.Option(min=1, max=256, help="Most drafted tokens a row.")] = 32,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: options.Output = Path("out/cost.json"),
    as_json: options.AsJson = False,
) -> None:
    """Predict the seconds of every step from a configuration and a card, held to measured steps where there are some.

    Example: reader cost --model Qwen3-32B --draft Qwen3-32B-speculator.eagle3 --device h100 -o out/cost.json
    """
    output_path(output, ".json")
    from runtime.cli._predicted import served_by

    served = served_by(
        model, device, draft=draft, device_file=device_file, dtype=dtype, quantization=quantization,
        kv_dtype=kv_dtype, tensor_parallel=tensor_parallel, share=memory_share, kv_tokens=kv_tokens,
    )  # fmt: skip
    points = measured_steps(measured, bench, looks_up=served.looks_up is not None)
    made = served.cost(points, batches=batch, contexts=context, max_nodes=max_nodes)
    made.write(output)
    show_document(made, output, as_json=as_json)


def measured_steps(measured: Path | None, bench: list[Path] | None, *, looks_up: bool) -> list[MeasuredStep]:
    """Steps of a table, or of benchmark results; none where nothing was measured."""
    from runtime.importers.steps import read_bench_steps, read_measured_steps

    require(
        measured is None or not bench,
        "`--measured` and `--bench` must not both be given",
        got="both",
        fix="Add the benchmark's median gaps to the table.",
    )
    if measured is not None:
        return read_measured_steps(measured, looks_up=looks_up)
    return read_bench_steps(bench or [], looks_up=looks_up)
