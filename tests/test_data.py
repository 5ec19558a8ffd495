"""Reading puzzles, refusing broken rows by file and row, tokenizers, and the training stream."""

import hashlib
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from air_hf.data import DataError, PuzzleSet, PuzzleStream, load_published, load_puzzles, to_batch
from air_hf.dataset_builders.generate import make_generator, write_csv
from air_hf.evaluation import evaluate_model
from air_hf.puzzles import get_puzzle
from air_hf.solving.stream import read_dataset
from air_hf.tokenization import build_tokenizer

HEADER = "source,question,answer,rating\n"
GOOD = "x,1...............,1234341221434321,0\n"
NAMES = ["sudoku-4x4", "sudoku-6x6", "sudoku-9x9", "sudoku-16x16", "maze-6x6", "maze-3x5"]


@pytest.fixture
def puzzle_set() -> PuzzleSet:
    puzzle = get_puzzle("sudoku-4x4")
    questions, answers = make_generator(puzzle).draw(50, np.random.default_rng(0))
    return PuzzleSet(puzzle, questions, answers, "generated")


def test_csv_round_trip(tmp_path, puzzle_set):
    write_csv(tmp_path / "train.csv", puzzle_set.puzzle, puzzle_set.questions, puzzle_set.answers, "here")
    for source, split in ((tmp_path, "train"), (tmp_path / "train.csv", None), (str(tmp_path / "train.csv"), "test")):
        loaded = load_puzzles(source, split=split)
        assert loaded.puzzle.name == "sudoku-4x4"
        assert np.array_equal(loaded.questions, puzzle_set.questions)
        assert np.array_equal(loaded.answers, puzzle_set.answers)
    text = datasets.Features({name: datasets.Value("string") for name in ("source", "question", "answer", "rating")})
    for features in (text, None):  # without features, boards of digits become numbers
        data_set = datasets.Dataset.from_csv(str(tmp_path / "train.csv"), features=features, cache_dir=str(tmp_path))
        if features:
            assert np.array_equal(load_puzzles(data_set).questions, puzzle_set.questions)
        else:
            with pytest.raises(DataError, match=r"row 1, answer: the board is int \d+, expected text"):
                load_puzzles(data_set)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    csv = "question,answer\n530070000600195000098000060800060003,530070000600195000098000060800060003\n"
    mazes = "question,answer\nS G,SoG\n"
    for file, text in {"plain/test.csv": csv, "numbers/data/test-0.csv": csv, "mixed/test-0.csv": mazes}.items():
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)
    (tmp_path / "mixed" / "test-1.csv").write_text("board,answer\nS G,SoG\n")
    messages = {
        "plain": r"plain, default, test: the folder holds CSV files, no data set .*air-hf solve .*plain.test\.csv$",
        "numbers": "default, test: boards are stored, or read, as numbers; columns question and answer must be text",
        "mixed": "mixed.*(column question is missing; a file with columns board, answer|same columns|vs board)",
    }
    for folder, message in messages.items():
        for read in (lambda name: load_published(name, None, "test", cache_dir=str(tmp_path)),
                     lambda name: list(read_dataset(name, None, "test", str(tmp_path)))):  # fmt: skip
            with pytest.raises(DataError, match=message):
                read(str(tmp_path / folder))


