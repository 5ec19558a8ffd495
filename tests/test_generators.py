"""Generated puzzles: unique, minimal where asked, disjoint up to symmetry, the same for the same seed."""

import csv
import errno
import itertools
import multiprocessing
import re
import time

import exact_cover
import numpy as np
import pytest
from support.canonical import canonical_form

from air_hf.cli import main
from air_hf.data import load_puzzles
from air_hf.dataset_builders.generate import generate_split, make_generator, write_split
from air_hf.dataset_builders.sudoku import SudokuGenerator
from air_hf.files import sole_writer
from air_hf.puzzles import PuzzleError, get_puzzle
from air_hf.puzzles.maze import GOAL, PATH, START, WALL
from air_hf.puzzles.sudoku import BLANK


def count_solutions(puzzle, board, limit=2) -> int:
    """By an exact-cover library in C, apart from the generator's solver."""
    n = puzzle.n
    cell, digit = (index.reshape(-1) for index in np.mgrid[: n * n, :n])
    covers = [cell, *(n * n * (kind + 1) + puzzle.units[kind][cell] * n + digit for kind in range(3))]
    options = np.zeros((n**3, 4 * n * n), dtype=bool)
    options[np.arange(n**3)[:, None], np.stack(covers, axis=1)] = True
    allowed = (board[cell] == BLANK) | (board[cell] == digit + BLANK + 1)
    return len(exact_cover.get_all_solutions(options[allowed], max_count=limit))


@pytest.mark.parametrize(("n", "count"), [(4, 30), (6, 15), (9, 8)])
def test_minimal_sudokus(n, count):
    puzzle = get_puzzle(f"sudoku-{n}x{n}")
    questions, answers = SudokuGenerator(puzzle).draw(count, np.random.default_rng(n))
    assert puzzle.is_solution(questions, answers).all()
    for question in questions:
        assert count_solutions(puzzle, question.copy()) == 1
        for clue in np.flatnonzero(question > BLANK):
            fewer = question.copy()
            fewer[clue] = BLANK
            assert count_solutions(puzzle, fewer) == 2


@pytest.mark.parametrize(("n", "clues"), [(4, 8), (6, 20), (9, 34)])
def test_clue_count(n, clues):
    puzzle = get_puzzle(f"sudoku-{n}x{n}")
    questions, _ = SudokuGenerator(puzzle, clues).draw(5, np.random.default_rng(0))
    assert ((questions > BLANK).sum(1) == clues).all()
    assert all(count_solutions(puzzle, question.copy()) == 1 for question in questions)


@pytest.mark.parametrize("unique_path", [False, True])
def test_mazes(unique_path):
    puzzle = get_puzzle("maze-8x10")
    generator = make_generator(puzzle, min_path_cells=12, wall_share=0.3, unique_path=unique_path)
    questions, answers = generator.draw(40, np.random.default_rng(0))
    assert puzzle.is_solution(questions, answers).all()
    assert (puzzle.path_lengths(questions) + 1).min() >= 12
    walls = (questions == 1).mean()
    assert 0.2 < walls < 0.4
    # Forbidding any one cell of an only shortest path makes the way longer.
    longer = []
    for question, answer in itertools.islice(zip(questions, answers, strict=True), 10):
        blocked = np.tile(question, ((answer == 5).sum(), 1))
        blocked[np.arange(len(blocked)), np.flatnonzero(answer == 5)] = 1
        lengths, shortest = puzzle.path_lengths(blocked), puzzle.path_lengths(question[None])[0]
        longer.append(((lengths == -1) | (lengths > shortest)).all())
    assert all(longer) == unique_path


def test_of_several_shortest_paths_a_maze_marks_the_one_that_maze_hard_would():
    """Breadth-first search from S that looks down, left, right and up; it finds all 2,000 answers of Maze-Hard."""
    puzzle = get_puzzle("maze-7x9")
    generator, several = make_generator(puzzle, min_path_cells=12), 0
    for question, answer in zip(*generator.draw(60, np.random.default_rng(2)), strict=True):
        board = question.reshape(7, 9)
        start, goal = (tuple(map(int, np.argwhere(board == symbol)[0])) for symbol in (START, GOAL))
        parents, queue = {start: None}, [start]
        for row, column in queue:
            for cell in ((row + 1, column), (row, column - 1), (row, column + 1), (row - 1, column)):
                inside = 0 <= cell[0] < 7 and 0 <= cell[1] < 9
                if inside and cell not in parents and board[cell] != WALL:
                    parents[cell] = (row, column)
                    queue.append(cell)
        expected, cell = board.copy(), parents[goal]
        while cell != start:
            expected[cell], cell = PATH, parents[cell]
        assert (answer.reshape(7, 9) == expected).all()
        several += generator.count_solutions(question) > 1
    assert several > 20


