"""What a checkpoint records of its training and its scores: checked when read, and what of it may be published."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from air_hf.data import COMMIT
from air_hf.evaluation import EvaluationResult, bare_name
from air_hf.hub.loading import EVALUATION, TRAINING_FACTS, check_types, read_facts, training_facts
from air_hf.modeling import CheckpointError
from air_hf.modeling.solving_air import SOLVE_CONFIG, SolveConfig
from air_hf.run_recipe import RunRecipe

_NUMBER = (int, float)
_SPLIT = {"puzzle": str, "puzzles": int, "sha256": str, "example": str}
# Only what is calculated with or looked into; either part may be missing as a whole, and entries that are no mapping
# here are needed where the part is there.
_TRAINING: dict[str, Any] = {
    "step": int, "minutes": _NUMBER, "hardware": str, "processes": int, "versions": dict, "arguments": dict,
    "data": {"train": _SPLIT, "test": _SPLIT},
}  # fmt: skip
_SCORES: dict[str, Any] = {
    "exact_accuracy": _NUMBER, "cell_accuracy": _NUMBER, "copy_accuracy": _NUMBER, "valid_rate": (*_NUMBER, type(None)),
    "halting_accuracy": _NUMBER, "halting_exact_accuracy": _NUMBER, "mean_segments": _NUMBER, "num_puzzles": int,
    "num_segments": int, "precision": str, "ema": (*_NUMBER, type(None)),
}  # fmt: skip
_CURVES = {"loss": 2, "evaluations": 3}  # numbers of a point
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _scalar(value: Any) -> Any:
    """A number, a truth value, or text without the folders that it may name."""
    return bare_name(value) if isinstance(value, str) else value if isinstance(value, _NUMBER) else None


def _symbols(value: Any) -> str | None:
    """Symbols of boards, any of which may be one that separates folders elsewhere."""
    return value if isinstance(value, str) else None


def _digest(value: Any) -> str | None:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else None


def _commit(value: Any) -> str | None:
    return value if isinstance(value, str) and COMMIT.fullmatch(value) else None


def _repository(value: Any) -> str | None:
    return value if isinstance(value, str) and _HUB_NAME.fullmatch(value) else None


def _numbers(value: Any) -> Any:
    """Numbers, in lists of any depth."""
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return value if isinstance(value, _NUMBER) else None


def _scalars(value: Any) -> dict | None:
    return {bare_name(name): _scalar(entry) for name, entry in value.items()} if isinstance(value, dict) else None


# What is published of a record, and as what: an entry that is not named here stays on this machine.
_DATASET = {"dataset": _repository, "dataset_config": _scalar, "dataset_revision": _commit}
_PUBLISHED_SPLIT = _DATASET | {
    "puzzle": _scalar, "puzzles": _scalar, "example": _symbols, "name": _scalar, "sha256": _digest, "split": _scalar,
    "whole_split": _scalar,
}  # fmt: skip
_CALIBRATION = ("data", "puzzles", "tolerance", "exact_all_segments", "exact", "mean_segments")
_PUBLISHED = {
    TRAINING_FACTS: {
        "step": _scalar, "ema": _scalar, "variant": _scalar, "minutes": _scalar, "hardware": _scalar,
        "processes": _scalar, "finished": _scalar, "versions": _scalars,
        "arguments": dict.fromkeys(RunRecipe().marked("published"), _scalar)
        | {"symbols": _symbols, "givens": _symbols} | _DATASET,
        "data": {"train": _PUBLISHED_SPLIT, "test": _PUBLISHED_SPLIT},
        "curves": {"loss": _numbers, "evaluations": _numbers},
        "init_from": {"repository": _repository, "name": _scalar, "sha256": _digest},
        "source_file": _scalar, "source_sha256": _digest,
    },
    EVALUATION: {entry.name: _scalar for entry in fields(EvaluationResult)}
    | {"exact_accuracy_by_segment": _numbers, "data_sha256": _digest} | _DATASET,
    SOLVE_CONFIG: {entry.name: _scalar for entry in fields(SolveConfig)}
    | {"calibration": dict.fromkeys(_CALIBRATION, _scalar)},
}  # fmt: skip


class Records(NamedTuple):
    """`training.json` and `evaluation.json` of a checkpoint, empty where there is none."""

    training: dict
    scores: dict

    @property
    def arguments(self) -> dict:
        """The recipe; empty where it is not recorded."""
        return self.training.get("arguments", {})

    @property
    def benchmark(self) -> str | None:
        """The data set on the Hub whose whole test split was scored; None if it was another file, or a part."""
        is_whole = self.scores.get("whole_split") is True and self.scores.get("split") == "test"
        return hub_name(self.scores) if is_whole else None

    @property
    def tested_on(self) -> str:
        """What was scored in a few words: the benchmark, or the file's name and the number of puzzles."""
        if self.benchmark:
            return f"the test split of {self.benchmark}, {self.scores['num_puzzles']:,} puzzles"
        return f"{self.scores['num_puzzles']:,} puzzles of {self.source}"

    @property
    def source(self) -> str:
        """Where the scored puzzles came from: a file's name, or the data set's on the Hub."""
        return published_record(EVALUATION, self.scores).get("data") or "a file that is not recorded"


def read_records(folder: Path) -> Records:
    """The records beside a checkpoint's weights.

    Raises:
        CheckpointError: a file is damaged, or an entry is missing or of another type; the message names it.
    """
    training, scores = training_facts(folder), read_facts(folder, EVALUATION)
    if "arguments" in training:
        check_types(training, _TRAINING, folder / TRAINING_FACTS)
        _check_curves(training.get("curves") or {"loss": []}, folder / TRAINING_FACTS)
    if scores:
        check_types(scores, _SCORES, folder / EVALUATION)
    return Records(training, scores)


def _check_curves(curves: Any, path: Path) -> None:
    for name, size in _CURVES.items():
        points = curves.get(name, []) if isinstance(curves, dict) else None
        is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == size for point in points)
        if not is_list or not all(isinstance(number, _NUMBER) for point in points for number in point):
            raise CheckpointError(f"{path}, curves: {name} is {repr(points)[:40]}; expected lists of {size} numbers")


def hub_name(record: dict) -> str | None:
    """`ORG/NAME` of the data set that a record is about; None if it is not of the Hub, or of an unknown commit.

    A folder may be called like a repository, but it has no commit.
    """
    return _repository(record.get("dataset")) if _commit(record.get("dataset_revision")) else None


def published_record(name: str, record: dict) -> dict:
    """What of a record may leave this machine: known entries only, and files by their names without folders.

    Args:
        name (`str`): the record's file: "training.json", "evaluation.json" or "solve_config.json".
        record (`dict`): what it holds.
    """
    return _publish(record, _PUBLISHED[name])


def _publish(record: dict, entries: dict[str, Any]) -> dict:
    published = {}
    for name, value in record.items():
        if name not in entries:
            continue
        entry = entries[name]
        if isinstance(entry, dict):
            made = _publish(value, entry) if isinstance(value, dict) else None
        else:
            made = entry(value)
        if made is not None or value is None:
            published[name] = made
    known = hub_name(record)
    for name in entries.keys() & _DATASET.keys() if known is None else ():
        published.pop(name, None)
    for name in published.keys() & {"data", "name"} if known is not None else ():
        if isinstance(record[name], str) and record[name].split(", ")[0] == known:  # the name, and which part of it
            published[name] = f"{known}{bare_name(record[name].removeprefix(known))}"
    return published
