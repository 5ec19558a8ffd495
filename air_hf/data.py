"""Puzzles from CSV files or `datasets` into arrays, checked row by row, and the endless stream training draws from.

Axis letters: N puzzles, B slots of a batch, S cells.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from air_hf.modeling.modeling_air import IGNORE_LABEL
from air_hf.puzzles import Puzzle, PuzzleError, get_puzzle, infer_puzzle
from air_hf.puzzles.base import PADDING

REQUIRED_COLUMNS = ("question", "answer")


class DataError(ValueError):
    """A file or a row that cannot be used; the message names the file, the row and what was expected."""


@dataclass(frozen=True)
class PuzzleSet:
    """Checked puzzles of one family and size.

    Args:
        puzzle ([`Puzzle`]): their rules.
        questions, answers (uint8 arrays of shape `(N, S)`): symbol ids; 0 in an answer means "no label".
        source (`str`): where they came from, for messages and reports.
    """

    puzzle: Puzzle
    questions: np.ndarray
    answers: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.questions)

    def sample(self, count: int, seed: int) -> "PuzzleSet":
        """`count` of the puzzles, drawn with `seed`, in their original order.

        Raises:
            DataError: there are fewer.
        """
        if not 1 <= count <= len(self):
            raise DataError(f"{self.source}: a sample of {count} puzzles was asked for; there are {len(self)}")
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        source = f"{self.source} ({count} of {len(self)}, seed {seed})"
        return PuzzleSet(self.puzzle, self.questions[rows], self.answers[rows], source)


def load_puzzles(source, puzzle: str | Puzzle | None = None, split: str | None = None) -> PuzzleSet:
    """Reads and checks puzzles.

    Args:
        source (`str`, `Path` or `datasets.Dataset`): a CSV file, a folder with `{split}.csv`, or a data set; columns
            `question` and `answer` as on the Hub, others are ignored.
        puzzle (`str` or [`Puzzle`], *optional*): what the boards are; read off the first board if None.
        split (`str`, *optional*): which file of a folder.

    Raises:
        DataError: a missing file or column, a wrong encoding, no rows, or a row whose question is malformed or whose
            answer does not solve it; the message names file and row.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            if split is None:
                raise DataError(f"{path} is a folder; say which of its files, e.g. split='train'")
            path = path / f"{split}.csv"
        if not path.is_file():
            raise DataError(f"{path} does not exist; expected a CSV file with columns {', '.join(REQUIRED_COLUMNS)}")
        name, rows = str(path), _read_csv(path)
    elif not isinstance(getattr(source, "column_names", None), list):
        raise DataError(f"{type(source).__name__} is no source of puzzles; expected a path or one split of a data set")
    else:
        info = getattr(source, "info", None)
        name, rows = f"data set {getattr(info, 'dataset_name', None) or 'without a name'}", source
        _check_columns(source.column_names, name)
    return _check_rows(rows, get_puzzle(puzzle) if isinstance(puzzle, str) else puzzle, name)


def _read_csv(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(reader.fieldnames or [], str(path))
            yield from reader
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    except csv.Error as error:
        raise DataError(f"{path}, after line {reader.line_num}: not CSV ({error})") from error


def _check_columns(columns: Iterable[str], name: str) -> None:
    columns = list(columns)
    if not columns:
        raise DataError(f"{name} is empty; expected a header with the columns {', '.join(REQUIRED_COLUMNS)}")
    missing = [column for column in REQUIRED_COLUMNS if column not in columns]
    if missing:
        raise DataError(f"{name}: column {', '.join(missing)} is missing; the columns are {', '.join(columns)}")


def _check_rows(rows: Iterable[dict[str, str]], puzzle: Puzzle | None, name: str) -> PuzzleSet:
    questions, answers = [], []
    for number, row in enumerate(rows, start=1):
        try:
            for column in REQUIRED_COLUMNS:
                if row[column] is None:
                    raise PuzzleError("the row has fewer fields than the header")
                if not isinstance(row[column], str):
                    kind = type(row[column]).__name__
                    raise PuzzleError(f"the board is {kind} {row[column]}, expected text; read the column as strings")
            column = "question"
            puzzle = puzzle or infer_puzzle(row["question"])
            questions.append(puzzle.parse(row["question"]))
            column = "answer"
            answers.append(puzzle.parse(row["answer"]))
        except PuzzleError as error:
            raise DataError(f"{name}, row {number}, {column}: {error}") from error
    if not questions:
        raise DataError(f"{name} holds no puzzles")
    question_array, answer_array = np.stack(questions), np.stack(answers)
    for row in np.flatnonzero(~puzzle.is_solution(question_array, answer_array)):
        question, answer = question_array[row], answer_array[row]
        try:
            puzzle.check_question(question)
        except PuzzleError as error:
            raise DataError(f"{name}, row {row + 1}, question: {error}") from error
        raise DataError(f"{name}, row {row + 1}, answer: {puzzle.find_error(question, answer)}")
    return PuzzleSet(puzzle, question_array, answer_array, name)


def to_batch(questions: np.ndarray, answers: np.ndarray) -> dict[str, torch.Tensor]:
    """Model inputs of boards (B, S): `input_ids`, `labels` (padding becomes -100) and `puzzle_ids`, all int64."""
    labels = torch.from_numpy(answers.astype(np.int64))
    return {
        "input_ids": torch.from_numpy(questions.astype(np.int64)),
        "labels": labels.masked_fill(labels == PADDING, IGNORE_LABEL),
        "puzzle_ids": torch.zeros(len(questions), dtype=torch.long),
    }


class PuzzleStream:
    """The training batches of every step, a function of (seed, step) alone.

    Puzzles come in a new random order each epoch; each draw of a puzzle gets a new random symmetry. Since nothing is
    remembered from step to step, a resumed run sees what an uninterrupted one would, and p processes that take every
    p-th part of a batch see together what one process sees.

    Args:
        puzzles ([`PuzzleSet`]): what to draw from.
        batch_size (`int`): slots B of all processes together.
        seed (`int`): the same seed gives the same batches.
        augment (`bool`): apply a random symmetry to every board drawn.
    """

    def __init__(self, puzzles: PuzzleSet, batch_size: int, seed: int, augment: bool):
        self.puzzles, self.batch_size, self.seed, self.augment = puzzles, batch_size, seed, augment
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.puzzles))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
        """One process's part of the batch of `step` (from 0); see [`to_batch`]."""
        draws = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(draws, len(self.puzzles))
        rows = np.concatenate([self._order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])
        part = slice(rank * self.batch_size // world_size, (rank + 1) * self.batch_size // world_size)
        questions, answers = self.puzzles.questions[rows[part]], self.puzzles.answers[rows[part]]
        if self.augment:
            rng = np.random.default_rng([self.seed, 1, step])
            symmetries = self.puzzles.puzzle.random_symmetries(self.batch_size, rng)[part]
            questions, answers = symmetries.apply(questions), symmetries.apply(answers)
        return to_batch(questions, answers)
