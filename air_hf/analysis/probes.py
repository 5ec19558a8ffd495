"""A linear probe: how much of each cell's solution can be read linearly from z_H and z_L after every update.

Axis letters: U updates, B puzzles, S cells, D hidden size, V symbols.
"""

from dataclasses import dataclass

import numpy as np
import torch

from air_hf.analysis.roles import check_fit, puzzle_ids_of
from air_hf.analysis.tracing import iterate_traces, puzzles_within
from air_hf.analysis.walk import moments
from air_hf.data import PuzzleSet
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles.base import PADDING

_BATCH_GIB = 1  # of states that are held at a time; the sums are made of copies in float64


@dataclass
class ProbeAccuracy:
    """Share of open cells whose solution a probe reads off the state of that cell.

    Args:
        labels (`list[str]`): of the U updates.
        probe (`dict[str, array]` of shape `(U,)`): by level, of a probe fitted to that update.
        head (`dict[str, array]` of shape `(U,)`): by level, of the model's own answer head, on the same cells.
        chance (`float`): share right of the symbol that is most frequent in those cells of the test.
        num_train, num_test (`int`): puzzles that the probes are fitted to and tested on.
        ridge (`float`): the penalty, relative to the mean of the features' squares.
    """

    labels: list[str]
    probe: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    chance: float
    num_train: int
    num_test: int
    ridge: float


def fit_probes(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    max_segments: int | None = None,
    ridge: float = 1e-3,
    batch_size: int = 64,
) -> ProbeAccuracy:
    """Fits ridge regressions onto one-hot solutions of the first half of the puzzles and tests them on the second.

    The normal equations are summed over batches, so that states are never all held.

    Raises:
        ValueError: fewer than two puzzles, puzzles of another size, or what [`trace`] refuses.
    """
    check_fit(model, puzzles)
    half = len(puzzles) // 2
    if half < 1:
        raise ValueError(f"{len(puzzles)} puzzles were given; probes need at least 2, half of them to be tested on")
    width, symbols = model.config.hidden_size, model.config.vocab_size
    sums: dict[str, list[torch.Tensor]] = {}
    for states, targets, open_cells in _states(model, puzzles, slice(0, half), max_segments, batch_size):
        onehot = torch.nn.functional.one_hot(targets[open_cells], symbols).double()
        for level, z in states.items():
            features = _with_one(z[:, open_cells])  # (U, Q, D + 1)
            gram, cross = features.transpose(1, 2) @ features, features.transpose(1, 2) @ onehot
            if level in sums:
                sums[level][0] += gram
                sums[level][1] += cross
            else:
                sums[level] = [gram, cross]
    weights = {}
    for level, (gram, cross) in sums.items():
        scale = gram.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1) * ridge
        weights[level] = torch.linalg.solve(gram + scale * torch.eye(width + 1, dtype=gram.dtype), cross)
    right = {kind: {level: 0 for level in weights} for kind in ("probe", "head")}
    solutions = np.zeros(symbols, dtype=np.int64)
    for states, targets, open_cells in _states(model, puzzles, slice(half, None), max_segments, batch_size):
        expected = targets[open_cells]
        solutions += np.bincount(expected.numpy(), minlength=symbols)
        for level, z in states.items():
            chosen = z[:, open_cells]
            with torch.no_grad():
                head = model.lm_head(chosen.to(model.lm_head.weight)).argmax(-1).cpu()
            probe = (_with_one(chosen) @ weights[level]).argmax(-1)
            for kind, found in (("probe", probe), ("head", head)):
                right[kind][level] = right[kind][level] + (found == expected).sum(1).numpy()
    count = max(int(solutions.sum()), 1)
    shares = {kind: {level: hits / count for level, hits in levels.items()} for kind, levels in right.items()}
    max_segments = model.config.max_segments if max_segments is None else max_segments
    labels = [str(moment) for moment in moments(model, max_segments)]
    chance = float(solutions.max() / count)
    return ProbeAccuracy(labels, shares["probe"], shares["head"], chance, half, len(puzzles) - half, ridge)


def _with_one(features: torch.Tensor) -> torch.Tensor:
    return torch.cat((features.double(), features.new_ones(*features.shape[:-1], 1, dtype=torch.float64)), dim=-1)


def _states(model, puzzles: PuzzleSet, rows: slice, max_segments, batch_size):
    """For every batch: the cells' states (U, B, S, D) by level, solutions (B, S), open cells (B, S)."""
    questions, answers = puzzles.questions[rows], puzzles.answers[rows]
    batch_size = min(batch_size, puzzles_within(_BATCH_GIB, model, max_segments, ("states",)))
    ids = torch.from_numpy(questions).long()
    for batch, part in iterate_traces(
        model, ids, puzzle_ids_of(puzzles, rows), max_segments, keep=("states",), batch_size=batch_size
    ):
        targets = torch.from_numpy(answers[batch]).long()
        open_cells = torch.from_numpy(puzzles.puzzle.undecided(questions[batch])) & (targets != PADDING)
        cells = slice(-model.config.seq_len, None)
        yield {"H": part.z_h[:, :, cells], "L": part.z_l[:, :, cells]}, targets, open_cells
