"""Boards in, checked answers out: the pipeline, its rules against those of air_hf.puzzles, and `air-hf solve`."""

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from air_hf import AIRForPuzzleSolving, PuzzleSolvingPipeline, cli, variant_config
from air_hf.dataset_builders.generate import generate_split
from air_hf.files import sole_writer
from air_hf.hub import load_model
from air_hf.modeling.rules_air import get_rules
from air_hf.puzzles import Puzzle, PuzzleError, get_puzzle, puzzle_of
from air_hf.solving import SolveConfig, make_engine
from air_hf.solving.results import COLUMNS
from air_hf.solving.stream import Row, choose_puzzle, read_lines, solve_rows
from air_hf.tokenization import build_tokenizer

pytest_plugins = ["support.hub_fixtures"]
SUDOKU = get_puzzle("sudoku-4x4")
LEARNT = 16  # boards that the solver of these tests was trained on
CHECKPOINT_FILES = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "configuration_air.py", "modeling_air.py", "pipeline_air.py", "rules_air.py",
    "solving_air.py", "weights_air.py",
}  # fmt: skip
BAD_BOARDS = [
    ("12", "sudoku-4x4: the board has 2 symbols, expected 16"),
    ("1" + "." * 14 + "x", "sudoku-4x4: unknown symbol 'x' in row 4, column 4; expected one of '.1234'"),
    (
        "3..3" + "." * 12,
        "sudoku-4x4: contradictory clues: 3 stands twice in one row, in row 1, column 1 and in row 1, column 4",
    ),
    ("2..." + ".2.." + "." * 8, "2 stands twice in one box, in row 1, column 1 and in row 2, column 2"),
    (None, "sudoku-4x4: the board is of type NoneType, expected text"),
]


@pytest.fixture(scope="module")
def boards() -> tuple[list[str], list[str]]:
    """1,000 questions and their solutions."""
    questions, answers = generate_split(SUDOKU, 1000, 1, workers=1)["train"]
    return SUDOKU.format_all(questions), SUDOKU.format_all(answers)


@pytest.fixture(scope="module")
def checkpoint(boards, tmp_path_factory) -> str:
    """A model that knows 16 boards by heart, says something different for each of the others, and its tokenizer."""
    torch.manual_seed(0)
    config = variant_config(
        "Lx_H", vocab_size=6, seq_len=16, hidden_size=32, num_attention_heads=1, num_hidden_layers=1, mixer="mlp",
        position_embedding="none", h_cycles=1, l_cycles=1, max_segments=3, puzzle="sudoku-4x4",
    )  # fmt: skip
    model = AIRForPuzzleSolving(config)
    questions, answers = (torch.from_numpy(SUDOKU.parse_all(texts[:LEARNT])).long() for texts in boards)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        state = None
        for _ in range(config.max_segments):
            output = model(input_ids=questions, labels=answers, state=state)
            state = output.state
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(model.solve(questions).sequences, answers)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    build_tokenizer(SUDOKU).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def solver(checkpoint) -> PuzzleSolvingPipeline:
    return pipeline("puzzle-solving", model=checkpoint, device="cpu")


# --- rules ---------------------------------------------------------------------------------------------------------


