"""The files that travel to the Hub with every checkpoint: configuration and model, nothing else."""

from .configuration_air import AIRConfig
from .modeling_air import (
    AIRForPuzzleSolving,
    AIRInputs,
    AIRLoss,
    AIRModel,
    AIRPuzzleSolvingOutput,
    AIRSolution,
    AIRState,
)

__all__ = [
    "AIRConfig",
    "AIRForPuzzleSolving",
    "AIRInputs",
    "AIRLoss",
    "AIRModel",
    "AIRPuzzleSolvingOutput",
    "AIRSolution",
    "AIRState",
]
