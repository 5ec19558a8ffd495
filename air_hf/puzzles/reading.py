"""Boards from CSV files, in blocks of rows, checked by the rules; a bad row is named by file and row.

Axis letters: N rows of a block, S cells. Rows count from 1, without the header.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from air_hf.puzzles.base import Puzzle, PuzzleError

REQUIRED_COLUMNS = ("question", "answer")
OPTIONAL_COLUMNS = ("puzzle_id",)
BLOCK_ROWS = 10_000
_MOST_PUZZLE_IDS = 2**24  # what a model takes
_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = {b"PAR1": "a Parquet file", b"\x1f\x8b": "compressed by gzip", b"PK\x03\x04": "a ZIP archive"}


class DataError(ValueError):
    """A file or a row that cannot be used; the message names the file, the row and what was expected."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Args:
        first (`int`): the number of the first row.
        offset (`int`): the byte of the file where it starts.
        columns (`dict[str, list[str]]`): the cells of every column; None where a row is short of fields.
    """

    first: int
    offset: int
    columns: dict[str, list[str | None]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_csv(path: Path, start: tuple[int, int] | None = None) -> Iterator[Block]:
    """The rows of a CSV file in UTF-8, block by block; a byte-order mark and CRLF line ends make no difference.

    Args:
        path (`Path`): the file.
        start (`tuple[int, int]`, *optional*): `(first, offset)` of the block to begin with; the top if None.

    Raises:
        DataError: no file, no header, not UTF-8, not CSV, or a row with more fields than the header.
    """
    header = read_header(path)
    with open(path, "rb") as file:
        first, offset = (1, len(_header_line(file))) if start is None else start
        file.seek(offset)
        for lines in _records(file):
            rows = _parse(path, first, lines)
            if header and rows:
                yield Block(first, offset, _columns(path, first, header, rows))
            first += len(rows)
            offset += sum(map(len, lines))


def read_header(path: Path) -> list[str]:
    """The column names of a CSV file; none if it is empty.

    Raises:
        DataError: no file, or a header that is not UTF-8 or not CSV.
    """
    if "\0" in str(path) or not path.is_file():
        raise DataError(f"{path} does not exist; expected a CSV file with columns {', '.join(REQUIRED_COLUMNS)}")
    with open(path, "rb") as file:
        header = _parse(path, None, [_header_line(file).removeprefix(_BOM)])
    return [name.strip() for name in header[0]] if header else []


def _header_line(file) -> bytes:
    """The first line, which a carriage return alone may end, too, as it does for the rows."""
    line = file.readline()
    end = re.search(rb"\r(?!\n)", line)
    return line[: end.end()] if end else line


def _records(file) -> Iterator[list[bytes]]:
    """Lines in blocks that end where a record does: after an even number of quotation marks."""
    lines: list[bytes] = []
    quotes = 0
    for line in file:
        lines.append(line)
        quotes += line.count(b'"')
        if len(lines) >= BLOCK_ROWS and quotes % 2 == 0:
            yield lines
            lines, quotes = [], 0
    if lines:
        yield lines


def _parse(path: Path, first: int | None, lines: list[bytes]) -> list[list[str]]:
    """The records of some lines; `first` is the row number of the first, None for the header."""

    def place(records_before: int) -> str:
        return f"{path}, header" if first is None else f"{path}, row {first + records_before}"

    text = b"".join(lines)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        for start, kind in _OTHER_FORMATS.items():
            if first is None and text.startswith(start):
                raise DataError(f"{path} is {kind}; expected CSV") from error
        where = place(text.count(b"\n", 0, error.start))
        byte = f"{error.reason}, byte {text[error.start]:#04x}"
        raise DataError(f"{where}: not UTF-8 text ({byte}); save the file as UTF-8") from error
    rows = []
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(decoded)))  # a large board, or what is none; it is in memory already
    try:
        for row in csv.reader(io.StringIO(decoded, newline=""), strict=True):
            if row:
                rows.append(row)
    except csv.Error as error:
        raise DataError(f"{place(len(rows))}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _columns(path: Path, first: int, header: list[str], rows: list[list[str]]) -> dict[str, list[str | None]]:
    for number, row in enumerate(rows, start=first):
        if len(row) > len(header):
            raise DataError(f"{path}, row {number}: {len(row)} fields, but the header has {len(header)}")
        row += [None] * (len(header) - len(row))
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def check_columns(columns: Iterable[str], name: str, exactly: Iterable[str] | None = None) -> None:
    """Checks that the columns of `name` hold boards; if `exactly` is given, that they are these, in any order, and
    nothing else but [`OPTIONAL_COLUMNS`].

    Raises:
        DataError: no columns, a missing one, one that is not expected, or one that occurs twice.
    """
    columns, required = list(columns), list(exactly or REQUIRED_COLUMNS)
    if not columns:
        raise DataError(f"{name} is empty; expected a header with the columns {', '.join(required)}")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    missing = [column for column in required if column not in columns]
    extra = [column for column in columns if exactly and column not in (*required, *OPTIONAL_COLUMNS)]
    for problem, named in (("is missing", missing), ("is not expected", extra), ("occurs twice", twice)):
        if named:
            raise DataError(
                f"{name}: column {', '.join(named)} {problem}; the columns are {', '.join(columns)}"
                f"{separator_hint(columns)}"
            )


def separator_hint(columns: list[str]) -> str:
    """What to say of column names that are one because something else than a comma stands between them."""
    between = [sign for sign in (";", "\t", "|") if len(columns) == 1 and sign in columns[0]]
    return f"; separate them, and the fields of every row, by commas instead of {between[0]!r}" if between else ""


def sample_rows(total: int, count: int, seed: int, name: str) -> np.ndarray:
    """`count` of `total` rows, counted from 0 and in ascending order: the subset that `seed` stands for.

    Raises:
        DataError: `name` does not have so many.
    """
    if not 1 <= count <= total:
        raise DataError(f"{name}: a subset of {count} puzzles was asked for; there are {total}")
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


@dataclass
class RowErrors:
    """What to do with bad rows, and what was found.

    Args:
        skip (`bool`): leave bad rows out and count them; otherwise the first one is an error.
    """

    skip: bool = False
    messages: list[str] = field(default_factory=list)

    def add(self, message: str, cause: Exception | None = None) -> None:
        if not self.skip:
            raise DataError(message) from cause
        self.messages.append(message)


def check_boards(
    puzzle: Puzzle,
    questions: list,
    answers: list,
    place: Callable[[int], str],
    errors: RowErrors,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses questions and answers and checks them by the rules.

    Args:
        puzzle ([`Puzzle`]): what the boards are.
        questions, answers (`list[str]` of length N): boards as text.
        place (`Callable`): names the row of an index for messages.
        errors ([`RowErrors`]): gets the bad rows.

    Returns:
        questions and answers, uint8 of shape `(N, S)`, and which rows are good, bool `(N,)`.
    """
    good = np.ones(len(questions), dtype=bool)
    boards = []
    for column, texts in zip(REQUIRED_COLUMNS, (questions, answers), strict=True):
        ids, wrong = _parse_boards(puzzle, texts)
        for index, error in wrong.items():
            if good[index]:
                errors.add(f"{place(index)}, {column}: {error}", error)
            good[index] = False
        boards.append(ids)
    question_ids, answer_ids = boards
    for index in np.flatnonzero(~puzzle.is_solution(question_ids, answer_ids) & good):
        good[index] = False
        try:
            puzzle.check_question(question_ids[index])
        except PuzzleError as error:
            errors.add(f"{place(index)}, question: {error}", error)
        else:
            error = puzzle.find_error(question_ids[index], answer_ids[index])
            errors.add(f"{place(index)}, answer: {error}")
    return question_ids, answer_ids, good


