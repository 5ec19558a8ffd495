"""`air-hf solve`: one board drawn, or a file of boards solved into another, which the same command completes.

The results do not record which checkpoint they are of: with another one, choose another --output.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, tee
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from tqdm import tqdm

from air_hf import PuzzleSolvingPipeline
from air_hf.hub import CheckpointError, load_model, load_tokenizer
from air_hf.puzzles import get_puzzle
from air_hf.puzzles.drawing import print_boards
from air_hf.puzzles.reading import DataError, read_csv, read_header

COLUMNS = ["question", "solution", "valid", "confidence", "segments", "error"]
_STDIN = "-"


class Row(NamedTuple):
    """A board to solve and its answer; None where the file has none."""

    question: str | None
    answer: str | None


@dataclass
class Tally:
    """What became of the boards so far; `compared` of them came with an answer, and `exact` were solved to it."""

    boards: int = 0
    valid: int = 0
    bad: int = 0
    compared: int = 0
    exact: int = 0

    def add(self, row: Row, result: dict) -> None:
        self.boards += 1
        self.valid += result["valid"]
        self.bad += bool(result.get("error"))
        if row.answer is not None:
            self.compared += 1
            self.exact += row.answer.replace("\r", "").replace("\n", "") == result["solution"]

    def __str__(self) -> str:
        text = f"{self.valid:,} of {self.boards:,} boards solved ({self.valid / self.boards:.1%})"
        if self.bad:
            text += f", {self.bad:,} breaking the rules"
        if self.compared:
            text += f"; exact accuracy {self.exact / self.compared:.1%} of {self.compared:,} with an answer"
        return text


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.epilog = "Exit status: 0 if every board was solved validly, 1 if some were not, 2 for bad input."
    source = "board as text, CSV file with a column question, or - for standard input, a board a line"
    results = "CSV file of the results; rows it has are kept (default: x.solved.csv for x.csv, of -, standard output)"
    threshold = "halting score needed by --early_stop, a logit (default 0; higher is slower and safer)"
    parser.add_argument("boards", metavar="BOARD|FILE|-", help=source)
    parser.add_argument("--model", required=True, metavar="DIR_OR_REPO", help="checkpoint folder or Hub repository")
    parser.add_argument("--revision", help="commit, tag or branch of the repository")
    parser.add_argument("--output", type=Path, help=results)
    parser.add_argument("--batch_size", type=_count, default=64, help="boards solved at a time (default 64)")
    parser.add_argument("--max_segments", type=_count, help="segments to run (default: the checkpoint's)")
    parser.add_argument("--early_stop", action="store_true", help="keep each board's answer where the model halts")
    parser.add_argument("--q_halt_threshold", type=float, help=threshold)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights (default: as saved)")
    parser.add_argument("--device", type=_device, help="e.g. cpu, cuda:1 (default: an accelerator if there is one)")
    return _solve


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # an unknown name; a build of torch without it
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {str(error).splitlines()[0]}") from error


def _solve(args: argparse.Namespace) -> int:
    if args.q_halt_threshold is not None and not args.early_stop:
        raise ValueError("--q_halt_threshold is the threshold of --early_stop, which is not given")
    if args.boards == _STDIN:
        return _solve_rows(args, _stdin_rows(), "standard input", args.output, None)
    if os.path.isfile(args.boards):  # Path.is_file raises an error where a board is too long for a file's name
        return _solve_file(args, Path(args.boards))
    if os.path.isdir(args.boards) or os.sep in args.boards or args.boards.lower().endswith(".csv"):  # as no board does
        raise DataError(f"{args.boards} is no file; expected a board, a CSV file or -")
    return _solve_board(args)


def _load(args: argparse.Namespace) -> PuzzleSolvingPipeline:
    """The pipeline of the options; it reports bad boards and goes on.

    Raises:
        CheckpointError: no checkpoint, one without a tokenizer, or one that does not say what it solves.
    """
    dtype = {} if args.dtype is None else {"dtype": args.dtype}
    model = load_model(args.model, revision=args.revision, **dtype)
    if model.config.puzzle is None:
        raise CheckpointError(
            f'{args.model}: config.json names no puzzle to check answers by; add it, e.g. "puzzle": "sudoku-9x9"'
        )
    tokenizer = load_tokenizer(args.model, model.config, revision=args.revision)
    options = {name: getattr(args, name) for name in ("max_segments", "early_stop", "q_halt_threshold")}
    return PuzzleSolvingPipeline(
        model=model, tokenizer=tokenizer, task="puzzle-solving", device=args.device, on_error="report", **options
    )


def _solve_board(args: argparse.Namespace) -> int:
    """Draws question and answer side by side."""
    if args.output is not None:
        raise ValueError("--output is for a file of boards, or -; one board is drawn")
    solver = _load(args)
    result = solver(args.boards)
    if "error" in result:
        print(f"not solved: {result['error']}")
        return 1
    puzzle = get_puzzle(solver.model.config.puzzle)
    question = puzzle.parse(args.boards)
    # Padding, which `parse` refuses, is the id before the first symbol's, and so is what `find` gives for it.
    answer = np.array([puzzle.symbols.find(symbol) + 1 for symbol in result["solution"]], dtype=np.uint8)
    error = puzzle.find_error(question, answer)
    segments = f"{result['segments']} segment{'s' * (result['segments'] != 1)}"
    verdict = "solved" if error is None else f"not solved: {error}"
    print(f"{verdict}   (confidence {result['confidence']:.1%}, {segments})")
    print_boards(
        [
            ("question", puzzle.draw_text(question, question)),
            ("the model's answer", puzzle.draw_text(answer, question, color=sys.stdout.isatty())),
        ]
    )
    return 0 if error is None else 1


def _solve_file(args: argparse.Namespace, path: Path) -> int:
    header = read_header(path)
    for column, required in (("question", True), ("answer", False)):
        if header.count(column) > 1 or (required and column not in header):
            problem = "occurs twice" if column in header else "is missing"
            raise DataError(f"{path}: column {column} {problem}; the columns are {', '.join(header) or 'none'}")
    output = args.output or path.with_suffix(".solved.csv")
    if output.resolve() == path.resolve():
        raise ValueError(f"--output is {output}, the file of boards itself; choose another")
    total = sum(map(len, read_csv(path)))  # a file that is no CSV is refused before anything is solved
    return _solve_rows(args, _file_rows(path), str(path), output, total)


def _file_rows(path: Path) -> Iterator[Row]:
    for record in _records(path):
        yield Row(record["question"], record.get("answer") or None)


def _records(path: Path) -> Iterator[dict[str, str | None]]:
    for block in read_csv(path):
        for fields in zip(*block.columns.values(), strict=True):
            yield dict(zip(block.columns, fields, strict=True))


def _stdin_rows() -> Iterator[Row]:
    for line in sys.stdin:
        if board := line.rstrip("\r\n"):
            yield Row(board, None)


def _solve_rows(
    args: argparse.Namespace, rows: Iterator[Row], source: str, output: Path | None, total: int | None
) -> int:
    """Solves what `output` does not have yet and says how it went; to standard output if there is no `output`."""
    solver = _load(args)
    tally = Tally()
    if output is None:
        _write_results(sys.stdout, solver, rows, args.batch_size, tally, total)
    else:
        _take_done(output, rows, source, tally)
        with open(output, "a", encoding="utf-8", newline="") as file:
            _write_results(file, solver, rows, args.batch_size, tally, total)
    if not tally.boards:
        raise DataError(f"{source} holds no boards")
    if output is None:
        print(tally, file=sys.stderr)  # standard output holds the results
    else:
        print(f"{tally}; written to {output}")
    return 0 if tally.valid == tally.boards else 1


def _take_done(output: Path, rows: Iterator[Row], source: str, tally: Tally) -> None:
    """Counts the rows that `output` has and takes them from `rows`; a row that was not written to its end is cut off.

    Raises:
        DataError: `output` is not of this command, or holds other boards.
    """
    if not output.exists():
        return
    _cut_unfinished(output)
    for number, result in enumerate(_records(output), start=1):
        row = next(rows, None)
        if row is None or result["question"] != (row.question or ""):
            raise DataError(
                f"{output}, row {number}: the question is not that of row {number} of {source}; "
                "remove the file, or choose another --output"
            )
        tally.add(row, result | {"valid": result["valid"] == str(True)})


def _cut_unfinished(output: Path) -> None:
    """Cuts off what follows the last complete row: a line end after an even number of quotation marks.

    Raises:
        DataError: the file does not begin as ours do; it stays as it is.
    """
    header = ",".join(COLUMNS)
    with open(output, "r+b") as file:
        first = file.readline()
        if not f"{header}\n".encode().startswith(first):
            raise DataError(f"{output} exists and is no output of this command ({header}); choose another --output")
        position = end = quotes = 0
        for line in chain([first], file):
            position += len(line)
            quotes += line.count(b'"')
            if line.endswith(b"\n") and quotes % 2 == 0:
                end = position
        file.truncate(end)


def _write_results(
    file: TextIO, solver: PuzzleSolvingPipeline, rows: Iterable[Row], batch_size: int, tally: Tally, total: int | None
) -> None:
    """Solves rows batch by batch and writes each result, so that what is solved is kept whatever happens next."""
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    if not (file.seekable() and file.tell()):
        writer.writeheader()
    rows, ahead = tee(rows)
    results = solver((row.question for row in ahead), batch_size=batch_size)
    with tqdm(total=total, initial=tally.boards, unit="board", disable=None) as progress:  # none where nobody looks
        for row, result in zip(rows, results, strict=True):
            writer.writerow(result | {"question": row.question, "error": result.get("error")})
            file.flush()
            tally.add(row, result)
            progress.update()
