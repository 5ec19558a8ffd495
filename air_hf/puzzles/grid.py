"""Anyone's puzzle without code: questions and answers of one shape, in any symbols.

Axis letters: N boards, S cells.
"""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from air_hf.modeling.rules_air import GridRules, split_lines
from air_hf.puzzles.base import Puzzle, PuzzleError
from air_hf.puzzles.symmetry import dihedral

_MOST_SYMBOLS = 255  # ids are bytes, and 0 is padding
_SYMMETRIES = ("none", "dihedral")


class Grid(Puzzle):
    """Boards of which nothing is known but their symbols.

    Options:
        symbols: every symbol once, in the order of their ids; read off the boards of a data set if not given.
        givens: the symbol of a blank cell; the other cells of a question are given, and an answer must keep them.
        symmetries: "none", or "dihedral" where a board turned or mirrored is a board of the same puzzle.
    """

    family = "grid"
    rules_class = GridRules
    option_names = ("symbols", "givens", "symmetries")
    description = "A puzzle of its maker's own: the answer to a board is what the training data show."

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        super().__init__(rows, columns, options)
        self.symbols, self.givens = options.get("symbols", ""), options.get("givens")
        symmetries = options.get("symmetries", "none")
        if not self.symbols:
            raise PuzzleError(f"{self.name}: its symbols are not given; name them, or read a data set that shows them")
        _check_symbols(self.symbols, self.name)
        if self.givens is not None and (len(self.givens) != 1 or self.givens not in self.symbols):
            raise PuzzleError(f"{self.name}: givens is {self.givens!r}; expected one of the symbols {self.symbols!r}")
        if symmetries not in _SYMMETRIES:
            raise PuzzleError(f"{self.name}: symmetries is {symmetries!r}; expected one of {', '.join(_SYMMETRIES)}")
        blank = "" if self.givens is None else f"; `{self.givens}` for a cell that is not given"
        self.symbols_help = f"the symbols `{self.symbols}`{blank}"

    @classmethod
    def complete_options(cls, options: dict[str, str], boards: Iterable[str]) -> dict[str, str]:
        if options.get("symbols"):
            return options
        symbols = set(options.get("givens", ""))
        for board in boards:
            symbols.update(*split_lines(board))
        return options | {"symbols": "".join(sorted(symbols))}

    @property
    def example(self) -> str:
        shown = [symbol for symbol in self.symbols if symbol != self.givens] or [self.symbols]
        blank = shown[-1] if self.givens is None else self.givens
        return (("".join(shown) + blank) * self.num_cells)[: self.num_cells]

    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        if self.givens is None:
            return np.ones(len(questions), dtype=bool)
        return ((questions == self._ids[ord(self.givens)]) | (questions == answers)).all(1)

    @cached_property
    def arrangements(self) -> np.ndarray:
        if self.options.get("symmetries") == "dihedral":
            return dihedral(self.rows, self.columns)
        return super().arrangements

    @property
    def blank(self) -> int | None:
        return None if self.givens is None else int(self._ids[ord(self.givens)])

    def _is_blank(self, symbol: int) -> bool:
        return symbol == self.blank


def _check_symbols(symbols: str, name: str) -> None:
    if len(symbols) > _MOST_SYMBOLS:
        raise PuzzleError(f"{name}: there are {len(symbols)} symbols; expected at most {_MOST_SYMBOLS}")
    for symbol in symbols:
        if symbols.count(symbol) > 1:
            raise PuzzleError(f"{name}: symbol {symbol!r} occurs twice in {symbols!r}")
        if symbol in "\r\n\0" or "\ud800" <= symbol <= "\udfff":
            raise PuzzleError(f"{name}: {symbol!r} cannot be a symbol")
