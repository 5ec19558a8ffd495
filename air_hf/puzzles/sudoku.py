"""Sudoku on n x n boards, n = 4, 6, 9 or 16: every row, column and box holds every digit once.

Ids: 0 padding, 1 blank, digit d is d + 1. Digits above 9 are written A, B, ...
Axis letters: N boards, n rows, columns, boxes and digits, S = n·n cells.
"""

import itertools

import numpy as np

from air_hf.modeling.rules_air import BOXES, DIGITS, SudokuRules
from air_hf.puzzles.base import Puzzle, PuzzleError, mix
from air_hf.puzzles.symmetry import Symmetries

BLANK = 1


class Sudoku(Puzzle):
    family = "sudoku"
    rules_class = SudokuRules
    aliases = {"0": "."}
    generator = "air_hf.dataset_builders.sudoku:SudokuGenerator"
    data_builder = "air_hf.dataset_builders.sudoku:SudokuExtreme"
    description = "A Sudoku: fill in the blank cells so that every row, column and box holds every digit once."

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        super().__init__(rows, columns, options)
        self.n = rows
        self.box_rows, self.box_columns = BOXES[rows]
        self.symbols = "." + DIGITS[:rows]
        self.symbols_help = f"`.` or `0` for a blank cell, digits `{DIGITS[0]}` to `{DIGITS[rows - 1]}`"
        self.units = np.array(list(self.rules.units.values()))  # (3, S): the row, column and box of each cell

    @property
    def example(self) -> str:
        """Rows shifted by a box's width inside a band and by one between bands; a third of the cells is blank."""
        row, column = np.divmod(np.arange(self.num_cells), self.n)
        digits = (row % self.box_rows * self.box_columns + row // self.box_rows + column) % self.n
        return self.format(np.where((row + 2 * column) % 3, digits + BLANK + 1, BLANK))

    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        agrees = ((questions <= BLANK) | (questions == answers)).all(1)
        filled = (answers > BLANK).all(1)
        bits = np.where(answers > BLANK, 1 << (np.maximum(answers.astype(np.int64), 2) - 2), 0)
        complete = np.ones(len(answers), dtype=bool)
        for units in self.units:
            present = np.zeros((len(answers), self.n), dtype=np.int64)
            for cell, unit in enumerate(units):
                present[:, unit] |= bits[:, cell]
            complete &= (present == (1 << self.n) - 1).all(1)
        return agrees & filled & complete

    def random_symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        n = self.n
        rows = _random_lines(count, n, self.box_rows, rng)
        columns = _random_lines(count, n, self.box_columns, rng)
        row_step, column_step = np.full((count, 1), n, dtype=np.int32), np.ones((count, 1), dtype=np.int32)
        if self.box_rows == self.box_columns:  # a transposition keeps only square boxes
            flip = rng.random(count) < 0.5
            row_step[flip], column_step[flip] = 1, n
        cells = (rows * row_step)[:, :, None] + (columns * column_step)[:, None, :]
        symbols = np.tile(np.arange(self.vocab_size, dtype=np.uint8), (count, 1))
        symbols[:, 2:] = 2 + rng.random((count, n), dtype=np.float32).argsort(1)
        return Symmetries(cells.reshape(count, -1), symbols)

    def symmetry_pool(self, count: int, rng: np.random.Generator) -> Symmetries:
        """As the base class has it, but drawn from more elements than can be listed, so that two may be the same."""
        if count < 1:
            raise PuzzleError(f"{count} images of a {self.name} were asked for; expected at least 1")
        pool = self.random_symmetries(count, rng)
        pool.cells[0], pool.symbols[0] = np.arange(self.num_cells), np.arange(self.vocab_size)
        return pool

    def class_keys(self, boards: np.ndarray) -> np.ndarray:
        """Colour refinement: a cell is told apart by what its row, column, box, band, stack and digit hold."""
        n, count = self.n, len(boards)
        square = self.box_rows == self.box_columns
        colors = mix((boards > BLANK) + np.uint64(1)).reshape(count, n, n)
        grid = boards.reshape(count, n, n)
        for _ in range(4):
            scrambled = mix(colors)
            row = scrambled.sum(2)
            column = scrambled.sum(1)
            band = mix(row).reshape(count, -1, self.box_rows).sum(2).repeat(self.box_rows, axis=1)
            stack = mix(column).reshape(count, -1, self.box_columns).sum(2).repeat(self.box_columns, axis=1)
            row, column = mix(row * np.uint64(3) + band)[:, :, None], mix(column * np.uint64(3) + stack)[:, None, :]
            lines = row + column if square else row * np.uint64(5) + column  # a transposition swaps rows and columns
            boxes = scrambled.reshape(count, n // self.box_rows, self.box_rows, n // self.box_columns, self.box_columns)
            boxes = boxes.sum((2, 4)).repeat(self.box_rows, axis=1).repeat(self.box_columns, axis=2)
            digits = np.zeros_like(colors)
            for digit in range(2, self.vocab_size):
                here = grid == digit
                total = np.where(here, scrambled, 0).sum((1, 2), dtype=np.uint64)
                digits += np.where(here, mix(total)[:, None, None], 0).astype(np.uint64)
            colors = mix(colors * np.uint64(7) + mix(lines) + mix(boxes) * np.uint64(11) + mix(digits) * np.uint64(13))
        return mix(colors).sum((1, 2))

    @property
    def blank(self) -> int:
        return BLANK

    def _is_blank(self, symbol: int) -> bool:
        return symbol == BLANK

    def _line_width(self, line: int, rows: bool) -> float:
        return 1.6 if line % (self.box_rows if rows else self.box_columns) == 0 else 0.4

    def _layout(self, rows: list[list[str]]) -> list[str]:
        segments = self.n // self.box_columns
        rule = "+".join(["-" * (2 * self.box_columns + 1)] * segments)[1:-1]
        lines = []
        for index, row in enumerate(rows):
            if index and index % self.box_rows == 0:
                lines.append(rule)
            boxes = [" ".join(row[i : i + self.box_columns]) for i in range(0, self.n, self.box_columns)]
            lines.append(" | ".join(boxes))
        return lines

    @property
    def held_back(self) -> int:
        return BLANK

    def neighbourhoods(self) -> dict[str, np.ndarray]:
        """Cells of the same row, column or box, the cell itself included, as the AIR paper counts them."""
        same = dict(zip(("row", "column", "box"), (unit[:, None] == unit for unit in self.units), strict=True))
        return {"unit": np.any(list(same.values()), axis=0)} | same

    def violations(self, boards: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Digits that stand twice in a row, column or box; the answer does not matter."""
        peers = self.neighbourhoods()["unit"] & ~np.eye(self.num_cells, dtype=bool)
        digits = boards[:, :, None] == np.arange(BLANK + 1, self.vocab_size)  # (N, S, n)
        return (digits & (np.einsum("st,ntd->nsd", peers.astype(np.float32), digits.astype(np.float32)) > 0)).any(-1)

    def violations_in_reach(self) -> np.ndarray:
        return np.ones((self.num_cells, self.num_cells), dtype=bool)


def _random_lines(count: int, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Random orders (count, n) of n lines that permute groups of `size` and the lines inside each group."""
    groups = _random_orders((count, 1), n // size, rng).reshape(count, n // size, 1)
    inside = _random_orders((count, n // size), size, rng)
    return (groups * np.uint8(size) + inside).reshape(count, n)


def _random_orders(shape: tuple[int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """Random permutations (*shape, size) of a few things, looked up in the table of all of them."""
    table = np.array(list(itertools.permutations(range(size))), dtype=np.uint8)
    return table[rng.integers(len(table), size=shape)]
