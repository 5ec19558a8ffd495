"""A Sudoku solver that counts its dead ends, compiled by numba; the generator's grids, proofs and ratings come from it.

It fills naked singles (a cell with one candidate) and hidden singles (a digit with one cell left in a row, column or
box) until there are none, then guesses in a cell with the fewest candidates. A board is an array (S,) of candidate
sets, bit d for digit d from 0; a clue is a set of one.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def _propagate(cells, placed, mates, units):
    """Fills singles in place; the number of cells left empty, or -1 for a contradiction."""
    full = np.uint32((1 << units.shape[1]) - 1)
    while True:
        progress = False
        left = 0
        for cell in range(len(cells)):
            if placed[cell]:
                continue
            digits = cells[cell]
            if digits == 0:
                return -1
            if digits & (digits - np.uint32(1)):
                left += 1
                continue
            placed[cell] = progress = True
            for mate in mates[cell]:
                if cells[mate] == digits:
                    return -1
                cells[mate] &= ~digits
        if progress:
            continue
        for unit in units:
            once = twice = np.uint32(0)
            for cell in unit:
                twice |= once & cells[cell]
                once |= cells[cell]
            if once != full:
                return -1
            once &= ~twice
            for cell in unit:
                digits = cells[cell] & once
                if digits and not placed[cell]:
                    if digits & (digits - np.uint32(1)):
                        return -1
                    cells[cell] = digits
                    progress = True
        if not progress:
            return left


@njit(cache=True)
def _fewest_candidates(cells, placed):
    best, least = -1, 99
    for cell in range(len(cells)):
        if not placed[cell]:
            count, digits = 0, cells[cell]
            while digits:
                digits &= digits - np.uint32(1)
                count += 1
            if count < least:
                best, least = cell, count
    return best


@njit(cache=True)
def search(board, mates, units, order, max_solutions, max_dead_ends):
    """Looks for solutions depth first.

    Args:
        board (uint32 array of shape `(S,)`): candidate sets.
        mates (integer array of shape `(S, M)`): the cells that share a row, column or box with each cell.
        units (integer array of shape `(3n, n)`): the cells of every row, column and box.
        order (integer array of shape `(S, n)`): in which order a cell tries its digits.
        max_solutions (`int`): stop after so many.
        max_dead_ends (`int`): give up after so many.

    Returns:
        solutions found (-1 if given up), the dead ends met (guesses that led to a contradiction), and the last
        solution, candidate sets of shape `(S,)`.
    """
    size = len(board)
    boards = np.empty((size + 1, size), dtype=np.uint32)
    placed = np.zeros((size + 1, size), dtype=np.bool_)
    guessed = np.zeros(size + 1, dtype=np.int64)  # the cell each depth guesses in, and which digits it has yet to try
    untried = np.zeros(size + 1, dtype=np.uint32)
    solution = board.copy()
    boards[0] = board
    solutions = dead_ends = depth = 0
    left = _propagate(boards[0], placed[0], mates, units)
    while True:
        if left > 0:
            guessed[depth] = _fewest_candidates(boards[depth], placed[depth])
            untried[depth] = boards[depth, guessed[depth]]
        else:
            if left == 0:
                solutions += 1
                solution[:] = boards[depth]
                if solutions == max_solutions:
                    return solutions, dead_ends, solution
            elif depth > 0:
                dead_ends += 1
                if dead_ends > max_dead_ends:
                    return -1, dead_ends, solution
            depth -= 1
            while depth >= 0 and untried[depth] == 0:
                depth -= 1
            if depth < 0:
                return solutions, dead_ends, solution
        cell = guessed[depth]
        for digit in order[cell]:
            bit = np.uint32(1 << digit)
            if untried[depth] & bit:
                break
        untried[depth] &= ~bit
        depth += 1
        boards[depth] = boards[depth - 1]
        placed[depth] = placed[depth - 1]
        boards[depth, cell] = bit
        left = _propagate(boards[depth], placed[depth], mates, units)


@njit(cache=True)
def spare_clues(grid, cells, clues, mates, units, order, max_dead_ends):
    """Takes away every clue that the others imply.

    Args:
        grid (uint32 array of shape `(S,)`): a solved board.
        cells (integer array of shape `(S,)`): the order in which clues are tried.
        clues (`int`): stop when so few are left.
        max_dead_ends (`int`): a clue stays if so long a search does not show that it is implied.
        others: see [`search`].

    Returns:
        bool array `(S,)`: which clues are left.
    """
    size = len(grid)
    full = np.uint32((1 << units.shape[1]) - 1)
    given = np.ones(size, dtype=np.bool_)
    left = size
    for cell in cells:
        if left == clues:
            break
        given[cell] = False
        board = np.where(given, grid, full)
        board[cell] = full & ~grid[cell]
        solutions, _, _ = search(board, mates, units, order, 1, max_dead_ends)
        if solutions == 0:
            left -= 1
        else:
            given[cell] = True
    return given
