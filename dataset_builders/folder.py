"""A data set as a folder, ready for the Hub: Parquet files, a card with its picture, and how the data came about.

    README.md  provenance.json  images/difficulty.png  data/<config>/<split>-00000-of-00001.parquet

`datasets.load_dataset(folder, config)` reads it as it reads the published repository.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from air_hf.dataset_builders.builders import PuzzleBuilder
from air_hf.dataset_builders.card import draw_difficulty, write_card
from air_hf.puzzles import Puzzle
from air_hf.puzzles.reading import DataError

PROVENANCE = "provenance.json"
_BATCH = 10_000


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
    builders, folder = list(builders), Path(folder)
    if folder.exists():
        raise DataError(f"{folder} already exists; choose another folder, or remove it")
    for builder in builders:
        builder.plans  # noqa: B018  (bad input fails here, before anything is written)
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        facts = {builder.config.name: _write_config(builder, unfinished, num_proc) for builder in builders}
        (unfinished / PROVENANCE).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        draw_difficulty(unfinished / "images" / "difficulty.png", builders[0])
        write_card(unfinished / "README.md", builders, facts, license)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return facts


def _write_config(builder: PuzzleBuilder, folder: Path, num_proc: int | None) -> dict:
    made, target = folder / "made", folder / "data" / builder.config.name
    builder.download_and_prepare(str(made / "data"), file_format="parquet", num_proc=num_proc)
    target.mkdir(parents=True)
    facts, classes = builder.facts, {}
    for split, recorded in facts["splits"].items():
        files = sorted((made / "data").glob(f"*-{split}*.parquet"))
        files = [
            file.rename(target / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
            for number, file in enumerate(files)
        ]
        recorded["files"] = {f"data/{target.name}/{file.name}": _file_digest(file) for file in files}
        recorded["sha256"] = _digest_rows(files)
        classes[split] = _class_keys(files, builder.puzzle, recorded)
    facts["test_puzzles_with_a_class_in_train"] = int(np.isin(classes["test"], classes["train"]).sum())
    builder.info.download_size = sum(file.stat().st_size for file in target.iterdir())
    shutil.rmtree(made)  # with the locks and the notes of `datasets`
    return facts


def _batches(files: list[Path], columns: list[str]) -> Iterator[list[list[str]]]:
    """The columns of some Parquet files, some thousand rows at a time."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=columns):
            yield [column.to_pylist() for column in batch.columns]


def _digest_rows(files: list[Path]) -> str:
    """SHA-256 of the lines `question,answer`."""
    digest = hashlib.sha256()
    for questions, answers in _batches(files, ["question", "answer"]):
        digest.update("".join(f"{q},{a}\n" for q, a in zip(questions, answers, strict=True)).encode())
    return digest.hexdigest()


def _class_keys(files: list[Path], puzzle: Puzzle, recorded: dict) -> np.ndarray:
    """The symmetry class of every puzzle of a split; its images come in runs and need not be looked at."""
    keys, first, images = [], 0, recorded["images_per_puzzle"]
    progress = tqdm(total=recorded["puzzles"], unit="puzzle", delay=2, desc="comparing train and test")
    for (questions,) in _batches(files, ["question"]):
        originals = questions[-first % images :: images]
        if originals:
            keys.append(puzzle.class_keys(puzzle.parse_all(originals)))
        first += len(questions)
        progress.update(len(originals))
    progress.close()
    return np.concatenate(keys)


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_provenance(folder: str | Path) -> dict[str, dict]:
    """The facts of a built folder, or of a snapshot of its repository.

    Raises:
        DataError: the folder was not built by [`build_folder`].
    """
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise DataError(f"{folder} has no {PROVENANCE}; expected a folder that `air-hf data build` made")
    return json.loads(path.read_text(encoding="utf-8"))


def check_folder(folder: str | Path) -> None:
    """Reads every row again and compares with what was recorded.

    Raises:
        DataError: a file is missing, or its rows are not those that were built.
    """
    for config, facts in read_provenance(folder).items():
        for split, recorded in facts["splits"].items():
            files = [Path(folder) / name for name in recorded["files"]]
            for file in files:
                if not file.is_file():
                    raise DataError(f"{file} is missing; {folder} is not complete")
            found = _digest_rows(files)
            if found != recorded["sha256"]:
                raise DataError(
                    f"{folder}, {config}, {split}: the rows have SHA-256 {found}, recorded is {recorded['sha256']}"
                )