@pytest.mark.parametrize(
    ("name", "options"), [("sudoku-4x4", {}), ("sudoku-6x6", {}), ("maze-5x5", {"min_path_cells": 4})]
)
def test_split_shares_no_class_and_no_luck(name, options):
    puzzle = get_puzzle(name)
    split = generate_split(puzzle, 120, 40, seed=3, workers=1, **options)
    (train, _), (test, _) = split["train"], split["test"]
    assert (len(train), len(test)) == (120, 40)
    assert len(np.unique(np.concatenate((train, test)), axis=0)) == 160
    assert not set(puzzle.class_keys(train).tolist()) & set(puzzle.class_keys(test).tolist())
    again = generate_split(puzzle, 120, 40, seed=3, workers=2, **options)
    other = generate_split(puzzle, 120, 40, seed=4, workers=1, **options)
    for part in ("train", "test"):
        assert all(np.array_equal(a, b) for a, b in zip(split[part], again[part], strict=True))
        assert not np.array_equal(split[part][0], other[part][0])


def test_disjoint_by_brute_force():
    """Every image of every 4x4 test puzzle under the whole group (128 arrangements x 24 namings) is not in train."""
    puzzle = get_puzzle("sudoku-4x4")
    split = generate_split(puzzle, 100, 10, seed=0, workers=1)
    train = {board.tobytes() for board in split["train"][0]}
    lines = [
        [2 * group + line for group, order in zip(groups, orders, strict=True) for line in order]
        for groups in itertools.permutations((0, 1))
        for orders in itertools.product(itertools.permutations((0, 1)), repeat=2)
    ]
    for board in split["test"][0].reshape(-1, 4, 4):
        for rows, columns, flip, digits in itertools.product(
            lines, lines, (False, True), itertools.permutations(range(2, 6))
        ):
            image = np.array([0, 1, *digits], dtype=np.uint8)[board[rows][:, columns]]
            assert (image.T if flip else image).tobytes() not in train


def generate(*words) -> int:
    """`air-hf data generate`; its exit status."""
    with pytest.raises(SystemExit) as stopped:
        main(["data", "generate", *map(str, words)])
    return stopped.value.code


