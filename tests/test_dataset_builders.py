"""The data set builders: what they hold, that they can be built again, and what they say to bad files."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.training import WITHOUT_AIR_HF, make_csv

from air_hf.cli import main
from air_hf.data import PuzzleSet, PuzzleStream, load_published, load_puzzles
from air_hf.dataset_builders import builders
from air_hf.dataset_builders.folder import build_folder, check_folder, name_repository
from air_hf.dataset_builders.generate import write_split
from air_hf.dataset_builders.maze import MazeHard
from air_hf.dataset_builders.sudoku import SudokuExtreme
from air_hf.puzzles import get_puzzle
from air_hf.puzzles.augmentation import FixedImages
from air_hf.puzzles.reading import DataError

HEADER = "source,question,answer,rating\n"
GOOD = "x,1...............,1234341221434321,0\n"


@pytest.fixture(scope="module")
def sudokus(tmp_path_factory) -> Path:
    """60 train and 20 test 9x9 puzzles as CSV."""
    return make_csv(tmp_path_factory.mktemp("sudoku"), "sudoku-9x9")


@pytest.fixture(scope="module")
def mazes(tmp_path_factory) -> Path:
    """12 train and 4 test 6x6 mazes as CSV."""
    return make_csv(tmp_path_factory.mktemp("maze"), "maze-6x6", 12, 4, min_path_cells=5)


@pytest.fixture
def build(tmp_path):
    """Builds a configuration from CSV files, apart from the cache of this machine."""

    def make(family, config, path, **overrides):
        builder = family(config, source="csv", path=str(path), cache_dir=str(tmp_path / "cache"), **overrides)
        builder.download_and_prepare()
        return builder

    return make


def read_rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def command(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def test_full_holds_every_row(build, sudokus):
    built = build(SudokuExtreme, "full", sudokus).as_dataset()
    puzzle = get_puzzle("sudoku-9x9")
    for split in ("train", "test"):
        rows = read_rows(sudokus / f"{split}.csv")
        assert len(built[split]) == len(rows)
        for made, row in zip(built[split], rows, strict=True):
            assert [made[name] for name in ("source", "question", "answer")] == [
                row[name] for name in ("source", "question", "answer")
            ]
            assert made["rating"] == float(row["rating"])
            assert made["input_ids"] == puzzle.parse(row["question"]).tolist()
            assert made["labels"] == puzzle.parse(row["answer"]).tolist()
    assert built["train"].features["input_ids"].length == 81
    assert built["train"].with_format("torch")[0]["labels"].tolist() == made_ids(built["train"][0]["answer"])


def made_ids(answer: str) -> list[int]:
    return [int(digit) + 1 for digit in answer]


def test_subset_and_images(build, sudokus, tmp_path):
    builder = build(SudokuExtreme, "1k-aug-1000", sudokus, subsample_size=5, images_per_puzzle=11, seed=3)
    assert builder.split_sizes() == {"train": 55, "test": 20}
    train = builder.as_dataset("train")
    rows, facts = read_rows(sudokus / "train.csv"), builder.facts["splits"]["train"]
    assert len(train) == 55
    assert facts["rows_of_file"] == sorted(set(facts["rows_of_file"]))
    assert [train[11 * i]["question"] for i in range(5)] == [rows[row]["question"] for row in facts["rows_of_file"]]
    puzzle = get_puzzle("sudoku-9x9")
    questions, answers = (np.array(train[name], dtype=np.uint8) for name in ("input_ids", "labels"))
    assert puzzle.is_solution(questions, answers).all()
    keys = puzzle.class_keys(questions).reshape(5, 11)
    assert (keys == keys[:, :1]).all()
    assert len(np.unique(questions, axis=0)) == 55
    # The subset of a seed is the one that training samples with it.
    sampled = load_puzzles(sudokus / "train.csv").sample(5, 3)
    assert [puzzle.format(board) for board in sampled.questions] == [train[11 * i]["question"] for i in range(5)]
    assert builder.facts["source"]["files"]["train"]["sha256"] == (
        hashlib.sha256((sudokus / "train.csv").read_bytes()).hexdigest()
    )
    assert builder.facts["encoding"] == {"padding": 0, ".": 1} | {str(digit): digit + 1 for digit in range(1, 10)}


def test_mazes_in_all_orientations(build, mazes):
    builder = build(MazeHard, "1k-aug-8", mazes, puzzle="maze-6x6", subsample_size=12)
    train = builder.as_dataset("train")
    assert len(train) == 96
    for first in range(0, 96, 8):
        images = {question for question in train[first : first + 8]["question"]}
        board = np.array(list(train[first]["question"])).reshape(6, 6)
        square = {"".join(np.rot90(b, k).reshape(-1)) for b in (board, board.T) for k in range(4)}
        assert images == square
        assert len(images) == 8


def test_number_of_processes_makes_no_difference(sudokus, tmp_path, monkeypatch):
    """Blocks of 7 rows, so that there is something to share out."""
    monkeypatch.setattr("air_hf.puzzles.reading.BLOCK_ROWS", 7)
    monkeypatch.setattr("air_hf.dataset_builders.builders._TABLE_ROWS", 5)
    digests = []
    for num_proc in (None, 2):
        builder = SudokuExtreme("full", source="csv", path=str(sudokus), cache_dir=str(tmp_path / f"cache{num_proc}"))
        facts = build_folder([builder], tmp_path / f"built{num_proc}", "unknown", num_proc)
        digests.append({split: info["sha256"] for split, info in facts["full"]["splits"].items()})
        lines = "".join(f"{row['question']},{row['answer']}\n" for row in read_rows(sudokus / "train.csv"))
        assert digests[-1]["train"] == hashlib.sha256(lines.encode()).hexdigest()
    assert digests[0] == digests[1]
    assert len(list((tmp_path / "built2" / "data" / "full").iterdir())) == 4


def test_least_difficulty(build, sudokus):
    ratings = {
        split: [float(row["rating"]) for row in read_rows(sudokus / f"{split}.csv")] for split in ("train", "test")
    }
    builder = build(SudokuExtreme, "full", sudokus, min_difficulty=2)
    assert builder.split_sizes() == {split: sum(rating >= 2 for rating in values) for split, values in ratings.items()}
    assert min(builder.as_dataset("train")["rating"]) >= 2
    with pytest.raises(DataError, match=r"train\.csv holds no puzzles with a rating of at least 1000000"):
        build(SudokuExtreme, "full", sudokus, min_difficulty=1_000_000)


def test_a_changed_file_is_another_data_set(build, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(HEADER + GOOD)
    assert len(build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4").as_dataset("train")) == 1
    (tmp_path / "train.csv").write_text(HEADER + GOOD + GOOD.replace("1....", "12..."))
    assert len(build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4").as_dataset("train")) == 2


@pytest.mark.parametrize(
    ("content", "message", "skipped"),
    [
        ("", r"train\.csv is empty; expected a header with the columns source, question, answer, rating", None),
        (HEADER, r"train\.csv holds no puzzles", None),
        (b"\x89PNG\r\n\x1a\n\x00", r"train\.csv, header: not UTF-8 text", None),
        ("question,answer,rating\n1,1,0\n", r"train\.csv: column source is missing", None),
        (HEADER.replace("rating", "rating,note") + GOOD, r"train\.csv: column note is not expected", None),
        (HEADER + GOOD + "x,1,2,3,4\n", r"train\.csv, row 2: 5 fields, but the header has 4", None),
        (HEADER + GOOD + GOOD.replace("1....", "1..."), r"train\.csv, row 2, question: .*15 symbols, expected 16", 1),
        (HEADER + GOOD + GOOD.replace("1....", "1..Z."), r"train\.csv, row 2, question: .*unknown symbol 'Z'", 1),
        (HEADER + GOOD + GOOD.replace("1....", "2...."), r"train\.csv, row 2, answer: .*but the question gives 2", 1),
        (HEADER + GOOD + GOOD.replace(",0\n", ",hard\n"), r"train\.csv, row 2: rating is 'hard'; expected a number", 1),
        (HEADER + GOOD + GOOD.replace(",0\n", ",1e39\n"), r"train\.csv, row 2: rating is '1e39'; expected a number", 1),
        (HEADER + GOOD + "x,1...\n", r"train\.csv, row 2, question: .*symbols, expected 16", 1),
        (
            HEADER.replace("\n", ",puzzle_id\n") + GOOD.replace("\n", ",3\n") + GOOD.replace("\n", ",x\n"),
            r"train\.csv, row 2, puzzle_id: it is 'x'; expected an integer from 0",
            1,
        ),
    ],
)
def test_bad_files(build, tmp_path, content, message, skipped):
    (tmp_path / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "test.csv").write_text(HEADER + GOOD)
    with pytest.raises(DataError, match=message):
        build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4")
    if skipped is None:
        with pytest.raises(DataError, match=message):
            build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4", on_error="skip")
    else:
        builder = build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4", on_error="skip")
        facts = builder.facts["splits"]["train"]
        assert (facts["skipped"], facts["num_rows"]) == (skipped, 1)
        assert "row 2" in facts["skipped_because"][0]
        assert builder.as_dataset("train")["question"][:] == ["1..............."]


def test_byte_order_mark_crlf_and_quotes_change_nothing(build, tmp_path):
    content = (HEADER + '"x","1...............",1234341221434321,0\n').replace("\n", "\r\n").encode()
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + content)
    (tmp_path / "test.csv").write_text(HEADER + GOOD)
    built = build(SudokuExtreme, "full", tmp_path, puzzle="sudoku-4x4").as_dataset()
    assert built["train"][0] == built["test"][0]


@pytest.mark.parametrize(
    ("family", "config", "puzzle", "row"),
    [
        (SudokuExtreme, "full", "sudoku-4x4", GOOD),
        (MazeHard, "1k", "maze-3x3", "x,S   #   G,Soo #o  G,4\n"),
    ],
)
def test_uniqueness_on_request(build, tmp_path, family, config, puzzle, row):
    """One clue has many solutions; a maze may have two shortest paths."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(HEADER + row)
    assert len(build(family, config, tmp_path, puzzle=puzzle, subsample_size=1).as_dataset("train")) == 1
    with pytest.raises(DataError, match=r"train\.csv, row 1: the question has more than one solution"):
        build(family, config, tmp_path, puzzle=puzzle, subsample_size=1, check_unique=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--configs", "2k"], "unknown configuration 2k; sudoku has full, 1k, 1k-aug-1000"),
        (["--configs", "1k"], "train.csv has 60 puzzles; configuration 1k draws 1,000 of them: choose a smaller"),
        (["--configs", "1k", "--subsample_size", "0"], "subsample_size is 0; it must be at least 1"),
        (["--configs", "full", "--clues", "30"], "generator options ['clues'] mean nothing with source 'csv'"),
        (["--configs", "full", "--path", "nowhere"], "nowhere/train.csv does not exist; expected a CSV file"),
        (["--configs", "full", "--puzzle", "sudoku-6x6"], "the board has 81 symbols, expected 36"),
        (["--configs", "full", "--puzzle", "maze-9x9"], "puzzle is maze-9x9, but SudokuExtreme holds sudoku puzzles"),
        (["--configs", "full", "--num_proc", "0"], "num_proc is 0; it must be at least 1"),
        (["--configs", "full", "--seed", "-1"], "seed is -1; it must be at least 0"),
        (["--configs", "full", "--path", "a\0b"], r"argument --path: 'a\x00b' names nothing"),
        (["--configs", "full", "--output", ""], "'' names nothing"),
        (["--configs", "full,1k,full"], "configs is 'full,1k,full', which names one more than once"),
        (["--configs", "full", "--subsample_size", "5"], "subsample_size is given, and what is built has all puzzles"),
        (["--configs", "full", "--num_train", "5"], "num_train is given with source csv; it is for source generate"),
        (["--configs", "full", "--revision", "main"], "revision is given with source csv; it is for source hub"),
        (["--configs", "1k"], "choose a smaller subsample_size, or a configuration that has all: --configs full"),
    ],
)
def test_impossible_builds(sudokus, tmp_path, capsys, words, message):
    status = command("data", "build", "sudoku", "--source", "csv", "--path", sudokus, "--output", tmp_path / "built",
                     "--cache_dir", tmp_path / "cache", *words)  # fmt: skip
    assert status == 2
    assert message in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("built")]


