"""What a checkpoint records of its training and its scores: checked when read, without local paths when published."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from air_hf.hub.loading import EVALUATION, TRAINING_FACTS
from air_hf.modeling import CheckpointError
from air_hf.modeling.weights_air import read_json_object

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
_PATH = re.compile(r"(~|\.{0,2}/|[A-Za-z]:\\)\S")


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
        return hub_name(self.scores.get("dataset")) if is_whole else None

    @property
    def tested_on(self) -> str:
        """What was scored in a few words: the benchmark, or the file's name and the number of puzzles."""
        if self.benchmark:
            return f"the test split of {self.benchmark}, {self.scores['num_puzzles']:,} puzzles"
        return f"{self.scores['num_puzzles']:,} puzzles of {self.source}"

    @property
    def source(self) -> str:
        """Where the scored puzzles came from: a file's name, or the data set's on the Hub."""
        return without_paths(self.scores).get("data") or "a file that is not recorded"


def read_records(folder: Path) -> Records:
    """The records beside a checkpoint's weights.

    Raises:
        CheckpointError: a file is damaged, or an entry is missing or of another type; the message names it.
    """
    training, scores = (
        read_json_object(folder / name) if (folder / name).exists() else {} for name in (TRAINING_FACTS, EVALUATION)
    )
    if "arguments" in training:
        _check(training, _TRAINING, folder / TRAINING_FACTS)
        _check_curves(training.get("curves") or {"loss": []}, folder / TRAINING_FACTS)
    if scores:
        _check(scores, _SCORES, folder / EVALUATION)
    return Records(training, scores)


def _check(record: dict, expected: dict[str, Any], place: str | Path) -> None:
    for name, kind in expected.items():
        value = record.get(name)
        if isinstance(kind, dict):
            if not isinstance(value, dict):
                raise CheckpointError(f"{place}: {name} is {repr(value)[:40]}; expected an object")
            _check(value, kind, f"{place}, {name}")
        elif not isinstance(value, kind) or isinstance(value, bool):
            wanted = {str: "text", dict: "an object"}.get(kind, "a number")
            raise CheckpointError(f"{place}: {name} is {repr(value)[:40]}; expected {wanted}")


def _check_curves(curves: Any, path: Path) -> None:
    for name, size in _CURVES.items():
        points = curves.get(name, []) if isinstance(curves, dict) else None
        is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == size for point in points)
        if not is_list or not all(isinstance(number, _NUMBER) for point in points for number in point):
            raise CheckpointError(f"{path}, curves: {name} is {repr(points)[:40]}; expected lists of {size} numbers")


def hub_name(dataset: Any) -> str | None:
    """`ORG/NAME` if that is what a data set is called, and there is no folder of that name; else None."""
    is_name = isinstance(dataset, str) and _HUB_NAME.fullmatch(dataset) and not Path(dataset).exists()
    return dataset if is_name else None


def without_paths(value: Any) -> Any:
    """Records without paths of this machine: of each, its last part is left."""
    if isinstance(value, dict):
        published = {name: without_paths(entry) for name, entry in value.items()}
        published |= {name: value[name] for name in ("example", "puzzle_options") if name in value}  # symbols, no paths
        known = hub_name(value.get("dataset"))
        for name in ("dataset", "data"):  # the second is the first and more words, where the puzzles are the Hub's
            if isinstance(value.get(name), str) and not (known and value[name].startswith(known)):
                published[name] = _last_part(value[name])
        return published
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    return _last_part(value) if isinstance(value, str) and _PATH.match(value) else value


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
