"""What is best: problems, solvers, certificates and the planner. Solvers load on first use."""

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.certificates import Certificate, UncertifiedError, certify
from optimizer.cost import LevelCost, Memory, Objective, TabulatedCost
from optimizer.problem import BatchProblem, JointProblem, Problem, RobustProblem, SideConstraints, TreeProblem
from optimizer.schedule_problem import Schedule, ScheduleProblem
from optimizer.solution import Solution, Status
from optimizer.solving import baselines, choose, solve, solve_schedule

__all__ = [
    "Acceptance",
    "BatchProblem",
    "Certificate",
    "ForestAcceptance",
    "JointProblem",
    "LevelCost",
    "Memory",
    "Objective",
    "Problem",
    "RobustProblem",
    "Schedule",
    "ScheduleProblem",
    "SideConstraints",
    "Solution",
    "Status",
    "TabulatedCost",
    "TreeProblem",
    "UncertifiedError",
    "baselines",
    "certify",
    "choose",
    "solve",
    "solve_schedule",
]
