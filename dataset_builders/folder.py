"""A data set as a folder, ready for the Hub: Parquet files, a card with its picture, and how the data came about.

    README.md  provenance.json  images/difficulty.png  data/<config>/<split>-00000-of-00001.parquet

`datasets.load_dataset(folder, config)` reads it as it reads the published repository.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from datasets.exceptions import DatasetGenerationError
from tqdm import tqdm

from air_hf.dataset_builders.builders import PuzzleBuilder
from air_hf.dataset_builders.card import PICTURE, draw_difficulty, write_card
from air_hf.files import atomic_folder, kind_of, sha256, write_text
from air_hf.puzzles import Puzzle
from air_hf.puzzles.reading import DataError

PROVENANCE = "provenance.json"
BENCHMARK = "eval.yaml"
# What a built folder holds besides its data; the record of the first configuration has their SHA-256, too.
_RECORDED = {"README.md", BENCHMARK, PICTURE}
_BESIDES = "beside_the_data"
_OTHER_FILES = _RECORDED | {PROVENANCE, ".gitattributes"}  # the Hub adds the last
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # of a configuration or a split
_PUZZLE = re.compile(r"[a-z][a-z0-9_]*-[0-9]+x[0-9]+")
_LARGEST = 2**53  # of a number of rows
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
        OSError: it cannot be written; its `filename` is `folder`.
    """
    if num_proc is not None and num_proc < 1:
        raise DataError(f"num_proc is {num_proc}; it must be at least 1")
    if find_spec("matplotlib") is None:
        raise DataError('the card needs matplotlib for its picture: pip install "air-hf[demo]"')
    builders, folder = list(builders), Path(folder)
    if folder.exists():
        raise DataError(f"{folder} already exists; choose another folder, or remove it")
    for builder in builders:
        builder.plans  # noqa: B018  (bad input fails here, before anything is written)
    with atomic_folder(folder) as unfinished:
        try:
            written = {builder.config.name: _write_config(builder, unfinished, num_proc) for builder in builders}
        except DatasetGenerationError as error:  # which does not say why, nor where
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror or str(cause), str(folder)) from error
            raise DataError(f"{folder} cannot be built: {type(cause).__name__}: {cause}") from error
        facts = {config: fact for config, (fact, _) in written.items()}
        tasks = [{"id": config, "config": config, "split": "test"} for config in facts]
        questions = written[builders[0].config.name][1]
        title = write_card(unfinished, folder.name, builders, facts, questions, license)
        benchmark = {"name": title, "description": builders[0].info.description, "evaluation_framework": "air-hf"}
        write_text(unfinished / BENCHMARK, yaml.safe_dump(benchmark | {"tasks": tasks}, sort_keys=False))
        draw_difficulty(unfinished / PICTURE, builders[0], title)
        next(iter(facts.values()))[_BESIDES] = {name: sha256(unfinished / name) for name in sorted(_RECORDED)}
        _write_provenance(unfinished, facts)
    return facts


def _write_provenance(folder: Path, facts: dict[str, dict]) -> None:
    write_text(folder / PROVENANCE, json.dumps(facts, indent=1, ensure_ascii=False))


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
    for config, fact in facts.items():
        for name in (config, *fact["splits"]):
            if not _NAME.fullmatch(name):
                raise DataError(f"{path} is damaged: a configuration or split is called {name[:80]!r}")
        if not _PUZZLE.fullmatch(fact["puzzle"]):
            raise DataError(f"{path}, {config} is damaged: puzzle is {fact['puzzle'][:80]!r}; expected sudoku-9x9, say")
        besides = fact.get(_BESIDES, {})
        _check_shape(besides, {...: str}, f"{path}, {config}, {_BESIDES}")
        if unknown := besides.keys() - _RECORDED:
            raise DataError(f"{path}, {config}, {_BESIDES} is damaged: it names {', '.join(sorted(unknown))[:80]}")
    return facts


