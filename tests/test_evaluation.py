"""Scores against hand counts, and the `evaluate` metric."""

import dataclasses
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.evaluation import evaluate_model
from air_hf.metrics import score_boards
from air_hf.puzzles import get_puzzle


def test_rules_that_prove_nothing_are_not_called_so(make_model, puzzles):
    result = evaluate_model(make_model(), puzzles)
    assert f"valid by the rules        {result.valid_rate:.1%}" in result.table()
    grid = dataclasses.replace(result, puzzle="grid-4x4")  # whose only rule is that the given cells stay
    assert f"breaks no rule (no proof) {result.valid_rate:.1%}" in grid.table()


def test_no_puzzles_have_no_scores(make_model, puzzles):
    with pytest.raises(ValueError, match="no puzzles were given"):
        evaluate_model(make_model(), dataclasses.replace(puzzles, **{
            name: getattr(puzzles, name)[:0] for name in ("questions", "answers", "puzzle_ids")}))  # fmt: skip


@pytest.fixture(scope="module")
def puzzles() -> PuzzleSet:
    puzzle = get_puzzle("sudoku-4x4")
    return PuzzleSet(puzzle, *make_generator(puzzle).draw(30, np.random.default_rng(0)), "generated")


def scripted(model, puzzles, right_from, halts_at):
    """Makes `model` answer puzzle i rightly from segment right_from[i] on, and wish to halt at segment halts_at[i]."""
    answers = torch.from_numpy(puzzles.answers.astype(np.int64))
    cells = puzzles.questions.shape[1]
    encoded = model.model.encode(torch.from_numpy(puzzles.questions.astype(np.int64))).x[
        :, -puzzles.questions.shape[1] :
    ]
    original = type(model).run_segment

    def run_segment(inputs, state, *args):
        output = original(model, inputs, state, *args)
        x = inputs.x[:, -cells:]
        rows = [int((encoded == board).flatten(1).all(1).nonzero()[0]) for board in x]
        segment = int(output.state.num_segments[0])
        for slot, row in enumerate(rows):
            board = answers[row].clone()
            if segment < right_from[row]:
                board[:4] = board[[1, 2, 3, 0]]  # four cells wrong
            output.logits[slot] = torch.nn.functional.one_hot(board, model.config.vocab_size).float()
            output.q_halt_logits[slot] = 1.0 if segment >= halts_at[row] else -1.0
            output.q_continue_logits[slot] = 0.0
        return output

    model.run_segment = run_segment
    return model


def test_scores_by_hand(make_model, puzzles):
    right_from = [1, 2, 3, 4, 9] * 6  # of 5 puzzles, 4 are right at the end
    halts_at = [1, 3, 2, 9, 9] * 6
    model = scripted(make_model(), puzzles, right_from, halts_at)
    for batch_size in (7, 30, 100):  # the last batch is filled up, and not counted twice
        result = evaluate_model(model, puzzles, batch_size, step=5, ema=0.9)
        assert result.exact_accuracy == result.valid_rate == pytest.approx(0.8)
        assert result.exact_accuracy_by_segment == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert result.cell_accuracy == pytest.approx(0.8 + 0.2 * 12 / 16)
        assert result.mean_segments == pytest.approx((1 + 3 + 2 + 4 + 4) / 5)
        assert result.halting_exact_accuracy == pytest.approx(0.6)  # the third halts too early
        assert result.halting_accuracy == pytest.approx(0.8)  # the fourth is right and does not know
        assert result.copy_accuracy == pytest.approx((puzzles.questions > 1).mean())
        assert (result.num_puzzles, result.num_segments, result.step, result.ema) == (30, 4, 5, 0.9)
    table = result.table()
    for text in ("80.0%", "30 of sudoku-4x4, generated", "0.9", f"{result.num_parameters:,}"):
        assert text in table


def test_evaluation_is_what_solve_answers(make_lively_model, puzzles):
    model = make_lively_model().train()
    result = evaluate_model(model, puzzles, max_segments=3)
    assert model.training
    model.eval()
    answers = model.solve(torch.from_numpy(puzzles.questions.astype(np.int64)), max_segments=3).sequences.numpy()
    assert result.cell_accuracy == pytest.approx(score_boards(answers, puzzles.answers)["cell_accuracy"])
    assert len(result.exact_accuracy_by_segment) == 3
    assert 0 < result.cell_accuracy < 1
    first = model.solve(torch.from_numpy(puzzles.questions.astype(np.int64)), max_segments=1).sequences.numpy()
    assert result.cell_accuracy != score_boards(first, puzzles.answers)["cell_accuracy"]


def test_outputs_that_are_no_numbers_are_no_score(make_model, puzzles):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[2, 3] = float("nan")
    with pytest.raises(ValueError, match="outputs are not finite numbers in segment 1"):
        evaluate_model(model, puzzles)


def test_without_rules_nothing_is_called_valid(make_model, puzzles):
    grid = get_puzzle("grid-4x4", symbols=".1234")
    model = make_model(puzzle=grid.name, puzzle_options=grid.options)
    result = evaluate_model(model, dataclasses.replace(puzzles, puzzle=grid), 30)
    assert result.valid_rate is None
    assert "valid by the rules        no rules to check" in result.table()


def test_boards_of_another_size(make_model, puzzles):
    model = make_model(vocab_size=11, seq_len=81, puzzle="sudoku-9x9")
    with pytest.raises(
        ValueError, match=r"81 cells and 11 symbols \(sudoku-9x9\); generated holds sudoku-4x4, 16 cells"
    ):
        evaluate_model(model, puzzles)
    with pytest.raises(ValueError, match="max_segments \\(0\\)"):
        evaluate_model(make_model(), puzzles, max_segments=0)


def test_metric_module(tmp_path):
    path = Path(__file__).parent.parent / "air_hf" / "metrics" / "puzzle_accuracy.py"
    metric = evaluate.load(str(path), cache_dir=str(tmp_path))
    predictions, references = [[2, 3, 4], [2, 3, 4], [2, 2, 2]], [[2, 3, 4], [2, 3, 5], [-100, 0, -100]]
    scores = metric.compute(predictions=predictions, references=references)
    assert scores == score_boards(np.array(predictions), np.array(references))
    assert scores == {"exact_accuracy": 0.5, "cell_accuracy": pytest.approx((1 + 2 / 3) / 2)}
    with pytest.raises(ValueError, match="none of the 1 boards has a label"):
        score_boards(np.array([[1]]), np.array([[0]]))
    with pytest.raises(ValueError, match=r"predictions have shape \(1, 1\), references \(1, 2\)"):
        score_boards(np.array([[1]]), np.array([[0, 1]]))
