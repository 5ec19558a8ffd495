"""The checkpoints that come with the package: small, whole, found by name, and right on a board."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from air_hf import cli
from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.evaluation import evaluate_model
from air_hf.hub import CheckpointError, checkpoint_for, load_model, load_tokenizer, shipped_checkpoints
from air_hf.puzzles import puzzle_of

NAMES = tuple(shipped_checkpoints())
MOST_BYTES = 5 * 10**6


def solve(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["solve", *words])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out + captured.err


def test_there_are_some():
    assert {"sudoku-9x9"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_is_whole(name):
    folder = shipped_checkpoints()[name]
    model = load_model(name)
    load_tokenizer(name, model.config)
    assert checkpoint_for(model.config.puzzle).is_dir()
    assert sum(path.stat().st_size for path in folder.rglob("*")) < MOST_BYTES
    scores = json.loads((folder / "evaluation.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"{scores['exact_accuracy']:.1%}" in card
    assert not list(folder.rglob("*.py"))  # the package has the code; `air-hf publish` adds it


@pytest.mark.parametrize("name", NAMES)
def test_it_solves_the_example_of_its_training(name, capsys):
    folder = shipped_checkpoints()[name]
    board = json.loads((folder / "training.json").read_text())["data"]["test"]["example"]
    status, text = solve(capsys, "--model", name, board)
    assert status == 0, text
    assert text.startswith("solved")


@pytest.mark.parametrize("name", NAMES)
def test_the_snippets_of_a_card_run_in_its_folder(name, monkeypatch, capsys, tmp_path):
    folder = shipped_checkpoints()[name]
    monkeypatch.chdir(folder)
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        (tmp_path / "snippet.py").write_text(snippet)
        runpy.run_path(str(tmp_path / "snippet.py"))
    answer, checked = capsys.readouterr().out.strip().splitlines()
    assert answer in checked
    assert "'valid': True" in checked


def test_a_board_chooses_its_model(capsys, tmp_path):
    board = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    status, text = solve(capsys, board)
    assert status == 0
    assert "5 3 4 | 6 7 8 | 9 1 2" in text
    file = tmp_path / "boards.csv"
    file.write_text(f"question\n{board}\n")
    assert solve(capsys, str(file), "--output", str(tmp_path / "out.csv"))[0] == 0
    status, text = solve(capsys, "." * 256)
    assert status == 2
    assert "no model for sudoku-16x16 comes with this package" in text


@pytest.mark.parametrize(("name", "mazes", "share"), [("maze-10x10", 100, 0.9), ("maze-30x30", 10, 0.3)])
def test_short_ways_are_found_too(name, mazes, share):
    """Ends anywhere, as in a maze that somebody thinks up; most are nearer than those that are hard to solve."""
    model = load_model(name)
    puzzle = puzzle_of(model.config)
    boards = PuzzleSet(puzzle, *make_generator(puzzle).draw(mazes, np.random.default_rng(0)), "generated")
    assert evaluate_model(model, boards).valid_rate > share


def test_a_folder_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sudoku-9x9").mkdir()
    with pytest.raises(CheckpointError, match="sudoku-9x9 holds no checkpoint"):
        load_model("sudoku-9x9")


def test_every_shipped_model_knows_its_puzzle():
    assert all(puzzle_of(load_model(name).config) is not None for name in NAMES)


def test_weights_that_fit_any_size_are_found_by_their_family(make_model, tmp_path, monkeypatch):
    """The nearest in size; those of a fixed size are for the puzzle they are named after, or for who names them."""
    folders = {}
    for name, mixer in (
        ("maze-4x4", "convolution"),
        ("maze-6x6-any", "convolution"),
        ("maze-5x5", "mlp"),
        ("maze-7x7-mlp", "mlp"),
    ):
        puzzle = name[:8]
        side = int(puzzle[-1])
        folders[name] = tmp_path / name
        model = make_model(puzzle=puzzle, seq_len=side**2, mixer=mixer, position_embedding="none")
        model.save_pretrained(tmp_path / name)
    monkeypatch.setattr("air_hf.hub.shipped.shipped_checkpoints", lambda: folders)
    found = {puzzle: checkpoint_for(puzzle).name for puzzle in ("maze-3x5", "maze-5x5", "maze-7x7")}
    assert found == {"maze-3x5": "maze-4x4", "maze-5x5": "maze-5x5", "maze-7x7": "maze-6x6-any"}
    with pytest.raises(CheckpointError, match="no model for sudoku-4x4"):
        checkpoint_for("sudoku-4x4")