def check_puzzle_ids(ids: list | None, place: Callable[[int], str], errors: RowErrors, good: np.ndarray) -> np.ndarray:
    """The column `puzzle_id` as int64 (N,); 0 where there is none, and in rows that are not good.

    Args:
        ids (`list` of length N, *optional*): the column.
        place, errors: as [`check_boards`] takes them; a bad one is no integer from 0 on.
        good (bool array of shape `(N,)`): which rows are; those with a bad one are taken out.
    """
    checked = np.zeros(len(good), dtype=np.int64)
    for index in () if ids is None else np.flatnonzero(good):
        value = ids[index]
        digits = str(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else value
        if not (isinstance(digits, str) and re.fullmatch("[0-9]{1,9}", digits) and int(digits) < _MOST_PUZZLE_IDS):
            errors.add(
                f"{place(index)}, puzzle_id: it is {value!r}; expected an integer from 0 to {_MOST_PUZZLE_IDS - 1}"
            )
            good[index] = False
        else:
            checked[index] = int(digits)
    return checked


def _parse_boards(puzzle: Puzzle, texts: list) -> tuple[np.ndarray, dict[int, PuzzleError]]:
    """Boards (N, S), zeros where a text is no board, and why it is not."""
    try:
        return puzzle.parse_all(texts), {}
    except (PuzzleError, TypeError):  # some text is no board; find out which
        boards, wrong = np.zeros((len(texts), puzzle.num_cells), dtype=np.uint8), {}
    for index, text in enumerate(texts):
        try:
            if text is None:
                raise PuzzleError("the row has fewer fields than the header")
            if not isinstance(text, str):
                kind = type(text).__name__
                raise PuzzleError(f"the board is {kind} {text}, expected text; read the column as strings")
            boards[index] = puzzle.parse(text)
        except PuzzleError as error:
            wrong[index] = error
    return boards, wrong
