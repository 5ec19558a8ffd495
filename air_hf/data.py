"""Puzzles from CSV files or `datasets` into arrays, checked row by row, and the endless stream training draws from.

Axis letters: N puzzles, B slots of a batch, S cells.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from air_hf.hub.transfer import LONGEST_REASON, READ_ERRORS, describe_error
from air_hf.modeling.modeling_air import IGNORE_LABEL
from air_hf.puzzles import Puzzle, PuzzleError, Symmetries, complete_options, get_puzzle, infer_puzzle
from air_hf.puzzles.augmentation import FixedImages
from air_hf.puzzles.base import PADDING
from air_hf.puzzles.reading import (
    BLOCK_ROWS,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    DataError,
    RowErrors,
    check_boards,
    check_columns,
    check_puzzle_ids,
    read_csv,
    read_header,
    sample_rows,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
# The first row's number and the columns of consecutive rows.
Rows = tuple[int, dict[str, list]]


@dataclass(frozen=True)
class PuzzleSet:
    """Checked puzzles of one family and size.

    Args:
        puzzle ([`Puzzle`]): their rules.
        questions, answers (uint8 arrays of shape `(N, S)`): symbol ids; 0 in an answer means "no label".
        source (`str`): where they came from, for messages and reports.
        puzzle_ids (int64 array of shape `(N,)`, *optional*): which row of a model's prefix table each puzzle has, for
            sets of several tasks; 0 for all if None.
        commit (`str`, *optional*): of the data set on the Hub that they are from; None for files, and where nothing
            says which it was.
    """

    puzzle: Puzzle
    questions: np.ndarray
    answers: np.ndarray
    source: str
    puzzle_ids: np.ndarray | None = None
    commit: str | None = None

    def __post_init__(self):
        if self.puzzle_ids is None:
            object.__setattr__(self, "puzzle_ids", np.zeros(len(self.questions), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def num_puzzle_ids(self) -> int:
        """Rows that a prefix table needs for these puzzles; 1 where they carry no ids."""
        return int(self.puzzle_ids.max(initial=0)) + 1

    def count_in(self, other: "PuzzleSet") -> int:
        """How many of these questions are among those of a set of the same family; images are not looked for."""
        ours = [question.tobytes() for question in self.questions]
        sought = set(ours)  # of the smaller set, as a rule: the test puzzles of millions of training puzzles
        found = {text for question in other.questions if (text := question.tobytes()) in sought}
        return sum(text in found for text in ours)

    def sha256(self) -> str:
        """SHA-256 of the lines `question,answer`, as `air-hf data build` records it for a data set.

        Where puzzles carry ids, of the lines `question,answer,puzzle_id`.
        """
        digest = hashlib.sha256()
        for first in range(0, len(self), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            columns = [self.puzzle.format_all(boards[block]) for boards in (self.questions, self.answers)]
            if self.num_puzzle_ids > 1:
                columns.append(map(str, self.puzzle_ids[block]))
            digest.update("".join(",".join(row) + "\n" for row in zip(*columns, strict=True)).encode())
        return digest.hexdigest()

    def sample(self, count: int, seed: int) -> "PuzzleSet":
        """`count` of the puzzles, drawn with `seed`, in their original order.

        Raises:
            DataError: there are fewer.
        """
        rows = sample_rows(len(self), count, seed, self.source)
        source = f"{self.source} ({count} of {len(self)}, seed {seed})"
        arrays = {name: getattr(self, name)[rows] for name in ("questions", "answers", "puzzle_ids")}
        return replace(self, source=source, **arrays)

    def check_model(self, config) -> None:
        """Checks that a model of this configuration can take these puzzles.

        Raises:
            DataError: boards of another size, or more symbols or puzzle ids than the model has.
        """
        puzzle = self.puzzle
        if (config.seq_len, config.vocab_size) != (puzzle.num_cells, puzzle.vocab_size):
            raise DataError(
                f"the model takes boards of {config.seq_len} cells and {config.vocab_size} symbols ({config.puzzle}); "
                f"{self.source} holds {puzzle.name}, {puzzle.num_cells} cells and {puzzle.vocab_size} symbols"
            )
        if self.num_puzzle_ids > config.num_puzzle_ids:
            raise DataError(
                f"{self.source} has puzzle ids up to {self.num_puzzle_ids - 1}; the model's num_puzzle_ids is "
                f"{config.num_puzzle_ids}"
            )


def load_puzzles(
    source, puzzle: str | Puzzle | None = None, split: str | None = None, options: dict[str, str] | None = None
) -> PuzzleSet:
    """Reads and checks puzzles.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): a CSV file, a folder with `{split}.csv`, or a data set; columns
            `question` and `answer` as on the Hub, and `puzzle_id` where puzzles carry ids; others are ignored.
        puzzle (`str` or [`Puzzle`], *optional*): what the boards are; read off the first board if None.
        split (`str`, *optional*): which file of a folder.
        options (`dict[str, str]`, *optional*): of the family that `puzzle` names; what it can read off the data, as the
            symbols of a grid, may be left out.

    Raises:
        DataError: a missing file or column, a wrong encoding, no rows, or a row whose question is malformed or whose
            answer does not solve it; the message names file and row. Also an unknown puzzle, or options that it lacks.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            if split is None:
                raise DataError(f"{path} is a folder; say which of its files, e.g. split='train'")
            path = path / f"{split}.csv"
        name, columns = str(path), read_header(path)

        def rows() -> Iterator[Rows]:
            return ((block.first, block.columns) for block in read_csv(path))

    elif not isinstance(getattr(source, "column_names", None), list) or not hasattr(source, "__len__"):
        raise DataError(
            f"{type(source).__name__} is no source of puzzles; expected a path or one split of a data set, not streamed"
        )
    else:
        info = getattr(source, "info", None)
        name, columns = f"data set {getattr(info, 'dataset_name', None) or 'without a name'}", source.column_names
        read = source.with_format(None).select_columns(
            [c for c in columns if c in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)]
        )

        def rows() -> Iterator[Rows]:
            return zip(range(1, len(read) + 1, BLOCK_ROWS), read.iter(BLOCK_ROWS), strict=True)

    check_columns(columns, name)
    if isinstance(puzzle, str):
        boards = (board for _, block in rows() for column in REQUIRED_COLUMNS for board in block[column])
        texts = (board for board in boards if isinstance(board, str))
        try:
            puzzle = get_puzzle(puzzle, **complete_options(puzzle, options or {}, texts))
        except PuzzleError as error:
            raise DataError(f"{name}: {error}") from error
    elif options:
        raise DataError(f"options {', '.join(options)} are given, but no name of a puzzle whose options they are")
    return _check_rows(rows, puzzle, name)