def random_puzzles(puzzle: Puzzle, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Questions and solutions (count, S)."""
    if puzzle.family == "maze":
        return generate_split(puzzle, count, 1, workers=1)["train"]
    row, column = np.divmod(np.arange(puzzle.num_cells), puzzle.n)
    solved = (row % puzzle.box_rows * puzzle.box_columns + row // puzzle.box_rows + column) % puzzle.n + 2
    solved = np.tile(solved.astype(np.uint8), (count, 1))
    answers = puzzle.random_symmetries(count, rng).apply(solved)
    return np.where(rng.random(answers.shape) < 0.5, 1, answers).astype(np.uint8), answers


def spoil(boards: np.ndarray, puzzle: Puzzle, rng: np.random.Generator) -> np.ndarray:
    """Boards with up to three cells of any symbol, padding included."""
    spoilt = boards.copy()
    for board in spoilt:
        cells = rng.integers(puzzle.num_cells, size=rng.integers(1, 4))
        board[cells] = rng.integers(puzzle.vocab_size, size=len(cells))
    return spoilt


def compare_rules(puzzle: Puzzle, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Holds the rules on one board against those on arrays, whose verdict (N,) it returns."""
    rules = get_rules(puzzle.name)
    expected = puzzle.is_solution(questions, answers)
    for question, answer, verdict in zip(questions, answers, expected, strict=True):
        ours = rules.find_error(puzzle.format(question), puzzle.format(answer)) is None
        assert ours == verdict, f"{puzzle.format(question)}\n{puzzle.format(answer)}"
    return expected


@pytest.mark.parametrize(
    "name", ["sudoku-4x4", "sudoku-6x6", "sudoku-9x9", "sudoku-16x16", "maze-4x4", "maze-3x7", "maze-10x8"]
)
def test_the_rules_are_those_of_the_package(name):
    puzzle, rng = get_puzzle(name), np.random.default_rng(0)
    questions, answers = random_puzzles(puzzle, 50, rng)
    assert compare_rules(puzzle, questions, answers).all()
    for wrong in (questions, np.roll(answers, 1, axis=0), np.zeros_like(answers)):
        compare_rules(puzzle, questions, wrong)
    verdicts = [compare_rules(puzzle, questions, spoil(answers, puzzle, rng)) for _ in range(5)]
    assert not np.concatenate(verdicts).all()
    for _ in range(5):
        spoilt = spoil(questions, puzzle, rng)
        compare_rules(puzzle, spoilt, answers)
        compare_rules(puzzle, spoilt, np.where(spoilt == 1, answers, spoilt))  # keeps what the spoilt question says


@pytest.mark.parametrize("question", ["S       G", "S#      G", " S  #  G ", "SG       ", "S###    G"])
def test_every_marking_of_a_small_maze(question):
    puzzle = get_puzzle("maze-3x3")
    markings = product("o ", repeat=question.count(" "))
    texts = []
    for marks in markings:
        following = iter(marks)
        texts.append("".join(next(following) if symbol == " " else symbol for symbol in question))
    answers = puzzle.parse_all(texts)
    verdicts = compare_rules(puzzle, np.tile(puzzle.parse(question), (len(answers), 1)), answers)
    assert verdicts.sum() == {"S       G": 6, "S#      G": 3, " S  #  G ": 2, "SG       ": 1, "S###    G": 0}[question]


@pytest.mark.parametrize("name", ["sudoku-5x5", "sudoku-4x6", "maze-1x1", "sudoku", "maze-٤x٤", "maze-9x9\n"])
def test_impossible_puzzles_have_no_rules(name):
    with pytest.raises(ValueError, match=r"unknown puzzle|is not known; sizes are|has no room"):
        get_rules(name)


def test_a_family_that_is_not_known_here_is_not_checked(make_model, boards):
    """A checkpoint may come from somebody who has a package more."""
    assert get_rules("kakuro-4x4") is None
    model = make_model(puzzle="kakuro-4x4")
    result = PuzzleSolvingPipeline(model=model, tokenizer=build_tokenizer(SUDOKU), device="cpu")(boards[0][0])
    assert result["valid"] is None
    with pytest.raises(PuzzleError, match="unknown puzzle family 'kakuro'; known are sudoku, maze, grid"):
        puzzle_of(model.config)


# --- pipeline ------------------------------------------------------------------------------------------------------


def test_one_board(solver, boards):
    question, answer = boards[0][0], boards[1][0]
    result = solver(question)
    assert {name: type(value) for name, value in result.items()} == {
        "solution": str, "valid": bool, "confidence": float, "segments": int, "calls": int, "verified": bool
    }  # fmt: skip
    assert (result["solution"], result["valid"], result["segments"]) == (answer, True, 3)
    assert (result["calls"], result["verified"]) == (3, False)
    ids = torch.from_numpy(SUDOKU.parse(question)).long()[None]
    assert result["confidence"] == pytest.approx(solver.model.solve(ids).q_halt_logits.sigmoid().item())
    assert 0.5 < result["confidence"] <= 1
    rows = [question[start : start + 4] for start in range(0, 16, 4)]
    for form in (question.replace(".", "0"), "\n".join(rows), "\r\n".join([*rows, ""])):
        assert solver(form) == result


def test_a_thousand_boards_in_batches_give_what_each_gives_alone(solver, boards):
    first = solver.model(input_ids=torch.from_numpy(SUDOKU.parse_all(boards[0])).long())
    threshold = (first.q_halt_logits - first.q_continue_logits).median().item()  # half of them halt at once
    for options in ({}, {"early_stop": True, "q_halt_threshold": threshold}):
        batches = solver(boards[0], batch_size=64, **options)
        assert len(batches) == 1000
        assert len({result["solution"] for result in batches}) > 500  # the answers say whose they are
        rules = get_rules("sudoku-4x4")
        assert [result["valid"] for result in batches] == [
            rules.find_error(question, result["solution"]) is None
            for question, result in zip(boards[0], batches, strict=True)
        ]
        for question, result in zip(boards[0][:200], batches, strict=False):
            alone = solver(question, **options)
            assert alone == result | {"confidence": pytest.approx(result["confidence"], abs=1e-4)}
    assert len({result["segments"] for result in batches}) > 1  # with early stops


def test_lists_generators_and_data_sets_agree(solver, boards):
    questions = boards[0][:50]
    expected = solver(questions, batch_size=8)
    data = Dataset.from_dict({"question": questions, "rating": [0.0] * 50})
    for inputs in ((question for question in questions), KeyDataset(data, "question")):
        results = solver(inputs, batch_size=8)
        assert not isinstance(results, list)
        assert list(results) == expected
    assert solver([]) == []
    assert list(solver(question for question in [])) == []


def test_a_column_of_a_data_set_and_a_tuple_are_many_boards(solver, boards):
    texts = boards[0][:3]
    expected = [answer["solution"] for answer in solver(texts)]
    for inputs in (Dataset.from_dict({"question": texts})["question"], tuple(texts)):
        assert [answer["solution"] for answer in solver(inputs)] == expected
    assert solver(()) == []


def test_parameters(solver, checkpoint, boards):
    question = boards[0][0]
    assert solver(question, max_segments=1)["segments"] == 1
    assert solver(question, early_stop=True, q_halt_threshold=-1e9)["segments"] == 1
    assert solver(question, early_stop=True, q_halt_threshold=1e9)["segments"] == 3
    early = pipeline("puzzle-solving", model=checkpoint, device="cpu", early_stop=True, q_halt_threshold=-1e9)
    assert early(question)["segments"] == 1
    assert early(question, q_halt_threshold=1e9, max_segments=2)["segments"] == 2
    with pytest.raises(ValueError, match="max_segments is 0; it must be at least 1"):
        solver(question, max_segments=0)
    with pytest.raises(ValueError, match='on_error is \'skip\'; expected "raise" or "report"'):
        solver(question, on_error="skip")
    with pytest.raises(TypeError, match="temperature"):
        solver(question, temperature=1.0)


def test_solving_options(solver, boards):
    """What the model does with them, and the rules of the pipeline as the verifier."""
    questions = [*boards[0][:4], *boards[0][100:150]]
    found = solver(
        questions, batch_size=25, early_exit="verifier", rollouts=4, noise=1.0, max_segments=6, plain_first=True
    )
    plain = solver(questions, max_segments=6)
    assert all(ours["valid"] or not theirs["valid"] for ours, theirs in zip(found, plain, strict=True))
    assert {result["segments"] for result in found if not result["valid"]} <= {6}
    assert min(result["segments"] for result in found) < 6
    assert all(result["verified"] and result["segments"] <= result["calls"] <= 24 for result in found)
    assert any(result["calls"] > result["segments"] for result in found if not result["valid"])
    with pytest.raises(ValueError, match="noise is -1"):
        solver(questions[0], noise=-1.0)


@pytest.mark.parametrize(("board", "message"), BAD_BOARDS)
def test_a_bad_board_is_an_error_that_names_it(board, message, solver, boards):
    questions = [*boards[0][:4], board, *boards[0][4:6]]
    for inputs in (questions, KeyDataset(Dataset.from_dict({"question": questions}), "question")):
        with pytest.raises(ValueError, match="4") as caught:
            list(solver(inputs, batch_size=3))
        assert str(caught.value).startswith("board 4 (the first is 0): sudoku-4x4: ")
        assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"^sudoku-4x4: "):
        solver(board)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_bad_boards_are_reported_and_the_others_solved(batch_size, solver, boards):
    questions = [BAD_BOARDS[0][0], *boards[0][:4], *(board for board, _ in BAD_BOARDS), *boards[0][4:6]]
    results = solver(questions, batch_size=batch_size, on_error="report")
    bad = [results[0], *results[5:-2]]
    assert [result["solution"] for result in (*results[1:5], *results[-2:])] == boards[1][:6]
    for result, message in zip(bad, [BAD_BOARDS[0][1], *(message for _, message in BAD_BOARDS)], strict=True):
        assert message in result.pop("error")
        nothing = {"solution": None, "valid": False, "confidence": 0.0, "segments": 0, "calls": 0, "verified": False}
        assert result == nothing