def test_build_command_and_what_it_leaves(sudokus, tmp_path, capsys):
    folder = tmp_path / "built"
    words = ["data", "build", "sudoku", "--source", "csv", "--path", sudokus, "--output", folder,
             "--cache_dir", tmp_path / "cache", "--subsample_size", 10, "--configs", "1k,full"]  # fmt: skip
    assert command(*words) == 0
    assert "sudoku-9x9 puzzles, source csv" in capsys.readouterr().out
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "README.md", "provenance.json", "eval.yaml", "images/difficulty.png",
        *(f"data/{config}/{split}-00000-of-00001.parquet" for config in ("1k", "full") for split in ("train", "test")),
    }  # fmt: skip
    assert (folder / "images" / "difficulty.png").read_bytes().startswith(b"\x89PNG")
    first = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(first) == 10  # the first configuration is the default one
    whole = load_published(str(folder), "full", "train")
    assert np.array_equal(whole.questions, load_puzzles(sudokus, split="train").questions)
    with pytest.raises(DataError, match=r"built, 3k, train: .*3k.* not found"):
        load_published(str(folder), "3k", "train")
    card = (folder / "README.md").read_text()
    for text in (
        "license: unknown",
        "10 of the 60 train puzzles (drawn with seed 0)",
        "`full` | train | 60 | 60 | 1 |",
    ):
        assert text in card
    capsys.readouterr()
    assert command(*words) == 2
    assert "already exists" in capsys.readouterr().err
    assert command("data", "info", folder, "--check") == 0
    assert "every file and row is as it was built" in capsys.readouterr().out
    benchmark = yaml.safe_load((folder / "eval.yaml").read_text())
    assert benchmark["tasks"] == [{"id": name, "config": name, "split": "test"} for name in ("1k", "full")]
    run_snippets(card, folder)