@contextmanager
def reading_dataset(name: str, config: str | None, split: str) -> Iterator[None]:
    """Says of whatever goes wrong with a data set, or with the Hub that it is on, of which it is.

    Raises:
        DataError: it cannot be read.
    """
    from datasets.exceptions import DatasetsError

    where = f"data set {name}, {config or 'default'}, {split}"
    if (Path(name) / f"{split}.csv").is_file():  # whose digits `datasets` would take for numbers
        raise DataError(
            f"{where}: the folder holds CSV files, no data set of the Hub or of `air-hf data build`; name it by --data "
            f"or --train_data, or its file, air-hf solve {Path(name) / f'{split}.csv'}"
        )
    try:
        yield
    except (*READ_ERRORS, DatasetsError, OverflowError) as error:
        if isinstance(error.__cause__ or error, OverflowError):
            reason = "boards are stored, or read, as numbers; columns question and answer must be text"
        elif isinstance(error, DatasetsError):  # what is wrong stands in a later line, or in the cause
            reason = " ".join(f"{error} {error.__cause__ or ''}".split())[:LONGEST_REASON]
        else:
            reason = describe_error(error)
        raise DataError(f"{where}: {reason}") from error


def load_published(
    name: str,
    config: str | None,
    split: str,
    revision: str | None = None,
    puzzle: str | Puzzle | None = None,
    options: dict[str, str] | None = None,
    cache_dir: str | None = None,
) -> PuzzleSet:
    """Reads and checks puzzles that `air-hf data publish` put on the Hub, or a folder that `air-hf data build` made.

    Args:
        name (`str`): `ORG/NAME`, or a folder.
        config (`str`, *optional*): the configuration, e.g. "1k"; the default one if None.
        split (`str`): "train" or "test".
        revision (`str`, *optional*): branch, tag or commit.
        puzzle, options: as [`load_puzzles`] takes them.
        cache_dir (`str`, *optional*): for what is downloaded.

    Raises:
        DataError: no such data set, configuration or split, or a bad row; or the Hub is out of reach, and the cache
            holds another commit than the one asked for.
    """
    from datasets import load_dataset  # takes as long to import as torch, and boards and CSV files do without

    with reading_dataset(name, config, split):
        rows = load_dataset(name, config, split=split, revision=revision, cache_dir=cache_dir)
    where = f"{name}, {config or 'default configuration'}, {split}"
    commit = _commit_of(rows)
    if revision is not None and commit not in (None, revision) and COMMIT.fullmatch(revision):
        raise DataError(f"{where}: commit {revision} cannot be had from the Hub; the cache holds commit {commit}")
    return replace(load_puzzles(rows, puzzle, options=options), source=where, commit=commit)


