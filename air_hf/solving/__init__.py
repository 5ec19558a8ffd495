"""Solving: early exit, depth, noisy rollouts, voting and an adaptive budget, for boards, files and streams.

    from air_hf.solving import SolveConfig, solve
    ans = solve(model, ids, SolveConfig(max_segments=64, early_exit="q_halt", q_halt_threshold=4.0))

The engine is `air_hf/modeling/solving_air.py`, which travels with every checkpoint; what stands here knows the rules
and symmetries of families, files, and how to choose a threshold.
"""

from air_hf.modeling.solving_air import AIRSolution, Answer, Rollout, SolveConfig, SolvingEngine
from air_hf.solving.report import SolveReport, evaluate_solving, report
from air_hf.solving.rules import find_images, find_verifier, make_engine, solve

__all__ = [
    "AIRSolution",
    "Answer",
    "Rollout",
    "SolveConfig",
    "SolveReport",
    "SolvingEngine",
    "evaluate_solving",
    "find_images",
    "find_verifier",
    "make_engine",
    "report",
    "solve",
]
