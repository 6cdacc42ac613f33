"""`reader plan --grid`: a file of axes to one plan for every combination, on all cores or on a cluster."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader_theory.errors import InvalidInputError, require

if TYPE_CHECKING:
    from optimizer.grid import Row
    from optimizer.grid_cell import PredictedCells
    from reader_theory.acceptance.rank_table import RankTable
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.imported import ImportedAcceptance

__all__ = ["plan_grid", "rows_of"]

AXES = ("model", "drafter", "device", "batch", "context", "workload", "tensor_parallel")
NEEDED = ("model", "device", "batch")
EXAMPLE = 'model = ["Qwen3-32B"]\ndrafter = ["Qwen3-1.7B", "none"]\ndevice = ["H100-SXM"]\nbatch = [1, 64]'


def read_axes(path: Path, workloads: list[str]) -> dict[str, list[Any]]:
    """Axes of a grid file (TOML, a list each); workloads, context, drafter and parallelism have defaults.

    Raises
    ------
    InvalidInputError
        If the file is no TOML, or an axis is unknown, missing, empty or of another type.
    """
    try:
        told = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        rule = "`--grid` must be a readable TOML file"
        raise InvalidInputError(rule, got=str(error), fix=f"Write\n{EXAMPLE}") from None
    unknown, missing = sorted(set(told) - {*AXES, "device_file"}), sorted(set(NEEDED) - set(told))
    require(
        not unknown and not missing,
        f"a grid's axes must be among {', '.join(AXES)}, with {', '.join(NEEDED)} given",
        got=f"unknown {unknown}, missing {missing}",
        fix=f"Write\n{EXAMPLE}",
    )
    axes = {"drafter": ["none"], "context": [1024], "workload": workloads, "tensor_parallel": [1]}
    axes |= {name: told[name] for name in AXES if name in told}
    for name in AXES:
        kind = int if name in ("batch", "context", "tensor_parallel") else str
        values = axes[name]
        fine = isinstance(values, list) and len(values) > 0 and all(type(value) is kind for value in values)
        require(
            fine and (kind is str or min(values) >= 1),
            f"axis `{name}` must be a list of {'names' if kind is str else 'integers of at least 1'}",
            got=repr(values),
            fix=f"Write\n{EXAMPLE}",
        )
    return {name: axes[name] for name in AXES}


def plan_grid(
    file: Path,
    fit: AcceptanceFit | ImportedAcceptance,
    *,
    max_nodes: int,
    max_depth: int,
    workers: int = -1,
    scheduler: str | None = None,
    output: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """One row for every combination of the file's axes, in order; rows already in `output` are taken from there."""
    from optimizer.grid import evaluate, grid

    fitted = _tables(fit)
    axes = read_axes(file, sorted(fitted))
    function = _cells(axes, fitted, file, max_nodes, max_depth)
    # a resumed run must not take up rows of another fit, model, device or limit
    inputs = {
        "acceptance": {name: table.conditionals.tolist() for name, table in fitted.items()},
        "models": {name: shape.model_dump(mode="json") for name, shape in function.models.items()},
        "devices": {name: device.model_dump(mode="json") for name, device in function.devices.items()},
        "limits": [max_nodes, max_depth],
    }
    mark = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    cells = [{**cell, "inputs": mark} for cell in grid(**axes)]
    return evaluate(cells, function, workers=workers, scheduler=scheduler, output=output, progress=progress)


def _tables(fit: AcceptanceFit | ImportedAcceptance) -> dict[str, RankTable]:
    """By workload: ranks by depth; of counted acceptance the first rank alone, so that every tree is a chain."""
    from reader_theory.documents.imported import ImportedAcceptance

    if isinstance(fit, ImportedAcceptance):
        return {fit.workload: fit.rank_depth.table()}
    return {each.workload: ranks.table() for each in fit.workloads if (ranks := each.ranks()) is not None}


def rows_of(done: list[Row]) -> list[dict[str, Any]]:
    """Rows for people and for `--json`: the axes, then what came of them."""
    hidden = ("inputs", "parents", "ranks")
    told = [{**row.cell, **(row.result or {"status": "failed", "advice": row.error})} for row in done]
    return [{name: value for name, value in each.items() if name not in hidden} for each in told]


def _cells(
    axes: Mapping[str, list[Any]], fitted: Mapping[str, RankTable], file: Path, max_nodes: int, max_depth: int
) -> PredictedCells:
    from optimizer.grid_cell import NO_DRAFTER, PredictedCells
    from reader_theory.cost.device import find_device
    from runtime.cli._predicted import model_shape

    own = tomllib.loads(file.read_text()).get("device_file")
    extra = None if own is None else file.parent / own
    names = [*axes["model"], *(name for name in axes["drafter"] if name != NO_DRAFTER)]
    models = {name: model_shape(name, file.parent) for name in names}
    devices = {name: find_device(name, extra) for name in axes["device"]}
    return PredictedCells(fitted, models, devices, max_nodes, max_depth)
