"""What a checkpoint records of the run that made it: enough to repeat the run and to write its card."""

import os
import platform
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from air_hf.hub import TRAINING_FACTS, CheckpointError
from air_hf.hub.loading import weights_sha256
from air_hf.hub.records import read_records
from air_hf.hub.shipped import resolve_checkpoint
from air_hf.run_recipe import RunRecipe
from air_hf.runs.data import Source

_LIBRARIES = ("air-hf", "torch", "transformers", "accelerate", "adam-atan2-pytorch")


def run_facts(recipe: RunRecipe, train: Source, test: Source, accelerator: Accelerator) -> dict[str, Any]:
    """What is known when a run starts: recipe, data, hardware and versions; no path of this machine."""
    device = accelerator.device
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}"
    else:
        hardware = f"{device.type.upper()} ({platform.machine()}, {os.cpu_count()} cores)"
    # A folder's name may look like a repository's, so what the data set is called comes from where it was found.
    place = {name: getattr(train, name) for name in ("dataset", "dataset_config", "dataset_revision")}
    begun = {} if recipe.init_from is None else {"init_from": _origin(recipe.init_from, recipe.cache_dir)}
    return begun | {
        "arguments": recipe.marked("published") | place,
        "data": {"train": train.facts(), "test": test.facts()},
        "hardware": hardware,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in _LIBRARIES},
        "tracker_run": uuid.uuid4().hex[:12],  # not from the seed: two runs of one recipe shall not share a curve
    }


def _origin(source: str, cache_dir: str | None) -> dict[str, str]:
    """The checkpoint that a run begins with, by its repository's or its folder's name, and its weights' SHA-256."""
    place = resolve_checkpoint(source)
    named = {"name": Path(place).resolve().name} if Path(place).is_dir() else {"repository": source}
    return named | {"sha256": weights_sha256(source, cache_dir=cache_dir)}


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `training.json` of a checkpoint says of the run that goes on from it.

    Raises:
        CheckpointError: an entry is damaged.
    """
    before, place = read_records(checkpoint).training, checkpoint / TRAINING_FACTS
    for name, kind in {"unlogged": dict, "tracker_run": str}.items():
        if type(before.get(name, kind())) is not kind:
            raise CheckpointError(f"{place}: {name} is {str(before[name])[:40]!r}; expected {kind.__name__}")
    if not all(type(value) in (int, float) for value in before.get("unlogged", {}).values()):
        raise CheckpointError(f"{place}: unlogged holds {str(before['unlogged'])[:80]!r}; expected numbers")
    return before


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
    before = read_records(Path(checkpoint)).training
    if "data" not in before:
        raise CheckpointError(f"{checkpoint} does not record what it was trained on")
    trained, given = (known["data"]["train"] for known in (before, facts))
    if trained["sha256"] != given["sha256"]:
        raise CheckpointError(
            f"{checkpoint} was trained on {trained['puzzles']:,} puzzles with SHA-256 {trained['sha256'][:16]}…; "
            f"this run has {given['puzzles']:,} with {given['sha256'][:16]}…"
        )
    arguments = facts["arguments"]
    pairs = {name: (before[name], facts[name]) for name in ("processes", "hardware")}
    rounding = RunRecipe().marked("rounds").keys() & arguments.keys()
    unsaid = vars(RunRecipe())  # of a run from before a field existed
    pairs |= {name: (before["arguments"].get(name, unsaid[name]), arguments[name]) for name in sorted(rounding)}
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
