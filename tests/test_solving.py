"""Solving against straightforward loops: early exit, rollouts, votes, budgets, streams; and the commands."""

import argparse
import copy
import csv
import json
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from air_hf import AIRForPuzzleSolving, cli, variant_config
from air_hf.commands import calibrate as calibrate_command
from air_hf.data import PuzzleSet
from air_hf.hub import CheckpointError, load_model
from air_hf.modeling.solving_air import SOLVE_CONFIG, Question, SolvingEngine, _seed
from air_hf.puzzles import get_puzzle
from air_hf.solving import SolveConfig, evaluate_solving, find_images, make_engine, solve
from air_hf.solving.calibration import Segments, calibrate, run_segments
from air_hf.solving.options import add_options, config_of, describe, is_plain
from air_hf.solving.results import Journal, format_row, join, journals
from air_hf.solving.stream import Result, Row, solve_rows
from air_hf.tokenization import build_tokenizer

SUDOKU = get_puzzle("sudoku-4x4")
SOLVED = SUDOKU.parse("1234341221434321")
CONFIG = {"vocab_size": 6, "seq_len": 16, "hidden_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1,
          "mixer": "mlp", "position_embedding": "none", "h_cycles": 1, "l_cycles": 1, "max_segments": 8,
          "puzzle": "sudoku-4x4"}  # fmt: skip


