"""Choosing the q_halt threshold on given puzzles: the lowest at which stopping early loses nothing, or little.

Axis letters: N puzzles, S cells.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from air_hf.data import PuzzleSet
from air_hf.evaluation import first_halt
from air_hf.files import atomic_file
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.solving_air import SolveConfig
from air_hf.solving.report import is_exact
from air_hf.solving.rules import solve

_CANDIDATES = 200  # thresholds looked at


@dataclass(frozen=True)
class Segments:
    """What every segment of the plain loop said.

    Args:
        exact (bool array of shape `(segments, N)`): the answer was right.
        q_halt_logits (float array of shape `(segments, N)`): and the score the model gave it.
    """

    exact: np.ndarray
    q_halt_logits: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """A choice and what it was chosen from.

    Args:
        threshold (`float`): the choice, a logit.
        trusted (`float`): the lowest threshold above which no answer of any segment is wrong, or of few puzzles.
        exact, mean_segments (`float`): with it.
        exact_without (`float`): after all segments.
        thresholds, accuracies, segments (arrays): of every candidate, ascending.
        accuracies_by_segment (array of shape `(segments,)`): of the plain loop after 1, 2, ... segments.
    """

    threshold: float
    trusted: float
    exact: float
    mean_segments: float
    exact_without: float
    thresholds: np.ndarray
    accuracies: np.ndarray
    segments: np.ndarray
    accuracies_by_segment: np.ndarray


def run_segments(
    model: AIRForPuzzleSolving, puzzles: PuzzleSet, max_segments: int | None = None, batch_size: int = 64
) -> Segments:
    """Runs all segments without an exit and notes what each says of the boards that have labels."""
    config = SolveConfig(max_segments=max_segments)
    questions = torch.from_numpy(puzzles.questions.astype(np.int64))
    ids = torch.from_numpy(puzzles.puzzle_ids)
    solution = solve(model, questions, config, ids, batch_size, return_trajectory=True)
    histories = [rollouts[0].history for rollouts in solution.rollouts]
    boards = np.stack([[board.numpy() for board, _ in history] for history in histories], axis=1)
    scores = np.array([[score for _, score in history] for history in histories]).T
    labelled = (puzzles.answers != 0).any(1)
    return Segments(is_exact(boards, puzzles.answers)[:, labelled], scores[:, labelled])


def calibrate(segments: Segments, tolerance: float = 0.0) -> Calibration:
    """Chooses the lowest threshold from which on accuracy stays within `tolerance` of that after all segments.

    Beside it, the one above which answers can be trusted: a loop that stops loses nothing by accepting what would be
    wrong at its end, too, whereas one that may try again does.

    Args:
        segments ([`Segments`]): of the plain loop.
        tolerance (`float`): share of the puzzles that may be lost, and of those that may have a wrong answer trusted.

    Raises:
        ValueError: a tolerance that is no share.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a share of the puzzles, at least 0 and below 1.")
    scores = segments.q_halt_logits
    # At the last one nothing stops, so nothing is lost: rounded, the highest quantile may be below a score.
    candidates = np.quantile(scores, np.linspace(0, 1, _CANDIDATES)).round(2)
    thresholds = np.unique([*candidates, np.ceil(100 * scores.max()) / 100])
    ends = [first_halt(scores > threshold)[0] for threshold in thresholds]
    accuracies = np.array([segments.exact[end, np.arange(scores.shape[1])].mean() for end in ends])
    lengths = np.array([end.mean() + 1 for end in ends])
    without = float(segments.exact[-1].mean())
    short = np.flatnonzero(accuracies < without - tolerance - 1e-12)
    chosen = int(short[-1]) + 1 if len(short) else 0
    deceived = np.array([((scores > threshold) & ~segments.exact).any(0).mean() for threshold in thresholds])
    trusted = int((deceived > tolerance).sum())  # it falls with the threshold
    return Calibration(
        threshold=float(thresholds[chosen]),
        trusted=float(thresholds[trusted]),
        exact=float(accuracies[chosen]),
        mean_segments=float(lengths[chosen]),
        exact_without=without,
        thresholds=thresholds,
        accuracies=accuracies,
        segments=lengths,
        accuracies_by_segment=segments.exact.mean(1),
    )


def draw_calibration(calibration: Calibration, title: str, path: str | Path) -> None:
    """Saves the accuracy–segments curve of all thresholds beside that of the plain loop as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    plain = 100 * calibration.accuracies_by_segment
    axes.plot(np.arange(1, len(plain) + 1), plain, "o-", markersize=3, color="0.55", label="every puzzle, N segments")
    axes.plot(calibration.segments, 100 * calibration.accuracies, "-", color="tab:blue", label="stopped by q_halt")
    label = f"q_halt > {calibration.threshold:.2f}: {calibration.exact:.1%} after {calibration.mean_segments:.2f}"
    axes.plot(calibration.mean_segments, 100 * calibration.exact, "*", markersize=14, color="tab:red", label=label)
    axes.set(xlabel="segments a puzzle, mean", ylabel="exact, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
