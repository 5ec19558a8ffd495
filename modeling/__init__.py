"""The files that travel to the Hub with every checkpoint: configuration, model, solving, pipeline; nothing else."""

from .configuration_air import AIRConfig, AIRUpdate
from .modeling_air import (
    AIRForPuzzleSolving,
    AIRInputs,
    AIRLoss,
    AIRModel,
    AIRPuzzleSolvingOutput,
    AIRRollout,
    AIRState,
)
from .pipeline_air import PuzzleSolvingPipeline
from .solving_air import AIRSolution, SolveConfig
from .weights_air import CheckpointError

__all__ = [
    "AIRConfig",
    "AIRForPuzzleSolving",
    "AIRInputs",
    "AIRLoss",
    "AIRModel",
    "AIRPuzzleSolvingOutput",
    "AIRRollout",
    "AIRSolution",
    "AIRState",
    "AIRUpdate",
    "CheckpointError",
    "PuzzleSolvingPipeline",
    "SolveConfig",
]
