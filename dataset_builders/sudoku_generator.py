"""Random Sudoku puzzles with a unique solution, of any clue count down to minimal."""

import exact_cover
import numpy as np
from exact_cover.error import NoSolution

from air_hf.puzzles import PuzzleError, Sudoku
from air_hf.puzzles.sudoku import BLANK

# The fewest clues a puzzle with one solution can have: 4x4 and 6x6 by enumeration, 9x9 by McGuire et al. 2012
# (arXiv 1201.0749).
FEWEST_CLUES = {4: 4, 6: 8, 9: 17}
_ATTEMPTS = 200


class SudokuGenerator:
    """Draws puzzles of one board size.

    Args:
        puzzle ([`Sudoku`]): the board.
        clues (`int`, *optional*): clues to leave; None for minimal puzzles, where no clue can be spared.

    Raises:
        PuzzleError: a clue count that no puzzle has.
    """

    def __init__(self, puzzle: Sudoku, clues: int | None = None):
        if puzzle.n not in FEWEST_CLUES:
            raise PuzzleError(f"{puzzle.name} puzzles cannot be generated; sizes are {sorted(FEWEST_CLUES)}")
        fewest = FEWEST_CLUES[puzzle.n]
        if clues is not None and not fewest <= clues <= puzzle.num_cells:
            raise PuzzleError(
                f"clues is {clues}; a {puzzle.name} puzzle with one solution has {fewest} to {puzzle.num_cells} clues"
            )
        self.puzzle, self.clues = puzzle, clues
        n, cells = puzzle.n, puzzle.num_cells
        self._units = [tuple(int(unit) for unit in cell) for cell in puzzle.units.T]
        members = [[np.flatnonzero(units == unit).tolist() for unit in range(n)] for units in puzzle.units]
        self._unit_mates = [
            [[mate for mate in members[kind][self._units[cell][kind]] if mate != cell] for kind in range(3)]
            for cell in range(cells)
        ]
        # Row cell·n + d of the exact cover problem: "digit d stands in the cell". It covers the cell, and the digit in
        # the cell's row, column and box.
        self._options = np.zeros((cells * n, 4 * cells), dtype=bool)
        for cell in range(cells):
            for digit in range(n):
                self._options[cell * n + digit, cell] = True
                for kind, unit in enumerate(self._units[cell], start=1):
                    self._options[cell * n + digit, kind * cells + unit * n + digit] = True

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` puzzles: questions and answers, each (count, S) of symbol ids (uint8).

        Raises:
            PuzzleError: no puzzle with so few clues turned up in 200 grids.
        """
        questions, answers = zip(*(self._draw_one(rng) for _ in range(count)), strict=True)
        return np.stack(questions), np.stack(answers)

    def _draw_one(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(_ATTEMPTS):
            digits = self.random_grid(rng)
            given = self._remove_clues(digits, rng)
            if self.clues is None or given.sum() == self.clues:
                answer = (digits + BLANK + 1).astype(np.uint8)
                return np.where(given, answer, BLANK).astype(np.uint8), answer
        raise PuzzleError(
            f"{self.puzzle.name}: no puzzle with {self.clues} clues in {_ATTEMPTS} random grids; ask for more"
        )

    def random_grid(self, rng: np.random.Generator) -> np.ndarray:
        """A complete legal board (S,) of digits from 0; every board can occur, not all equally often."""
        order = rng.permutation(len(self._options))
        chosen = order[exact_cover.get_exact_cover(self._options[order])]
        digits = np.empty(self.puzzle.num_cells, dtype=np.int64)
        digits[chosen // self.puzzle.n] = chosen % self.puzzle.n
        return digits

    def _remove_clues(self, digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which clues (S,) are left after sparing, in random order, every clue that the others imply."""
        given = [True] * self.puzzle.num_cells
        left = self.puzzle.num_cells
        bits = [1 << int(digit) for digit in digits]
        used = [[(1 << self.puzzle.n) - 1] * self.puzzle.n for _ in range(3)]  # digits given in each row, column, box
        for cell in rng.permutation(self.puzzle.num_cells).tolist():
            if left == self.clues:
                break
            self._set_clue(used, cell, bits[cell])
            given[cell] = False
            if self._is_single(cell, bits[cell], given, used) or self._is_implied(cell, bits, given, used):
                left -= 1
            else:
                self._set_clue(used, cell, bits[cell])
                given[cell] = True
        return np.array(given)

    def _set_clue(self, used: list[list[int]], cell: int, bit: int) -> None:
        """Adds a clue's digit to its units, or takes it away."""
        for kind, unit in enumerate(self._units[cell]):
            used[kind][unit] ^= bit

    def _candidates(self, cell: int, used: list[list[int]]) -> int:
        row, column, box = self._units[cell]
        return ~(used[0][row] | used[1][column] | used[2][box]) & ((1 << self.puzzle.n) - 1)

    def _is_single(self, cell: int, bit: int, given: list[bool], used: list[list[int]]) -> bool:
        """Whether the cell can hold nothing else, or a unit has no other cell for the digit: implied without search."""
        if self._candidates(cell, used) == bit:
            return True
        return any(
            not any(not given[mate] and self._candidates(mate, used) & bit for mate in mates)
            for mates in self._unit_mates[cell]
        )

    def _is_implied(self, cell: int, bits: list[int], given: list[bool], used: list[list[int]]) -> bool:
        """Whether no solution puts another digit into the cell, by search."""
        n, options = self.puzzle.n, []
        for empty in range(self.puzzle.num_cells):
            if not given[empty]:
                candidates = self._candidates(empty, used)
                if empty == cell:
                    candidates &= ~bits[cell]
                options += [empty * n + digit for digit in range(n) if candidates >> digit & 1]
        remaining = self._options[options]
        covered = self._options[[i * n + bits[i].bit_length() - 1 for i in range(len(given)) if given[i]]].any(0)
        remaining = remaining[:, ~covered]
        if not remaining.any(0).all():
            return True
        try:
            exact_cover.get_exact_cover(remaining)
        except NoSolution:
            return True
        return False

    def count_backtracks(self, question: np.ndarray) -> int:
        """Difficulty of a question (S,): wrong guesses of a solver that always fills a cell with the fewest candidates.

        Such a cell is tried with its candidates in ascending order, so a puzzle that naked singles solve counts 0.
        """
        used = [[0] * self.puzzle.n for _ in range(3)]
        for cell in np.flatnonzero(question > BLANK).tolist():
            self._set_clue(used, cell, 1 << int(question[cell]) - BLANK - 1)
        empty = set(np.flatnonzero(question <= BLANK).tolist())
        backtracks = 0

        def solve() -> bool:
            nonlocal backtracks
            if not empty:
                return True
            cell = min(empty, key=lambda cell: (self._candidates(cell, used).bit_count(), cell))
            candidates = self._candidates(cell, used)
            empty.remove(cell)
            while candidates:
                bit = candidates & -candidates
                candidates ^= bit
                self._set_clue(used, cell, bit)
                if solve():
                    return True
                self._set_clue(used, cell, bit)
                backtracks += 1
            empty.add(cell)
            return False

        solve()
        return backtracks
