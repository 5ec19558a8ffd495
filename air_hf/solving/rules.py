"""What a puzzle's family brings to solving: rules that check answers, and symmetries to look at a board through.

Axis letters: B puzzles, S cells, n boards.
"""

import numpy as np
import torch

from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.solving_air import AIRSolution, Images, SolveConfig, SolvingEngine, Verifier
from air_hf.puzzles import Puzzle, puzzle_of

_PROBES = 16  # random symmetries; where all of them are the identity, the family has none


def solve(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    config: SolveConfig | None = None,
    puzzle_ids: torch.LongTensor | None = None,
    batch_size: int = 256,
    return_trajectory: bool = False,
) -> AIRSolution:
    """Solves puzzles with the rules and symmetries of the model's puzzle at hand.

    Args:
        model ([`AIRForPuzzleSolving`]): its `config.puzzle` names the family.
        input_ids (`torch.LongTensor` of shape `(B, S)`): symbols of the questions.
        config ([`SolveConfig`], *optional*): the plan; the one stored with the checkpoint if None.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table; 0 if not given.
        batch_size (`int`): most rollouts at a time. No answer depends on it.
        return_trajectory (`bool`): keep the answers of all segments, `(answer, q_halt_logit)` each, in the `history` of
            every rollout.

    Returns:
        [`AIRSolution`]: `sequences` (B, S), `q_halt_logits`, `num_segments`, `num_calls`, `accepted` (B,), `rollouts`.

    Raises:
        ValueError: boards that the model does not take; a verifier or symmetries where the family has none.
    """
    puzzle = puzzle_of(model.config)
    return model.solve(
        input_ids,
        puzzle_ids,
        config,
        batch_size=batch_size,
        verifier=find_verifier(puzzle),
        images=find_images(puzzle),
        return_trajectory=return_trajectory,
    )


def make_engine(model: AIRForPuzzleSolving, config: SolveConfig, batch_size: int = 256) -> SolvingEngine:
    """The engine behind [`solve`], for streams: `engine.run(puzzles)` yields answers as they are found."""
    puzzle = puzzle_of(model.config)
    return SolvingEngine(model, config, batch_size, find_verifier(puzzle), find_images(puzzle))


def find_verifier(puzzle: Puzzle | None) -> Verifier | None:
    """Which of n answers (n, S) solve their questions (n, S) by the rules; None where no rules could prove it."""
    if puzzle is None or not puzzle.rules.proves_answers:
        return None

    def verify(questions: torch.LongTensor, answers: torch.LongTensor) -> np.ndarray:
        return puzzle.is_solution(questions.numpy().astype(np.uint8), answers.numpy().astype(np.uint8))

    return verify


def find_images(puzzle: Puzzle | None) -> Images | None:
    """Draws a symmetric image of a question (S,) by a seed, and what maps its answer back; None without symmetries."""
    if puzzle is None or not _has_symmetries(puzzle):
        return None

    def draw(question: torch.LongTensor, seed: int):
        symmetry = puzzle.random_symmetries(1, np.random.default_rng(seed))
        back = symmetry.inverse()
        image = torch.from_numpy(symmetry.apply(question.numpy()[None])[0])
        return image, lambda answer: torch.from_numpy(back.apply(answer.numpy()[None])[0])

    return draw


def _has_symmetries(puzzle: Puzzle) -> bool:
    drawn = puzzle.random_symmetries(_PROBES, np.random.default_rng(0))
    same_cells = (drawn.cells == np.arange(puzzle.num_cells)).all()
    return not (same_cells and (drawn.symbols == np.arange(puzzle.vocab_size)).all())
