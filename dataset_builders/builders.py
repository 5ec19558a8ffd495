"""Data sets of puzzles as `datasets` builders, from the Hub, from CSV files or from a seed.

    builder = builder_of("sudoku")("1k", source="csv", path="data/sudoku-hard")
    builder.download_and_prepare()
    train = builder.as_dataset("train")

Every source becomes a `train.csv` and a `test.csv`. They are read twice, block by block: once to check every row and to
choose rows, once to write them, so that memory does not grow with the files. Axis letters: N rows, S cells.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import datasets
import numpy as np
import pyarrow as pa
from huggingface_hub import HfApi, hf_hub_download
from tqdm import tqdm

from air_hf.dataset_builders.generate import COLUMNS, SPLITS, generate_split, load_part, make_generator, write_split
from air_hf.files import atomic_folder, sha256, sole_writer
from air_hf.hub.transfer import READ_ERRORS, describe_error
from air_hf.puzzles import Puzzle, PuzzleError, complete_options, find_family, get_puzzle
from air_hf.puzzles.augmentation import FixedImages
from air_hf.puzzles.reading import (
    DataError,
    RowErrors,
    check_boards,
    check_columns,
    check_puzzle_ids,
    read_csv,
    read_header,
    sample_rows,
)

_TABLE_ROWS = 10_000
_SHOWN_ERRORS = 100


@dataclass
class PuzzleDataConfig(datasets.BuilderConfig):
    """What to build.

    Args:
        source (`str`): "hub" (the published files), "csv" (local files of the same columns) or "generate".
        path (`str`, *optional*): folder of `train.csv` and `test.csv`, for "csv".
        revision (`str`): branch, tag or commit of the Hub's data set; the commit it stands for is recorded.
        puzzle (`str`): family and size of the boards.
        puzzle_options (`dict[str, str]`): what the family needs besides, less what it can read off the files.
        seed (`int`): of the subset, the images and the generator.
        subsample_size (`int`, *optional*): train puzzles to draw; all of them if None.
        images_per_puzzle (`int`): rows of each train puzzle, itself included; see [`FixedImages`].
        min_difficulty (`float`, *optional*): least `rating` of train and test puzzles.
        on_error (`str`): "stop" at a bad row, or "skip" it and count it.
        check_unique (`bool`): a question without exactly one solution is a bad row.
        num_train, num_test (`int`): puzzles to generate.
        generator (`dict`): options of the family's generator.
        max_seconds (`float`, *optional*): give up generating after so long.
    """

    source: Literal["hub", "csv", "generate"] = "hub"
    path: str | None = None
    revision: str = "main"
    puzzle: str | None = None
    puzzle_options: dict = field(default_factory=dict)
    seed: int = 0
    subsample_size: int | None = None
    images_per_puzzle: int = 1
    min_difficulty: float | None = None
    on_error: Literal["stop", "skip"] = "stop"
    check_unique: bool = False
    num_train: int = 1000
    num_test: int = 1000
    generator: dict = field(default_factory=dict)
    max_seconds: float | None = None

    def check(self) -> None:
        """Refuses what cannot be built.

        Raises:
            DataError: naming the field, its value and what was expected.
        """
        for name, allowed in (("source", ("hub", "csv", "generate")), ("on_error", ("stop", "skip"))):
            if getattr(self, name) not in allowed:
                raise DataError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if (self.source == "csv") != (self.path is not None):
            raise DataError(
                f"path is {self.path!r} with source {self.source!r}; source csv needs it, the others do not"
            )
        least = {"subsample_size": 1, "images_per_puzzle": 1, "num_train": 1, "num_test": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise DataError(f"{name} is {getattr(self, name)}; it must be at least {bound}")
        if self.puzzle is None:
            raise DataError('puzzle is missing; say what the boards are, e.g. "grid-3x4"')
        if self.generator and self.source != "generate":
            raise DataError(f"generator options {sorted(self.generator)} mean nothing with source {self.source!r}")


@dataclass(frozen=True)
class Plan:
    """The rows of one split, chosen and checked before anything is written.

    Args:
        path (`Path`): the CSV file.
        starts (`list[tuple[int, int]]`): `(first row, byte)` of every block that has a chosen row.
        rows (`list` of integer arrays): the chosen rows of each of these blocks, counted from 0 in the file.
        ratings (float array of shape `(N,)`): of the chosen rows.
        available (`int`): good rows of the file.
        images (`int`): rows of the data set for each chosen row.
        skipped (`list[str]`): why other rows were left out.
    """

    path: Path
    starts: list
    rows: list
    ratings: np.ndarray
    available: int
    images: int
    skipped: list[str]

    @property
    def num_rows(self) -> int:
        """Rows the data set will have."""
        return len(self.ratings) * self.images


class PuzzleBuilder(datasets.ArrowBasedBuilder):
    """A family's data sets; `facts` records how the data came about, once they are planned.

    This class builds any family from CSV files; one of a family's own says where else its puzzles come from.
    """

    BUILDER_CONFIG_CLASS = PuzzleDataConfig
    BUILDER_CONFIGS: ClassVar = [PuzzleDataConfig("full", description="every puzzle")]
    FAMILY: ClassVar[str | None] = None  # any, if None
    HUB_REPO: ClassVar[str | None] = None
    DESCRIPTION: ClassVar[str] = ""  # of what the Hub has
    PUBLISHED_RATING: ClassVar[str] = ""  # what `rating` counts there
    CITATION: ClassVar[str] = ""

    def __init__(self, config_name: str | None = None, *, cache_dir: str | None = None, **kwargs):
        self._given_cache_dir = cache_dir
        super().__init__(config_name=config_name, cache_dir=cache_dir, dataset_name=type(self).__name__, **kwargs)

    def measure(self, questions: np.ndarray) -> dict[str, np.ndarray]:
        """What the card shows the distribution of, besides the rating: name to numbers (N,) of questions (N, S)."""
        return {}

    def limits(self) -> str:
        """What the card says that these puzzles are not good for."""
        return "Sets of different symmetry classes are told apart by hashes, which never miss two puzzles of one class."

    def _create_builder_config(self, *args, **kwargs):
        config, config_id = super()._create_builder_config(*args, **kwargs)
        config.check()
        family = get_puzzle(config.puzzle, **self._puzzle_options(config)).family
        if self.FAMILY not in (None, family):
            raise DataError(f"puzzle is {config.puzzle}, but {type(self).__name__} holds {self.FAMILY} puzzles")
        if config.source == "hub" and self.HUB_REPO is None:
            raise DataError(f"no {family} puzzles are known on the Hub; expected source csv or generate")
        if config.source == "csv":  # a changed file is another data set, not a cached one
            config_id += f"-{_digest(json.dumps([_file_facts(path) for path in self._local_files(config)]))[:16]}"
        return config, config_id

    def _info(self) -> datasets.DatasetInfo:
        tokens = datasets.Sequence(datasets.Value("uint8"), length=self.puzzle.num_cells)
        features = {
            "source": datasets.Value("string"),
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "rating": datasets.Value("float32"),
            "input_ids": tokens,
            "labels": tokens,
        }
        if self._has_ids:
            features["puzzle_id"] = datasets.Value("int32")
        published = self.config.source == "hub"
        return datasets.DatasetInfo(
            description=self.DESCRIPTION if published else self.puzzle.description,
            features=datasets.Features(features),
            citation=self.CITATION if published else "",
            homepage=f"https://huggingface.co/datasets/{self.HUB_REPO}" if published else "",
        )

    @functools.cached_property
    def puzzle(self) -> Puzzle:
        return get_puzzle(self.config.puzzle, **self._puzzle_options(self.config))

    def _puzzle_options(self, config: PuzzleDataConfig) -> dict[str, str]:
        """The options of the configuration and what the family reads off local files."""
        return complete_options(config.puzzle, config.puzzle_options, self._local_boards(config))

    def _local_boards(self, config: PuzzleDataConfig) -> Iterator[str]:
        for path in self._local_files(config) if config.source == "csv" else ():
            check_columns(read_header(path), str(path))
            for block in read_csv(path):
                yield from (text for name in ("question", "answer") for text in block.columns[name] if text)

    @functools.cached_property
    def _has_ids(self) -> bool:
        """Whether the puzzles carry a `puzzle_id`, which only local files do."""
        files = self._local_files(self.config) if self.config.source == "csv" else ()
        return any("puzzle_id" in read_header(path) for path in files)

    @staticmethod
    def _local_files(config: PuzzleDataConfig) -> list[Path]:
        return [Path(config.path) / f"{split}.csv" for split in SPLITS]

    @functools.cached_property
    def _source(self) -> tuple[dict[str, Path], dict]:
        """The CSV file of each split, and where they came from."""
        config = self.config
        if config.source == "csv":
            files = self._local_files(config)
            facts = {"kind": "csv"}
        elif config.source == "hub":
            try:
                commit = HfApi(token=self.token).dataset_info(self.HUB_REPO, revision=config.revision).sha
                files = [
                    Path(hf_hub_download(self.HUB_REPO, f"{split}.csv", repo_type="dataset", revision=commit,
                                         cache_dir=self._given_cache_dir))
                    for split in SPLITS
                ]  # fmt: skip
            except READ_ERRORS as error:
                raise DataError(f"data set {self.HUB_REPO} cannot be read ({describe_error(error)})") from error
            facts = {"kind": "hub", "repository": self.HUB_REPO, "revision": commit}
        else:
            facts = {"kind": "generate", "puzzle": config.puzzle, "seed": config.seed, "options": config.generator}
            counts = {"num_train": config.num_train, "num_test": config.num_test}
            asked = facts | counts | ({"puzzle_options": self.puzzle.options} if self.puzzle.options else {})
            folder = Path(self._cache_dir_root) / "air-hf-generated" / _digest(json.dumps(asked))[:16]
            folder.parent.mkdir(parents=True, exist_ok=True)
            with sole_writer(folder.with_name(f"{folder.name}.generator"), wait=True):  # others take what it drew
                if not folder.is_dir():
                    options = counts | config.generator | {"seed": config.seed, "max_seconds": config.max_seconds}
                    split = generate_split(self.puzzle, **options)
                    with atomic_folder(folder) as unfinished:
                        write_split(unfinished, self.puzzle, split, config.seed, config.generator)
            files = [folder / f"{split}.csv" for split in SPLITS]
        files = dict(zip(SPLITS, files, strict=True))
        return files, facts | {"files": {split: _file_facts(path) for split, path in files.items()}}

    @functools.cached_property
    def plans(self) -> dict[str, Plan]:
        """Every split, its rows checked and chosen; reads the files once.

        Raises:
            DataError: a bad file or row, no row left, or a subset larger than the file.
        """
        return {split: self._plan(split, path) for split, path in self._source[0].items()}

    def _plan(self, split: str, path: Path) -> Plan:
        config, generator = self.config, make_generator(self.puzzle) if self.config.check_unique else None
        check_columns(read_header(path), str(path), exactly=COLUMNS)
        errors = RowErrors(skip=config.on_error == "skip")
        starts, good, ratings = [], [], []
        with tqdm(total=path.stat().st_size, unit="B", unit_scale=True, delay=2, desc=f"checking {path.name}") as bar:
            for block in read_csv(path):

                def place(index: int, first: int = block.first) -> str:
                    return f"{path}, row {first + index}"

                columns = block.columns
                questions, _, fine = check_boards(self.puzzle, columns["question"], columns["answer"], place, errors)
                rating = np.full(len(block), np.nan, dtype=np.float32)
                for index in np.flatnonzero(fine):
                    try:
                        rating[index] = _parse_rating(columns["rating"][index])
                        if generator and (count := generator.count_solutions(questions[index])) != 1:
                            raise PuzzleError(f"the question has {'more than one' if count else 'no'} solution")
                    except PuzzleError as error:
                        errors.add(f"{place(index)}: {error}", error)
                        fine[index] = False
                check_puzzle_ids(columns.get("puzzle_id"), place, errors, fine)
                starts.append((block.first, block.offset))
                good.append((block.first - 1 + np.flatnonzero(fine)).astype(np.int32))
                ratings.append(rating[fine])
                bar.update(block.offset - bar.n)
            bar.update(path.stat().st_size - bar.n)
        return self._choose(split, path, starts, good, ratings, errors)

    def _choose(self, split: str, path: Path, starts: list, good: list, ratings: list, errors: RowErrors) -> Plan:
        """Applies the least difficulty to the good rows, then draws the subset."""
        config = self.config
        rows = np.concatenate([np.empty(0, dtype=np.int32), *good])
        rating = np.concatenate([np.empty(0, dtype=np.float32), *ratings])
        if config.min_difficulty is not None:
            hard = rating >= config.min_difficulty
            rows, rating = rows[hard], rating[hard]
        if not len(rows):
            least = "" if config.min_difficulty is None else f" with a rating of at least {config.min_difficulty}"
            raise DataError(f"{path} holds no puzzles{least}")
        available, training = len(rows), split == "train"
        if training and config.subsample_size is not None:
            if config.subsample_size > available:
                whole = [known.name for known in self.BUILDER_CONFIGS if known.subsample_size is None]
                other = f", or a configuration that has all: --configs {','.join(whole)}" if whole else ""
                raise DataError(
                    f"{path} has {available:,} puzzles; configuration {config.name} draws {config.subsample_size:,} of "
                    f"them: choose a smaller subsample_size{other}"
                )
            chosen = sample_rows(available, config.subsample_size, config.seed, str(path))
            rows, rating = rows[chosen], rating[chosen]
        bounds = np.searchsorted(rows, [first - 1 for first, _ in starts[1:]])
        kept = [(start, part) for start, part in zip(starts, np.split(rows, bounds), strict=True) if len(part)]
        images = config.images_per_puzzle if training else 1
        skipped = [message.replace(str(path), path.name) for message in errors.messages]  # these are published
        return Plan(path, [start for start, _ in kept], [part for _, part in kept], rating, available, images, skipped)

    def split_sizes(self) -> dict[str, int]:
        """Rows of every split, before it is built."""
        return {split: plan.num_rows for split, plan in self.plans.items()}

    @property
    def facts(self) -> dict:
        """How the data came about: enough to build it again, and to check that it is the same."""
        config = self.config
        splits = {}
        for split, plan in self.plans.items():
            chosen = "all" if sum(map(len, plan.rows)) == plan.available else np.concatenate(plan.rows).tolist()
            splits[split] = {
                "num_rows": plan.num_rows,
                "puzzles": len(plan.ratings),
                "good_rows_in_file": plan.available,
                "rows_of_file": chosen,
                "images_per_puzzle": plan.images,
                "skipped": len(plan.skipped),
                "skipped_because": plan.skipped[:_SHOWN_ERRORS],
            }
        symbols = {symbol: i for i, symbol in enumerate(self.puzzle.symbols, start=1)}
        return {
            "config": config.name,
            "puzzle": self.puzzle.name,
            "puzzle_options": self.puzzle.options,
            "source": self._source[1],
            "seed": config.seed,
            "min_difficulty": config.min_difficulty,
            "encoding": {"padding": 0} | symbols,
            "splits": splits,
        }

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        generators = []
        for split, plan in self.plans.items():
            kwargs = {"path": str(plan.path), "images": plan.images, "starts": plan.starts, "rows": plan.rows}
            generator = datasets.SplitGenerator(split, gen_kwargs=kwargs)
            generator.split_info.num_examples = plan.num_rows  # what the progress bar counts to
            generators.append(generator)
        return generators

    def _generate_tables(self, path: str, images: int, starts: list, rows: list) -> Iterator[tuple[str, pa.Table]]:
        augmentation = FixedImages(self.puzzle, images, self.config.seed)
        for start, chosen in zip(starts, rows, strict=True):
            columns = next(read_csv(Path(path), start)).columns
            step = max(1, _TABLE_ROWS // images)
            for first in range(0, len(chosen), step):
                part = chosen[first : first + step]
                yield f"{part[0]}", self._table(columns, part, part - (start[0] - 1), augmentation)

    def _table(self, columns: dict, rows: np.ndarray, places: np.ndarray, augmentation: FixedImages) -> pa.Table:
        """The rows of the data set that some rows of the file become, all images of a puzzle in a run."""
        count, puzzle = len(augmentation), self.puzzle
        boards = [puzzle.parse_all([columns[name][i] for i in places]) for name in ("question", "answer")]
        if count > 1:
            elements = augmentation.symmetries(rows.repeat(count), np.tile(np.arange(count), len(rows)))
            boards = [elements.apply(board.repeat(count, axis=0)) for board in boards]
        question, answer = boards
        arrays = {
            "source": [columns["source"][i] for i in places for _ in range(count)],
            "question": puzzle.format_all(question),
            "answer": puzzle.format_all(answer),
            "rating": np.repeat([_parse_rating(columns["rating"][i]) for i in places], count),
            "input_ids": pa.FixedSizeListArray.from_arrays(question.reshape(-1), puzzle.num_cells),
            "labels": pa.FixedSizeListArray.from_arrays(answer.reshape(-1), puzzle.num_cells),
        }
        if self._has_ids:
            ids = [columns["puzzle_id"][i] for i in places] if "puzzle_id" in columns else None
            arrays["puzzle_id"] = check_puzzle_ids(ids, str, RowErrors(), np.ones(len(places), bool)).repeat(count)
        return pa.table(arrays).cast(self.info.features.arrow_schema)


def _parse_rating(text: str | None) -> float:
    try:
        rating = float(text) if text is not None else math.nan
    except ValueError:
        rating = math.nan
    if not abs(rating) <= float(np.finfo(np.float32).max):  # which it is stored in; NaN is no number either
        raise PuzzleError(f"rating is {text!r}; expected a number")
    return rating


def builder_of(family: str) -> type[PuzzleBuilder]:
    """The builder of a puzzle family.

    Raises:
        PuzzleError: an unknown family, or its builder cannot be imported.
    """
    puzzle = find_family(family)
    return load_part(puzzle, puzzle.data_builder) if puzzle.data_builder else PuzzleBuilder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_facts(path: Path) -> dict:
    """Size and SHA-256 of a file.

    Raises:
        DataError: there is none.
    """
    if "\0" in str(path) or not path.is_file():
        raise DataError(f"{path} does not exist; expected a CSV file with columns {', '.join(COLUMNS)}")
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
