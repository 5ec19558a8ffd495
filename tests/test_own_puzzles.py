"""Puzzles that this package has never heard of: grids of any symbols, and families that other packages bring."""

import ast
import contextlib
import csv
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.hub_processes import run
from support.training import ROOT, TINY_RUN, WITHOUT_AIR_HF
from transformers import AutoTokenizer

from air_hf.cli import main
from air_hf.data import DataError, load_puzzles
from air_hf.dataset_builders.generate import make_generator
from air_hf.hub import load_model
from air_hf.puzzles import PuzzleError, all_families, get_puzzle, infer_puzzle, puzzle_of
from air_hf.tokenization import build_tokenizer

pytest_plugins = ["support.hub_fixtures"]
PAGE = (ROOT / "docs" / "own-puzzles.md").read_text(encoding="utf-8")
LATIN_PY, PIPELINE, FAMILY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = ["--max_steps", "2", "--batch_size", "8", "--warmup_steps", "1", "--hidden_size", "16", "--max_segments", "2",
         "--compile", "off", "--num_threads", "1", "--mixed_precision", "no"]  # fmt: skip


def read_rows(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows, splits=("train", "test"), header=("question", "answer")) -> Path:
    folder.mkdir(exist_ok=True)
    for split in splits:
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return folder


def command(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


# --- grid ----------------------------------------------------------------------------------------------------------


def run_line(words: list[str], folder: Path) -> str:
    """What a line of the page prints, a training in a small size."""
    if words[0] == "python":
        return subprocess.check_output([sys.executable, *words[1:]], cwd=folder, text=True)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        status = command(*words[1:], *(SMALL if words[1] == "train" else []))
    assert status in ((0, 1) if words[1] == "solve" else (0,)), words
    return printed.getvalue()


@pytest.fixture(scope="module")
def page_run(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder in which every command of docs/own-puzzles.md was run, in a small size, and what each printed."""
    home = tmp_path_factory.mktemp("page")
    (home / "latin.py").write_text(LATIN_PY.replace("range(20)", "range(1)"), encoding="utf-8")
    printed = {}
    for line in re.findall(r"^\$ (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line)
        printed[words[1]] = run_line(words, home)
    return home, printed


def test_the_page_from_csv_to_pipeline(page_run):
    home, printed = page_run
    assert len(read_rows(home / "latin" / "train.csv")) == 500
    assert "76 of grid-4x4" in printed["evaluate"]
    assert re.search(r"C B \. \.     [.A-D?]( [.A-D?]){3}\n", printed["solve"])  # drawn: question and answer
    config = json.loads((home / "runs" / "latin" / "checkpoint" / "config.json").read_text())
    assert config["puzzle_options"] == {"givens": ".", "symmetries": "dihedral", "symbols": ".ABCD"}
    card = (home / "runs" / "latin" / "checkpoint" / "README.md").read_text()
    assert "`.ABCD`" in card
    assert not re.search("sudoku|maze", card, re.IGNORECASE)


def test_the_pipeline_of_a_grid_needs_no_package(page_run):
    home, _ = page_run
    code = WITHOUT_AIR_HF + PIPELINE + 'print(solver("CB....CB.D...C..\\n", on_error="report"))\n'
    code += 'print(solver("CB..\\n..CB\\n.D.\\n..C..", on_error="report")["error"])\n'
    environment = os.environ | {"HF_HOME": str(home / "hf")}
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    for line in (first, second):
        result = ast.literal_eval(line)
        kept = all(a == "." or a == b for a, b in zip("CB....CB.D...C", result["solution"], strict=False))
        assert result["valid"] in ((True, False) if kept else (False,))
    assert third == "grid-4x4: the board has lines of 4, 4, 3, 5 symbols, expected 4 lines of 4"


def test_a_grid_of_any_symbols(tmp_path):
    """Symbols beyond ASCII, a space, the padding's own sign and the letters of a special token, in every form."""
    symbols = ' ?[PAD]€𝄞"'
    rng = np.random.default_rng(0)
    boards = ["".join(rng.choice(list(symbols), 6)) for _ in range(40)]
    write_rows(tmp_path, zip(boards, boards[::-1], strict=True))
    puzzles = load_puzzles(tmp_path, "grid-2x3", "train")
    puzzle = puzzles.puzzle
    assert puzzle.options == {"symbols": "".join(sorted(symbols))}
    assert [puzzle.format(board) for board in puzzles.questions] == boards == puzzle.format_all(puzzles.questions)
    assert puzzle.format(np.zeros(6, np.uint8)) == "\ufffd" * 6  # padding is none of the symbols
    build_tokenizer(puzzle).save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for board, ids in zip(["[PAD]?", *boards], [puzzle.parse("[PAD]?"), *puzzles.questions], strict=True):
        assert tokenizer(board).input_ids == ids.tolist()
        assert tokenizer.decode(ids) == board
    figure = pytest.importorskip("matplotlib.figure").Figure()
    puzzle.draw_picture(figure.subplots(), puzzles.answers[0], puzzles.questions[0], puzzles.answers[0])
    assert len(figure.axes[0].texts) == 6
    assert [len(line) for line in puzzle.draw_text(puzzles.answers[0], puzzles.questions[0])] == [5, 5]


@pytest.mark.parametrize("example", ["solve", "analyze"])
def test_examples_take_the_models_symbols(example, make_model, tmp_path):
    """Not those of the test file, which may lack one of them: ids would be others."""
    options = {"symbols": ".ABCD", "givens": "."}
    model = make_model(puzzle="grid-2x2", puzzle_options=options, vocab_size=6, seq_len=4, position_embedding="none")
    model.save_pretrained(tmp_path / "model")
    build_tokenizer(puzzle_of(model.config)).save_pretrained(tmp_path / "model")
    write_rows(tmp_path, [("A..D", "ADDD"), ("D...", "DDDA")], splits=("test",))
    words = ["--checkpoint", tmp_path / "model", "--data", tmp_path, "--count", "2"]
    done = subprocess.run([sys.executable, f"examples/{example}.py", *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "D" in done.stdout if example == "solve" else "undisturbed" in done.stdout


def test_symmetries_and_rules_of_grids():
    plain, turned = (get_puzzle("grid-3x3", symbols=".ab", givens=".", symmetries=s) for s in ("none", "dihedral"))
    rng = np.random.default_rng(0)
    board = plain.parse("ab.......")
    assert np.array_equal(plain.random_symmetries(5, rng).apply(np.tile(board, (5, 1))), np.tile(board, (5, 1)))
    assert len(np.unique(turned.symmetry_pool(8, rng).apply(np.tile(board, (8, 1))), axis=0)) == 8
    with pytest.raises(PuzzleError, match=r"2 images of a grid-3x3 were asked for; it has 1$"):
        plain.symmetry_pool(2, rng)
    texts = ["ababababa", "ab......b", "bbababab.", "aaababaab"]
    answers = plain.parse_all(texts)
    errors = [plain.find_error(board, answer) for answer in answers]
    assert errors == [None, None, "row 1, column 1 holds 'b' but the question gives 'a'",
                      "row 1, column 2 holds 'a' but the question gives 'b'"]  # fmt: skip
    assert plain.is_solution(np.tile(board, (4, 1)), answers).tolist() == [True, True, False, False]
    assert plain.rules.checks_answers
    assert not get_puzzle("grid-3x3", symbols=".ab").rules.checks_answers


def test_rules_that_prove_nothing_end_nothing(tmp_path, capsys):
    """A solver of Sudoku that is told of the given cells only still goes on until it believes its answer."""
    model = load_model("sudoku-4x4")
    puzzle = get_puzzle("grid-4x4", symbols=".1234", givens=".")
    model.config.puzzle, model.config.puzzle_options = puzzle.name, puzzle.options
    model.save_pretrained(tmp_path / "model")
    build_tokenizer(puzzle).save_pretrained(tmp_path / "model")
    sudoku = get_puzzle("sudoku-4x4")
    questions, answers = make_generator(sudoku).draw(20, np.random.default_rng(0))
    write_rows(tmp_path, zip(sudoku.format_all(questions), sudoku.format_all(answers), strict=True))
    assert command("solve", str(tmp_path / "train.csv"), "--model", str(tmp_path / "model")) == 0
    said = capsys.readouterr().out
    exact = float(re.search(r"exact accuracy ([0-9.]+)% of 20", said)[1])
    assert exact >= 90
    assert "20 of 20 boards answered, breaking no rule, which proves little here (100.0%)" in said
    assert "stops at q_halt" in said


MANY = [(chr(0x4E00 + i) * 4, "aaaa") for i in range(255)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("abab", "abab"), ("aba", "abab")], {}, r"train\.csv, row 2, question: grid-2x2: the board has 3 symbols"),
        ([("a\nbab", "abab")], {}, r"train\.csv, row 1, question: grid-2x2: the board has lines of 1, 3 symbols"),
        ([("abab", "abac")], {"symbols": "ab"}, r"row 1, answer: .*unknown symbol 'c' in row 2, column 2"),
        ([("ab.b", "bbab")], {"givens": "."}, r"row 1, answer: row 1, column 1 holds 'b' but the question gives 'a'"),
        (MANY, {}, r"train\.csv: grid-2x2: there are 256 symbols; expected at most 255"),
        ([("abab", "abab")], {"symbols": "aba"}, "symbol 'a' occurs twice in 'aba'"),
        ([("abab", "abab")], {"symbols": "ab\n"}, r"'\\n' cannot be a symbol"),
        ([("abab", "abab")], {"symbols": "ab", "givens": "."}, r"givens is '\.'; expected one of the symbols 'ab'"),
        ([("abab", "abab")], {"givens": ".."}, r"givens is '\.\.'; expected one of the symbols"),
        ([("abab", "abab")], {"symmetries": "all"}, "symmetries is 'all'; expected one of none, dihedral"),
        ([("abab", "abab")], {"colour": "red"}, "colour is no option of grid puzzles; these take symbols, givens"),
    ],
)
def test_bad_grids(tmp_path, rows, options, message):
    write_rows(tmp_path, rows)
    with pytest.raises(DataError, match=message) as error:
        load_puzzles(tmp_path, "grid-2x2", "train", options)
    assert "train.csv" in str(error.value)


def test_names_of_grids():
    with pytest.raises(PuzzleError, match="grid-2x2: its symbols are not given"):
        get_puzzle("grid-2x2")
    with pytest.raises(PuzzleError, match="givens is no option of sudoku puzzles; these take none"):
        get_puzzle("sudoku-4x4", givens=".")
    with pytest.raises(PuzzleError, match=r"no family of puzzles has boards of 2x2 .* one of your own is \"grid-2x2\""):
        infer_puzzle("abcd")


def test_a_grid_becomes_a_data_set(tmp_path, capsys):
    row = ("mine", "ab.b", "abab", 3, 1)
    folder = write_rows(tmp_path / "csv", [row], header=("source", "question", "answer", "rating", "puzzle_id"))
    words = [
        "--source",
        "csv",
        "--path",
        folder,
        "--puzzle",
        "grid-2x2",
        "--givens",
        ".",
        "--output",
        tmp_path / "built",
    ]
    assert command("data", "build", "grid", *words, "--cache_dir", tmp_path / "cache") == 0
    card = (tmp_path / "built" / "README.md").read_text()
    for text in ("# Grid 2x2, from CSV files", "`.ab`", "`puzzle_id` (integer)", "a b      a b\n. b      a b"):
        assert text in card
    facts = json.loads((tmp_path / "built" / "provenance.json").read_text())
    assert facts["full"]["puzzle_options"] == {"givens": ".", "symbols": ".ab"}
    assert command("data", "build", "grid", "--source", "hub", "--puzzle", "grid-2x2", "--symbols", "ab", "--output",
                   tmp_path / "none") == 2  # fmt: skip
    assert command("data", "build", "grid", "--source", "csv", "--path", folder, "--output", tmp_path / "none") == 2
    assert command("data", "build", "grid", "--source", "csv", "--path", folder, "--puzzle", "sudoku-4x4",
                   "--output", tmp_path / "none") == 2  # fmt: skip
    shown = capsys.readouterr().err
    assert "no grid puzzles are known on the Hub" in shown
    assert "puzzle is missing; say what the boards are" in shown


# --- families of other packages ------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder as of installed packages: one that brings the family of the page, and one that cannot be imported."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "my_package.py").write_text(FAMILY)
    (folder / "broken_package.py").write_text("import a_module_that_is_missing\n")
    for package, entry in (("my_package", "latin = my_package:Latin"), ("broken_package", "broken = broken_package:B")):
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[air_hf.puzzles]\n{entry}\n")
    return folder


def test_a_family_that_cannot_be_imported_is_named(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    named = r"puzzle family 'broken' \(broken_package:B of broken.package\) cannot be imported: ModuleNotFoundError"
    with pytest.raises(PuzzleError, match=named):
        get_puzzle("broken-4x4")
    with pytest.warns(UserWarning, match=named):
        assert [family.family for family in all_families()] == ["sudoku", "maze", "grid", "latin"]
    with pytest.warns(UserWarning, match=named):
        assert infer_puzzle("AB..............").name == "latin-4x4"
    with pytest.warns(UserWarning, match=named):
        assert infer_puzzle("1" + "." * 15).name == "sudoku-4x4"
    with pytest.raises(PuzzleError, match="latin puzzles have no generator"):
        make_generator(get_puzzle("latin-4x4"))
    sys.modules.pop("my_package", None)


def test_a_family_of_another_package_trains_is_published_and_solves(hub, site, tmp_path):
    (tmp_path / "latin.py").write_text(LATIN_PY.replace("range(20)", "range(1)"), encoding="utf-8")
    subprocess.run([sys.executable, "latin.py"], cwd=tmp_path, check=True)
    checkpoint, home = tmp_path / "run" / "checkpoint", tmp_path / "home"
    python = ["env", f"PYTHONPATH={site}", sys.executable]
    words = [*TINY_RUN, "--max_steps", 2, "--train_data", tmp_path / "latin", "--output_dir", tmp_path / "run"]
    done = run(hub, home, *python, "examples/train.py", *words)
    assert "500 latin-4x4 puzzles" in done.stdout  # known by its symbols
    run(hub, home, *python, "-m", "air_hf.cli", "publish", checkpoint, "puzzles/latin")
    card = hub.files("model", "puzzles/latin")["README.md"].decode()
    assert "A Latin square: every row and column holds every letter once." in card
    assert "`.` for a blank cell, letters `A` to `D`" in card
    assert not re.search("sudoku|maze", card, re.IGNORECASE)
    board = read_rows(tmp_path / "latin" / "test.csv")[0]["question"]
    done = run(hub, home, *python, "-m", "air_hf.cli", "solve", "--model", "puzzles/latin", board, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert re.search("solved   |a row or column lacks a letter", done.stdout)
    solve = "import air_hf\nfrom transformers import pipeline\n"
    solve += f'print(pipeline("puzzle-solving", model={str(checkpoint)!r})({board!r}))'
    assert re.search("'valid': (True|False)", run(hub, home, *python, "-c", solve).stdout)
    assert "'valid': None" in run(hub, home, sys.executable, "-c", solve).stdout  # where the package is not installed


def test_an_option_of_a_family_of_another_package_travels_with_the_checkpoint(site, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    write_rows(tmp_path / "data", [("AB" + "." * 14, "ABCDABCDABCDABCD")])  # right by its rows only
    words = ["train", *TINY_RUN, "--max_steps", 2, "--train_data", tmp_path / "data", "--output_dir", tmp_path / "run"]
    assert command(*words, "--puzzle", "latin-4x4", "--family_options", "chek=rows") == 2
    assert "chek is no option of latin puzzles; these take check" in capsys.readouterr().err
    assert command(*words, "--puzzle", "latin-4x4", "--family_options", "check=rows") == 0
    puzzle = puzzle_of(load_model(tmp_path / "run" / "checkpoint").config)
    assert puzzle.options == {"check": "rows"}
    question, answer = puzzle.parse("AB" + "." * 14), puzzle.parse("ABCD" * 4)
    assert puzzle.find_error(question, answer) is None
    assert "lacks a letter" in get_puzzle("latin-4x4").find_error(question, answer)
    sys.modules.pop("my_package", None)
