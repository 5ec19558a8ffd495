"""The data of Sudoku: Sudoku-Extreme, and random puzzles with one solution, of any clue count, and their difficulty."""

from typing import ClassVar

import numpy as np

from air_hf.dataset_builders.builders import PuzzleBuilder, PuzzleDataConfig
from air_hf.dataset_builders.generate import PuzzleGenerator
from air_hf.dataset_builders.sudoku_solver import search, spare_clues
from air_hf.puzzles import PuzzleError
from air_hf.puzzles.sudoku import BLANK, Sudoku

# The fewest clues a puzzle with one solution can have: 4x4 and 6x6 by enumeration, 9x9 by McGuire et al. 2012
# (arXiv 1201.0749); for 16x16 the fewest that anybody has found.
FEWEST_CLUES = {4: 4, 6: 8, 9: 17, 16: 55}
_GRID_DEAD_ENDS = 200  # a random start that runs into so many is dropped for another
_NO_LIMIT = np.iinfo(np.int64).max
# Proving that a clue can be spared may take a search without end on 16x16; a clue that needs a longer one stays.
_SPARING_DEAD_ENDS = {16: 10}


class SudokuGenerator(PuzzleGenerator):
    """Draws puzzles of one board size.

    Args:
        puzzle ([`Sudoku`]): the board.
        clues (`int`, *optional*): clues to leave; None for minimal puzzles, where no clue can be spared (on 16x16: none
            that a short search shows to be spare).
        min_rating (`int`): least difficulty, as [`SudokuGenerator.rate`] counts it; 0 takes every puzzle.

    Raises:
        PuzzleError: a clue count that no puzzle has, or a negative rating.
    """

    options: ClassVar = {
        "clues": {"type": int, "help": "clues to leave (default: minimal puzzles)"},
        "min_rating": {"type": int, "help": "least dead ends of our solver (default 0)"},
    }
    rating = "dead ends of a search that fills singles, then guesses in a cell with the fewest candidates"
    unique = True

    def __init__(self, puzzle: Sudoku, clues: int | None = None, min_rating: int = 0):
        fewest = FEWEST_CLUES[puzzle.n]
        if clues is not None and not fewest <= clues <= puzzle.num_cells:
            raise PuzzleError(
                f"clues is {clues}; a {puzzle.name} puzzle with one solution has {fewest} to {puzzle.num_cells} clues"
            )
        if min_rating < 0:
            raise PuzzleError(f"min_rating is {min_rating}; dead ends cannot be negative")
        self.puzzle, self.clues, self.min_rating = puzzle, clues, min_rating
        n, cells = puzzle.n, puzzle.num_cells
        self._units = np.concatenate([[np.flatnonzero(kind == i) for i in range(n)] for kind in puzzle.units])
        shared = (puzzle.units[:, :, None] == puzzle.units[:, None, :]).any(0) & ~np.eye(cells, dtype=bool)
        self._mates = np.stack([np.flatnonzero(mates) for mates in shared])
        self._ascending = np.tile(np.arange(n), (cells, 1))
        self._all_digits = np.uint32((1 << n) - 1)

    def try_once(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        limit = _SPARING_DEAD_ENDS.get(self.puzzle.n, _NO_LIMIT)
        grid = self._random_grid(rng)
        order = rng.permutation(self.puzzle.num_cells)
        given = spare_clues(grid, order, self.clues or 0, self._mates, self._units, self._ascending, limit)
        answer = np.log2(grid).astype(np.uint8) + np.uint8(BLANK + 1)
        question = np.where(given, answer, BLANK).astype(np.uint8)
        hard = not self.min_rating or self.rate(question) >= self.min_rating
        return (question, answer) if self.clues in (None, given.sum()) and hard else None

    @classmethod
    def showcase(cls, puzzle: Sudoku) -> dict[str, dict]:
        if puzzle.n != 9:  # smaller ones are easy even if minimal, larger ones take long to draw
            return super().showcase(puzzle)
        return {"36 clues": {"clues": 36}, "30 clues": {"clues": 30}, "minimal": {}, "minimal 2": {}}

    def wanted(self) -> str:
        return f"clues {self.clues or 'minimal'} and a rating of at least {self.min_rating}"

    def _random_grid(self, rng: np.random.Generator) -> np.ndarray:
        empty = np.full(self.puzzle.num_cells, self._all_digits)
        while True:
            order = rng.random(self._ascending.shape).argsort(1)
            found, _, grid = search(empty, self._mates, self._units, order, 1, _GRID_DEAD_ENDS)
            if found == 1:
                return grid

    def _search(self, question: np.ndarray, max_solutions: int, max_dead_ends: int) -> tuple[int, int, np.ndarray]:
        clues = np.left_shift(np.uint32(1), np.maximum(question, BLANK + 1).astype(np.uint32) - np.uint32(BLANK + 1))
        board = np.where(question > BLANK, clues, self._all_digits)
        return search(board, self._mates, self._units, self._ascending, max_solutions, max_dead_ends)

    def rate(self, question: np.ndarray) -> int:
        """The dead ends of a search that shows a question (S,) to have no second solution.

        The solver of `sudoku_solver.py` tries digits in ascending order; a puzzle that singles solve counts 0.
        """
        return int(self._search(question, 2, _NO_LIMIT)[1])

    def count_solutions(self, question: np.ndarray, limit: int = 2) -> int:
        return int(self._search(question, limit, _NO_LIMIT)[0])


class SudokuExtreme(PuzzleBuilder):
    """Sudoku-Extreme: 3,831,994 train and 422,786 test puzzles on the Hub; the field trains on 1,000 of them."""

    FAMILY = "sudoku"
    HUB_REPO = "sapientinc/sudoku-extreme"
    DESCRIPTION = "9x9 Sudoku puzzles with one solution, most of them far too hard for reasoning without search."
    PUBLISHED_RATING = "backtracks of the tdoku solver"
    BUILDER_CONFIGS: ClassVar = [
        PuzzleDataConfig("full", puzzle="sudoku-9x9", description="every puzzle"),
        PuzzleDataConfig("1k", puzzle="sudoku-9x9", subsample_size=1000, description="1,000 train puzzles"),
        PuzzleDataConfig(
            "1k-aug-1000",
            puzzle="sudoku-9x9",
            subsample_size=1000,
            images_per_puzzle=1001,
            description="1,000 train puzzles, each with 1,000 images under the symmetries of Sudoku",
        ),
    ]
    CITATION = """@article{wang2025hierarchical,
  title = {Hierarchical Reasoning Model},
  author = {Wang, Guan and Li, Jin and Sun, Yuhao and Chen, Xing and Liu, Changling and Wu, Yue and Lu, Meng and Song, Sen and Abbasi Yadkori, Yasin},
  journal = {arXiv preprint arXiv:2506.21734},
  year = {2025}
}"""  # noqa: E501

    def measure(self, questions: np.ndarray) -> dict[str, np.ndarray]:
        return {"clues": (questions > BLANK).sum(1)}

    def limits(self) -> str:
        about = {
            "hub": "The hard puzzles come from collections of the Sudoku community and are not a random sample. ",
            "generate": "These are puzzles of random grids, far easier than the hard ones of Sudoku-Extreme. ",
            "csv": "",
        }[self.config.source]
        return about + "Ratings of two solvers cannot be compared. " + super().limits()