def test_mazes(make_model):
    puzzle = get_puzzle("maze-3x4")
    model = make_model(seq_len=12, puzzle="maze-3x4")
    solver = PuzzleSolvingPipeline(model=model, tokenizer=build_tokenizer(puzzle), device="cpu")
    result = solver("S   \n ## \n   G")  # spaces are cells
    assert len(result["solution"]) == 12
    assert result["valid"] is False
    for board, message in [
        ("S" + " " * 11, "maze-3x4: the board has 0 goals (G), expected 1"),
        ("S" * 11 + "G", "maze-3x4: the board has 11 starts (S), expected 1"),
        ("S##G" + "#" * 8, "maze-3x4: no path leads from S to G"),
        ("SooG" + " " * 8, "maze-3x4: the question already marks a path, in row 1, column 2"),
    ]:
        assert solver(board, on_error="report")["error"] == message


def test_without_a_named_puzzle_nothing_is_checked(make_model, boards):
    model = make_model(puzzle=None)
    solver = PuzzleSolvingPipeline(model=model, tokenizer=build_tokenizer(SUDOKU), device="cpu")
    assert solver(boards[0][0])["valid"] is None
    assert solver("11" + "." * 14)["valid"] is None
    assert solver("1", on_error="report")["valid"] is None  # nor of what is no board
    with pytest.raises(ValueError, match=r"puzzle: unknown symbol 'x' in cell 3; expected one of '\.1234'"):
        solver("..x" + "." * 13)
    with pytest.raises(ValueError, match="needs the tokenizer"):
        PuzzleSolvingPipeline(model=model, device="cpu")


