"""`mixer="candidates"`: by its definition, blind to what Sudoku's symmetries exchange, and on boards of other sizes."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from support.mixers import check_compiled_step_in_bfloat16, check_counts_and_gradients

from air_hf import AIRForPuzzleSolving
from air_hf.cli import main
from air_hf.hub import CheckpointError, load_model
from air_hf.modeling.modeling_air import AIRCandidateMixer
from air_hf.modeling.rules_air import BOXES
from air_hf.puzzles import get_puzzle

KINDS = [{}, {"prefix_len": 3, "num_puzzle_ids": 2}, {"level_token": "prepend_keep"},
         {"level_token": "prepend_strip"}, {"level_token": "add"}, {"input_operator": "linear"},
         {"shared_network": False}]  # fmt: skip


def make(make_model, digits=6, **fields):
    fields = {"mixer": "candidates", "position_embedding": "none", "vocab_size": digits + 2, "seq_len": digits**2,
              "puzzle": f"sudoku-{digits}x{digits}", "hidden_size": 4 * digits} | fields  # fmt: skip
    return make_model(**fields)


def boards(model, count=3, seed=1):
    """Random digits, two cells of three open."""
    generator = torch.Generator().manual_seed(seed)
    shape = count, model.config.seq_len
    digits = torch.randint(2, model.config.vocab_size, shape, generator=generator)
    return digits.where(torch.rand(shape, generator=generator) < 1 / 3, torch.ones_like(digits))


@pytest.mark.parametrize("front", [1, 2])
def test_the_definition_candidate_by_candidate(make_model, front):
    """Loops over candidates and what each of them hears, on a board whose boxes are not square."""
    model = make(make_model, prefix_len=front)
    mixer = model.model.networks["shared"].layers[0].mixer
    assert isinstance(mixer, AIRCandidateMixer)
    n, width, (box_rows, box_columns) = 6, 4, BOXES[6]
    h = torch.randn(2, front + n * n, n, width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mixed = torch.zeros(2, n * n, n, width)
        for cell in range(n * n):
            row, column = divmod(cell, n)
            same_row = [other for other in range(n * n) if other // n == row]
            same_column = [other for other in range(n * n) if other % n == column]
            same_box = [
                other for other in range(n * n)
                if (other // n // box_rows, other % n // box_columns) == (row // box_rows, column // box_columns)
            ]  # fmt: skip
            for digit in range(n):
                own = h[:, front + cell, digit] @ mixer.own_proj.weight.T
                for cells, proj in ((same_row, mixer.line_proj), (same_column, mixer.line_proj),
                                    (same_box, mixer.box_proj)):  # fmt: skip
                    assert len(cells) == n
                    own += sum(h[:, front + other, digit] for other in cells) @ proj.weight.T
                own += h[:, front + cell].sum(1) @ mixer.cell_proj.weight.T
                own += h[:, :front, digit].mean(1) @ mixer.front_proj.weight.T
                gate, up = own.chunk(2, dim=-1)
                mixed[:, cell, digit] = gate * gate.sigmoid() * up
        heard = torch.cat((mixed.max(1, keepdim=True).values.expand(-1, front, -1, -1), mixed), 1)
        expected = (h + heard @ mixer.down_proj.weight.T).flatten(2)
        expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(mixer(h.flatten(2), None), expected, rtol=1e-4, atol=1e-5)
    # Where a gradient is wanted other operations are the quicker ones.
    torch.testing.assert_close(mixer(h.flatten(2), None).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_counts_and_gradients(make_model, fields):
    """Weights, FLOPs and which parameters learn, for whatever is in front of the cells."""
    model = make(make_model, **fields).train()
    ids = boards(model)
    check_counts_and_gradients(model, ids, ids.clamp(min=2))


@pytest.mark.parametrize("digits", [4, 6, 9])
@pytest.mark.parametrize("fields", KINDS[:5], ids=str)
def test_symmetric_boards_get_symmetric_answers(make_model, digits, fields):
    """Renamed digits, exchanged rows, columns, bands and stacks, transposed boards: the same thoughts elsewhere."""
    model = make(make_model, digits, max_segments=2, **fields)
    symmetries = get_puzzle(model.config.puzzle).random_symmetries(3, np.random.default_rng(5))
    ids = boards(model)
    images = torch.from_numpy(symmetries.apply(ids.numpy().astype(np.uint8)).astype(np.int64))
    assert not torch.equal(images, ids)
    with torch.no_grad():
        for ours, theirs in zip(model.unroll(ids), model.unroll(images), strict=True):
            torch.testing.assert_close(theirs.q_halt_logits, ours.q_halt_logits, rtol=1e-4, atol=1e-4)
            cells = symmetries.cells
            scores = ours.logits.gather(1, torch.from_numpy(cells.astype(np.int64))[..., None].expand_as(ours.logits))
            renamed = torch.from_numpy(symmetries.symbols.astype(np.int64))
            moved = torch.zeros_like(scores).scatter(2, renamed[:, None, :].expand_as(scores), scores)
            torch.testing.assert_close(theirs.logits[..., 2:], moved[..., 2:], rtol=1e-3, atol=1e-3)


def test_no_answer_holds_padding_or_a_blank(make_model):
    model = make(make_model)
    with torch.no_grad():
        logits = model(boards(model)).logits
        assert (logits.argmax(-1) >= 2).all()
        entropy = -(model.log_probabilities(logits).exp() * model.log_probabilities(logits)).sum(-1)
    assert entropy.isfinite().all()


def test_the_weights_fit_boards_of_another_size(make_model, tmp_path):
    """Saved for 4 digits, they load for 9; the same weights, and a model that was made for 9."""
    small = make(make_model, 4, num_hidden_layers=1, prefix_len=2)
    small.save_pretrained(tmp_path)
    large = load_model(tmp_path, puzzle="sudoku-9x9")
    config = large.config
    assert (config.seq_len, config.vocab_size, config.hidden_size, config.group_size) == (81, 11, 36, 4)
    for name, weight in small.state_dict().items():
        assert torch.equal(weight, large.state_dict()[name]), name
    by_hand = AIRForPuzzleSolving.from_pretrained(
        tmp_path, puzzle="sudoku-9x9", seq_len=81, vocab_size=11, hidden_size=36
    ).eval()
    ids = boards(large, 2)
    with torch.no_grad():
        assert torch.equal(by_hand(ids).logits, large(ids).logits)
        assert large(ids).logits.shape == (2, 81, 11)
    with pytest.raises(CheckpointError, match="solves sudoku-4x4, not maze-5x5"):
        load_model(tmp_path, puzzle="maze-5x5")


def test_a_sum_weighs_the_same_on_boards_of_every_size(make_model):
    """One candidate that differs changes what the others of its row hear by as much on 4×4 as on 9×9."""
    shifts = []
    for digits in (4, 9):
        mixer = make(make_model, digits).model.networks["shared"].layers[0].mixer
        torch.manual_seed(0)
        torch.nn.init.normal_(mixer.line_proj.weight, std=0.5)
        quiet = torch.full((1, 1 + digits**2, digits, 4), 0.1)
        loud = quiet.clone()
        loud[0, 1, 0] += 1.0  # the first digit in the first cell, behind the prefix
        heard = []
        hook = mixer.line_proj.register_forward_hook(lambda module, sums, output, heard=heard: heard.append(output))
        with torch.no_grad():
            for h in (quiet, loud):
                mixer(h.flatten(2), None)
        hook.remove()
        rows_quiet, _, rows_loud, _ = heard
        shifts.append((rows_loud - rows_quiet)[0, 0, 0])
        assert not shifts[-1].eq(0).all()
    torch.testing.assert_close(*shifts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"puzzle": "maze-6x6"}, "needs rows, columns and boxes: puzzle is 'maze-6x6'; expected one of sudoku-4x4"),
        ({"puzzle": None}, "puzzle is None"),
        ({"puzzle": "sudoku-5x5", "seq_len": 25}, "puzzle is 'sudoku-5x5'"),
        ({"vocab_size": 11, "hidden_size": 36}, "vocab_size is 11; .* sudoku-6x6 has 8 symbols"),
        ({"hidden_size": 32}, r"hidden_size \(32\) is no multiple of the digits of sudoku-6x6 \(6\)"),
        ({"position_embedding": "learned"}, 'position_embedding is "learned"'),
        ({"prefix_len": 0}, "prefix_len is 0"),
        (
            {"prefix_dim": 5},
            r"prefix_dim \(5\) must lie between 0 and prefix_len \* hidden_size / digits \(1 \* 4 = 4\)",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_name(make_model, fields, words):
    with pytest.raises(StrictDataclassError, match=words):
        make(make_model, **fields)


def test_compiled_in_bfloat16(make_model):
    model = make(make_model, h_cycles=1, l_cycles=1)
    ids = boards(model, 8)
    check_compiled_step_in_bfloat16(model, ids, ids.clamp(min=2), "mixer")


def test_the_shipped_one_solves_smaller_boards(capsys):
    """It was trained on 9×9 alone."""
    for puzzle, board in (("sudoku-4x4", ".41.2.........4."), ("sudoku-6x6", ".......3..56.1......6..2..1.....463.")):
        with pytest.raises(SystemExit) as ended:
            main(["solve", "--model", "sudoku-9x9", "--puzzle", puzzle, "--mode", "plain", board])
        assert ended.value.code == 0, capsys.readouterr()
