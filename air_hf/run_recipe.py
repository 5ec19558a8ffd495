"""What a run is, field by field: its data, its folder, what it writes and when, and where it is published."""

from dataclasses import dataclass
from typing import Any, Literal

from air_hf.card_options import HELP, CardOptions
from air_hf.training.fields import IMAGES, NOT_NEGATIVE, POSITIVE, SEED, SHARE, SIZE, THREADS, setting
from air_hf.training.recipe import Recipe


@dataclass
class RunRecipe(Recipe):
    """A run, apart from the model's own fields.

    Raises:
        ValueError: as [`Recipe`].
    """

    variant: str | None = setting(
        None,
        "variant name, e.g. Lx_H, hrm, trm-mlp; any field of AIRConfig can be set beside it (default: Lx_H, or the "
        "model that init_from names)",
        published=True,
    )
    init_from: str | None = setting(
        None,
        "folder or Hub repository of a checkpoint whose model a new run begins with, its weights included",
        may_change=True,
    )
    train_data: str | None = setting(None, "CSV file, or folder with train.csv", may_change=True)
    test_data: str | None = setting(
        None, "CSV file, or folder with test.csv (default: train_data, where it is a folder)", may_change=True
    )
    dataset: str | None = setting(
        None, "data set on the Hub, or a folder of `air-hf data build`, instead of CSV files", may_change=True
    )
    dataset_config: str | None = setting(
        None, "its configuration, e.g. 1k (default: its default one)", may_change=True, published=True
    )
    dataset_revision: str | None = setting(
        None, "its branch, tag or commit (default: main)", may_change=True, published=True
    )
    cache_dir: str | None = setting(
        None, "folder for what is downloaded from the Hub (default: the caches of the Hub's libraries)", may_change=True
    )
    puzzle: str | None = setting(
        None,
        "what the boards are, e.g. sudoku-9x9; grid-3x4 for a puzzle of your own (default: read off the first board)",
        may_change=True,
        published=True,
    )
    symbols: str | None = setting(None, "grid: every symbol of a board (default: those of the data)", published=True)
    givens: str | None = setting(
        None, "grid: the symbol of a cell to fill in; other cells stay as the question has them", published=True
    )
    symmetries: Literal["none", "dihedral"] | None = setting(
        None, "grid: what turns a puzzle into another one of the same kind (default: none)", published=True
    )
    family_options: str | None = setting(None, "options of a family of another package, NAME=VALUE[,NAME=VALUE]")
    train_limit: int = setting(
        0,
        "train on a random sample of this many puzzles, drawn with data_seed; 0 for all",
        NOT_NEGATIVE,
        published=True,
    )
    eval_limit: int = setting(
        0,
        "evaluate on a random sample of this many puzzles, drawn with data_seed; 0 for all",
        NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    data_seed: int = setting(
        0,
        "seed of the samples, apart from `seed` so that runs with other seeds share their data",
        SEED,
        published=True,
    )
    augment: bool = setting(True, "apply a random symmetry to every puzzle each time it is drawn", published=True)
    images_per_puzzle: int = setting(
        0,
        "draw that symmetry from so many fixed images of the puzzle, itself included; 0 for the whole group",
        IMAGES,
        published=True,
    )
    reveal: float = setting(
        0.0,
        "curriculum: show the answer in a random share, up to this, of a puzzle's open cells; the limit falls evenly "
        "to 0 at max_steps",
        SHARE,
        published=True,
    )
    easy_first: float = setting(
        0.0,
        "curriculum: begin with this share of the puzzles, those with the fewest open cells; it grows evenly to all of "
        "them at half of max_steps; 0 for none",
        SHARE,
        published=True,
    )
    output_dir: str = setting("runs/air", "folder for the checkpoint, the metrics and the evaluation", may_change=True)
    resume_from: str | None = setting(
        None,
        "checkpoint folder of an unfinished run of the same recipe; latest: the newest whole one of output_dir, or a "
        "new run where there is none",
        may_change=True,
    )
    max_minutes: float | None = setting(
        None,
        "stop after this many minutes of training in all, if max_steps are not done by then",
        POSITIVE,
        published=True,
        may_change=True,
    )
    num_threads: int | None = setting(
        None,
        "CPU threads of this process (default: the cores shared among the processes)",
        THREADS,
        published=True,
        may_change=True,
        rounds=True,
    )
    collective_timeout: float = setting(
        30.0, "minutes to wait for another process that no longer answers", POSITIVE, may_change=True
    )
    eval_every: int = setting(
        1000, "steps between evaluations; 0 for the end only", NOT_NEGATIVE, published=True, may_change=True
    )
    eval_batch_size: int = setting(256, "boards at a time in evaluation", SIZE, published=True, may_change=True)
    save_every: int = setting(
        0,
        "steps between checkpoints; 0 for evaluations and the end only",
        NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    keep_checkpoints: int = setting(
        2, "checkpoints to keep, the newest; the best one is kept besides", POSITIVE, may_change=True
    )
    push_to_hub: str | None = setting(
        None, "publish the checkpoint as this repository, ORG/NAME, at the end", may_change=True
    )
    push_every: int = setting(
        0, "evaluations between pushes in the background; 0 for the end only", NOT_NEGATIVE, may_change=True
    )
    push_timeout: float = setting(30.0, "minutes after which a push is given up", POSITIVE, may_change=True)
    hub_private_repo: bool = setting(True, "make a new repository private", may_change=True)
    hub_revision: str | None = setting(None, "branch to publish to (default: main)", may_change=True)
    hub_license: str = setting(CardOptions.license, HELP["license"], may_change=True)
    hub_project_url: str | None = setting(None, HELP["project_url"], may_change=True)
    hub_tags: str = setting("", HELP["tags"], may_change=True)
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = setting(
        "none",
        "also send metrics and the recipe to this tracker, through Accelerate; metrics.jsonl is always written",
        may_change=True,
    )
    log_every: int = setting(50, "steps between lines of metrics.jsonl", POSITIVE, published=True, may_change=True)

    def __post_init__(self):
        super().__post_init__()
        if self.push_every and not self.push_to_hub:
            raise ValueError(f"push_every is {self.push_every}, but push_to_hub names no repository")
        self.puzzle_options, self.card_options  # noqa: B018  (a bad one is named before anything is read)
        if self.images_per_puzzle and not self.augment:
            raise ValueError(f"images_per_puzzle is {self.images_per_puzzle}, but augment is off")

    @property
    def settled(self) -> dict[str, Any]:
        return super().settled | ({"max_steps": self.max_steps} if self.reveal or self.easy_first else {})

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
