"""The rules of each puzzle family on one board, written as text; what the pipeline and air_hf.puzzles check answers by.

This file travels to the Hub with every checkpoint and runs where air_hf is not installed. A board is one line of S
symbols, row by row. Axis letter: S cells.
"""

import re
import warnings
from importlib.metadata import entry_points

PUZZLE_NAME = re.compile(r"([a-z][a-z0-9_]*)-([0-9]{1,9})x([0-9]{1,9})")
FAMILY_GROUP = "air_hf.puzzles"  # the entry points by which other packages bring families
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4)}  # rows and columns of a box of Sudoku
DIGITS = "123456789ABCDEFG"


class Rules:
    """The rules of a family at one board size; this class itself knows none.

    Args:
        rows, columns (`int`): shape of a board.
        options (`dict[str, str]`): what the family needs besides, as `config.puzzle_options` holds it.

    Attributes:
        checks_answers (`bool`): whether an answer can break a rule at all; without rules nothing is valid or not.
        proves_answers (`bool`): whether an answer that breaks no rule solves its question. Only such rules may end a
            rollout or choose among several.

    Raises:
        ValueError: boards of this size or with these options do not exist.
    """

    checks_answers = True
    proves_answers = True

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        self.rows, self.columns, self.options = rows, columns, options

    def place(self, cell: int) -> str:
        """A cell's place in words, counted from 1."""
        return f"row {cell // self.columns + 1}, column {cell % self.columns + 1}"

    def read(self, text: str) -> str:
        """A board on one line, from one on one line or one row a line.

        Raises:
            ValueError: another number of symbols, or rows of another shape.
        """
        lines = split_lines(text)
        cells = "".join(lines)
        if len(cells) != self.rows * self.columns:
            raise ValueError(f"the board has {len(cells)} symbols, expected {self.rows * self.columns}")
        if len(lines) > 1 and [len(line) for line in lines] != [self.columns] * self.rows:
            shape = ", ".join(str(len(line)) for line in lines[:20])
            raise ValueError(f"the board has lines of {shape} symbols, expected {self.rows} lines of {self.columns}")
        return cells

    def find_fault(self, question: str) -> str | None:
        """Why `question` is no well-formed question, or None. That a solution exists, and only one, is not checked."""
        return None

    def find_error(self, question: str, answer: str) -> str | None:
        """Why `answer` does not solve `question`, or None if it does."""
        return None


def split_lines(text: str) -> list[str]:
    """The lines of a board, however they end; those that are empty at its beginning and end do not count."""
    return re.split(r"\r\n|\r|\n", text.strip("\r\n"))


def padding_symbol(symbols: str) -> str:
    """What stands for a padding id in an answer: no symbol of the puzzle, so that no rule accepts it."""
    return next(symbol for symbol in ("?", "\ufffd", "\u2047") if symbol not in symbols)