def test_byte_order_mark_and_crlf(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + GOOD).replace("\n", "\r\n").encode())
    assert len(load_puzzles(path)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a header with the columns question, answer"),
        (HEADER, "holds no puzzles"),
        ("source,question,rating\nx,1,0\n", "column answer is missing; the columns are source, question, rating"),
        (
            HEADER + GOOD + GOOD.replace(".,", ","),
            r"row 2, question: sudoku-4x4: the board has 15 symbols, expected 16",
        ),
        (HEADER + GOOD + GOOD.replace("4321,", "432x,"), r"row 2, answer: .*unknown symbol 'x' in row 4, column 4"),
        (
            HEADER + GOOD + GOOD.replace("1....", "1...1"),
            r"row 2, question: .*1 stands twice in one column.*row 2, column 1",
        ),
        (
            HEADER + GOOD + GOOD.replace("1....", "2...."),
            "row 2, answer: row 1, column 1 holds 1 but the question gives 2",
        ),
        (HEADER + GOOD + GOOD.replace("4321,", "432.,"), "row 2, answer: row 4, column 4 is not filled in"),
        (HEADER + GOOD + GOOD.replace("1234341221434321", "1234341221434312"), "row 2, answer: .* stands twice"),
        (HEADER + GOOD + "x,1...............\n", "row 2, answer: the row has fewer fields than the header"),
        (HEADER + "x,S # G ,So# G,0\n", "6 symbols on 1 lines is neither square .2x2 has 4. nor"),
        (HEADER + "x,S##G,S##G,0\n", "row 1, question: .*no path leads from S to G"),
        (HEADER + "x,S #S #  G,So#S # oG,0\n", r"row 1, question: .*the board has 2 starts \(S\), expected 1"),
        (HEADER + "x,S G###G  ,SoG###G  ,0\n", r"row 1, question: .*the board has 2 goals"),
        (HEADER + "x,SoG######,SoG######,0\n", "row 1, question: .*already marks a path, in row 1, column 2"),
        ("question;answer\n1;2\n", r"question, answer is missing; the columns are question;answer; .* instead of ';'"),
        (b"PAR1\x15\x04\xff", "is a Parquet file; expected CSV"),
        (b"\x1f\x8b\x08\x00", "is compressed by gzip; expected CSV"),
        (b"PK\x03\x04\x14\x00\xff", "is a ZIP archive; expected CSV"),
        ((HEADER + GOOD).encode("utf-16"), "not UTF-8 text .* save the file as UTF-8"),
        (HEADER + 'x,"1..', r"row 1: not CSV"),
        (HEADER + "x,1234567890,1234567890,0\n", "10 symbols on 1 lines is neither square .3x3 has 9. nor"),
        (HEADER + f"x,{'.' * 25},{'.' * 25},0\n", r"no family of puzzles has boards of 5x5 .* is \"grid-5x5\""),
        (HEADER + 'x,"1...\n....\n.....\n...",1234341221434321,0\n', r"row 1, question: .*lines of 4, 4, 5, 3 symbols"),
        (HEADER + GOOD.replace(".,", "\0,"), r"row 1, question: .*unknown symbol '\\x00'"),
        ("question,answer,puzzle_id\n1...............,1234341221434321,-1\n", "row 1, puzzle_id: it is '-1'; expected"),
        ("question,answer,puzzle_id\n1...............,1234341221434321,٣\n", "row 1, puzzle_id: it is '٣'; expected"),
        ("question,answer,puzzle_id\n1...............,1234341221434321\n", "row 1, puzzle_id: it is None; expected"),
    ],
)
def test_broken_files_name_file_and_row(tmp_path, content, message):
    path = tmp_path / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        load_puzzles(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n"])
def test_every_line_end_counts_and_no_row_is_lost(tmp_path, ends):
    """A carriage return alone, too, also where only the header has it, and inside of a quoted board."""
    row = '"1...{0}....{0}....{0}....",1234341221434321\n'
    path = tmp_path / "train.csv"
    path.write_bytes(f"question,answer{ends}{row.format(ends)}{row.format(ends)}".encode())
    assert len(load_puzzles(path)) == 2
    path.write_bytes(f"question,answer\n{row}{row}".replace("{0}", "\n").replace("\n", ends).encode())
    assert len(load_puzzles(path)) == 2


def test_puzzle_ids_from_file_to_batch(tmp_path, puzzle_set, make_model):
    rows = [f"{puzzle_set.puzzle.format(q)},{puzzle_set.puzzle.format(a)},{i % 3}\n"
            for i, (q, a) in enumerate(zip(puzzle_set.questions, puzzle_set.answers, strict=True))]  # fmt: skip
    (tmp_path / "train.csv").write_text("question,answer,puzzle_id\n" + "".join(rows))
    loaded = load_puzzles(tmp_path, split="train")
    assert loaded.puzzle_ids.dtype == np.int64
    assert loaded.puzzle_ids.tolist() == [i % 3 for i in range(50)]
    assert (loaded.num_puzzle_ids, puzzle_set.num_puzzle_ids) == (3, 1)
    assert loaded.sha256() == hashlib.sha256("".join(rows).encode()).hexdigest()
    assert puzzle_set.sha256() == hashlib.sha256("".join(row[:-3] + "\n" for row in rows).encode()).hexdigest()
    assert (
        load_puzzles(datasets.Dataset.from_list(to_records(loaded))).puzzle_ids.tolist() == loaded.puzzle_ids.tolist()
    )
    rows = datasets.Dataset.from_list(to_records(loaded))
    for kind in ("numpy", "pandas", "torch", "arrow"):  # of what is to come out of it; boards are text
        assert load_puzzles(rows.with_format(kind)).puzzle_ids.tolist() == loaded.puzzle_ids.tolist()
    with pytest.raises(DataError, match="IterableDataset is no source of puzzles; expected a path or one split"):
        load_puzzles(rows.to_iterable_dataset())
    ids = {board.tobytes(): i for board, i in zip(loaded.questions, loaded.puzzle_ids, strict=True)}
    batch = PuzzleStream(loaded, 20, seed=0, augment=False).batch(3)
    assert batch["puzzle_ids"].tolist() == [ids[b.astype(np.uint8).tobytes()] for b in batch["input_ids"].numpy()]
    assert loaded.sample(10, 0).puzzle_ids.tolist() == [ids[b.tobytes()] for b in loaded.sample(10, 0).questions]
    with pytest.raises(DataError, match=r"train\.csv has puzzle ids up to 2; the model's num_puzzle_ids is 1"):
        evaluate_model(make_model(), loaded)
    assert evaluate_model(make_model(num_puzzle_ids=3), loaded).num_puzzles == 50


def to_records(puzzles: PuzzleSet) -> list[dict]:
    columns = zip(puzzles.questions, puzzles.answers, puzzles.puzzle_ids, strict=True)
    return [
        {"question": puzzles.puzzle.format(q), "answer": puzzles.puzzle.format(a), "puzzle_id": i}
        for q, a, i in columns
    ]


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="does not exist; expected a CSV file"):
        load_puzzles(f"{tmp_path}/a\0b")
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; expected a CSV file with columns question"):
        load_puzzles(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a folder; say which of its files"):
        load_puzzles(tmp_path)


def test_samples(puzzle_set):
    sample = puzzle_set.sample(20, seed=1)
    index = {board.tobytes(): row for row, board in enumerate(puzzle_set.questions)}
    rows = [index[board.tobytes()] for board in sample.questions]
    assert len(rows) == 20
    assert rows == sorted(set(rows))
    assert all(np.array_equal(puzzle_set.answers[r], a) for r, a in zip(rows, sample.answers, strict=True))
    assert np.array_equal(sample.questions, puzzle_set.sample(20, seed=1).questions)
    assert not np.array_equal(sample.questions, puzzle_set.sample(20, seed=2).questions)
    assert "20 of 50, seed 1" in sample.source
    with pytest.raises(DataError, match="a subset of 51 puzzles was asked for; there are 50"):
        puzzle_set.sample(51, seed=0)


def test_padding_is_no_label():
    batch = to_batch(np.array([[1, 2]], dtype=np.uint8), np.array([[0, 3]], dtype=np.uint8))
    assert batch["labels"].tolist() == [[-100, 3]]
    assert batch["input_ids"].dtype == batch["puzzle_ids"].dtype == torch.long


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_agrees_with_the_rules(name, tmp_path):
    puzzle = get_puzzle(name)
    boards = np.random.default_rng(0).integers(1, puzzle.vocab_size, size=(4, puzzle.num_cells))
    build_tokenizer(puzzle).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for board in boards:
        for text in (puzzle.format(board), puzzle.format(board, line_breaks=True), puzzle.format(board, True) + "\r\n"):
            assert tokenizer(text).input_ids == board.tolist()
        assert tokenizer.decode(board) == puzzle.format(board)
    batch = tokenizer([puzzle.format(board) for board in boards], return_tensors="pt")
    assert batch.input_ids.tolist() == boards.tolist()
    assert list(batch) == ["input_ids"]
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) == puzzle.vocab_size
    with pytest.raises(Exception, match="WordLevel error"):
        tokenizer(puzzle.format(boards[0])[:-1] + "x")


