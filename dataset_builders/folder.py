"""A data set as a folder, ready for the Hub: Parquet files, a card with its picture, and how the data came about.

    README.md  provenance.json  images/difficulty.png  data/<config>/<split>-00000-of-00001.parquet

`datasets.load_dataset(folder, config)` reads it as it reads the published repository.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from air_hf.dataset_builders.builders import PuzzleBuilder
from air_hf.dataset_builders.card import PICTURE, draw_difficulty, write_card
from air_hf.files import atomic_folder, sha256, write_text
from air_hf.puzzles import Puzzle
from air_hf.puzzles.reading import DataError

PROVENANCE = "provenance.json"
BENCHMARK = "eval.yaml"
# What a built folder holds besides its data; the Hub adds .gitattributes.
_OTHER_FILES = {"README.md", PROVENANCE, BENCHMARK, PICTURE, ".gitattributes"}
_BATCH = 10_000
# What is read of a provenance file, and its types; [...] is a list, {...: ...} a mapping of any keys.
_SPLIT = {"num_rows": int, "puzzles": int, "skipped": int, "sha256": str, "skipped_because": [str], "files": {...: str}}
_FACTS = {
    ...: {"puzzle": str, "source": {"kind": str}, "test_puzzles_with_a_class_in_train": int, "splits": {...: _SPLIT}}
}


def build_folder(
    builders: Iterable[PuzzleBuilder], folder: str | Path, license: str, num_proc: int | None = None
) -> dict[str, dict]:
    """Builds the configurations of one family into a new folder, which appears when it is complete.

    Args:
        builders ([`PuzzleBuilder`] iterable): one for each configuration; the first is the default one.
        folder (`str` or `Path`): where to; must not exist yet.
        license (`str`): of the puzzles, as the Hub spells it.
        num_proc (`int`, *optional*): processes that write.

    Returns:
        what `provenance.json` holds: the facts of each configuration.

    Raises:
        DataError: the folder exists, or the puzzles cannot be built.
    """
    if num_proc is not None and num_proc < 1:
        raise DataError(f"num_proc is {num_proc}; it must be at least 1")
    builders, folder = list(builders), Path(folder)
    if folder.exists():
        raise DataError(f"{folder} already exists; choose another folder, or remove it")
    for builder in builders:
        builder.plans  # noqa: B018  (bad input fails here, before anything is written)
    with atomic_folder(folder) as unfinished:
        written = {builder.config.name: _write_config(builder, unfinished, num_proc) for builder in builders}
        facts = {config: fact for config, (fact, _) in written.items()}
        write_text(unfinished / PROVENANCE, json.dumps(facts, indent=1, ensure_ascii=False))
        tasks = [{"id": config, "config": config, "split": "test"} for config in facts]
        questions = written[builders[0].config.name][1]
        title = write_card(unfinished, folder.name, builders, facts, questions, license)
        benchmark = {"name": title, "description": builders[0].info.description, "evaluation_framework": "air-hf"}
        write_text(unfinished / BENCHMARK, yaml.safe_dump(benchmark | {"tasks": tasks}, sort_keys=False))
        draw_difficulty(unfinished / PICTURE, builders[0], title)
    return facts


def _write_config(builder: PuzzleBuilder, folder: Path, num_proc: int | None) -> tuple[dict, dict]:
    """The facts of a configuration, and the questions (N, S) of each split, images left out."""
    made, target = folder / "made", folder / "data" / builder.config.name
    builder.download_and_prepare(str(made / "data"), file_format="parquet", num_proc=num_proc)
    target.mkdir(parents=True)
    facts, questions = builder.facts, {}
    for split, recorded in facts["splits"].items():
        files = sorted((made / "data").glob(f"*-{split}*.parquet"))
        files = [
            file.rename(target / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
            for number, file in enumerate(files)
        ]
        recorded["files"] = {f"data/{target.name}/{file.name}": sha256(file) for file in files}
        recorded["sha256"] = _digest_rows(files)
        questions[split] = _read_questions(files, builder.puzzle, recorded)
    train, test = (builder.puzzle.class_keys(questions[split]) for split in ("train", "test"))
    facts["test_puzzles_with_a_class_in_train"] = int(np.isin(test, train).sum())
    builder.info.download_size = sum(file.stat().st_size for file in target.iterdir())
    shutil.rmtree(made)  # with the locks and the notes of `datasets`
    return facts, questions


def _batches(files: list[Path], columns: list[str]) -> Iterator[list[list[str]]]:
    """The columns of some Parquet files, some thousand rows at a time."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=columns):
            yield [column.to_pylist() for column in batch.columns]