def run_snippets(card: str, folder: Path) -> None:
    """Every Python snippet of a card, as pasted beside the folder, in an interpreter that cannot import air_hf."""
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippets
    for snippet in snippets:
        words = [sys.executable, "-c", WITHOUT_AIR_HF + snippet]
        environment = os.environ | {"HF_DATASETS_CACHE": str(folder.parent / "snippets"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(words, cwd=folder.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> Path:
    """A built folder to damage copies of."""
    home = tmp_path_factory.mktemp("checked")
    make_csv(home / "csv", train=6, test=3)
    builder = SudokuExtreme(
        "full", source="csv", path=str(home / "csv"), puzzle="sudoku-4x4", cache_dir=str(home / "cache")
    )
    build_folder([builder], home / "built", "unknown")
    return home / "built"


def overwrite_labels(folder: Path) -> None:
    file = folder / "data" / "full" / "train-00000-of-00001.parquet"
    rows = pq.read_table(file)
    wrong = pa.array([[1] * 16] * len(rows), rows.schema.field("labels").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("labels"), "labels", wrong), file)


def link_out(folder: Path) -> None:
    file = folder / "data" / "full" / "test-00000-of-00001.parquet"
    file.symlink_to(file.rename(folder.parent / "elsewhere"))


def change_provenance(change):
    def damage(folder: Path) -> None:
        facts = json.loads((folder / "provenance.json").read_text())
        change(facts["full"], facts["full"]["splits"]["test"])
        (folder / "provenance.json").write_text(json.dumps(facts))

    return damage


def move_file(name):
    return change_provenance(lambda facts, test: test.update(files={name: next(iter(test["files"].values()))}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite_labels, r"train-00000-of-00001\.parquet: its SHA-256 is .*, recorded is"),
        (
            lambda folder: (folder / "data" / "full" / "train-0.parquet").write_bytes(b"x"),
            r"train-0\.parquet is not recorded in provenance\.json",
        ),
        (lambda folder: (folder / "train.csv").write_text("x"), r"train\.csv is not recorded"),
        (
            lambda folder: (folder / "data" / "full" / "test-00000-of-00001.parquet").unlink(),
            r"test-00000-of-00001\.parquet is missing",
        ),
        (change_provenance(lambda facts, test: test.update(sha256="0")), "full, test: the rows have SHA-256 .* is 0"),
        (move_file("../csv/test.csv"), r"records a file '\.\./csv/test\.csv'; expected one below data/"),
        (move_file("data/../../csv/test.csv"), "expected one below data/"),
        (move_file("/etc/passwd"), r"records a file '/etc/passwd'; expected one below data/"),
        (change_provenance(lambda facts, test: test.pop("files")), "test is damaged: files is missing"),
        (change_provenance(lambda facts, test: test.update(num_rows="3")), "num_rows is damaged: '3' stands where int"),
        (change_provenance(lambda facts, test: test.update(num_rows=9)), r"there are \d+ rows; .* records 9"),
        (change_provenance(lambda facts, test: test.update(puzzles=-1)), "puzzles is damaged: '-1' stands where int"),
        (change_provenance(lambda facts, test: facts.update(puzzle="\033[2J")), "puzzle is damaged"),
        (change_provenance(lambda facts, test: test.update(puzzles=10**30)), "puzzles is damaged: '1000"),
        (change_provenance(lambda facts, test: test.update(puzzles=2**40)), "records 1099511627776 puzzles in 3 rows"),
        (change_provenance(lambda facts, test: facts.update(puzzle="x")), "puzzle is 'x'; expected sudoku-9x9, say"),
        (change_provenance(lambda facts, test: facts["splits"].update({"../x": test})), r"is called '\.\./x'"),
        (change_provenance(lambda facts, test: test.update(files={})), "full, test: no file is recorded"),
        (change_provenance(lambda facts, test: facts["splits"].clear()), "full: no split is recorded"),
        (
            change_provenance(lambda facts, test: facts["beside_the_data"].update({"../x": "0"})),
            r"beside_the_data is damaged: it names \.\./x",
        ),
        (lambda folder: (folder / "README.md").write_text("x"), r"README\.md: its SHA-256 is .*, recorded is"),
        (lambda folder: (folder / "eval.yaml").write_text("x"), r"eval\.yaml: its SHA-256 is"),
        (lambda folder: (folder / "images" / "difficulty.png").write_text("x"), r"difficulty\.png: its SHA-256 is"),
        (lambda folder: (folder / "README.md").unlink(), r"README\.md is missing"),
        (lambda folder: (folder / "data" / "ln").symlink_to("/etc"), r"data/ln is a link, to /etc; expected files of"),
        (link_out, r"test-00000-of-00001\.parquet is a link, to .*/elsewhere; expected files of"),
        (lambda folder: os.mkfifo(folder / ".gitattributes"), r"\.gitattributes is a pipe; expected a file"),
        (lambda folder: (folder / "provenance.json").write_text("{}"), "is damaged: it records no configuration"),
        (lambda folder: (folder / "provenance.json").write_text("[" * 10**5), r"provenance\.json is damaged"),
        (lambda folder: (folder / "provenance.json").write_text("<html>"), r"provenance\.json is damaged"),
        (lambda folder: (folder / "provenance.json").write_bytes(b"\xff\xfe"), r"provenance\.json is damaged"),
    ],
)
def test_a_changed_folder_is_not_what_was_built(checked, tmp_path, damage, message, capsys):
    folder = tmp_path / "built"
    shutil.copytree(checked, folder)
    check_folder(folder)
    damage(folder)
    with pytest.raises(DataError, match=message):
        check_folder(folder)
    assert command("data", "info", folder, "--check") == 2
    assert "error: " in capsys.readouterr().err


def test_sets_of_early_versions_are_checked_for_what_they_record(checked, tmp_path, capsys):
    folder = tmp_path / "built"
    shutil.copytree(checked, folder)
    change_provenance(lambda facts, test: facts.pop("beside_the_data"))(folder)
    (folder / "README.md").write_text("another card")
    assert command("data", "info", folder, "--check") == 0
    assert "every data file and row is as it was built; its record, of an early version" in capsys.readouterr().out
    overwrite_labels(folder)
    assert command("data", "info", folder, "--check") == 2


def test_a_damaged_folder_is_not_published(checked, tmp_path, capsys, monkeypatch):
    """Refused before anything is asked of the Hub; a card to which its owner added is no damage."""
    folder = tmp_path / "built"
    shutil.copytree(checked, folder)
    (folder / "README.md").write_text("another card")
    check_folder(folder, edited=("README.md",))
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert command("data", "publish", folder, "org/set") == 2
    assert "notes.txt is not recorded in provenance.json" in capsys.readouterr().err


def test_mazes_have_no_configuration_of_all(mazes, tmp_path, capsys):
    words = ["--source", "csv", "--path", mazes, "--puzzle", "maze-6x6", "--cache_dir", tmp_path / "cache"]
    assert command("data", "build", "maze", *words, "--output", tmp_path / "built") == 2
    assert "draws 1,000 of them: choose a smaller subsample_size\n" in capsys.readouterr().err


def test_ratings_below_zero_are_drawn(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(HEADER + GOOD.replace(",0\n", ",-2\n"))
    options = {"path": str(tmp_path), "puzzle": "sudoku-4x4", "cache_dir": str(tmp_path / "cache")}
    build_folder([SudokuExtreme("full", source="csv", **options)], tmp_path / "built", "unknown")
    assert (tmp_path / "built" / "images" / "difficulty.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_generate_one_set(tmp_path):
    """Which both find missing: one draws it, the other waits and takes it."""
    code = f"""
from air_hf.dataset_builders.sudoku import SudokuExtreme
builder = SudokuExtreme("full", source="generate", puzzle="sudoku-4x4", num_train=300, num_test=20,
                        cache_dir={str(tmp_path)!r})
print(builder.split_sizes())
"""
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for job in jobs:
        assert job.communicate(timeout=120)[0].endswith("{'train': 300, 'test': 20}\n")
        assert job.returncode == 0
    assert [path.suffix for path in (tmp_path / "air-hf-generated").iterdir()] == [""]


def test_a_published_card_names_its_repository(checked, tmp_path):
    folder = tmp_path / "built"
    shutil.copytree(checked, folder)
    for repository in ("org/first", "org/second"):
        name_repository(folder, repository)
        card = (folder / "README.md").read_text()
        assert f'load_dataset("{repository}", "full", split="train")' in card
        assert f"--dataset {repository} --dataset_config full" in card
    assert "ORG" not in card
    check_folder(folder)


def test_cards_say_what_a_set_is(tmp_path, checked, capsys):
    """Of CSV files nothing is claimed but what they show; of generated puzzles what the generator guarantees."""
    card = (checked / "README.md").read_text()
    assert "as the CSV files have it, which do not say what it counts" in card
    assert "That a question has only one solution was not checked." in card
    assert "tdoku" not in card + (checked / "provenance.json").read_text()
    assert "9x9" not in card
    assert str(checked.parent) not in card + (checked / "provenance.json").read_text()
    words = ["--source", "generate", "--num_train", 8, "--num_test", 4, "--cache_dir", tmp_path / "cache"]
    assert (
        command(
            "data", "build", "sudoku", *words, "--configs", "full", "--puzzle", "sudoku-4x4", "--output", tmp_path / "s"
        )
        == 0
    )
    card = (tmp_path / "s" / "README.md").read_text()
    for text in ("# Sudoku 4x4, generated", "one solution: the generator draws no others", "| clues | test | 4 |",
                 "dead ends of a search", "4 rows of 4"):  # fmt: skip
        assert text in card
    assert not re.search("9x9|tdoku|far too hard", card)
    words += ["--configs", "1k", "--subsample_size", 8, "--puzzle", "maze-5x6"]
    assert command("data", "build", "maze", *words, "--output", tmp_path / "m") == 0
    card = (tmp_path / "m" / "README.md").read_text()
    drawing = re.search(r"```text\n(.*?)```", card, re.DOTALL)[1]
    assert set("SG#") <= set(drawing)  # a maze is shown, not a line of blanks
    assert re.search(r"\| share of walls \| train \| 0", card)


def test_skipped_rows_name_no_folder(tmp_path):
    """What is published names the file of a bad row, not where it stood."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(HEADER + GOOD + GOOD.replace("1....", "2...."))
    options = {"path": str(tmp_path), "puzzle": "sudoku-4x4", "cache_dir": str(tmp_path / "cache")}
    builder = SudokuExtreme("full", source="csv", on_error="skip", **options)
    (message,) = builder.facts["splits"]["train"]["skipped_because"]
    assert message.startswith("train.csv, row 2, answer: ")


def test_puzzle_ids_are_built_and_loaded(tmp_path):
    for split in ("train", "test"):
        row = GOOD.strip()
        (tmp_path / f"{split}.csv").write_text(
            f"{HEADER.strip()},puzzle_id\n{row},0\n{row.replace('1....', '12...')},5\n"
        )
    options = {"path": str(tmp_path), "puzzle": "sudoku-4x4", "cache_dir": str(tmp_path / "cache")}
    builder = SudokuExtreme("1k-aug-1000", source="csv", subsample_size=2, images_per_puzzle=3, **options)
    build_folder([builder], tmp_path / "built", "unknown")
    train = load_published(str(tmp_path / "built"), None, "train", cache_dir=str(tmp_path / "hf"))
    assert train.puzzle_ids.tolist() == [0, 0, 0, 5, 5, 5]
    check_folder(tmp_path / "built")
    facts = json.loads((tmp_path / "built" / "provenance.json").read_text())
    assert facts["1k-aug-1000"]["splits"]["train"]["sha256"] == train.sha256()


def test_a_failed_build_leaves_nothing(sudokus, tmp_path, monkeypatch):
    builder = SudokuExtreme("full", source="csv", path=str(sudokus), cache_dir=str(tmp_path / "cache"))

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("air_hf.dataset_builders.folder.write_card", fail)
    with pytest.raises(OSError, match="No space left"):
        build_folder([builder], tmp_path / "built", "unknown")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("built")]


def test_a_full_disk_names_the_folder(sudokus, tmp_path, monkeypatch, capsys):
    """The library that writes the rows says nothing of it."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    monkeypatch.setattr(SudokuExtreme, "_generate_tables", fail)
    words = ["data", "build", "sudoku", "--source", "csv", "--path", sudokus, "--output", tmp_path / "built"]
    assert command(*words, "--configs", "full", "--cache_dir", tmp_path / "cache") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == f"air-hf data: error: [Errno 28] No space left on device: '{tmp_path / 'built'}'"
    assert not [path for path in tmp_path.iterdir() if "built" in path.name]


def test_generated_data_sets_can_be_built_again(tmp_path, capsys):
    outputs = []
    for attempt in ("first", "second"):
        words = ["data", "build", "maze", "--source", "generate", "--puzzle", "maze-6x6", "--min_path_cells", 6,
                 "--num_train", 8, "--num_test", 4, "--subsample_size", 8, "--seed", 5,
                 "--output", tmp_path / attempt, "--cache_dir", tmp_path / f"cache-{attempt}"]  # fmt: skip
        assert command(*words) == 0
        outputs.append(json.loads((tmp_path / attempt / "provenance.json").read_text()))
        del outputs[-1]["1k"]["beside_the_data"]["README.md"]  # which names the folder
    assert outputs[0] == outputs[1]
    facts = outputs[0]["1k-aug-8"]
    assert facts["splits"]["train"]["num_rows"] == 64
    assert facts["test_puzzles_with_a_class_in_train"] == 0
    assert "license: apache-2.0" in (tmp_path / "first" / "README.md").read_text()


def test_fixed_images():
    puzzle, rng = get_puzzle("sudoku-9x9"), np.random.default_rng(0)
    images = FixedImages(puzzle, 50, seed=1)
    rows, numbers = np.repeat(np.arange(4), 50), np.tile(np.arange(50), 4)
    boards = np.tile(rng.integers(1, 11, size=81).astype(np.uint8), (200, 1))
    made = images.symmetries(rows, numbers).apply(boards)
    assert np.array_equal(made[::50], boards[::50])  # image 0 is the puzzle
    assert len(np.unique(made, axis=0)) == 197  # every row has images of its own
    assert np.array_equal(FixedImages(puzzle, 50, seed=1).symmetries(rows, numbers).apply(boards), made)
    assert not np.array_equal(FixedImages(puzzle, 50, seed=2).symmetries(rows, numbers).apply(boards), made)
    with pytest.raises(ValueError, match="9 images of a maze-6x6 were asked for; it has 1 to 8"):
        FixedImages(get_puzzle("maze-6x6"), 9, 0)
    with pytest.raises(ValueError, match="0 images of a sudoku-9x9 were asked for"):
        FixedImages(puzzle, 0, 0)


def test_training_draws_from_fixed_images_what_the_built_set_holds(build, sudokus):
    train = build(SudokuExtreme, "1k-aug-1000", sudokus, subsample_size=60, images_per_puzzle=4).as_dataset("train")
    built = {tuple(ids) for ids in train["input_ids"]}
    puzzles = load_puzzles(sudokus / "train.csv")
    stream = PuzzleStream(puzzles, 30, seed=0, augment=True, images_per_puzzle=4)
    drawn = {tuple(board) for step in range(20) for board in stream.batch(step)["input_ids"].tolist()}
    assert drawn <= built
    assert len(drawn) > 0.9 * len(built)
    fresh = PuzzleStream(PuzzleSet(puzzles.puzzle, puzzles.questions, puzzles.answers, "x"), 30, seed=0, augment=True)
    assert not {tuple(board) for board in fresh.batch(0)["input_ids"].tolist()} <= built


def test_a_generated_set_that_was_interrupted_is_generated_anew(tmp_path, monkeypatch):
    options = {"puzzle": "sudoku-4x4", "num_train": 8, "num_test": 4, "subsample_size": 8, "seed": 1}
    make = partial(SudokuExtreme, "1k", source="generate", cache_dir=str(tmp_path / "cache"), **options)

    def interrupted(folder, puzzle, split, *more):
        write_split(folder, puzzle, split, *more)
        (folder / "test.csv").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(builders, "write_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().download_and_prepare()
    monkeypatch.undo()
    builder = make()
    builder.download_and_prepare()
    assert len(builder.as_dataset(split="train")) == 8
