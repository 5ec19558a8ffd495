"""A file or stream of boards solved into a file of results, by one process or several, and gone on with."""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from air_hf.files import write_text
from air_hf.modeling.solving_air import SolvingEngine
from air_hf.modeling.weights_air import read_json_object
from air_hf.puzzles import Puzzle
from air_hf.puzzles.reading import DataError
from air_hf.solving.results import (
    COLUMNS,
    Tally,
    format_row,
    how_path,
    is_finished,
    join,
    journals,
    match,
    read_results,
)
from air_hf.solving.stream import Result, Row, solve_rows


class FileWork:
    """This process's share of the boards, and where its results go.

    Args:
        rows (`Iterator[Row | None]`): all boards; every process takes its own in turn. None, for a single process: none
            has come yet.
        source (`str`): what they are, for messages.
        output (`Path`, *optional*): CSV or Parquet file; what it has is not solved again. Standard output if None.
        total (`int`, *optional*): how many boards there are, where that is known.
        state (`PartialState`): the processes.

    Raises:
        ValueError: `output` cannot be a file there.
        DataError: there are results of another number of processes.
    """

    def __init__(
        self, rows: Iterator[Row | None], source: str, output: Path | None, total: int | None, state: PartialState
    ):
        if output is not None and not output.parent.exists():
            raise ValueError(f"--output is {output}, but there is no folder {output.parent}")
        self.source, self.output, self.state = source, output, state
        processes, rank = state.num_processes, state.process_index
        self._parts = [] if output is None else journals(output, processes)
        self._journal = self._parts[rank] if self._parts else None
        self._is_finished = output is not None and is_finished(self._parts, output)
        self._rows = rows if self._is_finished else islice(rows, rank, None, processes)
        self._how: tuple[Path, str] | None = None  # to be written
        self._total = total and len(range(rank, total, processes))

    def check_how(self, how: dict) -> None:
        """Compares how boards are solved with what is written beside the results, or has it written with the first.

        Args:
            how (`dict`): whatever a result depends on, for JSON; "model" is only told, the others are compared.

        Raises:
            DataError: the results that are there were made in another way.
        """
        if self.output is None:
            return
        path = how_path(self.output)
        begun = self._is_finished or any(part.path.exists() for part in self._parts)
        if begun and path.exists():
            before = read_json_object(path)
            if difference := _first_difference(before, json.loads(json.dumps(how))):
                raise DataError(
                    f"{self.output} was begun with {difference} (by {before.get('model')}; {path.name} says how); go "
                    "on as it was begun, choose another --output, or remove both"
                )
        elif begun:
            print(f"note: it is not recorded how the rows in {self.output} were solved", file=sys.stderr)
        elif self.state.is_main_process:
            self._how = path, json.dumps(how, indent=2) + "\n"
        self.state.wait_for_everyone()  # else rows of a faster process would look like those of an earlier command

    def solve(self, engine: SolvingEngine, puzzle: Puzzle) -> tuple[Tally, float]:
        """Solves what the results do not have yet.

        Returns:
            what became of the boards of all processes, and the boards solved a second, 0 if none was left.

        Raises:
            DataError: there are no boards, or the results are of others.
            KeyboardInterrupt: stopped; what was solved is written.
        """
        tally, started = Tally(), time.perf_counter()
        if self._is_finished:
            for row, result in match(self._rows, read_results(self.output), self.output, self.source):
                tally.add(row, result)
            if any(row is not None for row in self._rows):
                raise DataError(
                    f"{self.output} is finished, and {self.source} has more boards; choose another --output"
                )
            return tally, 0.0
        if self._journal is not None:
            for row, result in self._journal.take_done(self._rows, self.source):
                tally.add(row, result)
        before = tally.boards
        results = self._run(engine, puzzle, tally)
        if self._journal is None:
            _print_rows(results)
        else:
            for _ in self._journal.append(results):
                pass
        speed = (tally.boards - before) * self.state.num_processes / (time.perf_counter() - started)
        if self.state.num_processes > 1:
            others = gather_object([tally])  # waits for all
            tally = Tally()
            for each in others:
                tally.merge(each)
        if not tally.boards:
            raise DataError(f"{self.source} holds no boards")
        if self.state.is_main_process and self._parts:
            join(self._parts, self.output)
        self.state.wait_for_everyone()  # a process that ends before the results are joined may take the others along
        return tally, speed

    def _run(self, engine: SolvingEngine, puzzle: Puzzle, tally: Tally) -> Iterator[Result]:
        """The results one by one, counted as they come."""
        with tqdm(total=self._total, initial=tally.boards, unit="board", disable=None) as progress:  # on a terminal
            for row, result in solve_rows(engine, puzzle, self._rows):
                tally.add(row, result)
                if self._how is not None:
                    write_text(*self._how)
                    self._how = None
                yield result
                progress.update()


def _first_difference(before: dict, now: dict) -> str | None:
    """What of one way of solving differs from another, as in "dtype 'float32', and this is 'bfloat16'"."""
    for known, asked in ((before, now), (before.get("solve") or {}, now["solve"])):
        for name, value in asked.items():
            if name not in ("model", "solve") and known.get(name) != value:
                return f"{name} {known.get(name)!r}, and this is {value!r}"
    return None


def _print_rows(results: Iterator[Result]) -> None:
    for number, result in enumerate(results):
        if number == 0:
            sys.stdout.write(format_row(COLUMNS))
        sys.stdout.write(format_row(list(result)))
        sys.stdout.flush()
