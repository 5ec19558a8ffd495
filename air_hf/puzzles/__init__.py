"""Puzzle families behind one interface: `get_puzzle("sudoku-9x9")`, `get_puzzle("maze-30x30")`.

A family is a subclass of [`Puzzle`]. One of this package has its rules in `rules_air.py` and its class in the module
here that is called as the family; one of another package is an entry point of the group `air_hf.puzzles` under the
family's name.
"""

import math
import warnings
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from air_hf.modeling.rules_air import FAMILIES, FAMILY_GROUP, PUZZLE_NAME, split_lines
from air_hf.puzzles.base import Puzzle, PuzzleError
from air_hf.puzzles.symmetry import Symmetries


@lru_cache(256)
def get_puzzle(name: str, **options: str) -> Puzzle:
    """The rules of the puzzle called `name`, family and board size: "sudoku-6x6", "maze-10x12".

    Raises:
        PuzzleError: an unknown family, an impossible size, or options that the family does not have.
    """
    family, rows, columns = _split_name(name)
    return find_family(family)(rows, columns, options)


def family_name(name: str) -> str:
    """The family of the puzzle called `name`: "sudoku" of "sudoku-6x6".

    Raises:
        PuzzleError: it is no puzzle's name.
    """
    return _split_name(name)[0]


def puzzle_of(config) -> Puzzle | None:
    """The puzzle that a model's configuration names; None if it names none.

    Raises:
        PuzzleError: as [`get_puzzle`].
    """
    return None if config.puzzle is None else get_puzzle(config.puzzle, **(config.puzzle_options or {}))


def find_family(name: str) -> type[Puzzle]:
    """The class of a family, of this package or of another one.

    Raises:
        PuzzleError: there is none of that name, or it cannot be imported.
    """
    if name in FAMILIES:
        return getattr(import_module(f"air_hf.puzzles.{name}"), name.capitalize())
    for entry in entry_points(group=FAMILY_GROUP, name=name):
        package = entry.dist.name if entry.dist else "an unknown package"
        try:
            family = entry.load()
            if not issubclass(family, Puzzle) or family.family != name:
                raise TypeError(f"it is {family!r}, no Puzzle of the family {name!r}")
        except Exception as error:  # an import runs what another package has written, which may fail in any way
            kind = type(error).__name__
            raise PuzzleError(
                f"puzzle family {name!r} ({entry.value} of {package}) cannot be imported: {kind}: {error}"
            ) from error
        return family
    raise PuzzleError(f"unknown puzzle family {name!r}; known are {', '.join(_family_names())}")


def all_families() -> list[type[Puzzle]]:
    """Every family, those of this package first; a warning names one that cannot be imported."""
    families = []
    for name in _family_names():
        try:
            families.append(find_family(name))
        except PuzzleError as error:
            warnings.warn(str(error), stacklevel=2)
    return families


def _family_names() -> list[str]:
    return list(dict.fromkeys([*FAMILIES, *sorted(entry_points(group=FAMILY_GROUP).names)]))


def _split_name(name: str) -> tuple[str, int, int]:
    match = PUZZLE_NAME.fullmatch(name)
    if not match:
        raise PuzzleError(f'unknown puzzle {name!r}; expected FAMILY-ROWSxCOLUMNS, e.g. "sudoku-9x9" or "maze-10x12"')
    return match[1], int(match[2]), int(match[3])


def complete_options(name: str, options: dict[str, str], boards) -> dict[str, str]:
    """The options of the puzzle called `name` for a data set, with what its family can read off the boards' text."""
    return find_family(family_name(name)).complete_options(options, boards)


def _nearest(cells: int) -> str:
    side = round(math.sqrt(cells))
    return f" ({side}x{side} has {side * side})" if side else ""


def infer_puzzle(board: str) -> Puzzle:
    """The puzzle a board's text belongs to: of those that have boards of its shape, the one that knows most symbols.

    A board written on one line is taken to be square. Where two families know as many, that of this package is meant.

    Raises:
        PuzzleError: no family has such boards.
    """
    lines = split_lines(board)
    cells = sum(map(len, lines))
    rows = len(lines) if len(lines) > 1 else math.isqrt(cells)
    if cells == 0 or rows * (cells // rows if len(lines) > 1 else rows) != cells:
        raise PuzzleError(
            f"a board of {cells} symbols on {len(lines)} lines is neither square{_nearest(cells)} nor one row a line; "
            'write it so, or name the puzzle, e.g. "maze-3x5", or a model of it'
        )
    known: dict[Puzzle, int] = {}
    for family in all_families():
        try:
            puzzle = get_puzzle(f"{family.family}-{rows}x{cells // rows}")
        except PuzzleError:  # of another size, or one that must be named because it has options
            continue
        symbols = puzzle.symbols + "".join(puzzle.aliases)
        known[puzzle] = sum(symbol in symbols for line in lines for symbol in line)
    best = max(known, key=known.__getitem__, default=None)
    if not best or not known[best]:
        raise PuzzleError(
            f"no family of puzzles has boards of {rows}x{cells // rows} cells with such symbols ({lines[0][:20]!r}); "
            f'name the puzzle: one of your own is "grid-{rows}x{cells // rows}"'
        )
    return best


__all__ = [
    "Puzzle",
    "PuzzleError",
    "Symmetries",
    "all_families",
    "complete_options",
    "find_family",
    "get_puzzle",
    "infer_puzzle",
    "puzzle_of",
]
