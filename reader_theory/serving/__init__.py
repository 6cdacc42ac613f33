"""Under load: Little's law with speculation, a replay of the engine event by event, capacity, depth by batch."""

from reader_theory.serving.capacity import BreakEven, speculation_stops_paying
from reader_theory.serving.depths import DepthChoice, DepthTable, best_schedule
from reader_theory.serving.load import AffineLoad, LoadPoint, fixed_point_load, steps_of_request
from reader_theory.serving.logged_runs import choose_depth, replay_run
from reader_theory.serving.result import SimulationResult
from reader_theory.serving.simulator import EngineLimits, Workload, simulate
from reader_theory.serving.traces import closed_loop, poisson_arrivals, read_trace

__all__ = [
    "AffineLoad",
    "BreakEven",
    "DepthChoice",
    "DepthTable",
    "EngineLimits",
    "LoadPoint",
    "SimulationResult",
    "Workload",
    "best_schedule",
    "choose_depth",
    "closed_loop",
    "fixed_point_load",
    "poisson_arrivals",
    "read_trace",
    "replay_run",
    "simulate",
    "speculation_stops_paying",
    "steps_of_request",
]