def _check_shape(value, shape, where: str) -> None:
    """Compares a value read from JSON with the types it shall have, see `_FACTS`."""
    kind = shape if isinstance(shape, type) else type(shape)
    is_odd = not isinstance(value, kind) or (
        not value.isprintable() if kind is str else kind is int and not 0 <= value < _LARGEST
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


def check_folder(folder: str | Path, edited: Collection[str] = ()) -> bool:
    """Compares every file's SHA-256, and that of the rows in them, with what was recorded.

    Args:
        folder (`str` or `Path`): the data set's.
        edited (`Collection[str]`): files that must be there, whatever they say.

    Returns:
        whether the files beside the data (card, `eval.yaml`, picture) are recorded, too, and were compared; those of
        sets that were built by early versions are not.

    Raises:
        DataError: a file is missing, changed, recorded under a place that is none, not recorded at all, or no file of
            the folder itself.
    """
    folder = Path(folder)
    record = read_provenance(folder)
    listed = {name: digest for fact in record.values() for name, digest in fact.get(_BESIDES, {}).items()}
    is_whole = bool(listed)
    for config, facts in record.items():
        if not facts["splits"]:
            raise DataError(f"{folder / PROVENANCE}, {config}: no split is recorded")
        for split, recorded in facts["splits"].items():
            if not recorded["files"]:
                raise DataError(f"{folder / PROVENANCE}, {config}, {split}: no file is recorded")
            place = re.compile(rf"data/{re.escape(config)}/{re.escape(split)}-[0-9]+-of-[0-9]+\.parquet")
            for name in recorded["files"]:
                if not place.fullmatch(name):
                    raise DataError(f"{PROVENANCE} records a file {name!r}; expected one below data/{config}/")
            listed |= recorded["files"]
    _check_places(folder, listed.keys() | (set() if is_whole else _OTHER_FILES))
    for name, expected in listed.items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; {folder} is not complete")
        if name not in edited and (found := sha256(folder / name)) != expected:
            raise DataError(f"{folder / name}: its SHA-256 is {found}, recorded is {expected}")
    for config, facts in record.items():
        for split, recorded in facts["splits"].items():
            _check_rows([folder / name for name in recorded["files"]], recorded, f"{folder}, {config}, {split}")
    return is_whole


def _check_places(folder: Path, listed: set[str]) -> None:
    """Checks that nothing but these files and what the Hub adds is in a folder, and that they are its own."""
    blobs = folder.resolve().parent.parent / "blobs"  # of the Hub's cache, whose snapshots are links to them
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith((".git/", ".cache/")):  # what git and a download keep beside the files
            continue
        if path.is_symlink() and path.resolve().parent != blobs:
            raise DataError(f"{path} is a link, to {os.readlink(path)}; expected files of {folder} itself")
        if (kind := kind_of(path)) != "a folder" and name not in listed | {PROVENANCE, ".gitattributes"}:
            raise DataError(f"{path} is not recorded in {PROVENANCE}; it was not built with the rest of {folder}")
        if kind not in ("a file", "a folder"):
            raise DataError(f"{path} is {kind or 'a broken link'}; expected a file")


def _check_rows(files: list[Path], recorded: dict, where: str) -> None:
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    if rows != recorded["num_rows"]:
        raise DataError(f"{where}: there are {rows} rows; {PROVENANCE} records {recorded['num_rows']}")
    if recorded["puzzles"] > rows:
        raise DataError(f"{where}: {PROVENANCE} records {recorded['puzzles']} puzzles in {rows} rows")
    if (found := _digest_rows(files)) != recorded["sha256"]:
        raise DataError(f"{where}: the rows have SHA-256 {found}, recorded is {recorded['sha256']}")


def name_repository(folder: str | Path, repository: str) -> None:
    """Makes the commands of a built folder's card load it from the Hub instead of from the folder itself.

    The card is recorded as it is then, which its owner may have added to.
    """
    card = Path(folder) / "README.md"
    if card.is_file():
        text = re.sub(r'(?<=load_dataset\(")[^"]*', repository, card.read_text(encoding="utf-8"))
        write_text(card, re.sub(r"(?<=--dataset ).*?(?= --dataset_config)", repository, text))
        facts = read_provenance(folder)
        besides = next(iter(facts.values())).get(_BESIDES, {})
        if besides:
            besides["README.md"] = sha256(card)
            _write_provenance(Path(folder), facts)
