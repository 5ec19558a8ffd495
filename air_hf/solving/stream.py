"""Boards from files, data sets or standard input, solved one after another in memory that does not grow.

Results come in the order of the boards. A board that is none gets a result that says why, and the others are solved.
Axis letters: S cells.
"""

import math
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import torch

from air_hf.data import reading_dataset
from air_hf.modeling.solving_air import Answer, Question, SolvingEngine
from air_hf.puzzles import Puzzle, PuzzleError, infer_puzzle
from air_hf.puzzles.reading import BLOCK_ROWS, DataError, read_csv, read_header, separator_hint

_DRAWN = 'A board drawn on several lines is one argument: air-hf solve "$(cat FILE)"'
_MOST_BAD = 1000  # boards in a row that are none, and wait for those before them
_CHUNK, _CHUNKS = 2**16, 64  # bytes of standard input read at a time, and how many of these ahead
_PAUSE = 0.01  # seconds to wait for the next board before those at hand go on


class Row(NamedTuple):
    """A board to solve and its answer; None where there is none."""

    question: str | None
    answer: str | None


class Result(NamedTuple):
    """What became of a board; the fields are the columns of a file of results."""

    question: str
    solution: str | None
    valid: bool | None
    confidence: float
    segments: int
    calls: int
    error: str | None


def solve_rows(engine: SolvingEngine, puzzle: Puzzle, rows: Iterable[Row | None]) -> Iterator[tuple[Row, Result]]:
    """Solves boards in a stream, in their order; a row is None while the next one has not come.

    A result waits for those of the boards before it: while one board takes its budget, as many as the other slots solve
    meanwhile are held.
    """
    numbers, remaining = count(), iter(rows)
    ready: dict[int, tuple[Row, Result]] = {}
    places: dict[int, tuple[int, Row]] = {}  # of the engine's puzzles that are not solved yet
    is_more = True

    def questions() -> Iterator[Question | None]:
        """The next boards, up to the end or to so many bad ones in a row that they had better be passed on."""
        nonlocal is_more
        index = bad = 0
        for row in remaining:
            if row is None:
                if bad and not places:
                    return
                yield None
                continue
            number = next(numbers)
            try:
                board = read_question(puzzle, row.question)
            except PuzzleError as error:
                valid = False if puzzle.rules.checks_answers else None
                ready[number] = row, Result(str(row.question or ""), None, valid, 0.0, 0, 0, str(error))
                bad += 1
                if bad == _MOST_BAD:
                    return
            else:
                places[index] = number, row
                index, bad = index + 1, 0
                yield Question(board)
        is_more = False

    following = 0
    while is_more:
        for answer in engine.run(questions()):
            number, row = places.pop(answer.index)
            ready[number] = row, _result(puzzle, row, answer)
            while following in ready:
                yield ready.pop(following)
                following += 1
        while following in ready:
            yield ready.pop(following)
            following += 1


def read_question(puzzle: Puzzle, text: object) -> torch.LongTensor:
    """A well-formed question (S,) from its text.

    Raises:
        PuzzleError: it is none; the message says why and where.
    """
    if not isinstance(text, str):
        raise PuzzleError(f"{puzzle.name}: the board is of type {type(text).__name__}, expected text")
    board = puzzle.parse(text)
    puzzle.check_question(board)
    return torch.from_numpy(board).long()


def _result(puzzle: Puzzle, row: Row, answer: Answer) -> Result:
    board = answer.sequence.numpy().astype("uint8")
    question = puzzle.parse(row.question)
    checked = puzzle.rules.checks_answers
    valid = bool(puzzle.is_solution(question[None], board[None])[0]) if checked else None
    confidence = 1 / (1 + math.exp(-max(answer.q_halt_logit, -700.0)))
    return Result(
        row.question, puzzle.format(board), valid, confidence, answer.num_segments, answer.num_calls, None
    )  # fmt: skip