def test_command_writes_what_load_puzzles_reads(tmp_path, capsys):
    assert generate("--puzzle", "sudoku-6x6", "--train", 20, "--test", 5, "--output", tmp_path, "--clues", 14) == 0
    assert "20 train and 5 test puzzles of sudoku-6x6" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv"]
    assert len(load_puzzles(tmp_path, split="train")) == 20
    with open(tmp_path / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["source", "question", "answer", "rating"]
    assert all(int(row["rating"]) >= 0 for row in rows)


@pytest.mark.parametrize(
    ("puzzle", "options", "message"),
    [
        ("sudoku-9x9", ["--clues", "16"], "clues is 16; a sudoku-9x9 puzzle with one solution has 17 to 81 clues"),
        (
            "maze-10x10",
            ["--min_path_cells", "90"],
            "min_path_cells is 90; shortest paths in a maze-10x10 have 2 to 76 cells",
        ),
        ("maze-5x5", ["--wall_share", "1.5"], "wall_share is 1.5"),
        ("maze-5x5", ["--clues", "5"], "clues is no option of maze puzzles; these take min_path_cells, wall_share"),
        ("maze-5x5", ["--min_rating", "5"], "min_rating is no option of maze puzzles"),
        ("sudoku-16x16", ["--clues", "54"], "a sudoku-16x16 puzzle with one solution has 55 to 256 clues"),
        ("sudoku-4x4", ["--min_rating", "-1"], "min_rating is -1; dead ends cannot be negative"),
        ("sudoku-4x4", ["--train", "-5"], "train is -5; it must be at least 1"),
        ("sudoku-4x4", ["--test", "0"], "test is 0; it must be at least 1"),
        ("sudoku-4x4", ["--workers", "-1"], "workers is -1; it must be at least 1"),
        ("sudoku-4x4", ["--seed", "-1"], "seed is -1; it must be at least 0"),
        ("sudoku-4x4", ["--max_seconds", "0"], "max_seconds is 0.0; it must be positive"),
        ("sudoku-9x9", ["--train", "10" * 12], "puzzles of sudoku-9x9 take"),
        ("maze-99999x99999", [], "maze-99999x99999 has 9,999,800,001 cells; expected 1 to 1,048,576"),
        ("maze-100000x100000", [], "maze-100000x100000 has 10,000,000,000 cells; expected 1 to 1,048,576"),
        ("maze-٤x٤", [], "unknown puzzle 'maze-٤x٤'; expected FAMILY-ROWSxCOLUMNS"),
        ("sudoku-9x9\0", [], "argument --puzzle: 'sudoku-9x9\\x00' names nothing"),
        ("sudoku-4x4", ["--workers", "2000"], "workers is 2000; it must be at most 4 for each of the "),
        ("grid-3x3", ["--symbols", "ab"], "grid puzzles have no generator; they are read from CSV files"),
        ("maze-5x5", ["--symbols", "ab"], "symbols is no option of maze puzzles; these take none"),
        ("maze-5x5", ["--output", ""], "'' names nothing"),
        ("sudoku-7x7", [], "a Sudoku board of 7x7 is not known"),
    ],
)
def test_impossible_requests(puzzle, options, message, tmp_path, capsys):
    assert generate("--puzzle", puzzle, "--train", 4, "--test", 2, "--output", tmp_path / "data", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_no_puzzle_so_hard(monkeypatch):
    monkeypatch.setattr(SudokuGenerator, "max_attempts", 20)
    with pytest.raises(
        PuzzleError, match="no puzzle with clues minimal and a rating of at least 9 in 20 random boards"
    ):
        SudokuGenerator(get_puzzle("sudoku-4x4"), min_rating=9).draw(1, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["sudoku-9x9", "maze-700x700"])
def test_a_time_budget_ends_in_a_sentence(name, tmp_path, capsys):
    """No 17 clues turn up in seconds, and one board of the large maze takes longer than the budget."""
    rare = ["--clues", 17] if name == "sudoku-9x9" else ["--min_path_cells", 2000]
    start, others = time.monotonic(), set(multiprocessing.active_children())  # which earlier tests may have left
    words = ["--puzzle", name, "--train", 4, "--test", 2, "--output", tmp_path / "data", "--workers", 1]
    assert generate(*words, *rare, "--max_seconds", 2) == 2
    assert time.monotonic() - start < 30
    shown = capsys.readouterr().err
    assert re.search(
        r"when the time was over, 0 different puzzles had been found in [\d,]+ random boards; too few", shown
    )
    assert "0/6" in shown  # progress, although nothing was found
    assert not (tmp_path / "data").exists()
    # The pool's own thread may be the one that collects a worker that was killed, and then it is listed for a moment.
    while set(multiprocessing.active_children()) - others:
        assert time.monotonic() - start < 30, multiprocessing.active_children()
        time.sleep(0.05)


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "test.csv").write_text("mine")
    assert generate("--puzzle", "sudoku-4x4", "--train", 4, "--test", 2, "--output", tmp_path) == 2
    assert "test.csv exists; choose another folder, or remove it" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("test.csv", "mine")]


def test_both_files_appear_together(tmp_path, monkeypatch):
    """Neither is there when the other fails, so that the same command may be given again."""
    puzzle, rated = get_puzzle("sudoku-4x4"), []

    def fail_at_the_second(generator, question):
        rated.append([path.name for path in tmp_path.glob("*.csv")])
        if len(rated) == 2:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr(SudokuGenerator, "rate", fail_at_the_second)
    board = np.ones((1, 16), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path, puzzle, {"train": (board, board), "test": (board, board)}, 0, {})
    assert rated == [[], []]
    assert not list(tmp_path.iterdir())


def test_one_process_writes_a_folder(tmp_path, capsys):
    with sole_writer(tmp_path / "train.csv"):
        assert generate("--puzzle", "sudoku-4x4", "--train", 4, "--test", 2, "--output", tmp_path, "--workers", 1) == 2
    assert f"another process writes {tmp_path / 'train.csv'}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.csv"))