def make_puzzles(count: int, seed: int, blanks: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Questions and one solution of each, (count, 16)."""
    rng = np.random.default_rng(seed)
    answers = SUDOKU.random_symmetries(count, rng).apply(np.tile(SOLVED, (count, 1)))
    return np.where(rng.random(answers.shape) < blanks, 1, answers).astype(np.uint8), answers


@pytest.fixture(scope="module")
def model() -> AIRForPuzzleSolving:
    """A model that solves some boards soon, some late and some never; in float64, where batches round alike."""
    torch.manual_seed(0)
    model = AIRForPuzzleSolving(variant_config("Lx_H", halting="halt_only", **CONFIG))
    questions, answers = (torch.from_numpy(boards).long() for boards in make_puzzles(512, 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for first in range(0, 4096, 128):
        rows = torch.arange(first, first + 128) % 512
        state = None
        for _ in range(4):
            output = model(input_ids=questions[rows], labels=answers[rows], state=state)
            state = output.state
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.double().eval()


@pytest.fixture(scope="module")
def ids() -> torch.LongTensor:
    return torch.from_numpy(make_puzzles(40, 1)[0]).long()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    build_tokenizer(SUDOKU).save_pretrained(folder)
    return folder


def plain_segments(model, question: torch.LongTensor, segments: int) -> list[tuple[torch.LongTensor, float]]:
    """Answer and q_halt after each segment of one puzzle alone."""
    state, found = None, []
    with torch.no_grad():
        for _ in range(segments):
            output = model(input_ids=question[None], state=state)
            state = output.state
            found.append((output.logits.argmax(-1)[0], output.q_halt_logits.item()))
    return found


@pytest.fixture(scope="module")
def alone(model, ids) -> list[list[tuple[torch.LongTensor, float]]]:
    """What the plain loop says of each puzzle, one puzzle at a time, over 12 segments."""
    return [plain_segments(model, question, 12) for question in ids]


def median_threshold(model, ids) -> float:
    with torch.no_grad():
        *_, last = model.unroll(ids, max_segments=3)
    return last.q_halt_logits.median().item()


def assert_equal(ours, expected: list[tuple[torch.LongTensor, float, int]]):
    assert torch.equal(ours.sequences, torch.stack([board for board, _, _ in expected]))
    assert ours.q_halt_logits.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-5)
    assert ours.num_segments.tolist() == [count for _, _, count in expected]


# --- early exit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 40])
@pytest.mark.parametrize("rule", ["never", "q_halt", "unchanged", "verifier"])
def test_early_exit_is_the_plain_loop_stopped(rule, batch_size, model, ids, alone):
    threshold = median_threshold(model, ids)
    config = SolveConfig(max_segments=12, early_exit=rule, q_halt_threshold=threshold, patience=2)
    expected = []
    for question, segments in zip(ids, alone, strict=True):
        boards = [board.tolist() for board, _ in segments]
        for count, (board, score) in enumerate(segments, start=1):
            stop = {
                "never": False,
                "q_halt": score > threshold,
                "unchanged": count > 2 and boards[count - 1] == boards[count - 2] == boards[count - 3],
                "verifier": SUDOKU.find_error(question.numpy(), board.numpy()) is None,
            }[rule]
            if stop or count == 12:
                expected.append((board, score, count))
                break
    found = solve(model, ids, config, batch_size=batch_size)
    assert_equal(found, expected)
    assert torch.equal(found.num_calls, found.num_segments)
    assert found.verified == (rule == "verifier")
    if rule != "never":
        assert len(set(found.num_segments.tolist())) > 2  # the boards leave their slots at different times


def test_deeper_than_the_model_was_trained(model, ids):
    found = solve(model, ids[:2], SolveConfig(max_segments=200))
    assert_equal(found, [(*plain_segments(model, question, 200)[-1], 200) for question in ids[:2]])


def test_finished_boards_cost_nothing(model, ids):
    """The segments that run are those that are counted, whatever the slots."""
    rows = []
    original = model.run_segment

    def counting(inputs, *args):
        rows.append(len(inputs.x))
        return original(inputs, *args)

    model.run_segment = counting
    try:
        found = solve(model, ids, SolveConfig(early_exit="verifier"), batch_size=16)
    finally:
        del model.run_segment
    assert sum(rows) == found.num_calls.sum() < 8 * len(ids)
    assert rows[: len(rows) // 2] == [16] * (len(rows) // 2)  # full while boards are waiting


# --- rollouts ------------------------------------------------------------------------------------------------------


def rollout_by_hand(model, question, generator, segments: int, noise: float, on: tuple[str, ...]):
    """One noisy trajectory as PTRM writes it down, alone: noise is added before each segment."""
    state, found = model.initial_state(1), []
    with torch.no_grad():
        for _ in range(segments):
            for name in on:
                z = getattr(state, name)
                drawn = torch.randn(z.shape[1:], generator=generator).to(z.dtype)
                state = replace(state, **{name: z + noise * drawn})
            output = model(input_ids=question[None], state=state)
            state = output.state
            found.append((output.logits.argmax(-1)[0], output.q_halt_logits.item()))
    return found


@pytest.mark.parametrize("noise_on", ["z_l", "z_h", "both"])
@pytest.mark.parametrize("batch_size", [1, 13])
def test_rollouts_are_independent_noisy_loops(noise_on, batch_size, model, ids, monkeypatch):
    generators = {}

    def spy(seed, puzzle, number):  # the loop by hand takes the numbers that the engine seeds with
        return generators.setdefault((tuple(puzzle.question.tolist()), number), len(generators) + 7)

    monkeypatch.setattr("air_hf.modeling.solving_air._seed", spy)
    config = SolveConfig(max_segments=4, rollouts=3, noise=0.7, noise_on=noise_on)
    found = solve(model, ids[:9], config, batch_size=batch_size)
    on = {"both": ("z_l", "z_h")}.get(noise_on, (noise_on,))
    for index, question in enumerate(ids[:9]):
        ends = []
        for number in range(3):
            generator = torch.Generator().manual_seed(generators[tuple(question.tolist()), number])
            ends.append(rollout_by_hand(model, question, generator, 4, 0.7, on)[-1])
        for ours, (board, score) in zip(found.rollouts[index], ends, strict=True):
            assert torch.equal(ours.answer, board)
            assert ours.q_halt_logit == pytest.approx(score, abs=1e-5)
        best = max(ends, key=lambda end: end[1])
        assert torch.equal(found.sequences[index], best[0])
    assert found.num_calls.tolist() == [12] * 9
    assert any(len({tuple(rollout.answer.tolist()) for rollout in each}) > 1 for each in found.rollouts)


def test_noise_before_every_cycle_is_that_of_a_model_of_one_cycle(model, ids):
    two, one = (copy.deepcopy(model) for _ in range(2))
    two.config.h_cycles, one.config.h_cycles = 2, 1
    plan = {"rollouts": 3, "noise": 0.7, "noise_on": "both", "plain_first": True}
    found = solve(two, ids, SolveConfig(max_segments=3, noise_every="cycle", **plan))
    expected = solve(one, ids, SolveConfig(max_segments=6, **plan))
    assert torch.equal(found.sequences, expected.sequences)
    assert found.q_halt_logits.tolist() == pytest.approx(expected.q_halt_logits.tolist(), abs=1e-5)
    rarer = solve(two, ids, SolveConfig(max_segments=3, **plan))
    assert not torch.equal(rarer.sequences, found.sequences)


def test_without_noise_every_rollout_is_the_deterministic_answer(model, ids):
    plain = solve(model, ids, SolveConfig())
    for select in ("q_halt", "most_frequent", "cells", "margin", "change", "verifier"):
        found = solve(model, ids, SolveConfig(rollouts=3, noise=0.0, select=select), batch_size=10)
        assert torch.equal(found.sequences, plain.sequences)
        assert found.num_calls.tolist() == [24] * len(ids)


def test_an_answer_depends_on_nothing_around_it(model, ids):
    config = SolveConfig(max_segments=5, rollouts=4, noise=0.8, symmetries=True, start="random", select="most_frequent")
    together = solve(model, ids, config, batch_size=64)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    shuffled = solve(model, ids[order], config, batch_size=5)
    assert torch.equal(shuffled.sequences, together.sequences[order])
    assert shuffled.q_halt_logits.tolist() == pytest.approx(together.q_halt_logits[order].tolist(), abs=1e-5)
    assert not torch.equal(solve(model, ids, replace(config, seed=1)).sequences, together.sequences)


def test_all_rollouts_of_a_board_stop_once_one_is_accepted(model, ids):
    config = SolveConfig(max_segments=12, rollouts=5, noise=0.5)
    free = solve(model, ids, config, return_trajectory=True)
    stopped = solve(model, ids, replace(config, early_exit="verifier"), batch_size=10)
    for index, question in enumerate(ids.numpy()):
        valid = np.array([
            [SUDOKU.find_error(question, board.numpy()) is None for board, _ in rollout.history]
            for rollout in free.rollouts[index]
        ])  # fmt: skip
        first = valid.any(0).argmax() if valid.any() else 11
        assert stopped.num_calls[index] == 5 * (first + 1)
        assert stopped.accepted[index] == valid.any()


@pytest.mark.parametrize("select", ["q_halt", "most_frequent", "cells", "margin", "change", "verifier"])
def test_selection(select, model, ids):
    config = SolveConfig(max_segments=3, rollouts=5, noise=1.0, select=select)
    found = solve(model, ids, config, batch_size=30)
    several = 0
    for index, rollouts in enumerate(found.rollouts):
        boards = [tuple(rollout.answer.tolist()) for rollout in rollouts]
        several += len(set(boards)) > 1
        ours = tuple(found.sequences[index].tolist())
        scores = [rollout.q_halt_logit for rollout in rollouts]
        if select == "most_frequent":
            assert Counter(boards)[ours] == max(Counter(boards).values())
        elif select == "cells":
            by_trust = sorted(zip(scores, boards, strict=True), reverse=True)
            cells = list(zip(*(board for _, board in by_trust), strict=True))
            # max is the first of those that are as frequent: of the rollout with the highest q_halt.
            assert ours == tuple(max(cell, key=cell.count) for cell in cells)
        elif select == "verifier":
            valid = [SUDOKU.find_error(ids[index].numpy(), np.array(board)) is None for board in boards]
            assert (SUDOKU.find_error(ids[index].numpy(), np.array(ours)) is None) == any(valid)
        else:
            wanted = scores if select == "q_halt" else [rollout.score for rollout in rollouts]
            assert ours == boards[int(np.argmax(wanted))]
    assert several > 10  # the rollouts differ, so that there is something to choose


def test_margin_and_change_are_what_they_say(model, ids):
    *_, before, last = model.unroll(ids, max_segments=3)
    best = last.logits.topk(2).values
    margins = solve(model, ids, SolveConfig(max_segments=3, select="margin"))
    changes = solve(model, ids, SolveConfig(max_segments=3, select="change"))
    assert [each[0].score for each in margins.rollouts] == pytest.approx((best[..., 0] - best[..., 1]).mean(1).tolist())
    moved = (last.state.z_h - before.state.z_h).square().mean((1, 2)).sqrt()
    assert [each[0].score for each in changes.rollouts] == pytest.approx((-moved).tolist(), rel=1e-5)


def test_symmetric_images_are_mapped_back(model, ids):
    """Every rollout answers an image that one can make oneself, mapped back; the first looks at the board itself."""
    images = find_images(SUDOKU)
    config = SolveConfig(max_segments=4, rollouts=4, symmetries=True)
    found = solve(model, ids[:12], config, batch_size=5)
    plain = solve(model, ids[:12], SolveConfig(max_segments=4))
    for question, rollouts, own in zip(ids, found.rollouts, plain.sequences, strict=False):
        assert torch.equal(rollouts[0].answer, own)
        for number, rollout in enumerate(rollouts[1:], start=1):
            image, back = images(question, _seed(0, Question(question), number))
            assert sorted(back(image).tolist()) == sorted(question.tolist())
            assert torch.equal(back(image), question)
            assert torch.equal(rollout.answer, back(plain_segments(model, image, 4)[-1][0]))


# --- budget --------------------------------------------------------------------------------------------------------


def test_the_adaptive_mode_spends_on_what_is_unsolved_only(model):
    ids = torch.from_numpy(make_puzzles(40, 4, blanks=0.8)[0]).long()  # few clues: some of these are never solved
    config = SolveConfig.adaptive(budget=14, early_exit="verifier", max_segments=4, noise=0.8)
    found = solve(model, ids, config, batch_size=9)
    cheap = solve(model, ids, SolveConfig(max_segments=4, early_exit="verifier"))
    at_once = cheap.accepted
    assert 0 < at_once.sum() < len(ids)
    assert torch.equal(found.num_calls[at_once], cheap.num_calls[at_once])
    assert (found.num_calls[~at_once] > 4).all()
    assert (found.num_calls[~found.accepted] == 14).all()  # all of the budget, the last rollout cut short
    assert found.num_calls.max() <= 14
    assert found.accepted.sum() > at_once.sum()
    assert [len(rollouts) for rollouts, ended in zip(found.rollouts, found.accepted, strict=True) if not ended] == (
        [4] * int((~found.accepted).sum())
    )


def test_a_budget_runs_rollouts_to_their_end_and_cuts_the_last_one_short(model, ids):
    """However many rollouts are asked for: many short ones would answer nothing."""
    for at_once in (1, 16):
        config = SolveConfig(budget=11, rollouts=16, noise=0.3, max_segments=4, rollouts_at_once=at_once)
        found = solve(model, ids[:5], config)
        assert [[rollout.num_segments for rollout in each] for each in found.rollouts] == [[4, 4, 3]] * 5
    found = solve(model, ids[:5], SolveConfig(budget=100, rollouts=5, noise=0.3, max_segments=4))
    assert found.num_calls.tolist() == [20] * 5


def test_a_source_without_a_next_board_yet_is_asked_again(model, ids):
    """Boards go on while the source waits, and its end is told from a pause."""
    asked = []

    def source():
        for index, question in enumerate(ids[:6]):
            for _ in range(index % 3):
                asked.append(index)
                yield None
            yield Question(question)
        yield None

    config = SolveConfig(max_segments=3)
    found = sorted(SolvingEngine(model, config, batch_size=4).run(source()), key=lambda answer: answer.index)
    assert [answer.index for answer in found] == list(range(6))
    assert torch.equal(torch.stack([answer.sequence for answer in found]), solve(model, ids[:6], config).sequences)
    assert len(asked) == 6


def test_numbers_of_numpy_are_numbers():
    config = SolveConfig(noise=np.float64(0.5), rollouts=np.int64(3), seed=np.int64(2), q_halt_threshold=np.int64(4))
    assert config == SolveConfig(noise=0.5, rollouts=3, seed=2, q_halt_threshold=4)
    assert json.loads(config.to_json()) == {"noise": 0.5, "rollouts": 3, "seed": 2, "q_halt_threshold": 4}
    assert SolveConfig.adaptive(np.int64(64)) == SolveConfig.adaptive(64)
    with pytest.raises(ValueError, match="budget is None; the adaptive mode needs one"):
        SolveConfig.adaptive(budget=None)


def test_a_budget_smaller_than_the_models_segments_is_kept(model, ids):
    found = solve(model, ids[:5], SolveConfig.adaptive(budget=3, q_halt_threshold=1e9))
    assert found.num_calls.tolist() == [3] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollouts": 0}, "rollouts is 0; it must be at least 1"),
        ({"noise": -0.1}, "noise is -0.1; a standard deviation is at least 0"),
        ({"noise": float("nan")}, "noise is nan; expected a number"),
        ({"q_halt_threshold": float("inf")}, "q_halt_threshold is inf; expected a number"),
        ({"q_halt_threshold": "4"}, "q_halt_threshold is '4'; expected a number"),
        ({"max_segments": 0}, "max_segments is 0; it must be at least 1"),
        ({"max_segments": 2.5}, "max_segments is 2.5; expected a whole number"),
        ({"budget": 0}, "budget is 0; it must be at least 1"),
        ({"budget": 10, "max_segments": 16}, "budget is 10; one answer of max_segments = 16 takes more"),
        ({"patience": 0}, "patience is 0"),
        ({"early_exit": "soon"}, "early_exit is 'soon'; expected one of never, q_halt, trained, unchanged, verifier"),
        ({"noise_on": "z"}, "noise_on is 'z'; expected one of z_l, z_h, both"),
        ({"noise_every": "update"}, "noise_every is 'update'; expected one of segment, cycle"),
        ({"select": "best"}, "select is 'best'; expected one of q_halt"),
        ({"symmetries": 1}, "symmetries is 1; expected True or False"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SolveConfig(**options)


def test_no_verifier_no_symmetries_no_slots(make_model, ids):
    nameless = make_model(puzzle=None)
    with pytest.raises(ValueError, match='early_exit is "verifier", but no rules are given that prove'):
        solve(nameless, ids, SolveConfig(early_exit="verifier"))
    with pytest.raises(ValueError, match='select is "verifier", but no rules are given that prove'):
        solve(nameless, ids, SolveConfig(select="verifier"))
    with pytest.raises(ValueError, match="symmetries are asked for, but none are given"):
        solve(nameless, ids, SolveConfig(symmetries=True))
    with pytest.raises(ValueError, match="batch_size is 0"):
        solve(nameless, ids, batch_size=0)
    with pytest.raises(ValueError, match=r"input_ids has shape \(40, 15\)"):
        solve(nameless, ids[:, :15])
    for options in ({"symbols": ".1234"}, {"symbols": ".1234", "givens": "."}):
        grid = make_model(puzzle="grid-4x4", puzzle_options=options)
        with pytest.raises(ValueError, match="no rules are given that prove an answer of grid-4x4"):
            solve(grid, ids, SolveConfig(early_exit="verifier"))


# --- what travels --------------------------------------------------------------------------------------------------


def test_the_plan_travels_with_the_checkpoint(model, checkpoint, ids, tmp_path):
    config = SolveConfig(early_exit="q_halt", q_halt_threshold=median_threshold(model, ids))
    (checkpoint / SOLVE_CONFIG).write_text(config.to_json(puzzles=40))
    try:
        loaded = load_model(checkpoint, dtype=torch.float64)
        assert loaded.solve_config == config
        assert torch.equal(loaded.solve(ids).num_segments, solve(model, ids, config).num_segments)
        assert loaded.solve(ids, early_exit="never").num_segments.tolist() == [8] * 40
        loaded.save_pretrained(tmp_path)
        assert load_model(tmp_path).solve_config == config
        for text, message in (("[]", "object"), ("{", ""), ('{"rolouts": 2}', "holds rolouts"),
                              ('{"rollouts": 0}', "rollouts is 0")):  # fmt: skip
            (checkpoint / SOLVE_CONFIG).write_text(text)
            with pytest.raises(CheckpointError, match=f"solve_config.json.*{message}"):
                load_model(checkpoint)
    finally:
        (checkpoint / SOLVE_CONFIG).unlink()


# --- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_chooses_the_lowest_threshold_that_loses_nothing():
    scores = np.array([[-3.0, 1.0, 2.0, -4.0], [0.0, 3.0, 5.0, -3.0], [4.0, 6.0, 6.0, -2.0]])
    exact = np.array([[0, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
    found = calibrate(Segments(exact, scores))
    assert 1.0 <= found.threshold < 2.0  # 1 would end puzzle 1 in the first segment only if it were below its score
    assert (found.exact, found.exact_without) == (0.75, 0.75)
    assert found.mean_segments == (3 + 2 + 1 + 3) / 4
    lenient = calibrate(Segments(exact, scores), tolerance=0.25)
    assert lenient.threshold < found.threshold
    assert lenient.exact == 0.5
    # Wrong answers have scores up to 0, 1 and −2 (puzzles 0, 1 and 3).
    assert 1.0 <= found.trusted < 1.1
    assert 0.0 <= lenient.trusted < 0.1
    with pytest.raises(ValueError, match=r"tolerance is 1\.5"):
        calibrate(Segments(exact, scores), tolerance=1.5)


def test_calibration_of_scores_that_rounding_would_leave_above_every_threshold():
    wrong = calibrate(Segments(np.array([[False]]), np.array([[7.004]])))
    assert wrong.trusted >= 7.004  # else the one wrong answer would be trusted
    late = calibrate(Segments(np.array([[False], [True]]), np.array([[7.004], [7.004]])))
    assert (late.threshold >= 7.004, late.exact, late.exact_without) == (True, 1.0, 1.0)


# --- streams and files ---------------------------------------------------------------------------------------------


def run_command(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def write_csv(path: Path, questions: list[str], answers: list[str] | None = None) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question"] + (["answer"] if answers else []))
        writer.writerows(zip(questions, *([answers] if answers else []), strict=True))
    return path


@pytest.fixture(scope="module")
def boards() -> tuple[list[str], list[str]]:
    questions, answers = make_puzzles(40, 2)
    return SUDOKU.format_all(questions), SUDOKU.format_all(answers)


def test_a_stream_reads_no_further_than_it_has_slots_and_keeps_order(model, boards):
    engine = make_engine(model, SolveConfig(early_exit="verifier"), batch_size=4)
    read = 0

    def rows():
        nonlocal read
        for question in [*boards[0][:10], "12", *boards[0][10:]]:
            read += 1
            yield Row(question, None)

    given = []
    for number, (row, result) in enumerate(solve_rows(engine, SUDOKU, rows())):
        assert read - number <= 4 * 8 + 2  # 4 slots, and what 8 segments of a slow board may leave behind it
        given.append(row.question)
        assert (result.error is None) == (row.question != "12")
    assert given == [*boards[0][:10], "12", *boards[0][10:]]


def test_a_million_boards_take_no_more_memory_than_a_few(model, boards):
    """What the stream holds is counted in the middle of it."""
    import gc

    engine = make_engine(model, SolveConfig(max_segments=1), batch_size=64)
    held = []
    stream = solve_rows(engine, SUDOKU, (Row(boards[0][i % 40], None) for i in range(3000)))
    for number, _ in enumerate(stream):
        if number % 1000 == 500:
            # By type: isinstance asks other libraries' proxies of what is gone.
            held.append(sum(type(each) is Result for each in gc.get_objects()))
    assert max(held) <= 70


def test_bad_boards_without_end_are_passed_on_as_they_come(model, boards):
    engine, read = make_engine(model, SolveConfig(max_segments=1), batch_size=4), 0

    def rows():
        nonlocal read
        for read in range(1, 5001):
            yield Row(boards[0][0] if read in (1, 3000) else "12", None)

    for number, (_, result) in enumerate(solve_rows(engine, SUDOKU, rows()), start=1):
        assert read - number <= 2001  # before and behind the good one
        assert (result.error is None) == (number in (1, 3000))
    assert number == 5000


def test_solving_a_file_on_two_processes_is_solving_it_on_one(capsys, checkpoint, boards, tmp_path):
    file = write_csv(tmp_path / "boards.csv", [*boards[0], "12"], [*boards[1], "34"])
    words = ["solve", file, "--model", checkpoint, "--noise", "0.8", "--budget", "24", "--output"]
    status, alone, _ = run_command(capsys, *words, tmp_path / "one.csv")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "air_hf.cli"]
    (tmp_path / ".two.csv.0-of-2.csv").touch()  # which one process alone would refuse as that of another number
    done = subprocess.run(
        [str(word) for word in (*launch, *words, tmp_path / "two.csv")], capture_output=True, text=True
    )
    assert "of 41 boards solved" in done.stdout, done.stderr
    assert done.stdout.count("solved") == 1  # one process speaks for all
    assert status == 1
    assert done.returncode != 0
    assert done.stdout.split("; ")[:3] == alone.split("; ")[:3]
    one, two = ((tmp_path / name).read_text() for name in ("one.csv", "two.csv"))
    without = [[row[:3] + row[4:] for row in csv.reader(text.splitlines())] for text in (one, two)]
    assert without[0] == without[1]  # all but the confidences, which may differ in rounding
    assert len(without[0]) == 42
    assert [path.name for path in tmp_path.iterdir() if "of-2" in path.name] == []


def test_parts_of_several_processes_are_completed_and_joined(tmp_path):
    results = [Result(f"q{i}\r", f"a{i}", True, 0.5, 1, 2, None) for i in range(5)]
    output = tmp_path / "out.csv"
    parts = journals(output, 2)
    for rank, part in enumerate(parts):
        list(part.append(iter(results[rank::2])))
    with open(parts[1].path, "a") as file:
        file.write("q9,a9")  # killed in the middle of a row
    rows = [Row(result.question, None) for result in results]
    assert [done for _, done in parts[1].take_done(iter(rows[1::2]), "boards")] == results[1::2]
    with pytest.raises(ValueError, match="of another number of processes"):
        journals(output, 3)
    join(parts, output)
    assert list(Journal(output).read()) == results
    assert list(tmp_path.iterdir()) == [output]


def test_a_lone_carriage_return_stays_in_its_field(tmp_path):
    result = Result("1\r2", None, None, 0.25, 3, 4, 'a "b", c')
    list(Journal(tmp_path / "x.csv").append(iter([result])))
    assert list(Journal(tmp_path / "x.csv").read()) == [result]
    assert format_row(["a", 1]) == "a,1\n"


def test_parquet_in_and_out(capsys, checkpoint, boards, tmp_path):
    from datasets import Dataset

    file, output = tmp_path / "boards.parquet", tmp_path / "out.parquet"
    Dataset.from_dict({"question": boards[0], "answer": boards[1]}).to_parquet(file)
    words = ("solve", file, "--model", checkpoint, "--device", "cpu", "--output")
    run_command(capsys, *words, output)
    run_command(capsys, *words, tmp_path / "out.csv")
    found = Dataset.from_parquet(str(output)).to_list()
    assert [row | {"confidence": 0} for row in found] == [
        result._asdict() | {"confidence": 0} for result in Journal(tmp_path / "out.csv").read()
    ]
    assert [row["question"] for row in found] == boards[0]
    assert {path.name for path in tmp_path.iterdir()} == {
        "boards.parquet", "out.parquet", "out.csv", "out.parquet.how.json", "out.csv.how.json"}  # fmt: skip


def test_a_finished_file_is_told_again(capsys, checkpoint, boards, tmp_path):
    """A job that is queued again finds nothing to do; one that is told otherwise is refused, and the file stays."""
    from datasets import Dataset

    file, output = write_csv(tmp_path / "boards.csv", *boards), tmp_path / "out.parquet"
    words = ("solve", file, "--model", checkpoint, "--device", "cpu", "--output", output)
    first, again = run_command(capsys, *words), run_command(capsys, *words)
    assert again[:2] == first[:2]
    assert "boards a second" in first[2]
    assert "boards a second" not in again[2]
    before = output.read_bytes()
    status, _, err = run_command(capsys, *words, "--budget", "7")
    assert (status, "was begun with rollouts 256, and this is 7 (by " in err) == (2, True)
    for questions, said in ((boards[0][1:], "row 1: the question is not that of row 1"), (boards[0][:3], "row 4: the"),
                            ([*boards[0], boards[0][0]], "is finished, and")):  # fmt: skip
        write_csv(file, questions, [boards[1][0]] * len(questions))
        status, _, err = run_command(capsys, *words)
        assert (status, said in err) == (2, True), err
    assert output.read_bytes() == before
    Dataset.from_dict({"mine": [1]}).to_parquet(output)
    status, _, err = run_command(capsys, *words)
    assert (status, "is no output of this command" in err) == (2, True)


def test_the_default_says_how_it_solved(capsys, checkpoint, boards, tmp_path):
    file = write_csv(tmp_path / "boards.csv", *boards)
    status, adaptive, _ = run_command(capsys, "solve", file, "--model", checkpoint, "--device", "cpu")
    assert "; stops where the rules accept; the verifier took part; written to" in adaptive
    words = ("--output", tmp_path / "plain.csv", "--mode", "plain")
    _, plain, _ = run_command(capsys, "solve", file, "--model", checkpoint, "--device", "cpu", *words)
    assert "; 8.0 model calls a board; " in plain
    assert "every segment run; the verifier took no part" in plain
    solved = [int(text.split()[0]) for text in (adaptive, plain)]
    assert solved[0] >= solved[1]
    status, _, err = run_command(capsys, "solve", file, "--model", checkpoint, "--rollouts", "0")
    assert (status, "rollouts is 0; it must be at least 1" in err) == (2, True)


def parse_options(mode: str, *words) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser, mode)
    return parser.parse_args(words)


def test_options_make_the_plan():
    stored = SolveConfig(early_exit="q_halt", q_halt_threshold=2.5)
    assert config_of(parse_options("plain"), stored, SUDOKU) == SolveConfig()
    assert is_plain(config_of(parse_options("plain", "--max_segments", "64"), stored, SUDOKU))
    assert not is_plain(config_of(parse_options("plain", "--noise", "0.1"), stored, SUDOKU))
    assert config_of(parse_options("plain", "--mode", "calibrated"), stored, SUDOKU) == stored
    tuned = config_of(parse_options("adaptive"), SolveConfig(noise=1.0, noise_on="z_h", noise_every="cycle"), SUDOKU)
    assert (tuned.noise, tuned.noise_on, tuned.noise_every) == (1.0, "z_h", "cycle")
    adaptive = parse_options("adaptive", "--budget", "99")
    # A grid of which nothing is known has neither rules nor symmetries.
    by_rules, by_q = (config_of(adaptive, stored, puzzle) for puzzle in (SUDOKU, get_puzzle("grid-4x4", symbols=".ab")))
    assert (by_rules.early_exit, by_rules.budget, by_rules.symmetries) == ("verifier", 99, True)
    # What loses nothing of the plain loop's accuracy accepts its wrong answers, too.
    assert (by_q.early_exit, by_q.q_halt_threshold, by_q.symmetries) == ("q_halt", 4.0, False)
    assert config_of(adaptive, replace(stored, trusted_q_halt=3.0), None).q_halt_threshold == 3.0
    noisy = replace(stored, noise=2.0, noise_every="cycle", plain_first=True)
    assert config_of(adaptive, noisy, SUDOKU) == replace(by_rules, noise=2.0, noise_every="cycle")
    shorter = replace(stored, max_segments=7)
    assert config_of(adaptive, shorter, SUDOKU) == replace(by_rules, max_segments=7)
    assert config_of(parse_options("adaptive", "--max_segments", "9"), shorter, SUDOKU).max_segments == 9
    assert config_of(parse_options("adaptive", "--budget", "6"), shorter, SUDOKU).max_segments is None
    assert config_of(parse_options("adaptive", "--noise", "0"), noisy, SUDOKU).noise == 0
    assert config_of(parse_options("plain"), noisy, SUDOKU) == SolveConfig()
    low = parse_options("adaptive", "--early_exit", "q_halt", "--q_halt_threshold", "1")
    assert config_of(low, stored, SUDOKU).q_halt_threshold == 1
    assert config_of(adaptive, SolveConfig(), None).q_halt_threshold == 4.0
    assert not config_of(parse_options("adaptive", "--no-symmetries"), stored, SUDOKU).symmetries
    assert "the verifier took part" in describe(by_rules)
    assert "the verifier took no part" in describe(by_q)
    with pytest.raises(ValueError, match="--q_halt_threshold is the threshold of --early_exit q_halt and"):
        config_of(parse_options("adaptive", "--q_halt_threshold", "1"), stored, SUDOKU)


def test_evaluate_scores_what_solve_does(capsys, checkpoint, model, boards, tmp_path):
    file, scores = write_csv(tmp_path / "test.csv", *boards), tmp_path / "scores.json"
    words = ("evaluate", "--checkpoint", checkpoint, "--data", file, "--device", "cpu", "--output", scores)
    options = ("--rollouts", "3", "--noise", "0.8", "--max_segments", "4", "--dtype", "float32")
    status, out, err = run_command(capsys, *words, *options)
    assert status == 0, err
    found = json.loads(scores.read_text())
    ids, labels = (torch.from_numpy(SUDOKU.parse_all(texts)).long() for texts in boards)
    ours = solve(load_model(checkpoint), ids, SolveConfig(rollouts=3, noise=0.8, max_segments=4))
    right = [[torch.equal(each.answer, label) for each in rollouts]
             for rollouts, label in zip(ours.rollouts, labels, strict=True)]  # fmt: skip
    assert found["exact"] == (ours.sequences == labels).all(1).double().mean().item()
    assert found["pass_at_k"] == np.mean([any(each) for each in right])
    assert (found["mean_calls"], found["verified"]) == (12.0, False)
    assert "the verifier took no part" in out
    _, plain, _ = run_command(capsys, *words)
    assert "exact accuracy by segment" in plain
    shallow = load_model(checkpoint)
    shallow.solve_config = SolveConfig(max_segments=2)
    shallow.save_pretrained(tmp_path / "shallow")
    status, out, err = run_command(
        capsys, "evaluate", "--checkpoint", tmp_path / "shallow", *words[3:], "--mode", "calibrated"
    )
    assert status == 0, err
    assert json.loads(scores.read_text())["num_segments"] == 2


def test_no_result_file_for_no_boards(capsys, checkpoint, tmp_path):
    file = write_csv(tmp_path / "none.csv", [])
    status, _, err = run_command(capsys, "solve", file, "--model", checkpoint, "--device", "cpu")
    assert (status, "holds no boards" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["none.csv"]


def test_calibrate_stores_its_choice_and_its_curve(capsys, checkpoint, boards, tmp_path):
    rows = [
        (question, answer)
        for question, answer in zip(*(SUDOKU.format_all(each) for each in make_puzzles(50, 3, 0.6)), strict=True)
    ]
    file = write_csv(tmp_path / "p.csv", *map(list, zip(*rows, strict=True)))
    words = ("calibrate", "--model", checkpoint, "--data", file, "--output", tmp_path / "choice")
    status, out, err = run_command(capsys, *words)
    assert status == 0, err
    stored = json.loads((tmp_path / "choice" / SOLVE_CONFIG).read_text())
    assert stored["early_exit"] == "q_halt"
    assert stored["calibration"]["exact"] >= stored["calibration"]["exact_all_segments"]
    assert stored["calibration"]["mean_segments"] <= 8
    assert (tmp_path / "choice" / "images" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert f"q_halt > {stored['q_halt_threshold']:.2f}" in out
    segments = solve(load_model(checkpoint), torch.from_numpy(SUDOKU.parse_all([row[0] for row in rows])).long(),
                     return_trajectory=True).rollouts  # fmt: skip
    wrong = [score for each, (_, answer) in zip(segments, rows, strict=True)
             for board, score in each[0].history if SUDOKU.format(board.numpy()) != answer]  # fmt: skip
    assert wrong
    assert all(score <= stored["trusted_q_halt"] for score in wrong)
    noisy = load_model(checkpoint)
    noisy.solve_config = SolveConfig(max_segments=8, noise=2.0, noise_every="cycle", plain_first=True)
    noisy.save_pretrained(tmp_path / "noisy")
    status, _, err = run_command(capsys, "calibrate", "--model", tmp_path / "noisy", "--data", file)
    assert status == 0, err
    again = json.loads((tmp_path / "noisy" / SOLVE_CONFIG).read_text())
    assert again == stored | {"max_segments": 8, "noise": 2.0, "noise_every": "cycle", "plain_first": True}
    noisy.solve_config = SolveConfig(rollouts=3, noise=1.0, noise_on="both", symmetries=True)
    noisy.save_pretrained(tmp_path / "noisy")
    status, _, err = run_command(capsys, "calibrate", "--model", tmp_path / "noisy", "--data", file)
    assert status == 0, err
    kept = SolveConfig.load(tmp_path / "noisy")
    assert (kept.rollouts, kept.noise, kept.noise_on, kept.symmetries) == (3, 1.0, "both", True)
    assert (kept.early_exit, kept.plain_first) == ("q_halt", True)  # what was measured was the plain rollout
    status, _, err = run_command(capsys, *words, "--tolerance", "2")
    assert (status, "--tolerance: 2.0 is no share of 1" in err) == (2, True)
    status, _, err = run_command(capsys, *words[:-1], file)
    assert (status, f"{file} is a file; expected a folder to write" in err) == (2, True)


def test_the_study_of_compute_reads_depths_and_rollouts_off_one_run(checkpoint, tmp_path):
    texts = [list(map(SUDOKU.format, boards)) for boards in make_puzzles(12, 4)]
    file = write_csv(tmp_path / "p.csv", *texts)
    script = Path(__file__).parents[1] / "benchmarks" / "test_time.py"
    words = ["--model", checkpoint, "--data", f"few={file}", "--limit", "12", "--rollouts", "2", "--segments", "3"]
    command = [sys.executable, script, *words, "--depth", "9", "--budget", "16", "--output", tmp_path / "study"]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    found = json.loads((tmp_path / "study" / "results.json").read_text())["sets"]["few"]
    rows = {row["method"]: row for row in found["rows"]}
    single = load_model(checkpoint)
    questions, labels = (torch.from_numpy(SUDOKU.parse_all(each)).long() for each in texts)
    for depth in (4, 8, 9):
        last = [plain_segments(single, question, depth)[-1][0] for question in questions]
        right = [torch.equal(answer.view(-1), label) for answer, label in zip(last, labels, strict=True)]
        assert rows[f"plain, {depth} segments"]["exact"] == np.mean(right)
    noisy = solve(single, questions, SolveConfig(rollouts=2, noise=0.3, max_segments=3))
    assert rows["2 rollouts, σ 0.3, by q_halt"]["exact"] == (noisy.sequences == labels).all(1).double().mean().item()
    assert {"table.md", "figure.png"} <= {path.name for path in (tmp_path / "study").iterdir()}
    for change, said in ((("--seed", "1"), "has 'few' with"), (("--model", "sudoku-4x4"), "is of {'model': ")):
        done = subprocess.run([*command, *change], capture_output=True, text=True, timeout=300)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr  # not added to the same file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--mode", "plain", "--max_segments", "1"], "out.csv was begun with max_segments None, and this is 1 (by "),
        (["--noise", "0.5"], "out.csv was begun with noise 0.3, and this is 0.5 (by "),
        (["--dtype", "bfloat16"], "out.csv was begun with dtype 'float64', and this is 'bfloat16' (by "),
    ],
)
def test_results_of_another_way_of_solving_are_not_mixed(capsys, checkpoint, boards, tmp_path, change, said):
    file, output = write_csv(tmp_path / "boards.csv", boards[0][:3], boards[1][:3]), tmp_path / "out.csv"
    words = ["solve", file, "--model", checkpoint, "--budget", "8", "--output", output]
    run_command(capsys, *words)
    before = output.read_bytes()
    status, _, error = run_command(capsys, *words, *change)
    assert (status, output.read_bytes()) == (2, before)
    assert said in error
    assert json.loads((tmp_path / "out.csv.how.json").read_text())["solve"]["budget"] == 8
    (tmp_path / "out.csv.how.json").unlink()
    assert "it is not recorded how the rows" in run_command(capsys, *words)[2]


def test_an_engine_begins_anew_after_a_run_that_was_broken_off(model, ids):
    engine = make_engine(model, SolveConfig(max_segments=2), batch_size=2)
    next(engine.run([Question(question) for question in ids[:4]]))  # and no further
    found = list(engine.run([Question(question) for question in ids[4:8]]))
    assert sorted(answer.index for answer in found) == [0, 1, 2, 3]
    expected = model.solve(ids[4:8], max_segments=2).sequences
    assert all(torch.equal(answer.sequence, expected[answer.index]) for answer in found)


def test_rollouts_that_would_be_alike_are_said(model, ids):
    with pytest.warns(UserWarning, match="all 3 rollouts of a puzzle will be alike: noise is 0"):
        model.solve(ids[:1], rollouts=3)
    with warnings.catch_warnings(action="error"):
        for options in ({"noise": 0.1}, {"start": "random"}, {"rollouts": 1}):
            model.solve(ids[:1], **({"rollouts": 3} | options))


def test_a_budget_lets_rollouts_be_twice_as_deep(model):
    own = model.config.max_segments
    assert make_engine(model, SolveConfig()).max_segments == own
    assert make_engine(model, SolveConfig(budget=4 * own)).max_segments == 2 * own
    assert make_engine(model, SolveConfig(budget=4 * own, max_segments=3)).max_segments == 3


def test_the_plain_rollout_runs_alone_and_first(model, ids):
    """So a board that it solves costs nothing else."""
    config = SolveConfig(rollouts=4, noise=0.5, plain_first=True, early_exit="verifier", max_segments=8)
    found = solve(model, ids, config)
    plain = solve(model, ids, SolveConfig(early_exit="verifier", max_segments=8))
    assert plain.accepted.any()
    assert torch.equal(found.num_calls[plain.accepted], plain.num_calls[plain.accepted])
    assert (found.num_calls[~plain.accepted] > plain.num_calls[~plain.accepted]).all()


def test_a_report_counts_what_was_solved(model):
    questions, answers = make_puzzles(40, 1)
    config = SolveConfig(rollouts=2, noise=0.1, plain_first=True, early_exit="verifier", max_segments=2)
    found = solve(model, torch.from_numpy(questions).long(), config)
    scores = evaluate_solving(model, PuzzleSet(SUDOKU, questions, answers, "made"), config)
    assert 0 < scores.accepted < 1
    assert scores.accepted == pytest.approx(found.accepted.double().mean().item())
    assert scores.mean_segments == pytest.approx(found.num_segments.double().mean().item())
    assert scores.mean_calls == pytest.approx(found.num_calls.double().mean().item())
    assert scores.mean_rollouts == pytest.approx(np.mean([len(rollouts) for rollouts in found.rollouts]))
    assert len({scores.mean_segments, scores.mean_calls, scores.mean_rollouts}) == 3


def test_nothing_unfinished_is_left_by_a_save_that_fails(model, tmp_path, monkeypatch):
    model = copy.deepcopy(model)
    model.solve_config = SolveConfig(max_segments=3)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_what_is_asked_for_goes_before_the_checkpoints_plan(model, ids, tmp_path):
    model = copy.deepcopy(model)
    model.solve_config = SolveConfig(max_segments=3, noise=0.5, plain_first=True)
    model.save_pretrained(tmp_path)
    model = AIRForPuzzleSolving.from_pretrained(tmp_path)
    plain = model.solve(ids)
    assert plain.num_segments.unique().tolist() == [3]
    assert torch.equal(plain.q_halt_logits, model.solve(ids, seed=1).q_halt_logits)
    for options in ({"noise": 0.5}, {"start": "random"}):
        found = model.solve(ids, **options)
        assert not torch.equal(found.q_halt_logits, plain.q_halt_logits), options
        assert not torch.equal(found.q_halt_logits, model.solve(ids, seed=1, **options).q_halt_logits), options
        assert torch.equal(model.solve(ids, plain_first=True, **options).q_halt_logits, plain.q_halt_logits)
    for other in (AIRForPuzzleSolving.from_pretrained(tmp_path, max_segments=2), load_model(tmp_path, max_segments=2)):
        assert other.solve(ids).num_segments.unique().tolist() == [2]
    for segments in np.array([2]):
        assert len(list(model.unroll(ids, max_segments=segments))) == 2


def test_a_board_without_labels_is_neither_right_nor_wrong(model):
    questions, answers = make_puzzles(40, 1)
    config = SolveConfig(max_segments=1)
    puzzles = PuzzleSet(SUDOKU, questions, answers, "made")
    sequences = solve(model, torch.from_numpy(questions).long(), config).sequences.numpy()
    wrong = np.flatnonzero((sequences != answers).any(1))
    assert 0 < len(wrong) < 40
    answers[wrong[0]] = 0
    scores = evaluate_solving(model, puzzles, config)
    assert scores.exact == scores.pass_at_k == pytest.approx((40 - len(wrong)) / 39)
    assert run_segments(model, puzzles, 1).exact[-1].mean() == pytest.approx((40 - len(wrong)) / 39)
    answers[:] = 0
    with pytest.raises(ValueError, match="none of the 40 boards has a label"):
        evaluate_solving(model, puzzles, config)


def test_a_vocabulary_that_is_not_the_puzzles(model, checkpoint, boards, tmp_path, capsys):
    other = AIRForPuzzleSolving(variant_config("Lx_H", **(CONFIG | {"vocab_size": 11})))
    other.save_pretrained(tmp_path / "other")
    build_tokenizer(SUDOKU).save_pretrained(tmp_path / "other")
    file = write_csv(tmp_path / "boards.csv", *boards)
    for words in (("solve", boards[0][0]), ("solve", file), ("calibrate", "--data", file)):
        status, _, error = run_command(capsys, *words, "--model", tmp_path / "other")
        assert (status, "11" in error) == (2, True), error
    assert not (tmp_path / "other" / SOLVE_CONFIG).exists()


def test_calibration_refuses_a_stored_budget_before_it_runs(checkpoint, boards, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / SOLVE_CONFIG).write_text('{"budget": 64}')
    file = write_csv(tmp_path / "boards.csv", *boards)
    words = ("calibrate", "--model", tmp_path / "model", "--data", file)
    with mock.patch.object(calibrate_command, "run_segments", side_effect=AssertionError("it ran")):
        status, _, error = run_command(capsys, *words, "--max_segments", "100")
    assert (status, "budget is 64" in error) == (2, True)
    assert run_command(capsys, *words)[0] == 0
    chosen = json.loads((tmp_path / "model" / SOLVE_CONFIG).read_text())
    assert chosen["max_segments"] == load_model(checkpoint).config.max_segments  # as measured, not twice as many


def test_scores_of_another_way_say_how(model, checkpoint, boards, tmp_path, capsys):
    file, scores = write_csv(tmp_path / "boards.csv", *boards), tmp_path / "scores.json"
    words = (
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--data",
        file,
        "--rollouts",
        "2",
        "--noise",
        "0.5",
        "--output",
        scores,
    )
    assert run_command(capsys, *words)[0] == 0
    record = json.loads(scores.read_text())
    assert (record["solve"]["rollouts"], record["solve"]["noise"], record["solve"]["seed"]) == (2, 0.5, 0)
    assert (record["puzzle"], record["precision"]) == ("sudoku-4x4", "float32")


def test_the_verifiers_choice_does_not_depend_on_the_batch(model, boards):
    """A rollout whose answer did not change, alone in its batch, counts by what the rules say, not by q_halt."""
    ids = torch.from_numpy(SUDOKU.parse_all(boards[0][:8])).long()
    config = SolveConfig(rollouts=4, noise=1.0, start="random", select="verifier", max_segments=8, rollouts_at_once=1)
    one, many = (solve(model, ids, config, batch_size=size) for size in (1, 16))
    assert torch.equal(one.sequences, many.sequences)
    for found in (one, many):
        assert {rollout.score for rollouts in found.rollouts for rollout in rollouts} <= {0.0, 1.0}


def test_a_grid_without_rules_is_answered_not_solved(capsys, make_model, tmp_path):
    folder = tmp_path / "grid"
    make_model(puzzle="grid-2x2", puzzle_options={"symbols": "abc"}, vocab_size=4, seq_len=4).save_pretrained(folder)
    build_tokenizer(get_puzzle("grid-2x2", symbols="abc")).save_pretrained(folder)
    status, out, _ = run_command(capsys, "solve", "abca", "--model", folder)
    assert (status, out.split("   ")[0]) == (0, "answered, which no rules can check")
    file = write_csv(tmp_path / "boards.csv", ["abca", "ab"], ["abca", "abca"])
    assert (
        "2 boards answered, which no rules can check, 1 no valid question (the first: "
        in run_command(capsys, "solve", file, "--model", folder)[1]
    )


def test_outputs_that_stand_in_the_way(capsys, checkpoint, boards, tmp_path):
    file = write_csv(tmp_path / "boards.csv", boards[0][:2], boards[1][:2])
    words = ["solve", file, "--model", checkpoint, "--budget", "8", "--output"]
    (tmp_path / "foreign.parquet").write_bytes(b"mine")
    for output, said in ((tmp_path / "foreign.parquet", "foreign.parquet exists; remove it, or choose another"),
                         (tmp_path / "no" / "where.csv", "but there is no folder")):  # fmt: skip
        status, _, error = run_command(capsys, *words, output)
        assert status == 2
        assert said in error
    assert (tmp_path / "foreign.parquet").read_bytes() == b"mine"
    assert "budget is 0" in run_command(capsys, *words, tmp_path / "a.csv", "--budget", "0")[2]
    assert "no solve_config.json" in run_command(capsys, *words, tmp_path / "a.csv", "--mode", "calibrated")[2]
