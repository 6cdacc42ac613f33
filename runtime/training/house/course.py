"""A training run for some minutes of this process's own work, on from where a run that was cut off had come."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.training.house.optimisation import Optimisers
from runtime.training.house.train import Regime

__all__ = ["run_course"]

SAVED_EVERY_S = 60.0


def run_course(
    module: nn.Module,
    optimisers: Optimisers,
    state: Path,
    regime: Regime,
    loss_of: Callable[[np.random.Generator], torch.Tensor],
    probe: Callable[[], dict[str, float]],
) -> dict[str, Any]:
    """Train for the regime's minutes; what came of it: ``losses`` of the last probe, updates, seconds and the curve.

    Minutes are of this process's own work: whatever else the machine does, and however often it stops, counts nothing.

    Parameters
    ----------
    state : path
        Where the run is kept every minute, whole or not at all.
    loss_of : of the random numbers of an update
    probe : the validation losses
    """
    told: dict[str, Any] = {"updates": 0, "spent_s": 0.0, "curve": []}
    if state.is_file():
        kept = torch.load(state, map_location=regime.device, weights_only=True)
        module.load_state_dict(kept["model"])
        optimisers.restore(kept["optimisers"])
        told = kept["told"]
    began, saved = time.process_time() - told["spent_s"], time.process_time()
    while (done := (time.process_time() - began) / (60.0 * regime.minutes)) < 1.0:
        optimisers.step(loss_of(np.random.default_rng([regime.seed, told["updates"]])), done)
        told["updates"] += 1
        if time.process_time() - saved > SAVED_EVERY_S:
            saved = time.process_time()
            told["spent_s"] = saved - began
            _probed(probe, told)
            part = state.with_suffix(".part")
            torch.save({"model": module.state_dict(), "optimisers": optimisers.state(), "told": told}, part)
            part.replace(state)
    told["spent_s"] = time.process_time() - began
    return {"losses": _probed(probe, told), **told}


def _probed(probe: Callable[[], dict[str, float]], told: dict[str, Any]) -> dict[str, float]:
    losses = probe()
    told["curve"].append({"updates": told["updates"], "seconds": round(told["spent_s"]), **losses})
    print(json.dumps(told["curve"][-1]), flush=True)
    return losses
