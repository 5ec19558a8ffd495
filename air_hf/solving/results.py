"""Files of results: CSV that grows row by row and is completed by the same command, and Parquet made of it.

Several processes write a file each, taking boards in turn, and the first one joins them.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from air_hf.files import append_text, atomic_file, check_place
from air_hf.modeling.rules_air import Rules
from air_hf.puzzles.reading import DataError
from air_hf.solving.stream import Result, Row, open_parquet, read_records

COLUMNS = list(Result._fields)
_BLOCK = 10_000  # rows of Parquet written at a time


def verdict(rules: Rules) -> str:
    """What a board is whose answer breaks none of these `rules`."""
    if rules.proves_answers:
        return "solved"
    return "answered, " + (
        "breaking no rule, which proves little here" if rules.checks_answers else "which no rules can check"
    )


@dataclass
class Tally:
    """What became of the boards so far.

    Args:
        boards: all of them; `bad` of them are no valid questions, `problem` says why the first of these is none.
        valid: solved by the rules, `checked` of which could be.
        compared: valid questions that came with an answer, `exact` of which were solved to it.
        calls: model calls of all boards together.
    """

    boards: int = 0
    valid: int = 0
    checked: int = 0
    bad: int = 0
    problem: str = ""
    compared: int = 0
    exact: int = 0
    calls: int = 0

    def add(self, row: Row, result: Result) -> None:
        self.boards += 1
        self.valid += bool(result.valid)
        self.checked += result.valid is not None
        self.calls += result.calls
        if result.error is not None:
            self.bad += 1
            self.problem = self.problem or result.error
        elif row.answer is not None:
            self.compared += 1
            self.exact += row.answer.replace("\r", "").replace("\n", "") == result.solution

    def merge(self, other: "Tally") -> None:
        problem = self.problem or other.problem
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.problem = problem

    @property
    def complete(self) -> bool:
        """Whether every board is solved as far as can be told."""
        return self.bad == 0 and self.valid == self.checked

    def summary(self, rules: Rules) -> str:
        """In words, of boards with these `rules`."""
        if self.checked:
            text = f"{self.valid:,} of {self.boards:,} boards {verdict(rules)} ({self.valid / self.boards:.1%})"
        else:
            text = f"{self.boards:,} boards {verdict(rules)}"
        if self.bad:
            text += f", {self.bad:,} no valid question{'s' * (self.bad > 1)} (the first: {self.problem})"
        if self.compared:
            text += f"; exact accuracy {self.exact / self.compared:.1%} of {self.compared:,} with an answer"
        return f"{text}; {self.calls / self.boards:.1f} model calls a board"


def read_results(path: Path) -> Iterator[Result]:
    """The rows of a file of results.

    Raises:
        DataError: it is no Parquet file of results.
    """
    if path.suffix.lower() == ".parquet":
        file = open_parquet(path)
        if file.schema_arrow.names != COLUMNS:
            raise DataError(f"{path} exists and is no output of this command; choose another --output")
        for batch in file.iter_batches(batch_size=_BLOCK):
            yield from (Result(**record) for record in batch.to_pylist())
        return
    for record in read_records(path):
        yield Result(
            question=record["question"],
            solution=record["solution"] or None,
            valid={"True": True, "False": False}.get(record["valid"]),
            confidence=float(record["confidence"]),
            segments=int(record["segments"]),
            calls=int(record["calls"]),
            error=record["error"] or None,
        )


def match(
    rows: Iterator[Row | None], results: Iterator[Result], path: Path, source: str, first: int = 0, every: int = 1
) -> Iterator[tuple[Row, Result]]:
    """Takes the boards of results from `rows`; every so many-th of the source's, from `first` on, are among them.

    Raises:
        DataError: a result is of another board.
    """
    boards = (row for row in rows if row is not None)
    for index, result in enumerate(results):
        row, number = next(boards, None), first + index * every + 1
        if row is None or result.question != str(row.question or ""):
            raise DataError(
                f"{path}, row {index + 1}: the question is not that of row {number} of {source}; "
                "remove the file, or choose another --output"
            )
        yield row, result


def format_row(values: list) -> str:
    """A line of CSV. With CRLF as the writer's line end, a lone carriage return in a field is quoted, too."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


