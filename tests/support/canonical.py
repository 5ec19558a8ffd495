"""The canonical form of a Sudoku question: the same board for every question that a symmetry maps to another."""

import itertools

import numpy as np
from numba import njit

from air_hf.puzzles import PuzzleError
from air_hf.puzzles.sudoku import BLANK, Sudoku

_LARGEST = 9


def canonical_form(puzzle: Sudoku, question: np.ndarray) -> np.ndarray:
    """The smallest image of a question (S,) in row-by-row order, digits renamed in order of appearance.

    Tries every arrangement of rows and columns (3,359,232 on 9x9, a tenth of a second), leaving each at the first cell
    that is larger than the best one's.

    Raises:
        PuzzleError: a 16x16 board, whose arrangements cannot be listed.
    """
    if puzzle.n > _LARGEST:
        raise PuzzleError(f"the arrangements of {puzzle.name} cannot be listed; the largest board is 9x9")
    clues = np.where(question > BLANK, question - BLANK, 0).astype(np.int64).reshape(puzzle.n, puzzle.n)
    boards = np.stack((clues, clues.T) if puzzle.box_rows == puzzle.box_columns else (clues,))
    best = _smallest(boards, _orders(puzzle.n, puzzle.box_rows), _orders(puzzle.n, puzzle.box_columns))
    return (best + BLANK).astype(np.uint8).reshape(-1)


def _orders(n: int, size: int) -> np.ndarray:
    """Every order (K, n) of n lines that permutes groups of `size` and the lines inside each group."""
    inside = list(itertools.permutations(range(size)))
    return np.array(
        [
            [group * size + line for group, order in zip(groups, orders, strict=True) for line in order]
            for groups in itertools.permutations(range(n // size))
            for orders in itertools.product(inside, repeat=n // size)
        ]
    )


@njit(cache=True)
def _smallest(boards, row_orders, column_orders):
    n = boards.shape[1]
    best = np.full((n, n), n + 1)
    image = np.empty((n, n), dtype=np.int64)
    for board in boards:
        for rows in row_orders:
            for columns in column_orders:
                names = np.zeros(n + 1, dtype=np.int64)
                named = 0
                smaller = False
                done = True
                for cell in range(n * n):
                    i, j = cell // n, cell % n
                    digit = board[rows[i], columns[j]]
                    if digit and names[digit] == 0:
                        named += 1
                        names[digit] = named
                    image[i, j] = names[digit]
                    if not smaller:
                        if image[i, j] > best[i, j]:
                            done = False
                            break
                        smaller = image[i, j] < best[i, j]
                if smaller and done:
                    best[:] = image
    return best
