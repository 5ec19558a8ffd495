"""What a checkpoint records of the run that made it: enough to repeat the run and to write its card."""

import dataclasses
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator

from air_hf.data import PuzzleSet
from air_hf.hub import CheckpointError, training_facts
from air_hf.training.arguments import TrainingArguments

# Where things are on one machine says nothing to another one, and may say too much.
_PRIVATE = {"train_data", "test_data", "output_dir", "resume_from", "push_to_hub", "push_every", "hub_private_repo"}
# What may change when a run goes on, and changes the order of its sums.
_ROUNDING = ("accumulation_steps", "compile", "num_threads")
_LIBRARIES = ("air-hf", "torch", "transformers", "accelerate", "adam-atan2-pytorch")


def run_facts(
    args: TrainingArguments, train_set: PuzzleSet, test_set: PuzzleSet, accelerator: Accelerator
) -> dict[str, object]:
    """What is known when a run starts: recipe, data, hardware and versions; no path of this machine."""
    device = accelerator.device
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}"
    else:
        hardware = f"{device.type.upper()} ({platform.machine()}, {os.cpu_count()} cores)"
    arguments = {name: value for name, value in dataclasses.asdict(args).items() if name not in _PRIVATE}
    return {
        "arguments": arguments,
        "data": {"train": _data_facts(train_set), "test": _data_facts(test_set)},
        "hardware": hardware,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _data_facts(puzzles: PuzzleSet) -> dict[str, object]:
    return {
        "puzzle": puzzles.puzzle.name,
        "puzzles": len(puzzles),
        "sha256": puzzles.sha256(),
        "example": puzzles.puzzle.format(puzzles.questions[0]),
    }


def check_resumption(facts: dict, checkpoint: str | Path) -> list[str]:
    """Compares a run that is about to go on with what its checkpoint records.

    Args:
        facts (`dict`): the run's, see [`run_facts`].
        checkpoint (`str` or `Path`): what it goes on from.

    Returns:
        `list[str]`: what differs and is allowed to, a line each.

    Raises:
        CheckpointError: the checkpoint was trained on other puzzles, or does not say on which.
    """
    before = training_facts(checkpoint)
    if "data" not in before:
        raise CheckpointError(f"{checkpoint} does not record what it was trained on")
    trained, given = (known["data"]["train"] for known in (before, facts))
    if trained["sha256"] != given["sha256"]:
        raise CheckpointError(
            f"{checkpoint} was trained on {trained['puzzles']:,} puzzles with SHA-256 {trained['sha256'][:16]}…; "
            f"this run has {given['puzzles']:,} with {given['sha256'][:16]}…"
        )
    pairs = {name: (before[name], facts[name]) for name in ("processes", "hardware")}
    pairs |= {name: (before["arguments"].get(name), facts["arguments"][name]) for name in _ROUNDING}
    pairs |= {name: (before["versions"].get(name), now) for name, now in facts["versions"].items()}
    notes = [
        f"{name}: {old} before, {new} now; from here on this run differs from one without an interruption, at first by "
        "rounding"
        for name, (old, new) in pairs.items()
        if old != new
    ]
    if before["data"]["test"]["sha256"] != facts["data"]["test"]["sha256"]:
        notes.append("the test puzzles are others than before; scores do not compare with earlier ones")
    return notes