class Journal:
    """A CSV file of results, in the order of the boards; it exists once there is one.

    Args:
        path (`Path`): the file.
        every (`int`): boards of the source for each of this file, which has those from `first` (counted from 0) on.
    """

    def __init__(self, path: Path, first: int = 0, every: int = 1):
        self.path, self.first, self.every = path, first, every

    def take_done(self, rows: Iterator[Row | None], source: str) -> Iterator[tuple[Row, Result]]:
        """Takes the rows that the file has from `rows`; a row that was not written to its end is cut off.

        Raises:
            DataError: the file is not of this command, or holds other boards.
        """
        if not self.path.exists():
            return
        self._cut_unfinished()
        yield from match(rows, self.read(), self.path, source, self.first, self.every)

    def read(self) -> Iterator[Result]:
        return read_results(self.path)

    def append(self, results: Iterator[Result]) -> Iterator[Result]:
        """Writes each result as it comes, so that what is solved is kept whatever happens next, and passes it on."""
        for result in results:
            is_begun = self.path.exists() and self.path.stat().st_size
            header = "" if is_begun else format_row(COLUMNS)
            append_text(self.path, header + format_row(list(result)))
            yield result

    def _cut_unfinished(self) -> None:
        """Cuts off what follows the last complete row: a line end after an even number of quotation marks.

        Raises:
            DataError: the file does not begin as ours do; it stays as it is.
        """
        header = format_row(COLUMNS)
        with open(self.path, "r+b") as file:
            first = file.readline()
            if not header.encode().startswith(first):
                raise DataError(
                    f"{self.path} exists and is no output of this command ({header.strip()}); choose another --output"
                )
            position = end = quotes = 0
            for line in chain([first], file):
                position += len(line)
                quotes += line.count(b'"')
                if line.endswith(b"\n") and quotes % 2 == 0:
                    end = position
            file.truncate(end)


def journals(output: Path, processes: int) -> list[Journal]:
    """Where each process writes; a single one writes CSV in its place at once.

    Raises:
        DataError: there are journals of another number of processes, or a file that this command did not finish.
        ValueError: something that is no file is in the way.
    """
    check_place(output)
    if processes == 1 and output.suffix.lower() != ".parquet":
        found = [Journal(output)]
    else:
        found = [Journal(output.with_name(f".{output.name}.{rank}-of-{processes}.csv"), rank, processes)
                 for rank in range(processes)]  # fmt: skip
    expected = {journal.path.name for journal in found}
    for path in output.parent.glob(f".{output.name}.*-of-*.csv"):
        if path.name not in expected:
            raise DataError(f"{path} is of another number of processes; go on with as many, or remove it")
    for journal in found:
        check_place(journal.path)
    if is_finished(found, output) and not how_path(output).exists():
        raise DataError(f"{output} exists; remove it, or choose another --output")
    return found


def is_finished(parts: list[Journal], output: Path) -> bool:
    """Whether there is a joined file of results, and nothing to be joined any more."""
    is_joined = [part.path for part in parts] != [output]
    return is_joined and output.exists() and not any(part.path.exists() for part in parts)


def how_path(output: Path) -> Path:
    """Where it is written how the results were made."""
    return output.with_name(f"{output.name}.how.json")


def join(parts: list[Journal], output: Path) -> None:
    """Makes one file of what the processes wrote, and removes theirs."""
    if [part.path for part in parts] == [output]:
        return
    with atomic_file(output) as unfinished:
        if output.suffix.lower() == ".parquet":
            _write_parquet(_in_turn(parts), unfinished)
        else:
            with open(unfinished, "w", encoding="utf-8", newline="") as file:
                file.write(format_row(COLUMNS))
                file.writelines(format_row(list(result)) for result in _in_turn(parts))
    for part in parts:
        part.path.unlink(missing_ok=True)


def _in_turn(parts: list[Journal]) -> Iterator[Result]:
    """The results in the order of the boards: one of each process, again and again."""
    readers = [part.read() for part in parts if part.path.exists()]
    while True:
        for reader in readers:
            result = next(reader, None)
            if result is None:  # the boards are dealt in turn, so the first that is short ends all
                return
            yield result


def _write_parquet(results: Iterator[Result], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    text, kinds = pa.string(), {"valid": pa.bool_(), "confidence": pa.float64(), "segments": pa.int64()}
    schema = pa.schema([(name, (kinds | {"calls": pa.int64()}).get(name, text)) for name in COLUMNS])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        block: list[dict] = []
        for result in results:
            block.append(result._asdict())
            if len(block) == _BLOCK:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        writer.write_table(pa.Table.from_pylist(block, schema))
