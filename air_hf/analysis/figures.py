"""Pictures of analyses in one style; matplotlib is an optional dependency (`pip install air-hf[demo]`).

z_H is blue and z_L orange throughout, which the colour-blind tell apart; a wrong cell is tinted, a held-back cell
hatched, so that no picture of a board needs colour to be read.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from air_hf.analysis.attention import attention_maps
from air_hf.analysis.dynamics import MODES, solution_modes
from air_hf.analysis.roles import puzzle_ids_of
from air_hf.analysis.statistics import Z_95
from air_hf.analysis.study import Study
from air_hf.analysis.tracing import Trace, trace
from air_hf.data import PuzzleSet
from air_hf.evaluation import first_halt
from air_hf.files import atomic_file
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import Puzzle
from air_hf.puzzles.base import PADDING

COLORS = {"H": "#0072B2", "L": "#D55E00", "control": "#009E73", "adjacent": "#CC79A7"}
NAMES = {"H": "$z_H$", "L": "$z_L$"}
_GREY = "#767676"
_WIDTHS = {"H": 3.2, "L": 1.4}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.hashsalt": "air-hf",
    "figure.constrained_layout.use": True,
}
_KINDS = ("png", "svg")
_BOARDS_IN_GRID = 8
_SHADE = 0.75  # opacity of attention over a board
_GIF_SECONDS = 0.5  # of a frame


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that no window and no global state knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int = 120) -> Path:
    """Writes a figure, whole or not at all, in the format that the name ends in: .png or .svg."""
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path} is no picture; expected a name that ends in .png or .svg")
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return path


def draw_study(
    model: AIRForPuzzleSolving, puzzles: PuzzleSet, study: Study, folder: Path, board: int | None = None
) -> list[Path]:
    """Every figure of a study.

    Args:
        model ([`AIRForPuzzleSolving`]), puzzles ([`PuzzleSet`]), study ([`Study`]): what was studied.
        folder (`Path`): where the files go.
        board (`int`, *optional*): row of the puzzle in the pictures of boards; a telling one if None.

    Returns:
        the files.

    Raises:
        ValueError: a row that the puzzles do not have.
    """
    index = telling_puzzle(study) if board is None else board
    if not 0 <= index < len(puzzles):
        raise ValueError(f"board is {index}; the puzzles studied are 0 to {len(puzzles) - 1}")
    question, answer = puzzles.questions[index], puzzles.answers[index]
    segments = study.facts["segments"]
    puzzle_ids = puzzle_ids_of(puzzles, slice(index, index + 1))
    one = trace(model, torch.from_numpy(question[None]).long(), puzzle_ids, max_segments=segments)
    drawings: dict[str, Callable[[], Figure]] = {
        "boards": lambda: draw_boards(puzzles.puzzle, question, answer, one),
        "roles": lambda: draw_roles(study),
        "segments": lambda: draw_segments(study),
    }
    if study.frozen:
        drawings["freeze"] = lambda: draw_freeze(study)
    if study.contrasts is not None:
        drawings["attention"] = lambda: draw_contrasts(study)
        drawings["attention-example"] = lambda: draw_attention_example(
            model, puzzles.puzzle, question, answer, segments, puzzle_ids
        )
    if study.probe is not None:
        drawings["probe"] = lambda: draw_probe(study)
    if study.geometry is not None:
        drawings["trajectories"] = lambda: draw_trajectories(study)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            figure = draw()
            written += [save(figure, folder / f"{name}.{kind}") for kind in _KINDS]
        written.append(animate_states(puzzles.puzzle, question, answer, one, folder / "states.gif"))
    return written


def telling_puzzle(study: Study) -> int:
    """The puzzle that is right at the end and took the most segments; where none is, the one with the fewest errors.

    Right is the whole board: in a maze every open cell may be, and a wall not. Ties go to the states that change most.
    """
    ends = study.roles.trace.segment_ends
    exact, right = study.roles.roles["H"].exact[ends], study.roles.roles["H"].accuracy[-1]
    changes = sum(later_changes(study, level).sum(0) for level in "HL")
    return int(np.lexsort((-changes, -(exact == 0).sum(0), 1 - right, exact[-1] == 0))[0])


def later_changes(study: Study, level: str) -> np.ndarray:
    """Cells that decode to another symbol at each write of a level but the first (writes - 1, B).

    The first leaves the board that the initial state decodes to, the same for every cell, and says nothing.
    """
    roles, writes = study.roles.roles[level], np.array(study.roles.trace.writes(level)[1:], dtype=int)
    return (roles.content_changes + roles.mask_flips)[writes - 1]


def draw_board(axes, puzzle: Puzzle, board: np.ndarray, question: np.ndarray, answer: np.ndarray | None = None) -> None:
    """A board (S,) as its family draws it; cells that differ from the answer tinted, those held back hatched."""
    axes.grid(False)
    puzzle.draw_picture(axes, board, question, answer)
    if answer is None:
        return
    left, top = min(axes.get_xlim()), min(axes.get_ylim())
    for cell in np.flatnonzero(board != answer):
        held = board[cell] == puzzle.held_back
        corner = (left + cell % puzzle.columns, top + cell // puzzle.columns)
        face = "none" if held else COLORS["L"]
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=face, alpha=0.35, edgecolor=_GREY if held else "none", linewidth=0,
                      hatch="////" if held else None, zorder=0.5)
        )  # fmt: skip


def draw_boards(puzzle: Puzzle, question: np.ndarray, answer: np.ndarray, t: Trace, puzzle_index: int = 0) -> Figure:
    """The question, what both states decode to after up to eight segments, and the solution.

    Args:
        puzzle ([`Puzzle`]): the board's family.
        question, answer (arrays of shape `(S,)`): symbol ids.
        t ([`Trace`]): of a batch that holds the puzzle at `puzzle_index`, with "symbols" and "q_halt".
    """
    ends = t.segment_ends
    shown = sorted(set(np.linspace(0, len(ends) - 1, min(_BOARDS_IN_GRID, len(ends))).round().astype(int)))
    figure = new_figure(1.75 * (len(shown) + 2), 4.5)
    axes = figure.subplots(2, len(shown) + 2, squeeze=False)
    for row, level in enumerate("HL"):
        draw_board(axes[row, 0], puzzle, question, question)
        draw_board(axes[row, -1], puzzle, answer, question)
        axes[row, 0].set_ylabel(NAMES[level], rotation=0, fontsize=17, labelpad=16, va="center", color=COLORS[level])
        for column, segment in enumerate(shown, start=1):
            board = t.symbols(level)[ends[segment], puzzle_index].numpy()
            draw_board(axes[row, column], puzzle, board, question, answer)
            axes[row, column].set_xlabel("\n".join(_verdict(board, answer, puzzle)))
    for column, segment in enumerate(shown, start=1):
        q_halt = float(t.q_halt[ends[segment], puzzle_index])
        axes[0, column].set_title(f"segment {segment}\n$q_{{halt}}$ ${q_halt:+.1f}$")
    axes[0, 0].set_title("question")
    axes[0, -1].set_title("solution")
    return figure


def _verdict(board: np.ndarray, answer: np.ndarray, puzzle: Puzzle) -> list[str]:
    held = int(((board != answer) & (board == puzzle.held_back)).sum())
    wrong = int((board != answer).sum()) - held
    said = ([f"{wrong} wrong"] if wrong else []) + ([f"{held} held back"] if held else [])
    return said or ["solved"]


def animate_states(puzzle: Puzzle, question: np.ndarray, answer: np.ndarray, t: Trace, path: Path) -> Path:
    """An animated GIF of what both states decode to after every update, with the cells that are right below.

    Frames after which neither board changes any more are left out, but for the last.
    """
    boards = {level: t.symbols(level)[:, 0].numpy() for level in "HL"}
    still = np.all([(boards[level] == boards[level][-1]).all(1) for level in "HL"], axis=0)
    last = len(still) - int(np.cumprod(still[::-1]).sum())
    frames = list(range(min(last + 1, len(still))))
    figure = new_figure(6.4, 4.5)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    open_cells = puzzle.undecided(question) & (answer != PADDING)
    share = {level: (boards[level] == answer)[:, open_cells].mean(1) * 100 for level in "HL"}

    def draw(frame: int) -> None:
        moment = t.moments[frame]
        for level in "HL":
            axes = grid[level]
            axes.clear()
            board = boards[level][frame]
            draw_board(axes, puzzle, board, question, answer)
            verdict = ", ".join(_verdict(board, answer, puzzle))
            axes.set_title(f"{NAMES[level]}   {verdict}", color=COLORS[level], fontsize=13)
        axes = grid["c"]
        axes.clear()
        for level in "HL":
            line = axes.plot(range(frame + 1), share[level][: frame + 1], color=COLORS[level], marker="o", markersize=3)
            line[0].set_clip_on(False)
        axes.set(xlim=(-0.3, len(frames) - 0.7), ylim=(-4, 104), xticks=[], yticks=[0, 50, 100])
        axes.set_ylabel("open cells\nright, %", fontsize=9)
        axes.set_xlabel(f"segment {moment.segment}, update {moment.level}{moment.index}", fontsize=11)

    with matplotlib.rc_context(STYLE), TemporaryDirectory() as folder, atomic_file(path) as unfinished:
        grid = figure.subplot_mosaic("HL;cc", height_ratios=(4.2, 1))
        order = [*frames, *[frames[-1]] * 4]  # rests on the end before it begins again
        animation = FuncAnimation(figure, draw, frames=order, interval=1000 * _GIF_SECONDS)
        drawn = Path(folder, "drawn.gif")  # the writer knows the format by its ending
        animation.save(drawn, writer=PillowWriter(fps=1 / _GIF_SECONDS), dpi=110)
        shutil.copyfile(drawn, unfinished)
    return path


def _segment_axis(axes, count: int, per_segment: int) -> np.ndarray:
    """Positions of `count` updates on a labelled axis, on which a segment, counted from 0, ends at its number."""
    first, last = 1 / per_segment - 1, count / per_segment - 1
    margin = min(0.5 / per_segment, 0.03 * (last - first + 1))
    axes.set(xlabel="after segment", xlim=(first - margin, last + margin))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return (np.arange(count) + 1) / per_segment - 1


def _line(axes, x: np.ndarray, y: np.ndarray, level: str, label: str | None = None, style: str = "-") -> None:
    """A line of a state; z_L's is thin above the wide one of z_H, so that both show where they coincide, at 0 too."""
    (line,) = axes.plot(x, y, style, color=COLORS[level], label=label or NAMES[level], clip_on=False, zorder=3)
    line.set(linewidth=_WIDTHS[level], marker="o" if len(x) == 1 else "", markersize=3 * _WIDTHS[level])