def test_tokenizer_loads_without_our_code(tmp_path):
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoTokenizer; "
        f"print(AutoTokenizer.from_pretrained({str(tmp_path)!r})('1203').input_ids, 'air_hf' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2, 3, 1, 4] False"


def test_stream_visits_every_puzzle_once_an_epoch(puzzle_set):
    stream = PuzzleStream(puzzle_set, batch_size=20, seed=0, augment=False)
    drawn = torch.cat([stream.batch(step)["input_ids"] for step in range(5)]).numpy()  # two epochs of 50
    expected = sorted(puzzle_set.questions.tolist())
    for epoch in (drawn[:50], drawn[50:]):
        assert sorted(epoch.tolist()) == expected
    assert not np.array_equal(drawn[:50], drawn[50:])


def test_stream_depends_on_seed_and_step_alone(puzzle_set):
    stream, again = (PuzzleStream(puzzle_set, 60, seed=3, augment=True) for _ in range(2))
    other = PuzzleStream(puzzle_set, 60, seed=4, augment=True)
    stream.batch(0)
    for step in (7, 2):  # in any order, and with other steps in between or not
        assert torch.equal(stream.batch(step)["input_ids"], again.batch(step)["input_ids"])
    assert not torch.equal(stream.batch(2)["input_ids"], other.batch(2)["input_ids"])
    parts = [stream.batch(5, rank, 3)["labels"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), stream.batch(5)["labels"])


