"""Checkpoints: a Hub folder (config, weights, tokenizer, code) with the state of training in a subfolder.

config.json, model.safetensors, tokenizer.json, *.py, README.md     the evaluated weights (EMA where it is on)
training.json, evaluation.json                                      what is known of the run, and its scores
training_state/state.safetensors, state.json                        what is needed to go on
training_state/manifest.json                                        SHA-256 of every file

Nothing is pickled. A checkpoint is written beside its place and renamed, so an old one is whole until a new one is.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from air_hf.evaluation import EvaluationResult
from air_hf.files import atomic_folder, sha256
from air_hf.hub import EVALUATION, TRAINING_FACTS, CheckpointError, read_config
from air_hf.hub.model_card import write_model_card
from air_hf.modeling import AIRState
from air_hf.modeling.weights_air import check_finite, read_json_object
from air_hf.puzzles import puzzle_of
from air_hf.tokenization import build_tokenizer
from air_hf.training import Learner
from air_hf.training.carry import Carry
from air_hf.variants import CONFIG_FIELDS

STATE, TENSORS, MANIFEST = (f"training_state/{name}" for name in ("state.json", "state.safetensors", "manifest.json"))
_NEEDED = {"config.json", "model.safetensors", STATE, TENSORS}
_FORMAT = 2  # of the training state; 1, which did not say so, named the moments of AdamAtan2 one by one
_STATE_TYPES = {"step": int, "skipped": int, "numbers": dict, "tensors": list, "arguments": dict}


def save_checkpoint(
    learner: Learner, folder: str | Path, evaluation: EvaluationResult | None = None, facts: dict | None = None
) -> None:
    """Writes the learner's model and state; every process must call it, the main one writes.

    Args:
        folder (`str` or `Path`): replaced if it exists.
        evaluation ([`EvaluationResult`], *optional*): saved beside the weights.
        facts (`dict`, *optional*): what else `training.json` shall hold, see [`run_facts`].

    Raises:
        OSError: the folder cannot be written; what stood there before is as it was.
    """
    tensors, state = _training_state(learner)
    if not learner.accelerator.is_main_process:
        return
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_folder(folder) as unfinished:
            _write(learner, unfinished, tensors, state, evaluation, facts or {})
    except (OSError, SafetensorError) as error:  # the latter is what a full disk is to that library
        raise OSError(f"the checkpoint cannot be written to {folder}: {error}") from error


def _write(learner: Learner, folder: Path, tensors: dict, state: dict, evaluation, facts: dict) -> None:
    model = learner.model
    with contextlib.nullcontext() if learner.ema is None else learner.ema.applied_to(model):
        model.save_pretrained(folder)
    (folder / TENSORS).parent.mkdir()
    save_file(tensors, folder / TENSORS)
    puzzle = puzzle_of(model.config)
    if puzzle is not None:
        build_tokenizer(puzzle).save_pretrained(folder)
    records = {TRAINING_FACTS: {"step": learner.step, "ema": learner.recipe.ema_decay} | facts, STATE: state}
    if evaluation is not None:
        records[EVALUATION] = evaluation.to_dict()
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_model_card(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _training_state(learner: Learner) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and numbers; every process must call it."""
    tensors = {f"weights.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    if learner.ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in learner.ema.averages.items()}
    if learner.carry is not None:
        slots = {f"carry.{name}": tensor for name, tensor in _slots(learner.carry).items()}
        tensors |= {name: learner.accelerator.gather(tensor) for name, tensor in slots.items()}
    numbers = {}
    for name, value in learner.optimizer.state().items():
        if torch.is_tensor(value):
            tensors[f"optimizer.{name}"] = value
        else:
            numbers[name] = value
    state = {"format": _FORMAT, "step": learner.step, "skipped": learner.skipped, "numbers": numbers}
    state |= {"tensors": sorted(tensors), "arguments": vars(learner.recipe)}
    return tensors, state


def _slots(carry: Carry) -> dict[str, torch.Tensor]:
    batch = {f"batch.{name}": tensor for name, tensor in carry.batch.items()}
    return {**vars(carry.state), "halted": carry.halted, **batch}


def load_checkpoint(learner: Learner, folder: str | Path) -> None:
    """Puts a learner where [`save_checkpoint`] left another one of the same recipe.

    Raises:
        CheckpointError: the folder or a file is missing or damaged, or the checkpoint is of another model or recipe.
    """
    folder = Path(folder)
    for name in (STATE, TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} does not exist; expected a checkpoint folder of a training run (--init_from begins a "
                "new run with the weights of any checkpoint)"
            )
    check_manifest(folder)
    state = _read_state(folder)
    _check_recipe(learner, folder, state)
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / TENSORS} cannot be read: {error}") from error
    if sorted(tensors) != state["tensors"]:
        raise CheckpointError(f"{folder / TENSORS} holds other tensors than {STATE} says")
    groups: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "ema": {}, "optimizer": {}, "carry": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise CheckpointError(f"{folder / TENSORS} holds {name}, which is no part of a run")
        # Counters stay on the host, where the optimisers keep them: on a device every step would wait for each.
        is_counter = group == "optimizer" and not tensor.ndim
        groups[group][rest] = tensor if is_counter else tensor.to(learner.accelerator.device)
    weights = learner.model.state_dict()
    _check_tensors(folder, "weights", groups["weights"], weights)
    _check_tensors(folder, "ema", groups["ema"], {} if learner.ema is None else learner.ema.averages)
    check_finite(
        groups["weights"] | {f"ema.{name}": tensor for name, tensor in groups["ema"].items()}, folder / TENSORS
    )
    learner.model.load_state_dict(groups["weights"])
    if learner.ema is not None:
        learner.ema.averages = {name: groups["ema"][name] for name in learner.ema.averages}
    try:
        learner.optimizer.load_state(groups["optimizer"] | state["numbers"])
    except ValueError as error:
        raise CheckpointError(f"{folder}: state of the optimiser: {error}") from error
    learner.step, learner.skipped = state["step"], state["skipped"]
    learner.carry = _own_carry(learner, folder, groups["carry"]) if groups["carry"] else None