def _curve(
    axes, x: np.ndarray, values: np.ndarray, level: str, label: str | None = None, style: str = "-", top: float = np.inf
) -> None:
    """Mean over puzzles (U, B) with the 95 % interval, which no value above `top` can be in."""
    values = values[:, ~np.isnan(values).any(0)]  # a board without an open cell has no share of them
    mean, half = values.mean(1), Z_95 * values.std(1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else 0
    _line(axes, x, mean, level, label, style)
    axes.fill_between(x, mean - half, np.minimum(mean + half, top), color=COLORS[level], alpha=0.18, linewidth=0)


def _legend_below(place, *sources) -> None:
    """What axes label, each once, below all that is drawn: of a figure, or of axes if `place` is some."""
    found = {}
    for axes in sources:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if isinstance(place, Figure):
        place.legend(found.values(), found.keys(), ncols=max(len(found), 1), loc="outside lower center")
    else:
        place.legend(found.values(), found.keys(), ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def draw_roles(study: Study) -> Figure:
    """Four curves over the updates: cells right, cells held back, cells that change, and how far the states move."""
    figure = new_figure(10, 6.3)
    axes = figure.subplots(2, 2)
    t = study.roles.trace
    per_segment = study.facts["updates"] // study.facts["segments"]
    for place, title, unit in (
        (axes[0, 0], "Right among the open cells", "%"),
        (axes[0, 1], "Held back among the open cells", "%"),
        (axes[1, 0], "Cells that decode to another symbol than before", "cells an update,\nwithout the first write"),
        (axes[1, 1], "Relative change of the state", "‖z − z′‖ / ‖z′‖"),
    ):
        place.set(title=title, ylabel=unit)
        x = _segment_axis(place, len(t.moments), per_segment)
    for level, roles in study.roles.roles.items():
        at = np.array(t.writes(level))
        for place, values in ((axes[0, 0], roles.accuracy), (axes[0, 1], roles.held_back)):
            _curve(place, x[at[0] :], 100 * values[at[0] :], level, top=100)
        _curve(axes[1, 0], x[at[1:]], later_changes(study, level).astype(float), level)
        _curve(axes[1, 1], x[at], t.change[at].numpy(), level)
    axes[0, 0].set_ylim(0, 103)
    for place in (axes[0, 1], axes[1, 0]):
        place.set_ylim(0, max(1, place.get_ylim()[1]))  # where all is 0, matplotlib's own range is around it
    axes[1, 1].set_yscale("log")
    _legend_below(figure, axes[0, 0])
    return figure


def draw_segments(study: Study) -> Figure:
    """Accuracy by segment, when the model would halt, and how puzzles are solved."""
    figure = new_figure(11, 3.7)
    left, middle, right = figure.subplots(1, 3)
    ends, halts = study.roles.trace.segment_ends, study.roles.trace.halts.numpy()
    numbers = np.arange(len(ends))
    for level in "HL":
        _curve(left, numbers, 100 * study.roles.roles[level].exact[ends], level, top=100)
    left.set(title="Boards that are right", xlabel="after segment", ylabel="%", ylim=(0, 103))
    halted_at, some = first_halt(halts)
    middle.bar(numbers, np.bincount(halted_at, minlength=len(ends)), color=COLORS["H"])
    never = int((~some).sum())
    middle.set(title=f"First wish to halt (never: {never})", xlabel="after segment", ylabel="puzzles")
    counts = np.bincount(solution_modes(study.roles), minlength=len(MODES))
    bars = right.barh(MODES, counts, color=_GREY)
    right.bar_label(bars, padding=3)
    right.invert_yaxis()
    right.set(title="How puzzles are solved", xlabel="puzzles")
    right.set_xlim(right=max(counts) * 1.15)
    right.grid(False, axis="y")
    for axes in (left, middle):
        axes.set_xlim(-0.5, len(ends) - 0.5)
    for axis in (left.xaxis, middle.xaxis, middle.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure, left)
    return figure


def draw_freeze(study: Study) -> Figure:
    """Content changes of both states and accuracy, undisturbed and with a state held."""
    figure = new_figure(9, 3.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    conditions = {"none": study.roles} | study.frozen
    labels = ["undisturbed"]
    for level, condition in study.frozen.items():
        since = f"\nfrom {condition.freeze_from} on" if condition.freeze_from else ""
        labels.append(f"{NAMES[level]} held{since}")
    places = np.arange(len(conditions))
    for shift, level in ((-0.2, "H"), (0.2, "L")):
        totals = [condition.roles[level].total("content_changes") for condition in conditions.values()]
        means = [
            0 if condition.is_still(level) else total.mean
            for total, condition in zip(totals, conditions.values(), strict=True)
        ]
        errors = [0 if mean == 0 else total.interval for mean, total in zip(means, totals, strict=True)]
        bars = left.bar(places + shift, means, 0.38, yerr=errors, capsize=3, color=COLORS[level], label=NAMES[level])
        said = [
            "held" if condition.is_still(level) else f"{mean:.1f}"
            for condition, mean in zip(conditions.values(), means, strict=True)
        ]
        left.bar_label(bars, said, padding=2, fontsize=9)
    left.set(title="Content changes in a rollout", ylabel="cells, mean over puzzles")
    left.margins(y=0.15)
    left.set_ylim(bottom=0)  # an interval that reaches below would lift the bars off the axis
    left.set_xticks(places, labels)
    exact = [100 * condition.roles["H"].final("exact").mean for condition in conditions.values()]
    bars = right.bar(places, exact, 0.6, color=_GREY)
    right.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    right.set(title="Boards solved at the end", ylabel="%", ylim=(0, 112), yticks=(0, 25, 50, 75, 100))
    right.set_xticks(places, labels)
    for axes in (left, right):
        axes.grid(False, axis="x")
    _legend_below(figure, left)
    return figure


def draw_contrasts(study: Study) -> Figure:
    """L − H by layer with 95 % intervals over puzzles, for the first neighbourhood, entropy and violations."""
    found = study.contrasts
    names = {found.names[0]: (f"Mass in the neighbourhood ({found.names[0]}), L − H", "share of attention")}
    names["entropy"] = ("Entropy of attention, H − L", "share of log S, its maximum")
    names["violation"] = ("Mass on violations, L − H", "share of attention")
    figure = new_figure(12, 3.8)
    for axes, (name, (title, unit)) in zip(figure.subplots(1, 3), names.items(), strict=True):
        axes.axhline(0, color=_GREY, linewidth=1)
        for shift, kind in ((-0.08, "control"), (0.08, "adjacent")):
            numbers = [found.summary(layer, kind, name) for layer in found.layers]
            some = [
                (layer + shift, n["mean"], np.nan if n["interval_puzzles"] is None else n["interval_puzzles"])
                for layer, n in zip(found.layers, numbers, strict=True)
                if n["queries"]
            ]
            if some and not (name == "violation" and kind == "control"):
                x, mean, half = zip(*some, strict=True)
                marker = "o" if kind == "control" else "s"
                axes.errorbar(x, mean, half, fmt=marker, color=COLORS[kind], capsize=3, label=f"{kind} queries")
                if unsure := [(at, value) for at, value, interval in some if np.isnan(interval)]:
                    style = {"color": COLORS[kind], "markerfacecolor": "white", "zorder": 5}
                    few = f"{kind}, too few puzzles for an interval"
                    axes.plot(*zip(*unsure, strict=True), marker, label=few, **style)
        axes.set(title=title, xlabel="layer", ylabel=unit, xticks=found.layers)
        axes.set_xlim(found.layers[0] - 0.5, found.layers[-1] + 0.5)
        axes.grid(False, axis="x")
        if not axes.containers:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "no query is next\nto a violation", ha="center", transform=axes.transAxes, color=_GREY)
        axes.margins(y=0.25)
    _legend_below(figure, *figure.axes)
    return figure


def draw_attention_example(
    model: AIRForPuzzleSolving,
    puzzle: Puzzle,
    question: np.ndarray,
    answer: np.ndarray,
    max_segments: int,
    puzzle_ids: torch.LongTensor | None = None,
) -> Figure:
    """Where one open cell looks, in every layer, at the first L- and the first H-update of a middle segment."""
    segment = max_segments // 2
    ids = torch.from_numpy(question[None]).long()
    shares = {}  # of the layers, heads averaged
    open_cells = np.flatnonzero(question != answer)
    if not len(open_cells):  # of a maze whose ends touch, no cell changes
        open_cells = np.flatnonzero(puzzle.undecided(question))
    if not len(open_cells):  # of a board that is complete
        open_cells = np.arange(len(question))
    cell = int(open_cells[len(open_cells) // 2])
    for level in "LH":
        update = f"{segment}.{level}.0"
        maps = attention_maps(model, ids, update, puzzle_ids=puzzle_ids, max_segments=max_segments)[0]
        shares[level] = maps[:, :, cell].mean(1).numpy()
    shades = ScalarMappable(Normalize(0, max(values.max() for values in shares.values())), "viridis_r")
    layers = model.config.num_hidden_layers
    figure = new_figure(2.5 * layers + 1, 5.6)
    grid = figure.subplots(2, layers, squeeze=False)
    for row, level in enumerate("LH"):
        for layer in range(layers):
            axes = grid[row, layer]
            _draw_shares(axes, puzzle, question, shades.to_rgba(shares[level][layer]))
            _frame_cell(axes, puzzle, cell, COLORS[level])
            axes.set_title(f"{level}-update, layer {layer}", color=COLORS[level])
    figure.colorbar(shades, ax=grid, shrink=0.7, label="share of attention (heads averaged)")
    figure.suptitle(f"Where the framed cell looks in segment {segment}", fontsize=12)
    return figure


def _draw_shares(axes, puzzle: Puzzle, question: np.ndarray, shades: np.ndarray) -> None:
    """The question on cells of given colours (S, 4), its symbols light where a colour is dark."""
    axes.grid(False)
    puzzle.draw_picture(axes, question, question)
    extent = (*axes.get_xlim(), *axes.get_ylim())
    axes.imshow(shades.reshape(puzzle.rows, puzzle.columns, 4), extent=extent, alpha=_SHADE, zorder=0.5)
    left, top = min(axes.get_xlim()), min(axes.get_ylim())
    on_white = _SHADE * shades[:, :3] + 1 - _SHADE
    luminance = on_white**2.2 @ (0.2126, 0.7152, 0.0722)
    for text in axes.texts:
        column, row = (int(np.floor(at - start)) for at, start in zip(text.get_position(), (left, top), strict=True))
        inside = 0 <= row < puzzle.rows and 0 <= column < puzzle.columns  # a family may write beside its board
        if inside and luminance[row * puzzle.columns + column] < 0.18:  # where white has the higher contrast (WCAG)
            text.set_color("white")
    for marks in axes.collections:  # those of a maze
        marks.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _frame_cell(axes, puzzle: Puzzle, cell: int, color: str) -> None:
    left, top = min(axes.get_xlim()), min(axes.get_ylim())
    corner = (left + cell % puzzle.columns, top + cell // puzzle.columns)
    rim = [withStroke(linewidth=6, foreground="white")]  # on a cell of any colour
    axes.add_patch(
        Rectangle(corner, 1, 1, fill=False, edgecolor=color, linewidth=3, zorder=4, clip_on=False, path_effects=rim)
    )


def draw_probe(study: Study) -> Figure:
    """What a linear probe and the model's own head read off the states."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    per_segment = study.facts["updates"] // study.facts["segments"]
    x = _segment_axis(axes, len(study.probe.labels), per_segment)
    for level in "HL":
        _line(axes, x, 100 * study.probe.probe[level], level, f"{NAMES[level]}, linear probe")
        _line(axes, x, 100 * study.probe.head[level], level, f"{NAMES[level]}, answer head", "--")
    axes.set(title="Solution of an open cell, read off its state", ylabel="right, %", ylim=(0, 103))
    _legend_below(figure, axes)
    return figure


def draw_trajectories(study: Study) -> Figure:
    """Distance to where the rollout ends, spectral radius, the paths of four puzzles in two principal components."""
    found = study.geometry
    figure = new_figure(11, 9)
    grid = figure.subplot_mosaic(
        [["distance"] * 2 + ["radius"] * 2, *([f"{level}{number}" for number in range(4)] for level in "HL")],
        height_ratios=(1.3, 1, 1),
    )
    solved = study.roles.roles["H"].exact[-1][: len(found.settled)] > 0
    _draw_distance(grid["distance"], study, solved)
    _draw_fixed_points(grid["radius"], study, solved)
    for number in range(4):
        for level in "HL":
            axes = grid[f"{level}{number}"]
            if number >= len(found.settled):
                axes.set_axis_off()
                continue
            _draw_path(axes, found.path[level][:, number], found.explained[level][number], level)
            verdict = "solved" if solved[number] else "not solved"
            axes.set_title(f"{NAMES[level]}, puzzle {number}, {verdict}", fontsize=10, color=COLORS[level])
    _legend_below(figure, grid["H0"])
    for mark in figure.legends[0].legend_handles:
        mark.set_facecolor(_GREY)  # of either state
    return figure


def _draw_distance(axes, study: Study, solved: np.ndarray) -> None:
    found, per_segment = study.geometry, study.facts["updates"] // study.facts["segments"]
    x = _segment_axis(axes, len(found.labels), per_segment)
    for level in "HL":
        for kind, chosen, style in (("solved", solved, "-"), ("not solved", ~solved, ":")):
            if chosen.any():
                _curve(axes, x, found.distance[level][:, chosen], level, f"{NAMES[level]}, {kind}", style)
    axes.set(title="Distance to where the rollout ends, z*", ylabel="‖z − z*‖ / ‖z*‖", ylim=(0, None))
    _legend_below(axes, axes)


def _draw_fixed_points(axes, study: Study, solved: np.ndarray) -> None:
    found = study.geometry
    for kind, chosen, marker, color in (
        ("solved", solved, "o", COLORS["control"]),
        ("not solved", ~solved, "X", "black"),
    ):
        if chosen.any():
            last_steps = np.maximum(found.settled[chosen], 1e-9)
            axes.scatter(
                found.spectral_radius[chosen], last_steps, marker=marker, s=45, color=color, label=kind, alpha=0.8
            )
    axes.axvline(1, color=_GREY, linewidth=1)
    axes.set(title="Is z* an attracting fixed point?", xlabel="spectral radius of a segment at z*", yscale="log")
    axes.set_ylabel("last step, ‖F(z*) − z*‖ / ‖z*‖")
    axes.margins(y=0.08)
    _legend_below(axes, axes)


def _draw_path(axes, points: np.ndarray, explained: np.ndarray, level: str) -> None:
    """The path (U, 2) of a state in its own components, of which the labels say the share of the variance (2,)."""
    color = COLORS[level]
    axes.plot(*points.T, "-o", color=color, linewidth=1.2, markersize=3, alpha=0.7)
    for point, marker, size, name in ((points[0], "D", 45, "first update"), (points[-1], "*", 150, "last update")):
        axes.scatter(*point, marker=marker, s=size, color=color, edgecolor="black", zorder=3, label=name)
    first, second = (f"component {number} ({100 * share:.0f} %)" for number, share in enumerate(explained, start=1))
    axes.set(xticks=[], yticks=[], xlabel=first, ylabel=second)
    axes.margins(0.1)