def test_stream_augments_question_and_answer_alike(puzzle_set):
    stream = PuzzleStream(puzzle_set, 50, seed=0, augment=True)
    batches = [stream.batch(step) for step in range(4)]
    for batch in batches:
        questions, answers = (batch[name].numpy().astype(np.uint8) for name in ("input_ids", "labels"))
        assert puzzle_set.puzzle.is_solution(questions, answers).all()
    distinct = len(np.unique(torch.cat([batch["input_ids"] for batch in batches]).numpy(), axis=0))
    assert distinct > 150  # of 200 draws; without symmetries there would be 50


def test_revealed_cells_fall_to_none_at_the_last_step(puzzle_set):
    plain = PuzzleStream(puzzle_set, 500, seed=0, augment=True)
    shown = PuzzleStream(puzzle_set, 500, seed=0, augment=True, reveal=0.6, max_steps=100)
    expected = []
    for step in (0, 50, 99, 100, 130):
        batch, as_it_was = shown.batch(step), plain.batch(step)
        assert torch.equal(batch["labels"], as_it_was["labels"])
        open_before, changed = as_it_was["input_ids"] == 1, batch["input_ids"] != as_it_was["input_ids"]
        assert not (changed & ~open_before).any()  # what was given stays
        assert torch.equal(batch["input_ids"][changed], batch["labels"][changed])
        shares = changed.sum(1) / open_before.sum(1)
        expected.append(round(float(shares.mean()), 2))
        if step == 0:  # uniform between 0 and 0.6: as many boards in each half
            assert 0.4 < float((shares < 0.3).float().mean()) < 0.6
            assert float(shares.max()) < 0.9
    assert expected[0] == pytest.approx(0.3, abs=0.03)
    assert expected[1] == pytest.approx(0.15, abs=0.02)
    assert expected[2] < 0.01
    assert expected[3:] == [0, 0]


def test_revealed_cells_depend_on_seed_and_step_alone(puzzle_set):
    stream, again, other = (
        PuzzleStream(puzzle_set, 60, seed=seed, augment=True, reveal=0.5, max_steps=10) for seed in (3, 3, 4)
    )
    stream.batch(0)
    assert torch.equal(stream.batch(7)["input_ids"], again.batch(7)["input_ids"])
    assert not torch.equal(stream.batch(2)["input_ids"], other.batch(2)["input_ids"])
    parts = [stream.batch(5, rank, 3)["input_ids"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), stream.batch(5)["input_ids"])


def test_cells_without_a_label_are_not_revealed(puzzle_set):
    unlabelled = PuzzleSet(puzzle_set.puzzle, puzzle_set.questions, puzzle_set.answers * 0, "no labels")
    batch = PuzzleStream(unlabelled, 50, seed=0, augment=False, reveal=1.0, max_steps=10).batch(0)
    assert (batch["input_ids"] > 0).all()


@pytest.mark.parametrize("name", ["reveal", "easy_first"])
def test_curricula_need_open_cells(name):
    grid = get_puzzle("grid-1x2", symbols="ab")
    boards = np.array([[1, 2]], dtype=np.uint8)
    with pytest.raises(ValueError, match=rf"{name} is 0\.5, but no symbol of grid-1x2 .* `givens` names it"):
        PuzzleStream(PuzzleSet(grid, boards, boards, "two cells"), 1, seed=0, augment=False, max_steps=1, **{name: 0.5})


def test_boards_with_few_open_cells_come_first(puzzle_set):
    """The easiest fifth at first, three fifths after a quarter of the steps, and from half of them on all, in the order
    of a stream without it; a function of seed and step alone, the same for processes together."""
    stream, again, other, plain = (
        PuzzleStream(puzzle_set, 600, seed=seed, augment=False, easy_first=share, max_steps=100)
        for seed, share in ((3, 0.2), (3, 0.2), (4, 0.2), (3, 0.0))
    )
    by_open_cells = np.sort((puzzle_set.questions == 1).sum(1))
    for step, share in ((0, 0.2), (25, 0.6)):
        drawn = stream.batch(step)["input_ids"]
        most = int((drawn == 1).sum(1).max())
        assert most == by_open_cells[round(share * len(by_open_cells)) - 1]
        assert len(drawn.unique(dim=0)) == round(share * len(by_open_cells))
    for step in (50, 99, 130):
        assert torch.equal(stream.batch(step)["input_ids"], plain.batch(step)["input_ids"])
    assert torch.equal(stream.batch(7)["input_ids"], again.batch(7)["input_ids"])
    assert not torch.equal(stream.batch(7)["input_ids"], other.batch(7)["input_ids"])
    parts = [stream.batch(7, rank, 3)["input_ids"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), stream.batch(7)["input_ids"])