class SudokuRules(Rules):
    """Every row, column and box holds every digit once; any other symbol is a blank."""

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        if rows != columns or rows not in BOXES:
            sizes = [f"{n}x{n}" for n in BOXES]
            raise ValueError(f"a Sudoku board of {rows}x{columns} is not known; sizes are {sizes}")
        super().__init__(rows, columns, options)
        self.digits = frozenset(DIGITS[:rows])
        places = [divmod(cell, columns) for cell in range(rows * columns)]
        box_rows, box_columns = BOXES[rows]
        boxes = [row // box_rows * (columns // box_columns) + column // box_columns for row, column in places]
        self.units = {  # the row, column and box of each cell
            "row": [row for row, _ in places],
            "column": [column for _, column in places],
            "box": boxes,
        }

    def find_fault(self, question: str) -> str | None:
        twice = self._find_twice(question)
        return twice and f"contradictory clues: {twice}"

    def _find_twice(self, board: str) -> str | None:
        for kind, units in self.units.items():
            seen: dict[tuple, int] = {}
            for cell, symbol in enumerate(board):
                if symbol in self.digits and (first := seen.setdefault((units[cell], symbol), cell)) != cell:
                    return f"{symbol} stands twice in one {kind}, in {self.place(first)} and in {self.place(cell)}"
        return None

    def find_error(self, question: str, answer: str) -> str | None:
        for cell, (clue, digit) in enumerate(zip(question, answer, strict=True)):
            if digit not in self.digits:
                return f"{self.place(cell)} is not filled in"
            if clue in self.digits and clue != digit:
                return f"{self.place(cell)} holds {digit} but the question gives {clue}"
        return self._find_twice(answer)


class MazeRules(Rules):
    """The marks (o) form a shortest path from S to G; walls (#) and everything else stay."""

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        if rows * columns < 2:
            raise ValueError(f"a maze of {rows}x{columns} has no room for a start and a goal")
        super().__init__(rows, columns, options)

    def find_fault(self, question: str) -> str | None:
        for symbol, name in (("S", "start"), ("G", "goal")):
            if (count := question.count(symbol)) != 1:
                return f"the board has {count} {name}s ({symbol}), expected 1"
        if (marked := question.find("o")) >= 0:
            return f"the question already marks a path, in {self.place(marked)}"
        return "no path leads from S to G" if self._steps(question, over=" ") is None else None

    def find_error(self, question: str, answer: str) -> str | None:
        if fault := self.find_fault(question):
            return fault
        for cell, (before, after) in enumerate(zip(question, answer, strict=True)):
            if before != after and (before, after) != (" ", "o"):
                return f"{self.place(cell)} holds {after!r} but the question has {before!r}"
        shortest, along_marks = self._steps(question, over=" "), self._steps(answer, over="o")
        marked = answer.count("o")
        if along_marks is None:
            return f"the {marked} marked cells do not connect S with G"
        if along_marks != shortest:
            return f"the marked path takes {along_marks} steps, a shortest one {shortest}"
        if marked != shortest - 1:
            return f"{marked} cells are marked, a shortest path passes {shortest - 1}"
        return None

    def _steps(self, board: str, over: str) -> int | None:
        """Steps of a shortest way from S to G, each of which there is one, over cells of one symbol; None if none."""
        width = self.columns + 1  # with a wall after every row and around the board, no step leaves it
        rows = (board[start : start + self.columns] for start in range(0, len(board), self.columns))
        walled = "#" * width + "".join(f"{row}#" for row in rows) + "#" * width
        goal = walled.index("G")
        frontier = {walled.index("S")}
        seen, steps = set(frontier), 0
        while frontier and goal not in frontier:
            near = {cell + step for cell in frontier for step in (-width, -1, 1, width)}
            frontier = {cell for cell in near - seen if walled[cell] == over or cell == goal}
            seen |= frontier
            steps += 1
        return steps if frontier else None


class GridRules(Rules):
    """Anyone's puzzle: where `givens` names the blank symbol, the cells that the question gives stay; else no rules."""

    proves_answers = False

    def __init__(self, rows: int, columns: int, options: dict[str, str]):
        super().__init__(rows, columns, options)
        self.blank = options.get("givens")
        self.checks_answers = self.blank is not None

    def find_error(self, question: str, answer: str) -> str | None:
        if self.blank is not None:
            for cell, (before, after) in enumerate(zip(question, answer, strict=True)):
                if before not in (self.blank, after):
                    return f"{self.place(cell)} holds {after!r} but the question gives {before!r}"
        return None


FAMILIES: dict[str, type[Rules]] = {"sudoku": SudokuRules, "maze": MazeRules, "grid": GridRules}


def get_rules(puzzle: str, options: dict[str, str] | None = None) -> Rules | None:
    """The rules of `config.puzzle`, family and board size: "sudoku-6x6", "maze-10x12".

    Families of other packages are found where they are installed; None if the family is known nowhere here.

    Raises:
        ValueError: no name of a puzzle, or a size that its family does not have.
    """
    match = PUZZLE_NAME.fullmatch(puzzle)
    if not match:
        raise ValueError(f'unknown puzzle {puzzle!r}; expected FAMILY-ROWSxCOLUMNS, e.g. "sudoku-9x9"')
    family = FAMILIES.get(match[1]) or _installed_rules(match[1])
    return family and family(int(match[2]), int(match[3]), options or {})


def _installed_rules(family: str) -> type[Rules] | None:
    for entry in entry_points(group=FAMILY_GROUP, name=family):
        try:
            return entry.load().rules_class
        except Exception as error:  # whatever another package does when it is imported, the model still answers
            warnings.warn(f"puzzle family {family!r}: {entry.value} cannot be imported: {error}", stacklevel=3)
    return None
