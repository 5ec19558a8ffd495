"""Boards as text in, checked answers as text out:

    solver = pipeline("puzzle-solving", model="org/air-sudoku", trust_remote_code=True)
    solver("52...1...53.1....3.3.....1..4.4.....")  # {"solution": "5234...", "valid": True, "confidence": 0.98, ...}

This file travels to the Hub with every checkpoint and runs where air_hf is not installed. That is why the rules stand
here a second time, on text instead of arrays and only as far as answers are checked; the tests hold both against each
other. Axis letters: B boards, S cells.
"""

import re
from collections.abc import Iterable, Sequence, Sized
from itertools import starmap
from typing import Any, NamedTuple

import torch
from transformers import Pipeline

_DIGITS = "123456789ABCDEFG"
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4)}  # rows and columns of a box
_UNKNOWN = "?"  # stands for a padding symbol in an answer; no rule accepts it


class _Rules:
    """The rules of a puzzle on boards as text, one line of S symbols."""

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns

    def place(self, cell: int) -> str:
        """A cell's place in words, counted from 1."""
        return f"row {cell // self.columns + 1}, column {cell % self.columns + 1}"

    def find_fault(self, question: str) -> str | None:
        """Why `question` is no well-formed question, or None. That a solution exists, and only one, is not checked."""
        raise NotImplementedError

    def is_solution(self, question: str, answer: str) -> bool:
        """Whether `answer` solves `question`."""
        raise NotImplementedError