# --- what travels with a checkpoint --------------------------------------------------------------------------------


def test_every_checkpoint_names_its_pipeline(solver, checkpoint, tmp_path):
    expected = {"puzzle-solving": {"impl": "pipeline_air.PuzzleSolvingPipeline", "pt": ["AutoModel"]}}
    solver.save_pretrained(tmp_path / "again")
    for folder in (Path(checkpoint), tmp_path / "again"):
        assert {path.name for path in folder.iterdir()} == CHECKPOINT_FILES
        assert json.loads((folder / "config.json").read_text())["custom_pipelines"] == expected


def test_a_checkpoint_of_before_the_pipeline_loads_and_gets_one(checkpoint, boards, tmp_path):
    config = json.loads((Path(checkpoint) / "config.json").read_text())
    del config["custom_pipelines"]
    for name in CHECKPOINT_FILES - {"config.json", "pipeline_air.py"}:
        (tmp_path / name).write_bytes((Path(checkpoint) / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    solver = pipeline("puzzle-solving", model=str(tmp_path), device="cpu")
    assert solver(boards[0][0])["solution"] == boards[1][0]
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert "puzzle-solving" in json.loads((tmp_path / "again" / "config.json").read_text())["custom_pipelines"]
    assert AutoConfig.from_pretrained(tmp_path) == AutoConfig.from_pretrained(tmp_path / "again")


REMOTE = """
import json, sys
sys.modules["air_hf"] = None  # an import of it is an ImportError
from transformers import pipeline
source, questions = sys.argv[1], sys.argv[2:]
def solve(source):
    solver = pipeline("puzzle-solving", model=source, trust_remote_code=True, device="cpu")
    modules = {type(each).__module__.split(".")[0] for each in (solver, solver.model, solver.model.config)}
    return solver, [sorted(modules), *solver(questions, batch_size=2, on_error="report")]
solver, first = solve(source)
solver.save_pretrained("again")
solver.model.save_pretrained("model")
print(json.dumps([first, solve("again")[1]]))
"""


def test_the_pipeline_comes_from_the_hub_where_the_package_is_not(hub, client, checkpoint, solver, boards, tmp_path):
    client.create_repo("puzzles/air-sudoku")
    client.upload_folder(repo_id="puzzles/air-sudoku", folder_path=checkpoint)
    questions = [*boards[0][:3], BAD_BOARDS[0][0], boards[0][100]]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", REMOTE, "puzzles/air-sudoku", *questions],
        env=hub.environment(tmp_path / "other home"), cwd=tmp_path / "elsewhere", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [["transformers_modules"], *solver(questions, batch_size=2, on_error="report")]
    for results in json.loads(done.stdout.splitlines()[-1]):
        assert results == expected
    again, model = tmp_path / "elsewhere" / "again", tmp_path / "elsewhere" / "model"
    assert {path.name for path in again.iterdir()} == CHECKPOINT_FILES
    assert {path.name for path in model.iterdir()} == {name for name in CHECKPOINT_FILES if "token" not in name}
    for name in ("config.json", "pipeline_air.py", "modeling_air.py"):
        assert (again / name).read_bytes() == (model / name).read_bytes() == (Path(checkpoint) / name).read_bytes()


# --- air-hf solve --------------------------------------------------------------------------------------------------


def air_hf_solve(capsys, checkpoint, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["solve", "--model", checkpoint, "--device", "cpu", *map(str, words)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def write_boards(path: Path, questions, answers=None) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rating", "question"] + (["answer"] if answers else []))
        writer.writerows(zip(["0"] * len(questions), questions, *([answers] if answers else []), strict=True))
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_same(rows: list[dict[str, str]], expected: list[dict[str, str]]):
    """Confidences may differ in rounding, since a resumed run has other batches."""
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert float(row["confidence"]) == pytest.approx(float(wanted["confidence"]), abs=1e-4)
        assert row | {"confidence": ""} == wanted | {"confidence": ""}


def test_solve_draws_a_board(capsys, checkpoint, solver, boards):
    status, out, _ = air_hf_solve(capsys, checkpoint, boards[0][0], "--mode", "plain")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith("solved   (confidence ")
    assert lines[0].endswith("%, 3 segments)")
    assert lines[1].split() == ["question", "the", "model's", "answer"]
    drawn = SUDOKU.draw_text(SUDOKU.parse(boards[1][0]), SUDOKU.parse(boards[0][0]))
    assert [line[-len(drawn[0]) :] for line in lines[2:-1]] == drawn
    assert lines[-1] == "every segment run; the verifier took no part"
    results = zip(boards[0], solver(boards[0], batch_size=64, max_segments=1), strict=True)
    unsolved = next(question for question, result in results if not result["valid"])
    status, out, _ = air_hf_solve(capsys, checkpoint, unsolved, "--early_stop", "--q_halt_threshold", "-1000")
    assert status == 1
    assert out.startswith("not solved: ")
    assert "1 segment)" in out.splitlines()[0]


def test_solve_says_what_is_wrong_with_a_board(capsys, checkpoint):
    for board, message in BAD_BOARDS[:-1]:
        status, _, err = air_hf_solve(capsys, checkpoint, board)
        assert status == 2
        assert "air-hf solve: error: sudoku-4x4: " in err
        assert message.removesuffix("'") in err  # the list of symbols names their aliases, too


def test_solve_a_file(capsys, checkpoint, boards, tmp_path):
    solved = write_boards(tmp_path / "solved.csv", boards[0][:LEARNT], boards[1][:LEARNT])
    status, out, err = air_hf_solve(capsys, checkpoint, solved, "--mode", "plain")
    output = tmp_path / "solved.solved.csv"
    assert status == 0
    assert out == (
        "16 of 16 boards solved (100.0%); exact accuracy 100.0% of 16 with an answer; 3.0 model calls a board; every "
        f"segment run; the verifier took no part; written to {output}\n"
    )
    assert "boards a second" in err
    rows = read_rows(output)
    assert list(rows[0]) == COLUMNS
    assert [row["question"] for row in rows] == boards[0][:LEARNT]
    assert [row["solution"] for row in rows] == boards[1][:LEARNT]
    assert {(row["valid"], row["segments"], row["error"]) for row in rows} == {("True", "3", "")}
    assert all(float(row["confidence"]) > 0.5 for row in rows)


def test_solve_says_by_its_status_that_boards_are_not_solved(capsys, checkpoint, boards, tmp_path):
    """All of them good boards, some of which the model cannot solve; and not, where it can."""
    questions, right = boards[0][:40], []
    file = write_boards(tmp_path / "boards.csv", questions)
    options = ("--mode", "plain", "--output", tmp_path / "out.csv")
    status, out, _ = air_hf_solve(capsys, checkpoint, file, *options)
    right = [row["question"] for row in read_rows(tmp_path / "out.csv") if row["valid"] == "True"]
    assert (status, 0 < len(right) < 40) == (1, True), out
    file = write_boards(tmp_path / "right.csv", right)
    assert air_hf_solve(capsys, checkpoint, file, "--mode", "plain", "--output", tmp_path / "all.csv")[0] == 0


def test_a_reader_that_has_read_enough_is_no_error(checkpoint, boards, tmp_path):
    file = write_boards(tmp_path / "boards.csv", boards[0][:60])
    words = [sys.executable, "-m", "air_hf", "solve", file, "--model", checkpoint, "--output", "-", "--batch_size", "1"]
    with subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout.readline().startswith("question,solution,valid")
        job.stdout.close()
        error = job.stderr.read()
    assert (job.returncode, "error" in error) == (141, False), error


def test_solve_without_standard_input(capsys, checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, _, error = air_hf_solve(capsys, checkpoint, "-")
    assert (status, "standard input is closed" in error) == (2, True)


def test_solve_goes_on_after_bad_boards(capsys, checkpoint, boards, tmp_path):
    questions = [*boards[0][:3], *(board or "" for board, _ in BAD_BOARDS), *boards[0][3:5]]
    file = write_boards(tmp_path / "boards.csv", questions)
    with open(file, "a") as lines:
        lines.write("0\n")  # a row without a question
    status, out, _ = air_hf_solve(capsys, checkpoint, file, "--output", tmp_path / "out.csv", "--batch_size", 4)
    assert status == 1
    assert out.startswith("5 of 11 boards solved (45.5%), 6 no valid questions (the first: ")
    rows = read_rows(tmp_path / "out.csv")
    assert [bool(row["error"]) for row in rows] == [False] * 3 + [True] * 5 + [False] * 2 + [True]
    assert rows[4]["error"].startswith(BAD_BOARDS[1][1].removesuffix("'"))
    assert rows[4] | {"error": ""} == {
        "question": questions[4], "solution": "", "valid": "False", "confidence": "0.0", "segments": "0", "calls": "0",
        "error": "",
    }  # fmt: skip


@pytest.fixture
def type_boards(monkeypatch, tmp_path):
    """Makes bytes what standard input holds."""
    with ExitStack() as files:

        def type_in(text: bytes) -> None:
            (tmp_path / "typed").write_bytes(text)
            monkeypatch.setattr(sys, "stdin", files.enter_context(open(tmp_path / "typed", "rb")))

        yield type_in


def test_solve_reads_standard_input(capsys, type_boards, checkpoint, boards, tmp_path):
    text = ("\r\n".join(boards[0][:3]) + "\n\n12").encode() + b"\n\xff\xfe\n" + boards[0][3].encode()
    type_boards(text)
    status, out, err = air_hf_solve(capsys, checkpoint, "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1
    assert [row["solution"] for row in rows] == [*boards[1][:3], "", "", boards[1][3]]
    assert "4 of 6 boards solved (66.7%), 2 no valid questions (the first: sudoku-4x4: the board has 2 " in err
    for _ in range(2):  # the second time, what the first wrote is passed over
        type_boards(text)
        status, out, _ = air_hf_solve(capsys, checkpoint, "-", "--output", tmp_path / "out.csv")
        assert (status, read_rows(tmp_path / "out.csv")) == (1, rows)


@pytest.mark.parametrize("mode", ["plain", "adaptive"])
def test_solve_answers_as_boards_come(checkpoint, boards, mode):
    """Whoever types a board, or writes them slowly, need not wait for a full batch or for the end."""
    reading, writing = os.pipe()
    model = load_model(checkpoint)
    engine = make_engine(model, SolveConfig() if mode == "plain" else SolveConfig.adaptive(8), batch_size=64)
    with open(writing, "wb", buffering=0) as pen:
        results = solve_rows(engine, SUDOKU, read_lines(reading))
        for typed in (boards[0][0], "12", boards[0][1], boards[0][2]):
            pen.write(typed[:1].encode())
            pen.write(typed[1:].encode() + b"\n")
            row, result = next(results)
            assert (row.question, result.solution is None) == (typed, typed == "12")
        pen.close()
        assert list(results) == []
    os.close(reading)


def test_pauses_are_no_boards():
    """Whoever takes a minute to type the first board has not typed a thousand bad ones."""
    board = Row(SUDOKU.example, None)
    name, rows = choose_puzzle(iter([*[None] * 2000, Row("123", None), None, board, None]), "standard input")
    assert name == "sudoku-4x4"
    assert [row for row in rows if row is not None] == [Row("123", None), board]


def test_solve_chooses_a_model_by_the_first_board_that_is_one(capsys, type_boards, tmp_path):
    example = get_puzzle("sudoku-4x4").example
    file = write_boards(tmp_path / "boards.csv", ["123", "", example])
    words = ["solve", "--mode", "plain", "--max_segments", "1", "--output"]
    type_boards(f"123\n{example}\n".encode())
    for source, bad in ((str(file), 2), ("-", 1)):
        with pytest.raises(SystemExit):
            cli.main([*words, str(tmp_path / "out.csv"), source])
        said = capsys.readouterr()
        assert f"{bad} no valid question" in said.out, said.err
        (tmp_path / "out.csv").unlink()
        (tmp_path / "out.csv.how.json").unlink()
    type_boards(b"123\n12345\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["solve", "-"])
    assert ended.value.code == 2
    assert "standard input: no model could be chosen by the first 2 boards (the last of them: a board of 5 symbols" in (
        capsys.readouterr().err
    )


def test_solve_goes_on_after_a_line_longer_than_csv_readers_take(capsys, type_boards, checkpoint, boards, tmp_path):
    output, said = tmp_path / "out.csv", []
    for _ in range(2):  # the second time, from what the first wrote
        type_boards(f"{'.' * 200_000}\n{boards[0][0]}\n".encode())
        status, out, err = air_hf_solve(capsys, checkpoint, "-", "--output", output)
        assert status == 1, err
        said.append(out)
    assert "1 of 2 boards solved (50.0%), 1 no valid question (the first: " in said[0]
    assert said[0] == said[1]


def test_solve_keeps_a_second_command_out_of_its_results(capsys, checkpoint, boards, tmp_path):
    file, output = write_boards(tmp_path / "boards.csv", boards[0][:3]), tmp_path / "out.csv"
    with sole_writer(output):
        status, _, err = air_hf_solve(capsys, checkpoint, file, "--output", output)
    assert status == 2
    assert f"another process writes {output}" in err
    assert not output.exists()
    air_hf_solve(capsys, checkpoint, file, "--output", output)
    assert len(read_rows(output)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"boards.csv", "out.csv", "out.csv.how.json"}


def test_solve_completes_what_was_interrupted(capsys, checkpoint, boards, tmp_path):
    rows_of_lines = ["\n".join(question[i : i + 4] for i in range(0, 16, 4)) for question in boards[0][:4]]
    questions = [*rows_of_lines, "12", *boards[0][100:160]]
    file, output = write_boards(tmp_path / "boards.csv", questions, boards[1][: len(questions)]), tmp_path / "out.csv"
    words = (file, "--output", output, "--batch_size", 8, "--mode", "plain")
    status, said, _ = air_hf_solve(capsys, checkpoint, *words)
    whole, expected = output.read_bytes(), read_rows(output)
    assert [row["question"] for row in expected] == questions
    first = whole.index(b"\n") + 1
    for length in (0, 5, first, first + 7, first + 30, len(whole) // 2, len(whole) - 1, len(whole)):
        output.write_bytes(whole[:length])
        assert air_hf_solve(capsys, checkpoint, *words)[:2] == (status, said), length
        assert_same(read_rows(output), expected)
    output.write_bytes(whole[: len(whole) // 2].replace(b",False,", b",True,", 3))  # rows it has are not solved again
    air_hf_solve(capsys, checkpoint, *words)
    assert [row["valid"] for row in read_rows(output)].count("True") == (
        [row["valid"] for row in expected].count("True") + 3
    )


def test_solve_writes_results_to_standard_output(capsys, checkpoint, boards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_boards(tmp_path / "boards.csv", boards[0][:2])
    status, out, err = air_hf_solve(capsys, checkpoint, file, "--output", "-")
    assert [row["solution"] for row in csv.DictReader(io.StringIO(out))] == boards[1][:2]
    assert (status, "2 of 2 boards solved" in err) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["boards.csv"]


def test_scores_leave_out_what_is_no_question(capsys, checkpoint, boards, tmp_path):
    file = write_boards(tmp_path / "boards.csv", [*boards[0][:2], "x" * 16], [*boards[1][:2], boards[1][2]])
    out = air_hf_solve(capsys, checkpoint, file)[1]
    assert "2 of 3 boards solved (66.7%), 1 no valid question (the first: sudoku-4x4: unknown symbol 'x' in" in out
    assert "exact accuracy 100.0% of 2 with an answer" in out


def test_solve_refuses_to_mix_results(capsys, checkpoint, boards, tmp_path):
    file, output = write_boards(tmp_path / "boards.csv", boards[0][:5]), tmp_path / "out.csv"
    words = (file, "--output", output)
    air_hf_solve(capsys, checkpoint, *words)
    before = output.read_bytes()
    for others, row in ((boards[0][:2] + boards[0][3:6], 3), (boards[0][:4], 5)):
        write_boards(file, others)
        status, _, err = air_hf_solve(capsys, checkpoint, *words)
        assert status == 2
        assert f"{output}, row {row}: the question is not that of row {row} of {file}; remove the file, or" in err
        assert output.read_bytes() == before
    output.write_text("my notes")
    status, _, err = air_hf_solve(capsys, checkpoint, *words)
    assert (status, output.read_text()) == (2, "my notes")
    assert f"{output} exists and is no output of this command" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.csv"], "nowhere.csv is no file; expected a board, a CSV file or -"),
        (["no/where"], "no/where is no file"),
        (["{folder}"], "is no file"),
        (["{folder}/answers.csv"], "answers.csv: column question is missing; the columns are answer; is it a board a"),
        (["{folder}/empty.csv"], "empty.csv: column question is missing; the columns are none"),
        (["{folder}/header.csv"], "header.csv holds no boards"),
        (["{folder}/header.csv", "--output", "{folder}/header.csv"], "the file of boards itself"),
        (["{folder}/header.csv", "--split", "train"], "--split is train, but there is no --dataset whose it could be"),
        (["-", "--output", "{folder}/out.json"], "out.json; expected a name that ends in .csv or .parquet"),
        (["." * 16, "--output", "{folder}/out.csv"], "--output is for a file of boards, or -; one board is drawn"),
        (
            ["." * 16, "--q_halt_threshold", "1"],
            "--q_halt_threshold is the threshold of --early_exit q_halt and --early_exit trained; this is verifier",
        ),
        (
            ["." * 16, "--early_stop", "--early_exit", "never"],
            "--early_stop is --early_exit trained; --early_exit never is given, too",
        ),
        (["." * 16, "--early_stop", "--mode", "calibrated"], "--early_stop is a mode of its own"),
        (["." * 16, "--early_exit", "unchanged"], "--early_exit unchanged does not tell when a board is solved"),
        (["." * 16, "--patience", "4"], "--patience is that of --early_exit unchanged; this is verifier"),
        (["." * 16, "--model", "{folder}"], "holds no checkpoint: config.json is missing"),
        (["." * 16, "--batch_size", "0"], "argument --batch_size: 0 is less than 1"),
        (["." * 16, "--device", "abacus"], "argument --device: 'abacus' cannot be used"),
    ],
)
def test_solve_refuses(words, message, capsys, checkpoint, tmp_path):
    for name, text in (("answers", "answer\n1\n"), ("empty", ""), ("header", "question\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    status, _, err = air_hf_solve(capsys, checkpoint, *(word.format(folder=tmp_path) for word in words))
    assert status == 2
    assert message in err


def test_solve_needs_a_puzzle_and_a_tokenizer(capsys, make_model, tmp_path):
    for name, puzzle, message in (
        ("nameless", None, "config.json names no puzzle to check answers by"),
        ("mute", "sudoku-4x4", "has no tokenizer: tokenizer.json is missing"),
    ):
        make_model(puzzle=puzzle).save_pretrained(tmp_path / name)
        status, _, err = air_hf_solve(capsys, str(tmp_path / name), "." * 16)
        assert status == 2
        assert message in err
