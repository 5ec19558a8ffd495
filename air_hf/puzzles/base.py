"""What every puzzle family answers: how boards are written, what is legal, what is a solution, what is the same.

Axis letters: N boards, S cells. Boards are arrays of symbol ids (uint8), cells row by row; id 0 is padding.
"""

from abc import ABC, abstractmethod

import numpy as np

from air_hf.puzzles.symmetry import Symmetries

PADDING = 0
_UNKNOWN = "?"  # what a padding symbol is drawn as; it cannot be read back
_STYLES = {"given": "\033[1m", "right": "\033[32m", "wrong": "\033[31m", "plain": ""}
_RESET = "\033[0m"


class PuzzleError(ValueError):
    """A board, or a puzzle's name, that breaks the rules; the message names the value and what was expected."""


class Puzzle(ABC):
    """A puzzle family at one board size.

    Attributes:
        name (`str`): family and size, as `get_puzzle` takes it.
        rows, columns (`int`): shape of a board.
        symbols (`str`): the character of each id from 1 on.
        aliases (`dict[str, str]`): other characters that may stand for a symbol.
    """

    family: str
    symbols: str
    aliases: dict[str, str]

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns
        self.name = f"{self.family}-{rows}x{columns}"

    @property
    def num_cells(self) -> int:
        return self.rows * self.columns

    @property
    def vocab_size(self) -> int:
        """Symbols, padding included."""
        return len(self.symbols) + 1

    def parse(self, text: str) -> np.ndarray:
        """Reads a board (S,), written on one line or one row a line.

        Raises:
            PuzzleError: a wrong number of symbols or an unknown one; the message says where.
        """
        cells = text.replace("\r", "").replace("\n", "")
        if len(cells) != self.num_cells:
            raise PuzzleError(f"{self.name}: the board has {len(cells)} symbols, expected {self.num_cells}")
        ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        ids |= {alias: ids[symbol] for alias, symbol in self.aliases.items()}
        board = np.array([ids.get(symbol, PADDING) for symbol in cells], dtype=np.uint8)
        if not board.all():
            cell = int(np.flatnonzero(board == PADDING)[0])
            raise PuzzleError(
                f"{self.name}: unknown symbol {cells[cell]!r} in {self.place(cell)}; expected one of {''.join(ids)!r}"
            )
        return board

    def format(self, board: np.ndarray, line_breaks: bool = False) -> str:
        """Writes a board (S,) of ids; a padding symbol is written "?"."""
        text = "".join((_UNKNOWN + self.symbols)[symbol] for symbol in board)
        return "\n".join(self._lines(text)) if line_breaks else text

    def _lines(self, cells) -> list:
        return [cells[start : start + self.columns] for start in range(0, self.num_cells, self.columns)]

    def place(self, cell: int) -> str:
        """A cell's place in words, counted from 1."""
        return f"row {cell // self.columns + 1}, column {cell % self.columns + 1}"

    @abstractmethod
    def check_question(self, question: np.ndarray) -> None:
        """Checks that a board (S,) is a well-formed question.

        Raises:
            PuzzleError: what is wrong and where. That a solution exists, and only one, is not checked.
        """

    @abstractmethod
    def find_error(self, question: np.ndarray, answer: np.ndarray) -> str | None:
        """Why `answer` (S,) does not solve `question` (S,) by the rules alone, or None if it does."""

    @abstractmethod
    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Which of N answers (N, S) solve their questions (N, S) by the rules alone: bool (N,)."""

    @abstractmethod
    def random_symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        """`count` uniformly drawn elements of the family's symmetry group."""

    @abstractmethod
    def class_keys(self, boards: np.ndarray) -> np.ndarray:
        """64-bit keys (N,) of boards (N, S), equal for boards that a symmetry maps to each other.

        Boards of different classes may share a key, rarely; sets with no key in common have no class in common.
        """

    @abstractmethod
    def draw_picture(self, axes, board: np.ndarray, question: np.ndarray, answer: np.ndarray | None = None) -> None:
        """Draws a board (S,) into matplotlib axes; what the question gives is set apart, and cells that differ from
        `answer` are marked."""

    def draw_text(
        self, board: np.ndarray, question: np.ndarray, answer: np.ndarray | None = None, color: bool = False
    ) -> list[str]:
        """The lines of a board (S,) as text.

        Args:
            board, question, answer: integer arrays (S,).
            color (`bool`): use ANSI escapes: given cells bold, right ones green, cells that differ from `answer` red.
        """
        styled = []
        for cell, character in enumerate(self.format(board)):
            style = "plain"
            if board[cell] == question[cell]:
                style = "given"
            elif answer is not None:
                style = "right" if board[cell] == answer[cell] else "wrong"
            styled.append(f"{_STYLES[style]}{character}{_RESET}" if color and style != "plain" else character)
        return self._layout(self._lines(styled))

    @abstractmethod
    def _layout(self, rows: list[list[str]]) -> list[str]:
        """Lines of text from rows of styled symbols."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit integers (the finaliser of SplitMix64), so that sums of them identify multisets."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
