"""The figures of `air-hf analyze`: what they show, read off matplotlib's own objects."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.analysis.study import Study, run_study
from air_hf.analysis.tracing import trace
from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.puzzles import get_puzzle

figures = pytest.importorskip("air_hf.analysis.figures", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def puzzles() -> PuzzleSet:
    puzzle = get_puzzle("sudoku-4x4")
    return PuzzleSet(puzzle, *make_generator(puzzle).draw(6, np.random.default_rng(0)), "generated")


@pytest.fixture(scope="module")
def study(puzzles) -> Study:
    torch.manual_seed(0)
    config = variant_config(
        "Lx_H", vocab_size=6, seq_len=16, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, h_cycles=1,
        l_cycles=2, max_segments=3, puzzle="sudoku-4x4",
    )  # fmt: skip
    model = AIRForPuzzleSolving(config).eval()
    return run_study(model, puzzles, {"puzzle": "sudoku-4x4"}, ("roles", "freeze", "probe", "geometry"))


def with_roles(study: Study, **arrays) -> Study:
    """The study with other numbers of both states' roles."""
    roles = {level: replace(found, **arrays) for level, found in study.roles.roles.items()}
    return replace(study, roles=replace(study.roles, roles=roles))


def test_the_board_shown_is_one_that_ends_exact(study):
    exact = np.zeros_like(study.roles.roles["H"].exact)
    accuracy = np.ones_like(exact)  # on the path: that of every board is right, the walls of a maze need not be
    none = figures.telling_puzzle(with_roles(study, exact=exact, accuracy=accuracy * np.arange(6) / 6))
    assert none == 5
    exact[:, 4] = 1
    assert figures.telling_puzzle(with_roles(study, exact=exact, accuracy=accuracy)) == 4
    exact[-1, 2] = 1  # after more segments
    assert figures.telling_puzzle(with_roles(study, exact=exact, accuracy=accuracy)) == 2
    exact[-1, 3] = 1  # after as many, and it changes more
    changes = np.zeros_like(study.roles.roles["H"].content_changes)
    changes[-1, 3] = 1
    found = with_roles(study, exact=exact, accuracy=accuracy, content_changes=changes, mask_flips=0 * changes)
    assert figures.telling_puzzle(found) == 3


def test_axes_of_shares_and_counts_begin_at_0_and_show_both_states(study):
    nothing = np.zeros_like(study.roles.roles["H"].held_back)
    held_back = figures.draw_roles(with_roles(study, held_back=nothing)).axes[1]
    assert held_back.get_ylim() == (0, 1)
    wide, thin = held_back.lines
    assert wide.get_linewidth() > 2 * thin.get_linewidth()  # they coincide
    assert figures.draw_freeze(study).axes[0].get_ylim()[0] == 0


def test_changes_are_drawn_without_the_jump_from_the_initial_state(study):
    axes = figures.draw_roles(study).axes[2]
    assert "without the first write" in axes.get_ylabel()
    for level, line in zip("HL", axes.lines, strict=True):
        writes, roles = study.roles.trace.writes(level), study.roles.roles[level]
        moved = (roles.content_changes + roles.mask_flips).mean(1)
        np.testing.assert_allclose(line.get_ydata(), [moved[at - 1] for at in writes[1:]])


def test_segments_are_counted_from_0(study):
    for axes in (figures.draw_roles(study).axes[0], figures.draw_probe(study).axes[0]):
        assert axes.get_xlabel() == "after segment"
        assert axes.lines[0].get_xdata()[-1] == 2


@pytest.mark.parametrize("draw", ["draw_roles", "draw_segments", "draw_freeze", "draw_probe", "draw_trajectories"])
def test_no_legend_covers_data(study, draw):
    figure = getattr(figures, draw)(study)
    figure.canvas.draw()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_each_state_has_its_own_components(study):
    panels = [axes for axes in figures.draw_trajectories(study).axes if "component 1" in axes.get_xlabel()]
    assert len(panels) == 8
    for level, axes in (("H", panels[0]), ("L", panels[4])):
        first, second = 100 * study.geometry.explained[level][0]
        assert f"({first:.0f} %)" in axes.get_xlabel()
        assert f"({second:.0f} %)" in axes.get_ylabel()
        np.testing.assert_allclose(axes.lines[0].get_xydata(), study.geometry.path[level][:, 0])


def test_digits_are_light_on_dark_cells_and_frames_have_the_states_colour(puzzles, monkeypatch):
    question, answer = puzzles.questions[0], puzzles.answers[0]
    cells, given = np.arange(16), np.flatnonzero(question == answer)
    shares = torch.zeros(1, 1, 2, 16, 16)
    shares[..., given[0]] = 1  # everything looks at one given digit
    monkeypatch.setattr(figures, "attention_maps", lambda *args, **options: shares)
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=1))
    figure = figures.draw_attention_example(model, puzzles.puzzle, question, answer, 2)
    for level, axes in zip("LH", figure.axes, strict=False):
        colors = {
            int(text.get_position()[1]) * 4 + int(text.get_position()[0]): text.get_color() for text in axes.texts
        }
        assert colors == {cell: "white" if cell == given[0] else "black" for cell in cells if cell in given}
        assert figures.COLORS[level].lower() == figures.matplotlib.colors.to_hex(axes.patches[-1].get_edgecolor())


def test_where_a_cell_looks_in_a_board_in_which_nothing_changes(monkeypatch):
    """As in a maze whose ends touch."""
    puzzle = get_puzzle("maze-4x4")
    board = puzzle.parse("SG  ####  ##  ##")
    monkeypatch.setattr(figures, "attention_maps", lambda *args, **options: torch.full((1, 1, 1, 16, 16), 1 / 16))
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=1))
    assert len(figures.draw_attention_example(model, puzzle, board, board, 2).axes) == 3


def test_pictures_are_of_the_puzzles_own_prefix(make_model, puzzles, tmp_path, monkeypatch):
    model = make_model(h_cycles=1, l_cycles=1, max_segments=2, num_puzzle_ids=8)
    torch.nn.init.normal_(model.model.prefix.weight, std=3)
    puzzles = replace(puzzles, puzzle_ids=np.arange(2, 8))
    study = run_study(model, puzzles, {"puzzle": "sudoku-4x4"}, ("attention",))
    seen, maps, drawn = [], figures.attention_maps, figures.draw_boards
    monkeypatch.setattr(figures, "animate_states", lambda *args: args[-1])
    monkeypatch.setattr(figures, "draw_boards", lambda *args: seen.append(args[-1]) or drawn(*args))
    monkeypatch.setattr(
        figures, "attention_maps", lambda *args, **options: seen.append(options["puzzle_ids"]) or maps(*args, **options)
    )
    figures.draw_study(model, puzzles, study, tmp_path, board=3)
    ids = torch.from_numpy(puzzles.questions[[3]]).long()
    ours, anothers = (trace(model, ids, torch.tensor([row]), max_segments=2).q_halt for row in (5, 0))
    torch.testing.assert_close(seen[0].q_halt, ours)
    assert not torch.allclose(seen[0].q_halt, anothers)
    assert [int(row) for row in seen[1:]] == [5, 5]
