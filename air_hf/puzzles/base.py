"""What every puzzle family answers: how boards are written, what is legal, what is a solution, what is the same.

Axis letters: N boards, S cells. Boards are arrays of symbol ids (uint8), cells row by row; id 0 is padding.
"""

import math
from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

import numpy as np

from air_hf.modeling.rules_air import Rules, padding_symbol, split_lines
from air_hf.puzzles.symmetry import Symmetries

PADDING = 0
_MOST_CELLS = 2**20  # what a model takes
_STYLES = {"given": "\033[1m", "right": "\033[32m", "wrong": "\033[31m", "plain": ""}
_RESET = "\033[0m"


class PuzzleError(ValueError):
    """A board, or a puzzle's name, that breaks the rules; the message names the value and what was expected."""


class Puzzle:
    """A puzzle family at one board size. A family is a subclass; what it must say is its name, rules and symbols.

    Class attributes of a family:
        family (`str`): its name, lower-case.
        rules_class ([`Rules`]): what is legal and what is a solution, on one board as text.
        option_names (`tuple[str, ...]`): what `options` may hold.
        aliases (`dict[str, str]`): other characters that may stand for a symbol.
        generator, data_builder (`str`, *optional*): "module:class" of its [`PuzzleGenerator`], and of its
            [`PuzzleBuilder`] where it has one of its own; imported when puzzles are generated and data sets built.

    Attributes:
        name (`str`): family and size, as `get_puzzle` takes it.
        rows, columns (`int`): shape of a board.
        options (`dict[str, str]`): what the family needs besides, as `config.puzzle_options` holds it.
        symbols (`str`): the character of each id from 1 on.
        description (`str`): one sentence that says what is to be solved.
        symbols_help (`str`): how a board is written, in Markdown.
        example (`str`): a question on one line.

    Raises:
        PuzzleError: boards of this size or with these options do not exist.
    """

    family: ClassVar[str]
    rules_class: ClassVar[type[Rules]]
    option_names: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {}
    generator: ClassVar[str | None] = None
    data_builder: ClassVar[str | None] = None

    symbols: str
    description: str
    symbols_help: str
    example: str

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        self.rows, self.columns, self.options = rows, columns, options
        self.name = f"{self.family}-{rows}x{columns}"
        if not 1 <= rows * columns <= _MOST_CELLS:
            raise PuzzleError(f"{self.name} has {rows * columns:,} cells; expected 1 to {_MOST_CELLS:,}")
        if unknown := options.keys() - set(self.option_names):
            known = ", ".join(self.option_names) or "none"
            raise PuzzleError(f"{', '.join(sorted(unknown))} is no option of {self.family} puzzles; these take {known}")
        try:
            self.rules = self.rules_class(rows, columns, options)
        except ValueError as error:
            raise PuzzleError(str(error)) from error

    @classmethod
    def complete_options(cls, options: dict[str, str], boards: Iterable[str]) -> dict[str, str]:
        """The options of a data set whose boards, as text, are `boards`: where something can be read off them."""
        return options

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
        try:
            cells = self.rules.read(text)
        except ValueError as error:
            raise PuzzleError(f"{self.name}: {error}{self._hint_of_size(text)}") from error
        board = self._ids[_code_points(cells)]
        if not board.all():
            cell = int(np.flatnonzero(board == PADDING)[0])
            known = self.symbols + "".join(self.aliases)
            raise PuzzleError(
                f"{self.name}: unknown symbol {cells[cell]!r} in {self.place(cell)}; expected one of {known!r}"
            )
        return board

    def _hint_of_size(self, text: str) -> str:
        """Whose square board of this family the text may be, for `--puzzle`; nothing if of none or of this size."""
        cells = sum(map(len, split_lines(text)))
        side = math.isqrt(cells)
        if side * side != cells or cells == self.num_cells:
            return ""
        try:
            return f"; {type(self)(side, side, self.options).name} has {cells}"
        except PuzzleError:  # the family has no boards of that size
            return ""

    def parse_all(self, texts: list[str]) -> np.ndarray:
        """Reads N boards (N, S), many times as fast as one by one.

        Raises:
            PuzzleError: as [`Puzzle.parse`], for the first text that is no board.
        """
        if all(len(text) == self.num_cells for text in texts):
            boards = self._ids[_code_points("".join(texts))]
            if boards.all():
                return boards.reshape(len(texts), self.num_cells)
        return np.stack([self.parse(text) for text in texts])

    @cached_property
    def _ids(self) -> np.ndarray:
        """The id of every character of Unicode; padding where it is no symbol."""
        table = np.full(0x110000, PADDING, dtype=np.uint8)
        table[_code_points(self.symbols)] = np.arange(1, self.vocab_size)
        for alias, symbol in self.aliases.items():
            table[ord(alias)] = table[ord(symbol)]
        return table

    @cached_property
    def _characters(self) -> np.ndarray:
        return _code_points(padding_symbol(self.symbols) + self.symbols)

    def format(self, board: np.ndarray, line_breaks: bool = False) -> str:
        """Writes a board (S,) of ids; a padding symbol is written "?", which cannot be read back."""
        text = _text(self._characters[board])
        return "\n".join(self._lines(text)) if line_breaks else text

    def format_all(self, boards: np.ndarray) -> list[str]:
        """Writes N boards (N, S) of ids, each on one line."""
        text = _text(self._characters[boards])
        return [text[start : start + self.num_cells] for start in range(0, len(text), self.num_cells)]

    def _lines(self, cells) -> list:
        return [cells[start : start + self.columns] for start in range(0, self.num_cells, self.columns)]

    def place(self, cell: int) -> str:
        """A cell's place in words, counted from 1."""
        return self.rules.place(cell)

    def check_question(self, question: np.ndarray) -> None:
        """Checks that a board (S,) is a well-formed question.

        Raises:
            PuzzleError: what is wrong and where. That a solution exists, and only one, is not checked.
        """
        if fault := self.rules.find_fault(self.format(question)):
            raise PuzzleError(f"{self.name}: {fault}")

    def find_error(self, question: np.ndarray, answer: np.ndarray) -> str | None:
        """Why `answer` (S,) does not solve `question` (S,) by the rules alone, or None if it does."""
        return self.rules.find_error(self.format(question), self.format(answer))

    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Which of N answers (N, S) solve their questions (N, S) by the rules alone: bool (N,)."""
        pairs = zip(questions, answers, strict=True)
        return np.array([self.find_error(question, answer) is None for question, answer in pairs], dtype=bool)

    def has_several_answers(self, questions: np.ndarray) -> np.ndarray:
        """Which of N questions (N, S) have more right answers than the one a data set marks: bool (N,).

        None, unless the family says otherwise. Random symmetries may turn the marked answer into another one.
        """
        return np.zeros(len(questions), dtype=bool)

    @cached_property
    def arrangements(self) -> np.ndarray:
        """The symmetry group where it is a short list of ways to arrange the cells, (K, S), the identity first.

        Row k holds, for each cell of the image, the cell it is taken from. This one is of boards without symmetries.
        """
        return np.arange(self.num_cells, dtype=np.int32)[None]

    def random_symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        """`count` uniformly drawn elements of the family's symmetry group."""
        return self._arranged(rng.integers(len(self.arrangements), size=count))

    def symmetry_pool(self, count: int, rng: np.random.Generator) -> Symmetries:
        """`count` different elements of the group, the identity first and the others drawn at random.

        Raises:
            PuzzleError: not even one, or more than the group has.
        """
        if not 1 <= count <= len(self.arrangements):
            most = len(self.arrangements)
            raise PuzzleError(f"{count} images of a {self.name} were asked for; it has 1{f' to {most}' * (most > 1)}")
        others = 1 + rng.permutation(len(self.arrangements) - 1)[: count - 1]
        return self._arranged(np.concatenate(([0], others)))

    def _arranged(self, which: np.ndarray) -> Symmetries:
        symbols = np.tile(np.arange(self.vocab_size, dtype=np.uint8), (len(which), 1))
        return Symmetries(self.arrangements[which], symbols)

    def class_keys(self, boards: np.ndarray) -> np.ndarray:
        """64-bit keys (N,) of boards (N, S), equal for boards that a symmetry maps to each other.

        Boards of different classes may share a key, rarely; sets with no key in common have no class in common.
        """
        keys = np.zeros(len(boards), dtype=np.uint64)
        places = np.arange(self.num_cells, dtype=np.uint64) * np.uint64(self.vocab_size + 1)
        for cells in self.arrangements:
            keys += mix(mix(boards[:, cells] + places).sum(1))
        return keys

    def draw_picture(self, axes, board: np.ndarray, question: np.ndarray, answer: np.ndarray | None = None) -> None:
        """Draws a board (S,) into matplotlib axes: its symbols in a grid of cells.

        What the question gives is black; the rest is blue or, beside an `answer`, green and vermilion.
        """
        axes.set(xlim=(0, self.columns), ylim=(self.rows, 0), aspect="equal", xticks=[], yticks=[])
        for line in range(self.rows + 1):
            axes.axhline(line, color="black", linewidth=self._line_width(line, rows=True))
        for line in range(self.columns + 1):
            axes.axvline(line, color="black", linewidth=self._line_width(line, rows=False))
        for cell, symbol in enumerate(board):
            if self._is_blank(symbol):
                continue
            given = symbol == question[cell]
            wrong = answer is not None and symbol != answer[cell]
            axes.text(
                cell % self.columns + 0.5,
                cell // self.columns + 0.54,
                self.format(board[[cell]]),
                ha="center",
                va="center",
                fontsize=100 / max(self.rows, self.columns),
                fontweight="bold" if given else "normal",
                color="black" if given else "#D55E00" if wrong else "#009E73" if answer is not None else "tab:blue",
                parse_math=False,
            )

    def _is_blank(self, symbol: int) -> bool:
        """Whether a picture leaves a cell of this symbol empty."""
        return False

    def _line_width(self, line: int, rows: bool) -> float:
        """Of the line above a row, or on the left of a column, in points."""
        return 0.4

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

    def _layout(self, rows: list[list[str]]) -> list[str]:
        """Lines of text from rows of styled symbols."""
        return [" ".join(row) for row in rows]

    @property
    def held_back(self) -> int:
        """The symbol by which a state that decodes to it leaves a cell open; padding, where there is no blank."""
        return PADDING

    @property
    def blank(self) -> int | None:
        """The symbol of a question's cells that an answer decides; None where it may decide every cell."""
        return None

    def undecided(self, questions: np.ndarray) -> np.ndarray:
        """Cells of N questions (N, S) that an answer decides, also where it leaves them as they are: bool (N, S)."""
        return np.full(questions.shape, True) if self.blank is None else questions == self.blank

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


def _code_points(text: str) -> np.ndarray:
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _text(code_points: np.ndarray) -> str:
    return code_points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