class _Sudoku(_Rules):
    """Every row, column and box holds every digit once; any other symbol is a blank."""

    def __init__(self, rows: int, columns: int):
        if rows != columns or rows not in _BOXES:
            raise ValueError(f"a Sudoku board of {rows}x{columns} is not known; sizes are {[*_BOXES]}, squared")
        super().__init__(rows, columns)
        self.digits = frozenset(_DIGITS[:rows])
        places = [divmod(cell, columns) for cell in range(rows * columns)]
        box_rows, box_columns = _BOXES[rows]
        self.units = {  # the row, column and box of each cell
            "row": [row for row, _ in places],
            "column": [column for _, column in places],
            "box": [(row // box_rows, column // box_columns) for row, column in places],
        }

    def find_fault(self, question: str) -> str | None:
        for kind, units in self.units.items():
            seen: dict[tuple, int] = {}
            for cell, symbol in enumerate(question):
                if symbol in self.digits and (first := seen.setdefault((units[cell], symbol), cell)) != cell:
                    where = f"in {self.place(first)} and in {self.place(cell)}"
                    return f"contradictory clues: {symbol} stands twice in one {kind}, {where}"
        return None

    def is_solution(self, question: str, answer: str) -> bool:
        given = (cell for cell, clue in enumerate(question) if clue in self.digits)
        keeps_clues = all(question[cell] == answer[cell] for cell in given)
        return keeps_clues and self.digits.issuperset(answer) and self.find_fault(answer) is None


class _Maze(_Rules):
    """The marks (o) form a shortest path from S to G; walls (#) and everything else stay."""

    def find_fault(self, question: str) -> str | None:
        for symbol, name in (("S", "start"), ("G", "goal")):
            if (count := question.count(symbol)) != 1:
                return f"the board has {count} {name}s ({symbol}), expected 1"
        if (marked := question.find("o")) >= 0:
            return f"the question already marks a path, in {self.place(marked)}"
        return "no path leads from S to G" if self._steps(question, over=" ") is None else None

    def is_solution(self, question: str, answer: str) -> bool:
        if self.find_fault(question) is not None:
            return False
        if any(old != new and (old, new) != (" ", "o") for old, new in zip(question, answer, strict=True)):
            return False
        return self._steps(answer, over="o") == self._steps(question, over=" ") == answer.count("o") + 1

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


_FAMILIES: dict[str, type[_Rules]] = {"sudoku": _Sudoku, "maze": _Maze}


def get_rules(puzzle: str) -> _Rules:
    """The rules of `config.puzzle`, family and board size: "sudoku-6x6", "maze-10x12".

    Raises:
        ValueError: an unknown family or size.
    """
    match = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)", puzzle)
    if not match or match[1] not in _FAMILIES:
        raise ValueError(f'unknown puzzle {puzzle!r}; expected "sudoku-NxN" or "maze-ROWSxCOLUMNS"')
    return _FAMILIES[match[1]](int(match[2]), int(match[3]))


class _Numbered(NamedTuple):
    """An input and its index among the inputs, for messages."""

    index: int
    board: Any


class _NumberedSequence(Sequence):
    """The items of a sequence, numbered when they are asked for: a data set is not read in advance."""

    def __init__(self, boards):
        self.boards = boards

    def __len__(self) -> int:
        return len(self.boards)

    def __getitem__(self, index: int) -> _Numbered:
        return _Numbered(index, self.boards[index])


class PuzzleSolvingPipeline(Pipeline):
    """Solves boards written as text, on one line or one row a line.

    Call it with a board (returns a `dict`), a list of boards (a list), a generator or
    `transformers.pipelines.pt_utils.KeyDataset(dataset, "question")` (an iterator), and `batch_size`. Each board gives

    - `solution` (`str`): the answer on one line; "?" where the model answered with padding.
    - `valid` (`bool`): the answer solves the board by the puzzle's rules; None if `config.puzzle` names no puzzle.
    - `confidence` (`float`): the model's own probability that the answer is right.
    - `segments` (`int`): segments the answer took.

    Parameters, at construction or in a call:

    - `max_segments` (`int`, default `config.max_segments`), `early_stop` (`bool`, default False), `q_halt_threshold`
      (`float`, default 0): as [`AIRForPuzzleSolving.solve`] takes them.
    - `on_error` (`str`, default "raise"): at a board that breaks the rules, "raise" an error, or "report" it: the other
      boards are solved, and the result of this one has an `error` (`str`), no solution (None), and no segments.

    Raises:
        ValueError: a board of the wrong size, with an unknown symbol, or that no answer can solve; a bad parameter; a
            checkpoint without a tokenizer, or whose `config.puzzle` is unknown.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise ValueError("the pipeline needs the tokenizer of the model's puzzle")
        self._symbols = {i: symbol for symbol, i in self.tokenizer.get_vocab().items()}
        del self._symbols[self.tokenizer.pad_token_id]
        self._ids = {symbol: i for i, symbol in sorted(self._symbols.items())}
        puzzle = self.model.config.puzzle
        self._rules = None if puzzle is None else get_rules(puzzle)

    def _sanitize_parameters(self, max_segments=None, early_stop=None, q_halt_threshold=None, on_error=None):
        if on_error not in (None, "raise", "report"):
            raise ValueError(f'on_error is {on_error!r}; expected "raise" or "report"')
        if max_segments is not None and max_segments < 1:
            raise ValueError(f"max_segments is {max_segments}; it must be at least 1")
        options = {"max_segments": max_segments, "early_stop": early_stop, "q_halt_threshold": q_halt_threshold}
        forward = {name: value for name, value in options.items() if value is not None}
        return {} if on_error is None else {"on_error": on_error}, forward, {}

    def __call__(self, inputs: str | Iterable[str], **kwargs):
        if isinstance(inputs, list) and not inputs:
            return []  # the base class looks at the first
        return super().__call__(inputs, **kwargs)

    def get_iterator(self, inputs, *args, **kwargs):
        # A message shall name the board that is wrong, and a board alone does not know its number.
        numbered = _NumberedSequence(inputs) if isinstance(inputs, Sized) else starmap(_Numbered, enumerate(inputs))
        return super().get_iterator(numbered, *args, **kwargs)

    def preprocess(self, input_: Any, on_error: str = "raise") -> dict[str, Any]:
        """Reads a board: `input_ids` (1, S) and `solvable` (1,); a bad board to report gets padding and an `error`."""
        index, board = input_ if isinstance(input_, _Numbered) else (None, input_)
        question, error = None, None
        try:
            question = self._read(board)
            ids = [self._ids[symbol] for symbol in question]
        except ValueError as problem:
            if on_error == "raise":
                which = "" if index is None else f"board {index} (the first is 0): "
                raise ValueError(f"{which}{problem}") from problem
            error, ids = str(problem), [self.tokenizer.pad_token_id] * self.model.config.seq_len
        return {
            "input_ids": torch.tensor([ids]),
            "solvable": torch.tensor([error is None]),
            "question": question,
            "error": error,
        }

    def _read(self, board: Any) -> str:
        """A board on one line, in the symbols of the tokenizer.

        Raises:
            ValueError: it is no question of the puzzle; the message says why and where.
        """
        config = self.model.config
        name = config.puzzle or "puzzle"
        if not isinstance(board, str):
            raise ValueError(f"{name}: the board is of type {type(board).__name__}, expected text")
        # The tokenizer's own reading, less its encoding: it drops line breaks and knows what else a symbol is called.
        question = self.tokenizer.backend_tokenizer.normalizer.normalize_str(board)
        if len(question) != config.seq_len:
            raise ValueError(f"{name}: the board has {len(question)} symbols, expected {config.seq_len}")
        for cell, symbol in enumerate(question):
            if symbol not in self._ids:
                where = f"cell {cell + 1}" if self._rules is None else self._rules.place(cell)
                known = "".join(self._ids)
                raise ValueError(f"{name}: unknown symbol {symbol!r} in {where}; expected one of {known!r}")
        if self._rules is not None and (fault := self._rules.find_fault(question)):
            raise ValueError(f"{name}: {fault}")
        return question

    def _forward(self, input_tensors: dict[str, Any], **options) -> dict[str, Any]:
        """Solves the boards that can be; `sequences` (B, S), `q_halt_logits` (B,) and `num_segments` (B,) of all."""
        ids, solvable = input_tensors["input_ids"], input_tensors["solvable"]
        sequences = torch.zeros_like(ids)
        q_halt_logits = torch.zeros_like(solvable, dtype=torch.float32)
        num_segments = torch.zeros_like(solvable, dtype=torch.long)
        if solvable.any():
            solved = self.model.solve(ids[solvable], **options)
            sequences[solvable] = solved.sequences
            q_halt_logits[solvable] = solved.q_halt_logits
            num_segments[solvable] = solved.num_segments
        return {
            "sequences": sequences,
            "q_halt_logits": q_halt_logits,
            "num_segments": num_segments,
            "question": input_tensors["question"],
            "error": input_tensors["error"],
        }

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        """The result of one board, from its row (1, S) of the batch."""
        if model_outputs["error"] is not None:
            nothing = {"solution": None, "valid": False, "confidence": 0.0, "segments": 0}
            return {"error": model_outputs["error"]} | nothing
        solution = "".join(self._symbols.get(i, _UNKNOWN) for i in model_outputs["sequences"][0].tolist())
        return {
            "solution": solution,
            "valid": None if self._rules is None else self._rules.is_solution(model_outputs["question"], solution),
            "confidence": model_outputs["q_halt_logits"].sigmoid().item(),
            "segments": model_outputs["num_segments"].item(),
        }


__all__ = ["PuzzleSolvingPipeline"]
