"""What a training run is, field by field: default, range, whether it may change on resume, whether it is published."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from air_hf.card_options import HELP, CardOptions


class Range(NamedTuple):
    """The values a field may have.

    Args:
        holds (`Callable`): whether a value is one of them.
        words (`str`): which they are, as the end of "it must …".
    """

    holds: Callable[[float], bool]
    words: str


_POSITIVE = Range(lambda value: value > 0, "be positive")
_NOT_NEGATIVE = Range(lambda value: value >= 0, "not be negative")
_DECAY = Range(lambda value: 0 <= value < 1, "be at least 0 and less than 1")
_SHARE = Range(lambda value: 0 <= value <= 1, "lie between 0 and 1")
_SEED = Range(lambda value: 0 <= value < 2**32, "not be negative, and less than 2**32")


def _field(
    default,
    help: str,
    range: Range | None = None,
    *,
    published: bool = False,
    may_change: bool = False,
    rounds: bool = False,
):
    """A field that describes itself.

    Args:
        default: its value where nothing is said.
        help (`str`): units, and the value that turns it off.
        range ([`Range`], *optional*): the values it may have; None of an optional field is always one.
        published (`bool`): whether `training.json` and the card may show it; what is on one machine only may not.
        may_change (`bool`): whether it may differ when a run goes on.
        rounds (`bool`): whether that changes the order of sums, and with it the last digits.
    """
    metadata = {"help": help, "range": range, "published": published, "may_change": may_change, "rounds": rounds}
    return field(default=default, metadata=metadata)


@dataclass
class Recipe:
    """A run, apart from the model's own fields.

    Raises:
        ValueError: a value of the wrong type or out of its range, or fields that contradict one another; the message
            names them.
    """

    variant: str | None = _field(
        None,
        "variant name, e.g. Lx_H, hrm, trm-mlp; any field of AIRConfig can be set beside it (default: Lx_H, or the "
        "model that init_from names)",
        published=True,
    )
    init_from: str | None = _field(
        None,
        "folder or Hub repository of a checkpoint whose model a new run begins with, its weights included",
        may_change=True,
    )
    train_data: str | None = _field(None, "CSV file, or folder with train.csv", may_change=True)
    test_data: str | None = _field(
        None, "CSV file, or folder with test.csv (default: train_data, where it is a folder)", may_change=True
    )
    dataset: str | None = _field(
        None, "data set on the Hub, or a folder of `air-hf data build`, instead of CSV files", may_change=True
    )
    dataset_config: str | None = _field(
        None, "its configuration, e.g. 1k (default: its default one)", may_change=True, published=True
    )
    dataset_revision: str | None = _field(
        None, "its branch, tag or commit (default: main)", may_change=True, published=True
    )
    cache_dir: str | None = _field(
        None, "folder for what is downloaded from the Hub (default: the caches of the Hub's libraries)", may_change=True
    )
    puzzle: str | None = _field(
        None,
        "what the boards are, e.g. sudoku-9x9; grid-3x4 for a puzzle of your own (default: read off the first board)",
        may_change=True,
        published=True,
    )
    symbols: str | None = _field(None, "grid: every symbol of a board (default: those of the data)", published=True)
    givens: str | None = _field(
        None, "grid: the symbol of a cell to fill in; other cells stay as the question has them", published=True
    )
    symmetries: Literal["none", "dihedral"] | None = _field(
        None, "grid: what turns a puzzle into another one of the same kind (default: none)", published=True
    )
    family_options: str | None = _field(None, "options of a family of another package, NAME=VALUE[,NAME=VALUE]")
    train_limit: int = _field(
        0,
        "train on a random sample of this many puzzles, drawn with data_seed; 0 for all",
        _NOT_NEGATIVE,
        published=True,
    )
    eval_limit: int = _field(
        0,
        "evaluate on a random sample of this many puzzles, drawn with data_seed; 0 for all",
        _NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    data_seed: int = _field(
        0,
        "seed of the samples, apart from `seed` so that runs with other seeds share their data",
        _SEED,
        published=True,
    )
    augment: bool = _field(True, "apply a random symmetry to every puzzle each time it is drawn", published=True)
    images_per_puzzle: int = _field(
        0,
        "draw that symmetry from so many fixed images of the puzzle, itself included; 0 for the whole group",
        _NOT_NEGATIVE,
        published=True,
    )
    output_dir: str = _field("runs/air", "folder for the checkpoint, the metrics and the evaluation", may_change=True)
    resume_from: str | None = _field(
        None,
        "checkpoint folder of an unfinished run of the same recipe; latest: the newest whole one of output_dir, or a "
        "new run where there is none",
        may_change=True,
    )
    max_steps: int = _field(10_000, "training steps: one segment of every slot each", _POSITIVE, published=True)
    max_minutes: float | None = _field(
        None,
        "stop after this many minutes of training in all, if max_steps are not done by then",
        _POSITIVE,
        published=True,
        may_change=True,
    )
    batch_size: int = _field(64, "slots, over all processes", _POSITIVE, published=True)
    accumulation_steps: int = _field(
        1,
        "parts in which a process runs its slots, one after another, to save memory",
        _POSITIVE,
        published=True,
        may_change=True,
        rounds=True,
    )
    max_memory: float | None = _field(
        None,
        "GiB a process may use; a run that needs more by the count made at its start is refused, with advice",
        _POSITIVE,
        may_change=True,
    )
    optimizer: Literal["adam_atan2", "adamw", "muon"] = _field(
        "adam_atan2",
        "of all weights but the prefix table; muon: of the matrices, and adamw of the rest",
        published=True,
    )
    learning_rate: float = _field(1e-3, "of all weights but the prefix table", _POSITIVE, published=True)
    muon_learning_rate: float | None = _field(
        None,
        "muon: of the matrices, whose updates have the size of AdamW's (default: learning_rate)",
        _POSITIVE,
        published=True,
    )
    warmup_steps: int = _field(100, "steps of linear warm-up; 0 for none", _NOT_NEGATIVE, published=True)
    min_lr_ratio: float = _field(
        1.0, "end of the cosine as a share of the learning rate; 1 for a constant rate", _SHARE, published=True
    )
    weight_decay: float = _field(0.1, "decoupled; times the learning rate", _NOT_NEGATIVE, published=True)
    decay: Literal["all", "matrices"] = _field(
        "all", "what weight_decay applies to: all weights, or no embeddings, biases and tokens", published=True
    )
    adam_beta1: float = _field(0.9, "adam_atan2 and adamw", _DECAY, published=True)
    adam_beta2: float = _field(0.95, "adam_atan2 and adamw", _DECAY, published=True)
    muon_momentum: float = _field(0.95, "muon", _DECAY, published=True)
    max_grad_norm: float = _field(
        0.0,
        "clip the gradient of all weights but the prefix table to this norm; 0 for off",
        _NOT_NEGATIVE,
        published=True,
    )
    prefix_learning_rate: float = _field(1e-2, "sign-SGD on the prefix table", _NOT_NEGATIVE, published=True)
    prefix_weight_decay: float = _field(0.1, "sign-SGD on the prefix table, decoupled", _NOT_NEGATIVE, published=True)
    halt_exploration_prob: float = _field(
        0.1, "share of slots that must run a random number of segments", _SHARE, published=True
    )
    slots_out_of_step: bool = _field(
        False, "let every slot's first puzzle end after another number of segments, so that slots do not halt together",
        published=True,
    )  # fmt: skip
    max_skipped_steps: int = _field(
        0,
        "steps with a gradient that is not finite to leave out before the run stops",
        _NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    ema_decay: float = _field(
        0.999, "decay of the average of the weights that is evaluated and saved; 0 for none", _DECAY, published=True
    )
    mixed_precision: Literal["auto", "no", "bf16"] | None = _field(
        None,
        "bf16: bfloat16 forward over float32 weights; auto: where the device has units for it (default: as launched)",
        published=True,
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = _field(
        "auto", "attention backend; auto: eager on CPU, where it trains faster, sdpa elsewhere", published=True
    )
    compile: Literal["auto", "on", "off"] = _field(
        "auto",
        "torch.compile of the networks; auto: on, except on a CPU without a C++ compiler, which it needs",
        published=True,
        may_change=True,
        rounds=True,
    )
    num_threads: int | None = _field(
        None,
        "CPU threads of this process (default: the cores shared among the processes)",
        _POSITIVE,
        published=True,
        may_change=True,
        rounds=True,
    )
    collective_timeout: float = _field(
        30.0, "minutes to wait for another process that no longer answers", _POSITIVE, may_change=True
    )
    eval_every: int = _field(
        1000, "steps between evaluations; 0 for the end only", _NOT_NEGATIVE, published=True, may_change=True
    )
    eval_batch_size: int = _field(256, "boards at a time in evaluation", _POSITIVE, published=True, may_change=True)
    save_every: int = _field(
        0,
        "steps between checkpoints; 0 for evaluations and the end only",
        _NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    keep_checkpoints: int = _field(
        2, "checkpoints to keep, the newest; the best one is kept besides", _POSITIVE, may_change=True
    )
    push_to_hub: str | None = _field(
        None, "publish the checkpoint as this repository, ORG/NAME, at the end", may_change=True
    )
    push_every: int = _field(
        0, "evaluations between pushes in the background; 0 for the end only", _NOT_NEGATIVE, may_change=True
    )
    push_timeout: float = _field(30.0, "minutes after which a push is given up", _POSITIVE, may_change=True)
    hub_private_repo: bool = _field(True, "make a new repository private", may_change=True)
    hub_revision: str | None = _field(None, "branch to publish to (default: main)", may_change=True)
    hub_license: str = _field(CardOptions.license, HELP["license"], may_change=True)
    hub_project_url: str | None = _field(None, HELP["project_url"], may_change=True)
    hub_tags: str = _field("", HELP["tags"], may_change=True)
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = _field(
        "none",
        "also send metrics and the recipe to this tracker, through Accelerate; metrics.jsonl is always written",
        may_change=True,
    )
    log_every: int = _field(50, "steps between lines of metrics.jsonl", _POSITIVE, published=True, may_change=True)
    seed: int = _field(0, "weights, order of the data, symmetries and exploration", _SEED, published=True)

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            _check(entry.name, getattr(self, entry.name), hints[entry.name], entry.metadata["range"])
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is more than max_steps ({self.max_steps})")
        if self.batch_size % self.accumulation_steps:
            steps = self.accumulation_steps
            raise ValueError(f"batch_size ({self.batch_size}) is not a multiple of accumulation_steps ({steps})")
        if self.push_every and not self.push_to_hub:
            raise ValueError(f"push_every is {self.push_every}, but push_to_hub names no repository")
        self.puzzle_options, self.card_options  # noqa: B018  (a bad one is named before anything is read)
        if self.images_per_puzzle and not self.augment:
            raise ValueError(f"images_per_puzzle is {self.images_per_puzzle}, but augment is off")

    def marked(self, mark: str) -> dict[str, Any]:
        """The fields whose metadata say `mark` ("published", "may_change", "rounds"), and their values."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.metadata[mark]}

    @property
    def settled(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before: what decides its weights' path."""
        free = set(self.marked("may_change"))
        # A constant learning rate does not depend on where the run ends, so such a run may be lengthened.
        if self.min_lr_ratio == 1:
            free.add("max_steps")
        return {name: value for name, value in vars(self).items() if name not in free}

    @property
    def card_options(self) -> CardOptions:
        """What the card of a published checkpoint is told."""
        return CardOptions(self.hub_license, self.hub_project_url, self.hub_tags)

    @property
    def puzzle_options(self) -> dict[str, str]:
        """What the family of `puzzle` is told besides its size."""
        options = {"symbols": self.symbols, "givens": self.givens, "symmetries": self.symmetries}
        for pair in self.family_options.split(",") if self.family_options else ():
            name, equals, value = pair.partition("=")
            if not (name and equals):
                raise ValueError(f"family_options is {self.family_options!r}; expected NAME=VALUE[,NAME=VALUE]")
            options[name] = value
        return {name: value for name, value in options.items() if value is not None}


def plain_type(hint) -> tuple[Any, bool]:
    """A field's type as a parser wants it, and whether it may be None: `int | None` is int, `float | int` is float."""
    if not isinstance(hint, types.UnionType) and typing.get_origin(hint) is not typing.Union:
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    return float if float in members else members[0], types.NoneType in typing.get_args(hint)


def _check(name: str, value, hint, range: Range | None) -> None:
    expected, optional = plain_type(hint)
    if value is None and optional:
        return
    if choices := typing.get_args(expected):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
        return
    allowed = (int, float) if expected is float else expected
    if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{name} is {value!r}; it must be of type {expected.__name__}")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{name} is {value!r}; it must not hold a NUL character")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number")
    if range is not None and not range.holds(value):
        raise ValueError(f"{name} is {value}; it must {range.words}")
