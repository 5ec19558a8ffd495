"""Makes train and test puzzles from a seed, disjoint up to symmetry, and writes them as CSV.

air-hf data generate --puzzle sudoku-6x6 --train 8000 --test 512 --output data/sudoku-6x6
"""

import csv
import multiprocessing
import os
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from air_hf.cores import usable_cores
from air_hf.files import atomic_file, check_place, sole_writer
from air_hf.puzzles import Puzzle, PuzzleError, get_puzzle
from air_hf.puzzles.reading import DataError

COLUMNS = ("source", "question", "answer", "rating")
SPLITS = ("train", "test")
_CHUNK = 64  # puzzles drawn from one seed, so that the result does not depend on the number of workers
_MOST_WORKERS = 4  # a core
_MAX_BARREN_CHUNKS = 50
_REFRESH = 0.5  # seconds between two looks at the workers
_GRACE = 2  # seconds that a worker has to notice that the time is over


class PuzzleGenerator(ABC):
    """Draws puzzles of one board; a family's own generator says how one is tried for.

    Class attributes of a family's generator:
        options (`dict[str, dict]`): the arguments it takes besides the board, each as `argparse` declares it.
        rating (`str`): what [`PuzzleGenerator.rate`] counts.
        max_attempts (`int`): tries without a puzzle of the kind asked for, after which it is given up.
    """

    options: ClassVar[dict[str, dict]] = {}
    rating: ClassVar[str]
    max_attempts: ClassVar[int] = 20_000

    puzzle: Puzzle
    unique = False  # whether every question it draws has one solution only

    @abstractmethod
    def try_once(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """A question and its answer, each (S,) of symbol ids (uint8); None if this try gave none of the kind."""

    @abstractmethod
    def rate(self, question: np.ndarray) -> float:
        """Difficulty of a question (S,)."""

    @abstractmethod
    def count_solutions(self, question: np.ndarray, limit: int = 2) -> int:
        """How many solutions a question (S,) has, counting no further than `limit`."""

    @abstractmethod
    def wanted(self) -> str:
        """What a puzzle is asked to have, in words."""

    @classmethod
    def showcase(cls, puzzle: Puzzle) -> dict[str, dict]:
        """A few kinds of boards to show first, from easy to hard: the options of each, by its name."""
        return {"one": {}, "two": {}, "three": {}}

    def draw_one(self, rng: np.random.Generator, on_attempt: Callable[[], None] = lambda: None):
        """A question and its answer, see [`PuzzleGenerator.try_once`]; `on_attempt` is called before every try.

        Raises:
            PuzzleError: none turned up in `max_attempts` tries.
        """
        for _ in range(self.max_attempts):
            on_attempt()
            if (drawn := self.try_once(rng)) is not None:
                return drawn
        raise PuzzleError(
            f"{self.puzzle.name}: no puzzle with {self.wanted()} in {self.max_attempts:,} random boards; "
            "ask for something less rare"
        )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` puzzles: questions and answers, each (count, S) of symbol ids (uint8).

        Raises:
            PuzzleError: as [`PuzzleGenerator.draw_one`].
        """
        questions, answers = zip(*(self.draw_one(rng) for _ in range(count)), strict=True)
        return np.stack(questions), np.stack(answers)


def generator_class(family: type[Puzzle]) -> type[PuzzleGenerator] | None:
    """The generator of a puzzle family; None if it has none.

    Raises:
        PuzzleError: it cannot be imported.
    """
    return family.generator and load_part(family, family.generator)


def load_part(family: type[Puzzle], reference: str):
    """What a family names as "module:attribute".

    Raises:
        PuzzleError: it cannot be imported.
    """
    try:
        return pkgutil.resolve_name(reference)
    except Exception as error:  # the module may be another package's and fail in any way
        raise PuzzleError(f"puzzle family {family.family!r}: {reference} cannot be imported: {error}") from error


def make_generator(puzzle: Puzzle, **options) -> PuzzleGenerator:
    """The generator of a puzzle's family; `options` are its own arguments.

    Raises:
        PuzzleError: an impossible request, an option of another family, or a family without a generator.
    """
    generator = generator_class(type(puzzle))
    if generator is None:
        raise PuzzleError(f"{puzzle.family} puzzles have no generator; they are read from CSV files")
    for name in options:
        if name not in generator.options:
            known = ", ".join(generator.options) or "none"
            raise PuzzleError(f"{name} is no option of {puzzle.family} puzzles; these take {known}")
    return generator(puzzle, **options)


class _Stopped(Exception):
    """The puzzles that a worker draws are no longer wanted."""


_tries = _stop = None  # in a worker: how many boards all of them have tried, and whether they shall stop


def _share(tries, stop) -> None:
    global _tries, _stop
    _tries, _stop = tries, stop


def _draw_chunk(
    name: str, puzzle_options: dict, options: dict, seed: int, chunk: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The puzzles of one chunk; fewer if the workers are stopped."""

    def count_try() -> None:
        with _tries.get_lock():
            _tries.value += 1
        if _stop.value:
            raise _Stopped

    rng, found = np.random.default_rng([seed, chunk]), []
    generator = make_generator(get_puzzle(name, **puzzle_options), **options)
    try:
        while len(found) < _CHUNK:
            found.append(generator.draw_one(rng, count_try))
    except _Stopped:
        pass
    return found


def generate_split(
    puzzle: Puzzle,
    num_train: int,
    num_test: int,
    seed: int = 0,
    workers: int | None = None,
    max_seconds: float | None = None,
    **options,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draws distinct puzzles and divides their symmetry classes between train and test.

    Args:
        puzzle ([`Puzzle`]): the board.
        num_train, num_test (`int`): puzzles wanted.
        seed (`int`): the same seed gives the same puzzles, whatever the number of workers.
        workers (`int`, *optional*): processes; one per CPU core if None.
        max_seconds (`float`, *optional*): give up after so long; never if None.
        options: arguments of the family's generator, e.g. `clues=30`, `min_path_cells=12`.

    Returns:
        `dict` of "train" and "test" to questions and answers, each (count, S) of symbol ids. No board of one is the
        image of a board of the other under the family's symmetries.

    Raises:
        PuzzleError: an impossible request, or fewer different puzzles of the kind than asked for, or than were found in
            time.
    """
    cores = usable_cores()
    workers = cores if workers is None else workers
    for name, value, least in (
        ("train", num_train, 1),
        ("test", num_test, 1),
        ("workers", workers, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise PuzzleError(f"{name} is {value}; it must be at least {least}")
    if workers > _MOST_WORKERS * cores:
        raise PuzzleError(f"workers is {workers}; it must be at most {_MOST_WORKERS} for each of the {cores} cores")
    if max_seconds is not None and not max_seconds > 0:
        raise PuzzleError(f"max_seconds is {max_seconds}; it must be positive")
    _check_memory(puzzle, num_train + num_test)
    make_generator(puzzle, **options)  # an impossible request fails here, before any worker starts
    job = (puzzle.name, puzzle.options, options, seed)
    tries, stop = multiprocessing.Value("q", 0), multiprocessing.RawValue("b", False)
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, initializer=_share, initargs=(tries, stop)) as executor:
        watch = _Watch(max_seconds, tries, stop)
        try:
            return _collect(executor, workers, job, watch, puzzle, num_train, num_test)
        finally:
            stop.value = True  # workers look at it before every board; they have a moment to come back from a large one
            executor.shutdown(wait=False, cancel_futures=True)
            end = time.monotonic() + _GRACE
            for process in set(multiprocessing.active_children()) - before:
                process.join(max(0, end - time.monotonic()))
                process.kill()
                process.join()


class _Watch:
    """The time that is left, and what the workers have tried in it."""

    def __init__(self, max_seconds: float | None, tries, stop):
        self.end = None if max_seconds is None else time.monotonic() + max_seconds
        self.tries, self._stop = tries, stop

    def is_over(self) -> bool:
        if self.end is not None and time.monotonic() > self.end:
            self._stop.value = True
        return bool(self._stop.value)

    def wait(self, chunk: Future, progress: tqdm) -> list:
        """A chunk's puzzles, while the progress shows that something is going on; none of one that is late."""
        while True:
            try:
                return chunk.result(timeout=_REFRESH)
            except TimeoutError:
                progress.set_postfix_str(f"{self.tries.value:,} random boards tried")
                if self.is_over() and time.monotonic() > self.end + _GRACE:
                    return []


def _check_memory(puzzle: Puzzle, wanted: int) -> None:
    needed = 2 * wanted * puzzle.num_cells  # a byte a cell of the question and of the answer
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > here:
        raise PuzzleError(
            f"{wanted:,} puzzles of {puzzle.name} take {needed / 2**30:,.0f} GiB of memory; this machine has "
            f"{here / 2**30:,.0f}"
        )


def _collect(executor, workers, job, watch, puzzle, num_train, num_test) -> dict:
    """Chunks in the order of their numbers, until their puzzles fill both splits."""
    wanted, (*_, options, seed) = num_train + num_test, job
    pool: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    of_what = f"{puzzle.name} {options}" if options else puzzle.name
    barren = chunk = 0
    too_few = f"too few for {num_train} train and {num_test} test puzzles of different symmetry classes"
    with tqdm(total=wanted, unit="puzzle", desc=puzzle.name) as progress:
        while True:
            jobs = [executor.submit(_draw_chunk, *job, chunk + i) for i in range(4 * workers)]
            chunk += len(jobs)
            for future in jobs:
                found, before = watch.wait(future, progress), len(pool)
                for question, answer in found:
                    pool.setdefault(question.tobytes(), (question, answer))
                barren = 0 if len(pool) > before else barren + 1
                progress.update(min(len(pool), wanted) - progress.n)
                if watch.is_over():
                    raise PuzzleError(
                        f"{of_what}: when the time was over, {len(pool)} different puzzles had been "
                        f"found in {watch.tries.value:,} random boards; {too_few}"
                    )
                full = len(pool) >= wanted and len(pool) > before
                if full and (split := _split_by_class(puzzle, pool, num_train, num_test, seed)) is not None:
                    return split
                if barren == _MAX_BARREN_CHUNKS:
                    raise PuzzleError(f"{of_what}: only {len(pool)} different puzzles turned up; {too_few}")


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


def check_new(folder: Path) -> int:
    """Checks that a folder has no `train.csv` and no `test.csv` yet; returns how many other entries it has.

    Raises:
        DataError: it has; the message names the file.
    """
    for path in (folder / f"{split}.csv" for split in SPLITS):
        if os.path.lexists(path):
            raise DataError(f"{path} exists; choose another folder, or remove it")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def write_split(
    folder: Path, puzzle: Puzzle, split: dict[str, tuple[np.ndarray, np.ndarray]], seed: int, options: dict
) -> None:
    """Writes what [`generate_split`] returned as `train.csv` and `test.csv`, in the Hub's schema.

    `rating` is what the family's generator counts, and `source` says how the puzzles were made.

    Both files appear when both are complete.

    Raises:
        DataError: the folder has one of these files.
        ValueError: another process writes them.
    """
    asked = ", ".join(f"{name} {value}" for name, value in ({"seed": seed} | options).items())
    check_place(folder, "a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder / f"{SPLITS[0]}.csv"), ExitStack() as files:
        check_new(folder)
        for name in reversed(split):  # the stack is left from its end, so train.csv takes its name first
            unfinished = files.enter_context(atomic_file(folder / f"{name}.csv"))
            _write_rows(unfinished, puzzle, *split[name], f"air-hf generator: {asked}")


def write_csv(path: Path, puzzle: Puzzle, questions: np.ndarray, answers: np.ndarray, source: str) -> None:
    """Writes boards (N, S) as rows of [`COLUMNS`]; the file appears when it is complete."""
    with atomic_file(path) as unfinished:
        _write_rows(unfinished, puzzle, questions, answers, source)


def _write_rows(path: Path, puzzle: Puzzle, questions: np.ndarray, answers: np.ndarray, source: str) -> None:
    generator = make_generator(puzzle)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for question, answer in zip(questions, answers, strict=True):
            writer.writerow((source, puzzle.format(question), puzzle.format(answer), generator.rate(question)))
