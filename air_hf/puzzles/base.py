"""What every puzzle family answers: how boards are written, what is legal, what is a solution, what is the same.

Axis letters: N boards, S cells. Boards are arrays of symbol ids (uint8), cells row by row; id 0 is padding.
"""

from abc import ABC, abstractmethod
from functools import cached_property

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
        board = np.array([self._ids.get(symbol, PADDING) for symbol in cells], dtype=np.uint8)
        if not board.all():
            cell = int(np.flatnonzero(board == PADDING)[0])
            known = "".join(self._ids)
            raise PuzzleError(
                f"{self.name}: unknown symbol {cells[cell]!r} in {self.place(cell)}; expected one of {known!r}"
            )
        return board

    def parse_all(self, texts: list[str]) -> np.ndarray:
        """Reads N boards (N, S), many times as fast as one by one.

        Raises:
            PuzzleError: as [`Puzzle.parse`], for the first text that is no board.
        """
        joined = "".join(texts)
        if joined.isascii() and all(len(text) == self.num_cells for text in texts):
            boards = self._id_of_byte[np.frombuffer(joined.encode("ascii"), dtype=np.uint8)]
            if boards.all():
                return boards.reshape(len(texts), self.num_cells)
        return np.stack([self.parse(text) for text in texts])

    @cached_property
    def _id_of_byte(self) -> np.ndarray:
        table = np.full(256, PADDING, dtype=np.uint8)
        for symbol, i in self._ids.items():
            table[ord(symbol)] = i
        return table

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        return ids | {alias: ids[symbol] for alias, symbol in self.aliases.items()}

    def format(self, board: np.ndarray, line_breaks: bool = False) -> str:
        """Writes a board (S,) of ids; a padding symbol is written "?"."""
        text = "".join((_UNKNOWN + self.symbols)[symbol] for symbol in board)
        return "\n".join(self._lines(text)) if line_breaks else text

    def format_all(self, boards: np.ndarray) -> list[str]:
        """Writes N boards (N, S) of ids, each on one line."""
        symbols = np.frombuffer((_UNKNOWN + self.symbols).encode("ascii"), dtype=np.uint8)
        text = symbols[boards].tobytes().decode("ascii")
        return [text[start : start + self.num_cells] for start in range(0, len(text), self.num_cells)]

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

    def symmetry_pool(self, count: int, rng: np.random.Generator) -> Symmetries:
        """`count` elements of the group, the identity first and the others drawn at random.

        Raises:
            PuzzleError: not even one, or more than the group has where it can be listed.
        """
        if count < 1:
            raise PuzzleError(f"{count} images of a {self.name} were asked for; expected at least 1")
        pool = self.random_symmetries(count, rng)
        pool.cells[0], pool.symbols[0] = np.arange(self.num_cells), np.arange(self.vocab_size)
        return pool

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

    @property
    def held_back(self) -> int:
        """The symbol by which a state that decodes to it leaves a cell open; padding, where there is no blank."""
        return PADDING

    def neighbourhoods(self) -> dict[str, np.ndarray]:
        """Which cells are near which, bool (S, S) by name, the one that matters most first; here, those of a grid."""
        row, column = np.divmod(np.arange(self.num_cells), self.columns)
        rows, columns = (abs(place[:, None] - place) for place in (row, column))
        farther = np.maximum(rows, columns)
        return {"4-connected": rows + columns == 1, "8-connected": farther == 1, "5x5": (farther > 0) & (farther <= 2)}

    def violations(self, boards: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Cells of N boards (N, S) that cannot stay, bool (N, S); here, those that differ from the answer."""
        return boards != answers

    def violations_in_reach(self) -> np.ndarray:
        """Whose violations count for a cell's violation mass, bool (S, S); here, those of its first neighbourhood."""
        return next(iter(self.neighbourhoods().values()))

    def __repr__(self) -> str:
        return f"<{self.name}>"


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit integers (the finaliser of SplitMix64), so that sums of them identify multisets."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
