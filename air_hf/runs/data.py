"""The puzzles of a run or an evaluation, and what may be said about where they came from."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from air_hf.data import PuzzleSet, PuzzleStream, load_published, load_puzzles
from air_hf.evaluation import bare_name
from air_hf.puzzles import Puzzle
from air_hf.run_recipe import RunRecipe


@dataclass(frozen=True)
class Source:
    """Where puzzles came from, without a path of this machine.

    Args:
        puzzles ([`PuzzleSet`]): the puzzles.
        dataset (`str`, *optional*): their repository on the Hub; None for files, and for a folder of that name.
        dataset_config, dataset_revision (`str`, *optional*): its configuration and its commit.
        split (`str`): which split it is.
        whole_split (`bool`): whether the puzzles are all of it.
    """

    puzzles: PuzzleSet = field(repr=False)
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    split: str = "test"
    whole_split: bool = True

    @property
    def name(self) -> str:
        """The data set's or the file's name, and which part of it."""
        return self.puzzles.source if self.dataset else bare_name(self.puzzles.source)

    def sample(self, count: int | None, seed: int) -> "Source":
        """`count` of the puzzles, all if there is no `count`; see [`PuzzleSet.sample`]."""
        if not count:
            return self
        fields = {**vars(self), "puzzles": self.puzzles.sample(count, seed)}
        return Source(**fields | {"whole_split": self.whole_split and count == len(self.puzzles)})

    def origin(self) -> dict[str, Any]:
        """What a score is recorded with: `data`, `data_sha256`, and the data set's fields."""
        fields = {name: value for name, value in vars(self).items() if name != "puzzles"}
        return {"data": self.name, "data_sha256": self.puzzles.sha256()} | fields

    def facts(self) -> dict[str, Any]:
        """What `training.json` records of the puzzles."""
        origin = self.origin()
        named = {"name": origin.pop("data"), "sha256": origin.pop("data_sha256")}
        puzzle = self.puzzles.puzzle
        example = puzzle.format(self.puzzles.questions[0])
        return {"puzzle": puzzle.name, "puzzles": len(self.puzzles), "example": example} | named | origin


def load_files(path: str, puzzle: str | Puzzle | None, split: str, options: dict[str, str] | None = None) -> Source:
    """Puzzles of a CSV file, or of `{split}.csv` of a folder; see [`load_puzzles`]."""
    return Source(load_puzzles(path, puzzle, split, options), split=split)


def load_repository(
    name: str,
    config: str | None,
    split: str,
    revision: str | None = None,
    puzzle: str | Puzzle | None = None,
    options: dict[str, str] | None = None,
    cache_dir: str | None = None,
) -> Source:
    """Puzzles of a data set on the Hub, with the commit that was loaded, or of a folder that `air-hf data build` made.

    Where the Hub is out of reach and the cache serves, the commit is that of the cache. A warning says so where it is
    unknown.
    """
    puzzles = load_published(name, config, split, revision, puzzle, options, cache_dir)
    if Path(name).exists():
        return Source(puzzles, split=split)
    if puzzles.commit is None:
        warnings.warn(f"{puzzles.source}: which commit of it was loaded is unknown, and not recorded", stacklevel=2)
    return Source(puzzles, name, config, puzzles.commit, split)


def load_data(recipe: RunRecipe) -> tuple[Source, Source]:
    """Train and test puzzles, sampled as the recipe asks."""
    options = recipe.puzzle_options
    if recipe.dataset:
        place = (recipe.dataset_config, recipe.dataset_revision)
        train = load_repository(recipe.dataset, place[0], "train", place[1], recipe.puzzle, options, recipe.cache_dir)
    else:
        train = load_files(recipe.train_data, recipe.puzzle, "train", options)
    puzzle = train.puzzles.puzzle
    if recipe.test_data:
        test = load_files(recipe.test_data, puzzle, "test")
    else:
        revision = train.dataset_revision or recipe.dataset_revision  # the same commit, whatever is pushed meanwhile
        test = load_repository(
            recipe.dataset, recipe.dataset_config, "test", revision, puzzle, cache_dir=recipe.cache_dir
        )
    return train.sample(recipe.train_limit, recipe.data_seed), test.sample(recipe.eval_limit, recipe.data_seed)


def make_stream(puzzles: PuzzleSet, recipe: RunRecipe) -> PuzzleStream:
    """The batches that a run of this recipe trains on."""
    return PuzzleStream(
        puzzles,
        recipe.batch_size,
        recipe.seed,
        recipe.augment,
        recipe.images_per_puzzle,
        recipe.reveal,
        recipe.max_steps,
        recipe.easy_first,
    )
