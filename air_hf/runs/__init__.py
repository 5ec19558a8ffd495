"""Training, one run: from a recipe to a folder of checkpoints and records that survives what happens to machines."""

from air_hf.runs.arguments import parse_recipe
from air_hf.runs.checkpoint import load_checkpoint, save_checkpoint
from air_hf.runs.data import load_data
from air_hf.runs.interruption import EXIT_STATUS, Interrupted
from air_hf.runs.run import Run
from air_hf.runs.start import exit_statuses, make_accelerator, make_config, make_model, train

__all__ = [
    "EXIT_STATUS",
    "Interrupted",
    "Run",
    "exit_statuses",
    "load_checkpoint",
    "load_data",
    "make_accelerator",
    "make_config",
    "make_model",
    "parse_recipe",
    "save_checkpoint",
    "train",
]
