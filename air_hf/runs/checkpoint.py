"""Checkpoints: a Hub folder (config, weights, tokenizer, code) with the state of training in a subfolder.

The weights of the folder are the evaluated ones (EMA where it is on); `training_state/` holds what is needed to go on.
Nothing is pickled. A checkpoint is written beside its place and renamed, so an old one is whole until a new one is.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from air_hf.evaluation import EvaluationResult
from air_hf.hub import EVALUATION, TRAINING_FACTS, CheckpointError
from air_hf.hub.model_card import write_model_card
from air_hf.modeling import AIRConfig, AIRState
from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer
from air_hf.training.carry import Carry
from air_hf.runs.folder import check_manifest, sync_folder, write_manifest
from air_hf.training.trainer import Trainer
from air_hf.variants import CONFIG_FIELDS

_STATE_FOLDER = "training_state"
# Fields that may change when a run goes on: they do not touch the weights' path, or by rounding only; and the data's
# places, since check_resumption compares the data.
FREE_FIELDS = {"output_dir", "resume_from", "max_minutes", "eval_every", "eval_batch_size", "save_every", "log_every",
               "eval_limit", "test_data", "compile", "num_threads", "push_to_hub", "push_every",
               "hub_private_repo", "keep_checkpoints", "report_to", "max_memory", "accumulation_steps",
               "max_skipped_steps", "train_data", "dataset", "dataset_config", "dataset_revision",
               "puzzle"}  # fmt: skip


def save_checkpoint(
    trainer: Trainer, folder: str | Path, evaluation: EvaluationResult | None = None, facts: dict | None = None
) -> None:
    """Writes the trainer's model and state; every process must call it, the main one writes.

    Args:
        folder (`str` or `Path`): replaced if it exists.
        evaluation ([`EvaluationResult`], *optional*): saved beside the weights.
        facts (`dict`, *optional*): what else `training.json` shall hold, see [`run_facts`].
    """
    tensors, state = _training_state(trainer)
    if not trainer.accelerator.is_main_process:
        return
    folder = Path(folder)
    unfinished, previous = (folder.with_name(f"{folder.name}.{end}") for end in ("part", "previous"))
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write_checkpoint(trainer, unfinished, tensors, state, evaluation, facts)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)  # where the disk is full, it is in the way
        raise
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.replace(folder, previous)
    os.replace(unfinished, folder)
    sync_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _write_checkpoint(
    trainer: Trainer, folder: Path, tensors: dict, state: dict, evaluation: EvaluationResult | None, facts: dict | None
) -> None:
    folder.mkdir(parents=True)
    model = trainer.model
    averaged = contextlib.nullcontext() if trainer.ema is None else trainer.ema.applied_to(model)
    try:
        with averaged:
            model.save_pretrained(folder)
        (folder / _STATE_FOLDER).mkdir()
        save_file(tensors, folder / _STATE_FOLDER / "state.safetensors")
    except SafetensorError as error:  # which a full disk is to this library
        raise OSError(f"the weights cannot be written to {folder.parent}: {error}") from error
    if model.config.puzzle is not None:
        build_tokenizer(get_puzzle(model.config.puzzle)).save_pretrained(folder)
    _write_json(folder / TRAINING_FACTS, {"step": trainer.step, "ema": trainer.args.ema_decay} | (facts or {}))
    if evaluation is not None:
        _write_json(folder / EVALUATION, evaluation.to_dict())
    write_model_card(folder)
    _write_json(folder / _STATE_FOLDER / "state.json", state)
    write_manifest(folder)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _training_state(trainer: Trainer) -> tuple[dict[str, torch.Tensor], dict]:
    tensors = {f"weights.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    adam_steps = {}
    for name, parameter in trainer.model.named_parameters():
        if trainer.ema is not None:
            tensors[f"ema.{name}"] = trainer.ema.averages[name]
        moments = trainer.adam.state.get(parameter)
        if moments:
            adam_steps[name] = moments["steps"]
            tensors[f"adam.{name}.exp_avg"] = moments["exp_avg"]
            tensors[f"adam.{name}.exp_avg_sq"] = moments["exp_avg_sq"]
    if trainer.carry is not None:
        carry = trainer.carry
        slots = {"z_h": carry.state.z_h, "z_l": carry.state.z_l, "num_segments": carry.state.num_segments}
        slots |= {"halted": carry.halted} | {f"batch.{name}": tensor for name, tensor in carry.batch.items()}
        tensors |= {f"carry.{name}": trainer.accelerator.gather(tensor) for name, tensor in slots.items()}
    facts = {
        "step": trainer.step,
        "skipped": trainer.skipped,
        "adam_steps": adam_steps,
        "arguments": dataclasses.asdict(trainer.args),
    }
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, facts


def load_checkpoint(trainer: Trainer, folder: str | Path) -> None:
    """Puts a trainer where [`save_checkpoint`] left another one of the same recipe.

    Raises:
        CheckpointError: the folder or a file is missing or damaged, or the checkpoint is of another model or recipe.
    """
    state_folder = Path(folder) / _STATE_FOLDER
    for name in ("state.json", "state.safetensors"):
        if not (state_folder / name).is_file():
            raise CheckpointError(
                f"{state_folder / name} does not exist; expected a checkpoint folder of a training run"
            )
    check_manifest(Path(folder))
    facts = json.loads((state_folder / "state.json").read_text(encoding="utf-8"))
    theirs = AIRConfig.from_pretrained(folder)
    saved_fields = facts["arguments"] | {name: getattr(theirs, name) for name in CONFIG_FIELDS}
    ours = dataclasses.asdict(trainer.args) | {name: getattr(trainer.model.config, name) for name in CONFIG_FIELDS}
    # A constant learning rate does not depend on where the run ends, so such a run may be lengthened.
    free = FREE_FIELDS | ({"max_steps"} if trainer.args.min_lr_ratio == 1 else set())
    for name in ours:
        if name not in free and saved_fields.get(name) != ours[name]:
            raise CheckpointError(
                f"{folder} was trained with {name}={saved_fields.get(name)!r}; this run has {ours[name]!r}"
            )
    if facts["step"] > trainer.args.max_steps:
        raise CheckpointError(f"{folder} has run {facts['step']} steps; max_steps is {trainer.args.max_steps}")
    tensors = {
        name: tensor.to(trainer.accelerator.device)
        for name, tensor in load_file(state_folder / "state.safetensors").items()
    }
    weights = trainer.model.state_dict()
    for name, weight in weights.items():
        saved = tensors.get(f"weights.{name}")
        if saved is None or saved.shape != weight.shape:
            found = "is missing" if saved is None else f"has shape {tuple(saved.shape)}"
            raise CheckpointError(f"{folder}: weight {name} {found}; this model's has shape {tuple(weight.shape)}")
    trainer.model.load_state_dict({name: tensors[f"weights.{name}"] for name in weights})
    for name, parameter in trainer.model.named_parameters():
        if trainer.ema is not None:
            trainer.ema.averages[name] = tensors[f"ema.{name}"]
        if name in facts["adam_steps"]:
            trainer.adam.state[parameter] = {
                "steps": facts["adam_steps"][name],
                "exp_avg": tensors[f"adam.{name}.exp_avg"],
                "exp_avg_sq": tensors[f"adam.{name}.exp_avg_sq"],
            }
    trainer.step, trainer.skipped = facts["step"], facts["skipped"]
    slots = {name.removeprefix("carry."): tensor for name, tensor in tensors.items() if name.startswith("carry.")}
    if slots:
        size = len(slots["halted"]) // trainer.accelerator.num_processes
        part = slice(trainer.accelerator.process_index * size, (trainer.accelerator.process_index + 1) * size)
        slots = {name: tensor[part] for name, tensor in slots.items()}
        batch = {name.removeprefix("batch."): tensor for name, tensor in slots.items() if name.startswith("batch.")}
        trainer.carry = Carry(AIRState(slots["z_h"], slots["z_l"], slots["num_segments"]), slots["halted"], batch)
