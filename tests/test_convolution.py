"""`mixer="convolution"`: by its definition, in every place a mixer matters, and on boards of other sizes."""

import pytest
import torch
from support.mixers import check_compiled_step_in_bfloat16, check_counts_and_gradients

from air_hf import AIRForPuzzleSolving
from air_hf.cli import main
from air_hf.hub import CheckpointError, load_model
from air_hf.modeling.modeling_air import AIRConvolutionMixer
from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer

FIELDS = {"mixer": "convolution", "position_embedding": "none"}
KINDS = [{}, {"prefix_len": 0}, {"prefix_len": 3}, {"level_token": "prepend_keep"}, {"level_token": "prepend_strip"}]


def make(make_model, puzzle="maze-3x5", **fields):
    rows, columns = (int(side) for side in puzzle.split("-")[1].split("x"))
    return make_model(puzzle=puzzle, seq_len=rows * columns, **(FIELDS | fields))


def boards(model, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.config.vocab_size, (count, model.config.seq_len), generator=generator)


@pytest.mark.parametrize("front", [0, 2])
def test_the_definition_cell_by_cell(make_model, front):
    """Loops over cells and their neighbours, on a board that is not square."""
    model = make(make_model, prefix_len=front)
    mixer, (rows, columns) = model.model.networks["shared"].layers[0].mixer, (3, 5)
    assert isinstance(mixer, AIRConvolutionMixer)
    h = torch.randn(2, front + rows * columns, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        shifts = torch.zeros(2, 2, 32)
        if front:
            shifts = (h[:, :front].mean(1) @ mixer.front_proj.weight.T).view(2, 2, 32)
        mixed = torch.zeros(2, rows * columns, 32)
        for row in range(rows):
            for column in range(columns):
                gate, up = shifts[:, 0].clone(), shifts[:, 1].clone()
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        if 0 <= row + down < rows and 0 <= column + right < columns:
                            cell = h[:, front + (row + down) * columns + column + right]
                            gate += cell * mixer.gate_conv.weight[:, 0, down + 1, right + 1]
                            up += cell * mixer.up_conv.weight[:, 0, down + 1, right + 1]
                mixed[:, row * columns + column] = gate * gate.sigmoid() * up
        heard = (
            torch.cat((mixed.max(1, keepdim=True).values.expand(-1, front, -1), mixed), 1) @ mixer.down_proj.weight.T
        )
        expected = h + heard
        expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(mixer(h, None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_counts_and_gradients(make_model, fields):
    """Weights, FLOPs and which parameters learn, for whatever is in front of the cells."""
    model = make(make_model, **fields).train()
    ids = boards(model)
    check_counts_and_gradients(model, ids, ids)


def test_a_cell_hears_no_further_than_its_updates_reach(make_model):
    """Nothing in front: after one L- and one H-update of one layer, two steps of one neighbour each."""
    model = make(make_model, "maze-9x9", prefix_len=0, num_hidden_layers=1, h_cycles=1, l_cycles=1)
    ids = boards(model, 1)
    other = ids.clone()
    other[0, 40] = ids[0, 40] % 5 + 1  # the middle
    with torch.no_grad():
        changed = (model(ids).logits != model(other).logits).any(-1).view(9, 9)
    assert changed[2:7, 2:7].all()
    assert changed.sum() == 25


def test_the_weights_fit_boards_of_another_size(make_model, tmp_path):
    """What a cell in the middle of the same surroundings becomes does not depend on the board around them."""
    small = make(make_model, "maze-7x7", prefix_len=0, num_hidden_layers=1, h_cycles=1, l_cycles=1)
    small.save_pretrained(tmp_path)
    large = AIRForPuzzleSolving.from_pretrained(tmp_path, puzzle="maze-8x12", seq_len=96).eval()
    part = boards(small, 2)
    whole = torch.ones(2, 8, 12, dtype=torch.long)
    whole[:, :7, 3:10] = part.view(2, 7, 7)
    with torch.no_grad():
        ours, theirs = small(part).logits.view(2, 7, 7, -1), large(whole.flatten(1)).logits.view(2, 8, 12, -1)
    torch.testing.assert_close(theirs[:, :5, 5:8], ours[:, :5, 2:5])
    assert load_model(tmp_path, puzzle="maze-8x12").config.board_shape == (8, 12)


def test_other_models_keep_their_size(make_model, tmp_path):
    make_model(puzzle="sudoku-4x4").save_pretrained(tmp_path)
    assert load_model(tmp_path, puzzle="sudoku-4x4").config.seq_len == 16
    with pytest.raises(CheckpointError, match=r"solves sudoku-4x4.* not sudoku-9x9.*mixer is \"attention\""):
        load_model(tmp_path, puzzle="sudoku-9x9")
    make(make_model).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"solves maze-3x5.* not sudoku-9x9"):
        load_model(tmp_path, puzzle="sudoku-9x9")
    make(make_model, position_embedding="learned").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"solves maze-3x5, not maze-5x5.*without learned positions"):
        load_model(tmp_path, puzzle="maze-5x5")
    make(make_model, "sudoku-4x4").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="solves sudoku-4x4, of 6 symbols; sudoku-9x9 has 11"):
        load_model(tmp_path, puzzle="sudoku-9x9")


@pytest.mark.parametrize("augment", ["true", "false"])
def test_a_run_says_where_symmetries_contradict_the_answers(tmp_path, capsys, augment):
    def run(*words):
        with pytest.raises(SystemExit):
            main([str(word) for word in words])
        return "".join(capsys.readouterr())

    run("data", "generate", "--puzzle", "maze-6x6", "--min_path_cells", "7", "--train", "40", "--test", "8",
        "--output", tmp_path / "data")  # fmt: skip
    text = run(
        "train", "--config", "examples/configs/maze-10x10.yaml", "--train_data", tmp_path / "data", "--output_dir",
        tmp_path / "run", "--augment", augment, "--max_steps", "1", "--warmup_steps", "1", "--hidden_size", "16",
        "--batch_size", "4", "--compile", "off", "--max_segments", "1", "--eval_limit", "4", "--eval_every", "0",
    )  # fmt: skip
    assert "parameters" in text
    assert ("have several right answers" in text) == (augment == "true")


def test_compiled_gradients_in_bfloat16(make_model):
    """Compiled, the gradient of `amax` is not a number in bfloat16 (torch 2.13)."""
    model = make(make_model, h_cycles=1, l_cycles=1)
    ids = boards(model, 8)
    check_compiled_step_in_bfloat16(model, ids, ids, "conv")


def test_the_commands_take_a_puzzle_of_another_size(make_model, tmp_path, capsys):
    puzzle = get_puzzle("maze-4x4")
    model = make(make_model, puzzle.name, vocab_size=puzzle.vocab_size)
    model.save_pretrained(tmp_path / "small")
    build_tokenizer(puzzle).save_pretrained(tmp_path / "small")
    (tmp_path / "test.csv").write_text("question,answer\nS  G #    # ## # #,SooG #    # ## # #\n")

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, "".join(capsys.readouterr())

    status, text = run("evaluate", "--checkpoint", tmp_path / "small", "--data", tmp_path, "--puzzle", "maze-3x6")
    assert status == 0, text
    assert "exact" in text
    status, text = run("evaluate", "--checkpoint", tmp_path / "small", "--data", tmp_path)
    assert status == 2
    assert "maze-4x4" in text
    board = "S  G #    # ## # #"
    status, text = run("solve", "--model", tmp_path / "small", "--puzzle", "maze-3x6", "--max_segments", "2", board)
    assert status in (0, 1), text
    assert "question" in text
