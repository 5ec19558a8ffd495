"""What a run writes while it trains: lines of metrics and evaluations, and a tracker's curves."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from air_hf.evaluation import EvaluationResult
from air_hf.files import append_text, write_text

METRICS, EVALUATIONS = RECORDS = ("metrics.jsonl", "evaluations.jsonl")
_MOST_POINTS = 400


class Clock:
    """Minutes and puzzles per second of training alone, without evaluations and checkpoints.

    Args:
        minutes (`float`): trained before, where a run goes on.
    """

    def __init__(self, minutes: float = 0.0):
        self._last_line = time.monotonic()
        self._started = self._last_line - 60 * minutes
        self._paused: float | None = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Does not count the block."""
        self._paused = time.monotonic()
        yield
        pause, self._paused = time.monotonic() - self._paused, None
        self._started += pause
        self._last_line += pause

    def minutes(self) -> float:
        """Minutes trained so far."""
        return ((time.monotonic() if self._paused is None else self._paused) - self._started) / 60

    def line(self, slots: float) -> dict[str, float]:
        """Minutes since the run's start, and the rate since the last call."""
        now, before = time.monotonic(), self._last_line
        self._last_line = now
        return {"minutes": self.minutes(), "puzzles_per_second": slots / (now - before)}


class RunRecords:
    """The records of a run in training; every process calls its methods, the main one writes.

    Args:
        output (`Path`): the run's folder.
        accelerator (`Accelerator`): its trackers get the same numbers.
        before (`dict`): `training.json` of the checkpoint a run goes on from, or nothing.

    Attributes:
        clock ([`Clock`]): time spent training.
        line (`dict`): the last line of metrics, empty before the first.
    """

    def __init__(self, output: Path, accelerator: Accelerator, before: dict):
        self._output, self._accelerator = output, accelerator
        unlogged = before.get("unlogged", {})
        self._slots_before = unlogged.get("slots", 0.0)
        share = float(accelerator.is_main_process)  # the sums are of all processes
        self._sums = {name: torch.tensor(share * value, device=accelerator.device) for name, value in unlogged.items()}
        self.clock = Clock(before.get("minutes", 0.0))
        self.line: dict[str, float] = {}

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        """Takes in a step's sums, see [`step_metrics`]."""
        self._sums = {name: self._sums[name] + value if self._sums else value for name, value in metrics.items()}

    def unlogged(self) -> dict[str, float]:
        """The sums since the last line of metrics, over all processes."""
        return {name: float(value) for name, value in self._accelerator.reduce(self._sums, reduction="sum").items()}

    def write_metrics(self, step: int) -> dict[str, float]:
        """Writes and returns the means since the last line, over all processes."""
        total = self.unlogged()
        self._sums = {}
        slots, count = total["slots"], max(total["count"], 1.0)
        losses = {name: total[name] / slots for name in ("lm_loss", "q_halt_loss", "q_continue_loss")}
        halted = {name: total[name] / count for name in ("accuracy", "exact_accuracy", "q_halt_accuracy", "steps")}
        self.line = {"step": step} | losses | halted | {"slots": slots, "count": total["count"]}
        self.line |= self.clock.line(slots - self._slots_before)
        self._slots_before = 0.0
        self._append(METRICS, self.line)
        self._accelerator.log({f"train/{name}": value for name, value in self.line.items()}, step=step)
        return self.line

    def write_evaluation(self, step: int, evaluation: EvaluationResult) -> None:
        scores = evaluation.to_dict()
        self._append(EVALUATIONS, {"minutes": self.clock.minutes()} | scores)
        numbers = {f"test/{name}": value for name, value in scores.items() if isinstance(value, float)}
        self._accelerator.log(numbers, step=step)

    def _append(self, name: str, record: dict) -> None:
        if self._accelerator.is_main_process:
            append_text(self._output / name, json.dumps(record) + "\n")


def read_curves(output: Path) -> dict[str, list]:
    """The run's records, thinned: `[step, lm_loss]` and `[step, exact_accuracy, cell_accuracy]` of each evaluation."""
    metrics, evaluations = _read_lines(output / METRICS), read_evaluations(output)
    every = -(-len(metrics) // _MOST_POINTS) or 1
    return {
        "loss": [[line["step"], line["lm_loss"]] for line in metrics[::every]],
        "evaluations": [[line["step"], line["exact_accuracy"], line["cell_accuracy"]] for line in evaluations],
    }


def read_evaluations(output: Path) -> list[dict]:
    """The run's evaluations, oldest first: `step`, `minutes` of training before it, and the scores."""
    return _read_lines(output / EVALUATIONS)


def _read_lines(path: Path) -> list[dict]:
    """Raises ValueError: a line that is no record; half a line at the end, which a killed run may leave, is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{path}, line {number}: expected an object with a step, found {line[:40]!r}") from error
        records.append(record)
    return records


def keep_records(path: Path, step: int, evaluated: bool) -> None:
    """Drops the records after a step, and those of evaluations at the step itself if it is not `evaluated`."""
    if path.exists():
        last = step - (path.name == EVALUATIONS and not evaluated)
        write_text(path, "".join(json.dumps(line) + "\n" for line in _read_lines(path) if line["step"] <= last))
