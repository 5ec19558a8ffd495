"""Makes train and test puzzles from a seed, disjoint up to symmetry, and writes them as CSV.

air-hf data generate --puzzle sudoku-6x6 --train 8000 --test 512 --output data/sudoku-6x6
"""

import csv
import inspect
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from air_hf.dataset_builders.maze_generator import MazeGenerator
from air_hf.dataset_builders.sudoku_generator import SudokuGenerator
from air_hf.puzzles import Maze, Puzzle, PuzzleError, get_puzzle

COLUMNS = ("source", "question", "answer", "rating")
_CHUNK = 64  # puzzles drawn from one seed, so that the result does not depend on the number of workers
_MAX_BARREN_CHUNKS = 50


def make_generator(puzzle: Puzzle, **options) -> SudokuGenerator | MazeGenerator:
    """The generator of a puzzle family; `options` are its own arguments.

    Raises:
        PuzzleError: an impossible request, or an option of another family.
    """
    generator = MazeGenerator if isinstance(puzzle, Maze) else SudokuGenerator
    known = [name for name in inspect.signature(generator).parameters if name != "puzzle"]
    for name in options:
        if name not in known:
            raise PuzzleError(f"{name} is no option of {puzzle.family} puzzles; these take {', '.join(known)}")
    return generator(puzzle, **options)


def _draw_chunk(name: str, options: dict, seed: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    return make_generator(get_puzzle(name), **options).draw(_CHUNK, np.random.default_rng([seed, chunk]))


def generate_split(
    puzzle: Puzzle, num_train: int, num_test: int, seed: int = 0, workers: int | None = None, **options
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draws distinct puzzles and divides their symmetry classes between train and test.

    Args:
        puzzle ([`Puzzle`]): the board.
        num_train, num_test (`int`): puzzles wanted.
        seed (`int`): the same seed gives the same puzzles, whatever the number of workers.
        workers (`int`, *optional*): processes; one per CPU core if None.
        options: arguments of the family's generator, e.g. `clues=30`, `min_path_cells=12`.

    Returns:
        `dict` of "train" and "test" to questions and answers, each (count, S) of symbol ids. No board of one is the
        image of a board of the other under the family's symmetries.

    Raises:
        PuzzleError: an impossible request, or fewer different puzzles of the kind than asked for.
    """
    for name, value in (("train", num_train), ("test", num_test), ("workers", 1 if workers is None else workers)):
        if value < 1:
            raise PuzzleError(f"{name} is {value}; it must be at least 1")
    make_generator(puzzle, **options)  # an impossible request fails here, before any worker starts
    workers = workers or os.cpu_count() or 1
    wanted = num_train + num_test
    pool: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    barren = chunk = 0
    with ProcessPoolExecutor(workers) as executor, tqdm(total=wanted, unit="puzzle", desc=puzzle.name) as progress:
        while True:
            jobs = [executor.submit(_draw_chunk, puzzle.name, options, seed, chunk + i) for i in range(4 * workers)]
            chunk += len(jobs)
            for job in jobs:
                before = len(pool)
                for question, answer in zip(*job.result(), strict=True):
                    pool.setdefault(question.tobytes(), (question, answer))
                barren = 0 if len(pool) > before else barren + 1
                split = _split_by_class(puzzle, pool, num_train, num_test, seed) if len(pool) >= wanted else None
                progress.update(min(len(pool), wanted) - progress.n)
                if split is not None:
                    for waiting in jobs:
                        waiting.cancel()
                    return split
                if barren == _MAX_BARREN_CHUNKS:
                    raise PuzzleError(
                        f"{puzzle.name} {options}: only {len(pool)} different puzzles turned up; too few for "
                        f"{num_train} train and {num_test} test puzzles of different symmetry classes"
                    )


def _split_by_class(puzzle, pool, num_train, num_test, seed) -> dict | None:
    """Whole symmetry classes, in random order, to the test set until it is full; the others to the train set."""
    questions, answers = (np.stack(boards) for boards in zip(*pool.values(), strict=True))
    classes, members = np.unique(puzzle.class_keys(questions), return_inverse=True)
    rank = np.random.default_rng([seed, 0, 1]).permutation(len(classes))[members]
    boards_before = np.concatenate(([0], np.cumsum(np.bincount(rank, minlength=len(classes)))))[rank]
    held_out = boards_before < num_test
    if held_out.sum() < num_test or (~held_out).sum() < num_train:
        return None
    rows = {"train": np.flatnonzero(~held_out)[:num_train], "test": np.flatnonzero(held_out)[:num_test]}
    return {name: (questions[index], answers[index]) for name, index in rows.items()}


def write_split(
    folder: Path, puzzle: Puzzle, split: dict[str, tuple[np.ndarray, np.ndarray]], seed: int, options: dict
) -> None:
    """Writes what [`generate_split`] returned as `train.csv` and `test.csv`, in the Hub's schema.

    `rating` is what the family's generator counts, and `source` says how the puzzles were made.
    """
    asked = ", ".join(f"{name} {value}" for name, value in ({"seed": seed} | options).items())
    for name, (questions, answers) in split.items():
        write_csv(folder / f"{name}.csv", puzzle, questions, answers, f"air-hf generator: {asked}")


def write_csv(path: Path, puzzle: Puzzle, questions: np.ndarray, answers: np.ndarray, source: str) -> None:
    """Writes boards (N, S) as rows of [`COLUMNS`]; the file appears when it is complete."""
    generator = make_generator(puzzle)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for question, answer in zip(questions, answers, strict=True):
            writer.writerow((source, puzzle.format(question), puzzle.format(answer), generator.rate(question)))
    os.replace(unfinished, path)
