"""What a training run is: a recipe in YAML, overridden by `--field value` on the command line."""

import argparse
import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from transformers import HfArgumentParser

from air_hf.modeling import AIRConfig
from air_hf.recipes import get_recipe, recipe_names

_FROM_DATA = ("vocab_size", "seq_len", "puzzle")


def _arg(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class TrainingArguments:
    """A run, apart from the model's own fields."""

    variant: str = _arg("Lx_H", "variant name, e.g. Lx_H, hrm, trm-mlp; any field of AIRConfig can be set beside it")
    train_data: str | None = _arg(None, "CSV file, or folder with train.csv")
    test_data: str | None = _arg(None, "CSV file, or folder with test.csv (default: train_data, where it is a folder)")
    dataset: str | None = _arg(None, "data set on the Hub, or a folder of `air-hf data build`, instead of CSV files")
    dataset_config: str | None = _arg(None, "its configuration, e.g. 1k (default: its default one)")
    dataset_revision: str | None = _arg(None, "its branch, tag or commit (default: main)")
    puzzle: str | None = _arg(None, "what the boards are, e.g. sudoku-9x9 (default: read off the first board)")
    train_limit: int = _arg(0, "train on a random sample of this many puzzles, drawn with data_seed; 0 for all")
    eval_limit: int = _arg(0, "evaluate on a random sample of this many puzzles, drawn with data_seed; 0 for all")
    data_seed: int = _arg(0, "seed of the samples, apart from `seed` so that runs with other seeds share their data")
    augment: bool = _arg(True, "apply a random symmetry to every puzzle each time it is drawn")
    images_per_puzzle: int = _arg(
        0, "draw that symmetry from so many fixed images of the puzzle, itself included; 0 for the whole group"
    )
    output_dir: str = _arg("runs/air", "folder for the checkpoint, the metrics and the evaluation")
    resume_from: str | None = _arg(
        None,
        "checkpoint folder of an unfinished run of the same recipe; latest: the newest whole one of output_dir, or a "
        "new run where there is none",
    )
    max_steps: int = _arg(10_000, "training steps: one segment of every slot each")
    max_minutes: float | None = _arg(
        None, "stop after this many minutes of training in all, if max_steps are not done by then"
    )
    batch_size: int = _arg(64, "slots, over all processes")
    accumulation_steps: int = _arg(1, "parts in which a process runs its slots, one after another, to save memory")
    max_memory: float | None = _arg(
        None, "GiB a process may use; a run that needs more by the count made at its start is refused, with advice"
    )
    learning_rate: float = _arg(1e-3, "AdamAtan2")
    warmup_steps: int = _arg(100, "steps of linear warm-up; 0 for none")
    min_lr_ratio: float = _arg(1.0, "end of the cosine as a share of the learning rate; 1 for a constant rate")
    weight_decay: float = _arg(0.1, "AdamAtan2, decoupled")
    adam_beta1: float = _arg(0.9, "AdamAtan2")
    adam_beta2: float = _arg(0.95, "AdamAtan2")
    prefix_learning_rate: float = _arg(1e-2, "sign-SGD on the prefix table")
    prefix_weight_decay: float = _arg(0.1, "sign-SGD on the prefix table, decoupled")
    halt_exploration_prob: float = _arg(0.1, "share of slots that must run a random number of segments")
    max_skipped_steps: int = _arg(0, "steps with a gradient that is not finite to leave out before the run stops")
    ema_decay: float = _arg(0.999, "decay of the average of the weights that is evaluated and saved; 0 for none")
    mixed_precision: Literal["no", "bf16"] | None = _arg(
        None, "bf16: bfloat16 forward over float32 weights (default: as launched)"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = _arg(
        "auto", "attention backend; auto: eager on CPU, where it trains faster, sdpa elsewhere"
    )
    compile: Literal["auto", "on", "off"] = _arg(
        "auto", "torch.compile of the networks; auto: on, except on a CPU without a C++ compiler, which it needs"
    )
    num_threads: int | None = _arg(None, "CPU threads of this process (default: the cores shared among the processes)")
    eval_every: int = _arg(1000, "steps between evaluations; 0 for the end only")
    eval_batch_size: int = _arg(256, "boards at a time in evaluation")
    save_every: int = _arg(0, "steps between checkpoints; 0 for evaluations and the end only")
    keep_checkpoints: int = _arg(2, "checkpoints to keep, the newest; the best one is kept besides")
    push_to_hub: str | None = _arg(None, "publish the checkpoint as this repository, ORG/NAME, at the end")
    push_every: int = _arg(0, "evaluations between pushes in the background; 0 for the end only")
    hub_private_repo: bool = _arg(True, "make a new repository private")
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = _arg(
        "none", "also send metrics and the recipe to this tracker, through Accelerate; metrics.jsonl is always written"
    )
    log_every: int = _arg(50, "steps between lines of metrics.jsonl")
    seed: int = _arg(0, "weights, order of the data, symmetries and exploration")

    def __post_init__(self):
        positive = ("max_steps", "batch_size", "learning_rate", "eval_batch_size", "log_every", "keep_checkpoints",
                    "accumulation_steps")  # fmt: skip
        not_negative = ("warmup_steps", "weight_decay", "prefix_learning_rate", "prefix_weight_decay", "eval_every",
                        "save_every", "seed", "data_seed", "train_limit", "eval_limit",
                        "images_per_puzzle", "push_every", "max_skipped_steps")  # fmt: skip
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in not_negative:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        for name in ("min_lr_ratio", "halt_exploration_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        for name in ("max_minutes", "num_threads", "max_memory"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is more than max_steps ({self.max_steps})")
        if self.batch_size % self.accumulation_steps:
            steps = self.accumulation_steps
            raise ValueError(f"batch_size ({self.batch_size}) is not a multiple of accumulation_steps ({steps})")


def _plain_type(annotation):
    """The type of a config field as a parser wants it: `float | int` is a number, `int | None` an int."""
    if isinstance(annotation, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return float if float in members else members[0]
    return annotation


def _model_arguments() -> type:
    """A dataclass of the fields of AIRConfig that are not read off the data, None meaning "as the variant has it"."""
    fields = [
        (name, _plain_type(annotation) | None, field(default=None, metadata={"help": "model; see AIRConfig"}))
        for name, annotation in AIRConfig.__annotations__.items()
        if name not in _FROM_DATA
    ]
    return dataclasses.make_dataclass("ModelArguments", fields)


def parse_arguments(
    argv: list[str] | None = None, description: str = "", with_data: bool = True
) -> tuple[TrainingArguments, dict]:
    """Reads `--config RECIPE.yaml` and overrides.

    Args:
        argv (`list[str]`, *optional*): command line; that of the process if None.
        description (`str`): for `--help`.
        with_data (`bool`): whether the run's data must be named and here.

    Returns:
        the arguments, and the model's fields that were set.

    Raises:
        SystemExit: an unknown field, a value of the wrong type, or fields that contradict one another; the message
            names them.
    """
    usage = "%(prog)s --config RECIPE.yaml [--field value ...]"
    types_ = [TrainingArguments, _model_arguments()]
    parser = HfArgumentParser(types_, description=description, usage=usage, allow_abbrev=False)
    parser.add_argument("--config", help="recipe: a YAML file of the fields below, or a name of `air-hf recipes`")
    selector = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    selector.add_argument("--config")
    chosen, overrides = selector.parse_known_args(argv)
    recipe = _read_recipe(chosen.config, parser) if chosen.config else []
    try:
        arguments, model, *_, unknown = parser.parse_args_into_dataclasses(
            recipe + overrides, return_remaining_strings=True
        )
    except ValueError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    problem = _find_problem(arguments) if with_data else None
    if problem:
        parser.error(problem)
    if arguments.train_data and arguments.test_data is None:
        arguments.test_data = arguments.train_data
    return arguments, {name: value for name, value in vars(model).items() if value is not None}


def _find_problem(arguments: TrainingArguments) -> str | None:
    """What is wrong among fields that depend on one another, if anything."""
    train_data, test_data = arguments.train_data, arguments.test_data
    if arguments.dataset:
        if train_data:
            return f"both train_data ({train_data}) and dataset ({arguments.dataset}) are given; choose one"
    elif train_data is None:
        return "train_data is missing: a CSV file, or a folder with train.csv; or name a dataset on the Hub"
    elif test_data is None and not Path(train_data).is_dir():
        return f"test_data is missing, and train_data ({train_data}) is not a folder with test.csv"
    if arguments.push_every and not arguments.push_to_hub:
        return f"push_every is {arguments.push_every}, but push_to_hub names no repository"
    if arguments.images_per_puzzle and not arguments.augment:
        return f"images_per_puzzle is {arguments.images_per_puzzle}, but augment is off"
    return None


def _read_recipe(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """A recipe as command-line words, so that types are checked in one place."""
    path = Path(name)
    if not path.is_file() and name in recipe_names():
        return _recipe_words(get_recipe(name), name, parser)
    if not path.is_file():
        parser.error(f"recipe {path} does not exist, and `air-hf recipes` has none of that name")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"recipe {path} is not YAML: {error}")
    return _recipe_words(recipe, name, parser)


def _recipe_words(recipe, path: str, parser: argparse.ArgumentParser) -> list[str]:
    if not isinstance(recipe, dict):
        parser.error(f"recipe {path} holds {type(recipe).__name__}; expected fields, one `name: value` a line")
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    unknown = sorted(set(map(str, recipe)) - known.keys())
    if unknown:
        parser.error(f"recipe {path}: unknown fields {', '.join(unknown)}; known fields: {', '.join(sorted(known))}")
    words = []
    for name, value in recipe.items():
        if value is None and known[name].default is not None:
            parser.error(f"recipe {path}: {name} has no value; leave the line out, or give the field's off value")
        if value is not None:
            words += [f"--{name}", _recipe_word(value, known[name].choices)]
    return words


def _recipe_word(value, choices) -> str:
    """A value as typed on a command line; YAML 1.1 reads a bare on, off, yes or no as a truth value."""
    if isinstance(value, bool) and choices:
        return next((word for word in (("on", "yes") if value else ("off", "no")) if word in choices), str(value))
    return str(value)