def _read_state(folder: Path) -> dict[str, Any]:
    state = read_json_object(folder / STATE)
    if state.get("format", 1) != _FORMAT:
        raise CheckpointError(
            f"{folder} was written by another version (format {state.get('format', 1)} of the training state; this one "
            f"reads {_FORMAT}): a run cannot go on from it, but --init_from begins one with its weights"
        )
    for name, kind in _STATE_TYPES.items():
        if type(state.get(name)) is not kind or (kind is int and state[name] < 0):
            raise CheckpointError(
                f"{folder / STATE}: {name} is {str(state.get(name))[:40]!r}; expected {kind.__name__}"
            )
    for name, value in state["numbers"].items():
        if type(value) not in (int, float) or not 0 <= value < 2**53:
            raise CheckpointError(f"{folder / STATE}: {name} is {str(value)[:40]!r}; expected a number")
    return state


def _check_recipe(learner: Learner, folder: Path, state: dict[str, Any]) -> None:
    theirs, config = read_config(folder), learner.model.config
    saved = state["arguments"] | {name: getattr(theirs, name) for name in CONFIG_FIELDS}
    # A run from before a field existed was what its default means.
    saved = {entry.name: entry.default for entry in dataclasses.fields(learner.recipe)} | saved
    ours = learner.recipe.settled | {name: getattr(config, name) for name in CONFIG_FIELDS}
    for name, value in ours.items():
        if saved[name] != value:
            raise CheckpointError(f"{folder} was trained with {name}={saved[name]!r}; this run has {value!r}")
    if state["step"] > learner.recipe.max_steps:
        raise CheckpointError(f"{folder} has run {state['step']} steps; max_steps is {learner.recipe.max_steps}")


def _check_tensors(folder: Path, group: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        theirs, ours = found.get(name), expected.get(name)
        if theirs is None or ours is None or (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            saved, wanted = ("none" if t is None else f"{tuple(t.shape)} of {t.dtype}" for t in (theirs, ours))
            raise CheckpointError(f"{folder / TENSORS}: {group}.{name} is {saved}; this run's is {wanted}")


def _own_carry(learner: Learner, folder: Path, found: dict[str, torch.Tensor]) -> Carry:
    """This process's slots of a carry over all of them."""
    config, slots = learner.model.config, learner.recipe.batch_size
    # As mixed precision has them, whose name is part of the recipe and has been compared.
    states = torch.bfloat16 if learner.recipe.mixed_precision == "bf16" else learner.model.dtype
    positions, cells = (slots, config.num_positions, config.hidden_size), (slots, config.seq_len)
    expected = {"z_h": (positions, states), "z_l": (positions, states), "num_segments": ((slots,), torch.long),
                "halted": ((slots,), torch.bool), "batch.input_ids": (cells, torch.long),
                "batch.labels": (cells, torch.long), "batch.puzzle_ids": ((slots,), torch.long)}  # fmt: skip
    meta = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in expected.items()}
    _check_tensors(folder, "carry", found, meta)
    size, rank = slots // learner.accelerator.num_processes, learner.accelerator.process_index
    own = {name: tensor[rank * size : (rank + 1) * size] for name, tensor in found.items()}
    batch = {name.removeprefix("batch."): tensor for name, tensor in own.items() if name.startswith("batch.")}
    return Carry(AIRState(own["z_h"], own["z_l"], own["num_segments"]), own["halted"], batch)


def check_manifest(folder: Path) -> None:
    """Checks that a checkpoint is as it was written.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    try:
        digests = read_json_object(folder / MANIFEST)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST} cannot be read") from error
    if not digests.keys() >= _NEEDED:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST} does not list its files")
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} is missing")
        try:
            same = sha256(path) == digest
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} cannot be read ({error})") from error
        if not same:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} is not as it was written")
