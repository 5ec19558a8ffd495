"""Random Sudoku puzzles with a unique solution, of any clue count down to minimal, and their difficulty."""

import numpy as np

from air_hf.dataset_builders.sudoku_solver import search, spare_clues
from air_hf.puzzles import PuzzleError, Sudoku
from air_hf.puzzles.sudoku import BLANK

# The fewest clues a puzzle with one solution can have: 4x4 and 6x6 by enumeration, 9x9 by McGuire et al. 2012
# (arXiv 1201.0749); for 16x16 the fewest that anybody has found.
FEWEST_CLUES = {4: 4, 6: 8, 9: 17, 16: 55}
_ATTEMPTS = 20_000
_GRID_DEAD_ENDS = 200  # a random start that runs into so many is dropped for another
_NO_LIMIT = np.iinfo(np.int64).max
# Proving that a clue can be spared may take a search without end on 16x16; a clue that needs a longer one stays.
_SPARING_DEAD_ENDS = {16: 10}


class SudokuGenerator:
    """Draws puzzles of one board size.

    Args:
        puzzle ([`Sudoku`]): the board.
        clues (`int`, *optional*): clues to leave; None for minimal puzzles, where no clue can be spared (on 16x16: none
            that a short search shows to be spare).
        min_rating (`int`): least difficulty, as [`SudokuGenerator.rate`] counts it; 0 takes every puzzle.

    Raises:
        PuzzleError: a clue count that no puzzle has, or a negative rating.
    """

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

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` puzzles: questions and answers, each (count, S) of symbol ids (uint8).

        Raises:
            PuzzleError: no puzzle with so few clues, or so hard a one, turned up in 20,000 grids.
        """
        questions, answers = zip(*(self._draw_one(rng) for _ in range(count)), strict=True)
        return np.stack(questions), np.stack(answers)

    def _draw_one(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        limit = _SPARING_DEAD_ENDS.get(self.puzzle.n, _NO_LIMIT)
        for _ in range(_ATTEMPTS):
            grid = self._random_grid(rng)
            order = rng.permutation(self.puzzle.num_cells)
            given = spare_clues(grid, order, self.clues or 0, self._mates, self._units, self._ascending, limit)
            answer = np.log2(grid).astype(np.uint8) + np.uint8(BLANK + 1)
            question = np.where(given, answer, BLANK).astype(np.uint8)
            if self.clues in (None, given.sum()) and (not self.min_rating or self.rate(question) >= self.min_rating):
                return question, answer
        raise PuzzleError(
            f"{self.puzzle.name}: no puzzle with clues {self.clues or 'minimal'} and a rating of at least "
            f"{self.min_rating} in {_ATTEMPTS} random grids; ask for more clues or a lower rating"
        )

    def random_grid(self, rng: np.random.Generator) -> np.ndarray:
        """A complete legal board (S,) of symbol ids; every board can occur, not all equally often."""
        return np.log2(self._random_grid(rng)).astype(np.uint8) + np.uint8(BLANK + 1)

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
        """Difficulty of a question (S,): the dead ends of a search that shows it to have no second solution.

        The solver of `sudoku_solver.py` tries digits in ascending order; a puzzle that singles solve counts 0.
        """
        return int(self._search(question, 2, _NO_LIMIT)[1])

    def count_solutions(self, question: np.ndarray, limit: int = 2) -> int:
        """How many solutions a question (S,) has, counting no further than `limit`."""
        return int(self._search(question, limit, _NO_LIMIT)[0])