def _digest_rows(files: list[Path]) -> str:
    """SHA-256 of the lines `question,answer`, or `question,answer,puzzle_id` where some puzzle has an id above 0."""
    columns = ["question", "answer"]
    if any("puzzle_id" in pq.read_schema(file).names for file in files) and any(
        any(ids) for (ids,) in _batches(files, ["puzzle_id"])
    ):
        columns.append("puzzle_id")
    digest = hashlib.sha256()
    for batch in _batches(files, columns):
        digest.update("".join(",".join(map(str, row)) + "\n" for row in zip(*batch, strict=True)).encode())
    return digest.hexdigest()


def _read_questions(files: list[Path], puzzle: Puzzle, recorded: dict) -> np.ndarray:
    """The questions (N, S) of a split; images of a puzzle come in runs and need not be looked at."""
    boards, first, images = [], 0, recorded["images_per_puzzle"]
    progress = tqdm(total=recorded["puzzles"], unit="puzzle", delay=2, desc="comparing train and test")
    for (questions,) in _batches(files, ["question"]):
        originals = questions[-first % images :: images]
        if originals:
            boards.append(puzzle.parse_all(originals))
        first += len(questions)
        progress.update(len(originals))
    progress.close()
    return np.concatenate(boards)


def read_provenance(folder: str | Path) -> dict[str, dict]:
    """The facts of a built folder, or of a snapshot of its repository.

    Raises:
        DataError: the folder was not built by [`build_folder`], or its record is damaged.
    """
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise DataError(f"{folder} has no {PROVENANCE}; expected a folder that `air-hf data build` made")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not facts:
        raise DataError(f"{path} is damaged: it records no configuration")
    _check_shape(facts, _FACTS, str(path))
    return facts


def _check_shape(value, shape, where: str) -> None:
    """Compares a value read from JSON with the types it shall have, see `_FACTS`."""
    kind = shape if isinstance(shape, type) else type(shape)
    is_odd = (
        (kind is str and not value.isprintable()) or (kind is int and value < 0) if isinstance(value, kind) else True
    )
    if is_odd or isinstance(value, bool):
        raise DataError(f"{where} is damaged: {str(value)[:80]!r} stands where {kind.__name__} was expected")
    if isinstance(shape, list):
        for item in value:
            _check_shape(item, shape[0], where)
    elif isinstance(shape, dict):
        for name in value if ... in shape else shape:
            if name not in value:
                raise DataError(f"{where} is damaged: {name} is missing")
            _check_shape(name, str, where)
            _check_shape(value[name], shape.get(name, shape.get(...)), f"{where}, {name}")


def check_folder(folder: str | Path) -> None:
    """Compares every file's SHA-256, and that of the rows in them, with what was recorded.

    Raises:
        DataError: a file is missing, changed, recorded under a place that is none, or not recorded at all.
    """
    folder = Path(folder)
    listed = set()
    for config, facts in read_provenance(folder).items():
        for split, recorded in facts["splits"].items():
            for name, expected in recorded["files"].items():
                file = folder / _data_file(name)
                if not file.is_file():
                    raise DataError(f"{file} is missing; {folder} is not complete")
                if (found := sha256(file)) != expected:
                    raise DataError(f"{file}: its SHA-256 is {found}, recorded is {expected}")
                listed.add(name)
            files = [folder / name for name in recorded["files"]]
            if (rows := sum(pq.read_metadata(file).num_rows for file in files)) != recorded["num_rows"]:
                raise DataError(
                    f"{folder}, {config}, {split}: there are {rows} rows; {PROVENANCE} records {recorded['num_rows']}"
                )
            found = _digest_rows(files)
            if found != recorded["sha256"]:
                raise DataError(
                    f"{folder}, {config}, {split}: the rows have SHA-256 {found}, recorded is {recorded['sha256']}"
                )
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        hidden = name.startswith((".git/", ".cache/"))  # what git and a download keep beside the files
        if not path.is_dir() and not hidden and name not in listed | _OTHER_FILES:
            raise DataError(f"{path} is not recorded in {PROVENANCE}; it was not built with the rest of {folder}")


def _data_file(name: str) -> PurePosixPath:
    """The place of a data file, which is downloaded text until it is checked."""
    place = PurePosixPath(name)
    if place.parts[:1] != ("data",) or ".." in place.parts or "\\" in name or place.as_posix() != name:
        raise DataError(f"{PROVENANCE} records a file {name!r}; expected one below data/")
    return place


def name_repository(folder: str | Path, repository: str) -> None:
    """Makes the commands of a built folder's card load it from the Hub instead of from the folder itself."""
    card = Path(folder) / "README.md"
    if card.is_file():
        text = re.sub(r'(?<=load_dataset\(")[^"]*', repository, card.read_text(encoding="utf-8"))
        write_text(card, re.sub(r"(?<=--dataset ).*?(?= --dataset_config)", repository, text))