def read_file(path: Path) -> tuple[Iterator[Row], int]:
    """The boards of a CSV or Parquet file, read as they are asked for, and their number.

    Raises:
        DataError: no such file, not of its format, or without a column of questions.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    check_header(read_header(path), path)
    total = sum(map(len, read_csv(path)))  # a file that is no CSV is refused before anything is solved
    return (_row(record) for record in read_records(path)), total


def open_parquet(path: Path):
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: it is none.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({error})") from error


def _read_parquet(path: Path) -> tuple[Iterator[Row], int]:
    file = open_parquet(path)
    names = file.schema_arrow.names
    check_header(names, path)
    columns = [name for name in ("question", "answer") if name in names]
    batches = file.iter_batches(batch_size=BLOCK_ROWS, columns=columns)
    return (_row(record) for batch in batches for record in batch.to_pylist()), file.metadata.num_rows


def read_dataset(name: str, config: str | None, split: str, cache_dir: str | None = None) -> Iterator[Row]:
    """The boards of a data set on the Hub, or of a folder of one, streamed.

    Raises:
        DataError: no such data set, configuration or split, or no column of questions; at a board: the Hub fails.
    """
    import datasets

    with reading_dataset(name, config, split):
        rows = datasets.load_dataset(name, config, split=split, streaming=True, cache_dir=cache_dir)
        first = next(iter(rows), {"question": None})
    check_header(list(first), f"data set {name}, {split}")
    return _rows_of(rows, name, config, split)


def _rows_of(records: Iterable[dict], name: str, config: str | None, split: str) -> Iterator[Row]:
    records = iter(records)
    while True:
        with reading_dataset(name, config, split):
            record = next(records, None)
        if record is None:
            return
        if "question" not in record:
            files = f"a file with columns {', '.join(record)} is among its files"
            raise DataError(f"data set {name}, {split}: column question is missing; {files}")
        yield _row(record)


def read_lines(descriptor: int) -> Iterator[Row | None]:
    """Boards of an open file descriptor, one a line, as they come; None while the next one has not come yet.

    What is no UTF-8 is in no board, so its line is one that is reported, and the others are solved.
    """
    chunks: queue.Queue[bytes | OSError] = queue.Queue(_CHUNKS)

    def read() -> None:
        try:
            while chunk := os.read(descriptor, _CHUNK):
                chunks.put(chunk)
            chunks.put(b"")
        except OSError as error:
            chunks.put(error)

    threading.Thread(target=read, daemon=True).start()
    begun, is_over = b"", False
    while not is_over:
        try:
            chunk = chunks.get(timeout=_PAUSE)
        except queue.Empty:
            yield None
            continue
        if isinstance(chunk, OSError):
            raise chunk
        is_over = not chunk
        *lines, begun = [begun] if is_over else (begun + chunk).split(b"\n")
        for line in [*lines, begun] if is_over else lines:
            if board := line.decode("utf-8", errors="replace").rstrip("\r").removeprefix("\ufeff"):
                yield Row(board, None)


def choose_puzzle(rows: Iterator[Row | None], source: str) -> tuple[str, Iterator[Row | None]]:
    """The name of the puzzle that the first well-formed board belongs to, and the rows as they were.

    Raises:
        DataError: there is none among the first rows.
    """
    seen, problem = [], "there are none"
    for row in (row for row in rows if row is not None):
        seen.append(row)
        try:
            return infer_puzzle(str(row.question or "")).name, chain(seen, rows)
        except PuzzleError as error:
            problem = f"the last of them: {error}"
        if len(seen) >= _MOST_BAD:
            break
    raise DataError(
        f"{source}: no model could be chosen by the first {len(seen):,} boards ({problem}); say --model. {_DRAWN}"
    )


def read_records(path: Path) -> Iterator[dict[str, str | None]]:
    """The rows of a CSV file by column."""
    for block in read_csv(path):
        for fields in zip(*block.columns.values(), strict=True):
            yield dict(zip(block.columns, fields, strict=True))


def check_header(header: list[str], name: str | Path) -> None:
    """Checks that there is one column of questions, and at most one of answers.

    Raises:
        DataError: there is not.
    """
    for column, required in (("question", True), ("answer", False)):
        if header.count(column) > 1 or (required and column not in header):
            problem = "occurs twice" if column in header else "is missing"
            lines = f"; is it a board a line? air-hf solve - < FILE. {_DRAWN}" if len(header) == 1 else ""
            hint = separator_hint(header) or lines
            raise DataError(f"{name}: column {column} {problem}; the columns are {', '.join(header) or 'none'}{hint}")


def _row(record: dict) -> Row:
    answer = record.get("answer") or None
    if not isinstance(answer, str | None):
        kind = type(answer).__name__
        raise DataError(f"the answer {str(answer)[:40]} is of type {kind}; columns question and answer must be text")
    return Row(record["question"], answer)