def test_what_else_a_folder_holds_stays_and_is_said(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert generate("--puzzle", "sudoku-4x4", "--train", 4, "--test", 2, "--output", tmp_path, "--workers", 1) == 0
    assert f"{tmp_path} held 1 other files or folders, which are as they were" in capsys.readouterr().out
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_names_the_file_and_leaves_none(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SudokuGenerator, "rate", fail)
    puzzle = get_puzzle("sudoku-4x4")
    with pytest.raises(OSError, match=r"No space left on device: '.*train\.csv'"):
        write_split(tmp_path, puzzle, {"train": (np.ones((1, 16), np.uint8), np.ones((1, 16), np.uint8))}, 0, {})
    assert not list(tmp_path.iterdir())


def test_more_puzzles_than_there_are():
    with pytest.raises(PuzzleError, match=r"only \d+ different puzzles turned up; too few for 1000 train"):
        generate_split(get_puzzle("maze-2x2"), 1000, 10, workers=1)


def test_ratings_and_solution_counts():
    puzzle = get_puzzle("sudoku-9x9")
    generator = SudokuGenerator(puzzle)
    easy = puzzle.parse("534678912672195348198342567859761423426853791713924856961537284287419635345286..9")
    hard = puzzle.parse("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..")
    contradictory = puzzle.parse("11" + "." * 79)
    assert generator.rate(easy) == 0
    assert generator.rate(hard) > 10
    counts = [generator.count_solutions(board) for board in (easy, hard, contradictory, np.full(81, BLANK, np.uint8))]
    assert counts == [1, 1, 0, 2]
    for question in SudokuGenerator(puzzle, min_rating=3).draw(10, np.random.default_rng(0))[0]:
        assert generator.rate(question) >= 3
        assert count_solutions(puzzle, question) == 1


@pytest.mark.parametrize("n", [6, 9])
def test_solver_against_exact_cover(n):
    """With and without clues taken away: many solutions, or one."""
    puzzle, rng = get_puzzle(f"sudoku-{n}x{n}"), np.random.default_rng(n)
    generator = SudokuGenerator(puzzle)
    counts = []
    for question in generator.draw(12, rng)[0]:
        question[rng.choice(np.flatnonzero(question > BLANK), size=int(rng.integers(3)), replace=False)] = BLANK
        counts.append(count_solutions(puzzle, question, limit=50))
        assert generator.count_solutions(question, limit=50) == counts[-1]
    assert 1 in counts
    assert max(counts) > 1


def test_16x16():
    puzzle = get_puzzle("sudoku-16x16")
    generator = SudokuGenerator(puzzle)
    questions, answers = generator.draw(3, np.random.default_rng(0))
    assert puzzle.is_solution(questions, answers).all()
    assert ((questions > BLANK).sum(1) < 120).all()
    assert [generator.count_solutions(question) for question in questions] == [1, 1, 1]


def test_shortest_path_counts():
    puzzle = get_puzzle("maze-3x3")
    generator = make_generator(puzzle)
    counts = {"S       G": 6, "S # # # G": 0, "S##   ##G": 1, "SG       ": 1, "S # #   G": 1, "S   #   G": 2}
    for board, count in counts.items():
        assert generator.count_solutions(puzzle.parse(board), limit=9) == count, board


@pytest.mark.parametrize(("n", "count"), [(4, 12), (6, 12), (9, 3)])
def test_canonical_form(n, count):
    """One board for all images, another for another puzzle; and a generated split shares none."""
    puzzle, rng = get_puzzle(f"sudoku-{n}x{n}"), np.random.default_rng(1)
    split = generate_split(puzzle, count, count, seed=n, workers=1)
    train, test = split["train"][0], split["test"][0]
    images = puzzle.random_symmetries(count, rng).apply(train)
    forms = [{canonical_form(puzzle, board).tobytes() for board in boards} for boards in (train, images, test)]
    assert forms[0] == forms[1]
    assert not forms[0] & forms[2]
    assert all(
        canonical_form(puzzle, puzzle.parse(puzzle.format(np.frombuffer(form, np.uint8)))).tobytes() == form
        for form in forms[0]
    )
    with pytest.raises(PuzzleError, match="the largest board is 9x9"):
        canonical_form(get_puzzle("sudoku-16x16"), np.ones(256, np.uint8))
