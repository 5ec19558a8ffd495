"""What solving achieved and what it took: accuracy, validity, model calls, pass@K, speed.

Axis letters: N puzzles, S cells.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from air_hf.metrics import score_boards
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.solving_air import AIRSolution, SolveConfig
from air_hf.solving.rules import solve

if TYPE_CHECKING:  # `datasets` takes seconds to import, which who solves one board need not wait for
    from air_hf.data import PuzzleSet


@dataclass(frozen=True)
class SolveReport:
    """Scores of solved puzzles; accuracies are shares of 1.

    Args:
        exact: boards with every labelled cell right, of those with any.
        valid: boards that the rules accept; None where the family has none.
        accepted: boards that the early exit accepted.
        pass_at_k: boards, of the same, that at least one of their rollouts has exactly right, chosen or not.
        mean_segments: of the rollouts whose answers were taken.
        mean_calls: model calls (segments of one puzzle) a puzzle, all rollouts together.
        most_calls: of one puzzle.
        mean_rollouts: rollouts a puzzle.
        puzzles: N.
        puzzles_per_second: solved, on this machine.
        verified: whether the rules took part in stopping or choosing; then `exact` is not the model's alone.
    """

    exact: float
    valid: float | None
    accepted: float
    pass_at_k: float
    mean_segments: float
    mean_calls: float
    most_calls: int
    mean_rollouts: float
    puzzles: int
    puzzles_per_second: float
    verified: bool

    def to_dict(self) -> dict:
        return asdict(self)

    def table(self) -> str:
        """The scores for people."""
        valid = "the family has no rules" if self.valid is None else f"{self.valid:.1%}"
        rows = [
            ("exact accuracy", f"{self.exact:.1%}"),
            ("any rollout exact (pass@K)", f"{self.pass_at_k:.1%}"),
            ("valid by the rules", valid),
            ("accepted by the early exit", f"{self.accepted:.1%}"),
            ("segments of the answer", f"{self.mean_segments:.2f}"),
            ("model calls a puzzle", f"{self.mean_calls:.2f} (at most {self.most_calls:,})"),
            ("rollouts a puzzle", f"{self.mean_rollouts:.2f}"),
            ("puzzles", f"{self.puzzles:,}, {self.puzzles_per_second:,.1f} a second"),
            ("verifier", "took part: not the model's answers alone" if self.verified else "did not take part"),
        ]
        return "\n".join(f"{name:<28}{value}" for name, value in rows)


def is_exact(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which answers (N, S) agree with their labels (N, S) wherever there is one: bool (N,)."""
    return ((answers == labels) | (labels == 0)).all(-1)


def evaluate_solving(
    model: AIRForPuzzleSolving, puzzles: "PuzzleSet", config: SolveConfig, batch_size: int = 256
) -> SolveReport:
    """Solves puzzles as `config` says and scores the answers; see [`solve`] for the errors.

    Raises:
        ValueError: puzzles that the model cannot take or of which none has a label, or what [`solve`] refuses.
    """
    puzzles.check_model(model.config)
    questions, puzzle_ids = torch.from_numpy(puzzles.questions.astype(np.int64)), torch.from_numpy(puzzles.puzzle_ids)
    start = time.perf_counter()
    solution = solve(model, questions, config, puzzle_ids, batch_size)
    return report(puzzles, solution, time.perf_counter() - start)


def report(puzzles: "PuzzleSet", solution: AIRSolution, seconds: float) -> SolveReport:
    """Scores a solution of all `puzzles`, which took `seconds`."""
    answers, labels = solution.sequences.cpu().numpy(), puzzles.answers
    solved = [
        any(is_exact(rollout.answer.numpy(), label) for rollout in rollouts)
        for rollouts, label in zip(solution.rollouts, labels, strict=True)
    ]
    some_rollout = (is_exact(answers, labels) | np.array(solved))[(labels != 0).any(1)]
    valid = None
    if puzzles.puzzle.rules.checks_answers:
        valid = float(puzzles.puzzle.is_solution(puzzles.questions, answers.astype(np.uint8)).mean())
    return SolveReport(
        exact=score_boards(answers, labels)["exact_accuracy"],
        valid=valid,
        accepted=float(solution.accepted.float().mean()),
        pass_at_k=float(some_rollout.mean()),
        mean_segments=float(solution.num_segments.float().mean()),
        mean_calls=float(solution.num_calls.float().mean()),
        most_calls=int(solution.num_calls.max()),
        mean_rollouts=float(np.mean([len(rollouts) for rollouts in solution.rollouts])),
        puzzles=len(puzzles),
        puzzles_per_second=len(puzzles) / seconds,
        verified=bool(solution.verified),
    )
