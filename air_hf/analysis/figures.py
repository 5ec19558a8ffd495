"""Pictures of analyses; matplotlib is an optional dependency (`pip install air-hf[demo]`)."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from air_hf.analysis.rollout import Rollout
from air_hf.puzzles import Puzzle


def draw_rollout(
    puzzle: Puzzle, question: np.ndarray, answer: np.ndarray, rollout: Rollout, path: str | Path, index: int = 0
) -> None:
    """Saves a picture of one puzzle: the question, then what z_H and z_L decode to after each segment, and the answer.

    Args:
        puzzle ([`Puzzle`]): the board.
        question, answer (arrays of shape `(S,)`): symbol ids.
        rollout ([`Rollout`]): of a batch that holds the puzzle at `index`.
        path (`str` or `Path`): a PNG, written beside its place and renamed.
    """
    path = Path(path)
    segments = len(rollout.z_h)
    figure = Figure(figsize=(1.9 * (segments + 2), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, segments + 2)
    for row, (name, states) in enumerate((("$z_H$", rollout.z_h), ("$z_L$", rollout.z_l))):
        puzzle.draw_picture(axes[row, 0], question, question)
        puzzle.draw_picture(axes[row, -1], answer, question, answer)
        axes[row, 0].set_ylabel(name, rotation=0, fontsize=16, labelpad=16)
        for segment in range(segments):
            board = states[segment, index].cpu().numpy()
            puzzle.draw_picture(axes[row, segment + 1], board, question, answer)
            wrong = int((board != answer).sum())
            axes[row, segment + 1].set_xlabel("solved" if not wrong else f"{wrong} wrong", fontsize=11)
    axes[0, 0].set_title("question", fontsize=11)
    axes[0, -1].set_title("solution", fontsize=11)
    for segment in range(segments):
        axes[0, segment + 1].set_title(
            f"segment {segment + 1}\n$q_{{halt}}$ = {float(rollout.q_halt_logits[segment, index]):+.1f}", fontsize=11
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    figure.savefig(unfinished, dpi=110, format="png")
    unfinished.replace(path)
