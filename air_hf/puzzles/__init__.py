"""Puzzle families behind one interface: `get_puzzle("sudoku-9x9")`, `get_puzzle("maze-30x30")`."""

import math
import re
from functools import cache

from air_hf.puzzles.base import Puzzle, PuzzleError
from air_hf.puzzles.maze import Maze
from air_hf.puzzles.sudoku import Sudoku
from air_hf.puzzles.symmetry import Symmetries

_FAMILIES: dict[str, type[Puzzle]] = {"sudoku": Sudoku, "maze": Maze}


@cache
def get_puzzle(name: str) -> Puzzle:
    """The rules of the puzzle called `name`, family and board size: "sudoku-6x6", "maze-10x12".

    Raises:
        PuzzleError: an unknown family or an impossible size.
    """
    match = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)", name)
    if not match or match[1] not in _FAMILIES:
        raise PuzzleError(f'unknown puzzle {name!r}; expected "sudoku-NxN" or "maze-ROWSxCOLUMNS", e.g. "sudoku-9x9"')
    return _FAMILIES[match[1]](int(match[2]), int(match[3]))


def infer_puzzle(board: str) -> Puzzle:
    """The puzzle a board's text belongs to, from its symbols and its shape.

    A board written on one line is taken to be square.

    Raises:
        PuzzleError: no family has such boards.
    """
    lines = board.strip("\r\n").splitlines()
    cells = sum(len(line) for line in lines)
    rows = len(lines) if len(lines) > 1 else math.isqrt(cells)
    if cells == 0 or rows * (cells // rows if len(lines) > 1 else rows) != cells:
        raise PuzzleError(
            f"a board of {cells} symbols on {len(lines)} lines is neither square nor one row a line; "
            'write it so, or name the puzzle, e.g. "maze-3x5"'
        )
    family = "maze" if set(board) & set("#S ") else "sudoku"
    return get_puzzle(f"{family}-{rows}x{cells // rows}")


__all__ = ["Maze", "Puzzle", "PuzzleError", "Sudoku", "Symmetries", "get_puzzle", "infer_puzzle"]