def _commit_of(rows: Any) -> str | None:
    """The commit that rows are of, by which `datasets` calls their folder in its cache; None for those of no Hub."""
    folders = {Path(file["filename"]).parent.name for file in rows.cache_files}
    return next((folder for folder in folders if COMMIT.fullmatch(folder)), None)


def _check_rows(rows: Callable[[], Iterable[Rows]], puzzle: Puzzle | None, name: str) -> PuzzleSet:
    parts = []
    for first, columns in rows():
        if puzzle is None:
            try:
                puzzle = infer_puzzle(str(columns["question"][0]))
            except PuzzleError as error:
                raise DataError(f"{name}, row {first}, question: {error}") from error

        def place(index: int, first: int = first) -> str:
            return f"{name}, row {first + index}"

        errors = RowErrors()
        question, answer, good = check_boards(puzzle, columns["question"], columns["answer"], place, errors)
        parts.append((question, answer, check_puzzle_ids(columns.get("puzzle_id"), place, errors, good)))
    if not parts:
        raise DataError(f"{name} holds no puzzles")
    questions, answers, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return PuzzleSet(puzzle, questions, answers, name, ids)


def to_batch(
    questions: np.ndarray, answers: np.ndarray, puzzle_ids: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    """Model inputs of boards (B, S): `input_ids`, `labels` (padding becomes -100) and `puzzle_ids` (B,), all int64."""
    labels = torch.from_numpy(answers.astype(np.int64))
    ids = np.zeros(len(questions), dtype=np.int64) if puzzle_ids is None else puzzle_ids
    return {
        "input_ids": torch.from_numpy(questions.astype(np.int64)),
        "labels": labels.masked_fill(labels == PADDING, IGNORE_LABEL),
        "puzzle_ids": torch.from_numpy(ids.astype(np.int64)),
    }


class PuzzleStream:
    """The training batches of every step, a function of (seed, step) alone.

    Puzzles come in a new random order each epoch; each draw of a puzzle gets a random symmetry, a new one or one of a
    fixed set. Since nothing is remembered from step to step, a resumed run sees what an uninterrupted one would, and
    p processes that take every p-th part of a batch see together what one process sees.

    Args:
        puzzles ([`PuzzleSet`]): what to draw from.
        batch_size (`int`): slots B of all processes together.
        seed (`int`): the same seed gives the same batches.
        augment (`bool`): apply a symmetry to every board drawn.
        images_per_puzzle (`int`): draw it from so many of each puzzle's images, see [`FixedImages`]; 0 for all of the
            group. The published recipes build 1,001: the puzzle and 1,000 images.
        reveal (`float`): a curriculum from easy to hard: the question shows the answer in a share of its open cells,
            drawn for every board between 0 and a limit that falls evenly from `reveal` at the first step to 0 at
            `max_steps`.
        max_steps (`int`, *optional*): where it ends; what `reveal` and `easy_first` need.
        easy_first (`float`): a curriculum by the number of open cells: at the first step the boards come from this
            share of the puzzles, those with the fewest; the share grows evenly to all of them at half of `max_steps`.
            Until then boards are drawn with replacement. 0 for none.

    Raises:
        ValueError: `reveal` or `easy_first` for boards of which nothing says what is open.
    """

    def __init__(
        self,
        puzzles: PuzzleSet,
        batch_size: int,
        seed: int,
        augment: bool,
        images_per_puzzle: int = 0,
        reveal: float = 0.0,
        max_steps: int | None = None,
        easy_first: float = 0.0,
    ):
        self.puzzles, self.batch_size, self.seed, self.augment = puzzles, batch_size, seed, augment
        self.reveal, self.easy_first, self.max_steps = reveal, easy_first, max_steps
        for name, share in (("reveal", reveal), ("easy_first", easy_first)):
            if share and puzzles.puzzle.blank is None:
                raise ValueError(
                    f"{name} is {share}, but no symbol of {puzzles.puzzle.name} stands for an open cell; `givens` "
                    "names it"
                )
        self._images = FixedImages(puzzles.puzzle, images_per_puzzle, seed) if images_per_puzzle else None
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.puzzles))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
        """One process's part of the batch of `step` (from 0); see [`to_batch`]."""
        rows = self._draw_rows(step)
        part = slice(rank * self.batch_size // world_size, (rank + 1) * self.batch_size // world_size)
        drawn = self.puzzles
        questions, answers, ids = (a[rows[part]] for a in (drawn.questions, drawn.answers, drawn.puzzle_ids))
        if self.augment:
            symmetries = self._draw_symmetries(rows, np.random.default_rng([self.seed, 1, step]))[part]
            questions, answers = symmetries.apply(questions), symmetries.apply(answers)
        if self.reveal:
            shown = self._draw_revealed(step)[part] & self.puzzles.puzzle.undecided(questions) & (answers != PADDING)
            questions = np.where(shown, answers, questions)
        return to_batch(questions, answers, ids)

    def _draw_rows(self, step: int) -> np.ndarray:
        """The puzzles of the batch of `step`, (B,)."""
        grown = 2 * step / self.max_steps if self.easy_first else 1.0
        share = self.easy_first + (1 - self.easy_first) * grown
        if share < 1:
            easy = self._easiest[: max(1, round(share * len(self.puzzles)))]
            return np.random.default_rng([self.seed, 5, step]).choice(easy, self.batch_size)
        draws = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(draws, len(self.puzzles))
        return np.concatenate([self._order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    @cached_property
    def _easiest(self) -> np.ndarray:
        """The puzzles by their number of open cells, those of as many in the order of the file, (N,)."""
        return np.argsort(self.puzzles.puzzle.undecided(self.puzzles.questions).sum(1), kind="stable")

    def _draw_symmetries(self, rows: np.ndarray, rng: np.random.Generator) -> Symmetries:
        if self._images is None:
            return self.puzzles.puzzle.random_symmetries(len(rows), rng)
        return self._images.symmetries(rows, rng.integers(len(self._images), size=len(rows)))

    def _draw_revealed(self, step: int) -> np.ndarray:
        """Cells of the batch of `step` to show the answer of where they are open, bool (B, S)."""
        rng = np.random.default_rng([self.seed, 4, step])
        shares = self.reveal * max(0.0, 1 - step / self.max_steps) * rng.random((self.batch_size, 1))
        return rng.random((self.batch_size, self.puzzles.puzzle.num_cells)) < shares
