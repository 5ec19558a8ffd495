"""Loads a checkpoint, solves puzzles it was not trained on, draws them, and pictures what both states say on the way.

python examples/solve.py --checkpoint runs/quickstart/checkpoint --data data/sudoku-6x6/test.csv --picture states.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from air_hf.analysis import Trace, trace
from air_hf.data import DataError, load_puzzles
from air_hf.hub import CheckpointError, load_model, load_tokenizer
from air_hf.parsing import count
from air_hf.puzzles import puzzle_of
from air_hf.puzzles.drawing import print_boards


def slowest_solved(t: Trace, answers: np.ndarray) -> int:
    """The puzzle that is right at the end and took the most segments; where none is, the one with the fewest errors."""
    wrong = (t.symbols_h[t.segment_ends].numpy() != answers).sum(-1)  # (segments, B) cells
    return int(np.lexsort((-(wrong > 0).sum(0), wrong[-1]))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a model of this package, folder or Hub repository")
    parser.add_argument("--data", required=True, help="CSV file of puzzles, or a folder with test.csv")
    parser.add_argument("--count", type=count, default=3, help="puzzles to draw")
    parser.add_argument("--seed", type=int, default=0, help="which puzzles")
    parser.add_argument(
        "--picture", type=Path, help="PNG of one board with what z_H and z_L decode to (needs matplotlib)"
    )
    parser.add_argument("--segments", type=count, default=6, help="segments in the picture")
    args = parser.parse_args()

    try:
        model = load_model(args.checkpoint)  # AutoModel.from_pretrained, with clearer errors
        tokenizer = load_tokenizer(args.checkpoint, model.config)
        puzzles = load_puzzles(args.data, puzzle_of(model.config), split="test")
        drawn = puzzles.sample(args.count, args.seed)
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"solve.py: error: {error}") from error
    puzzle, color = puzzles.puzzle, sys.stdout.isatty()

    boards = [puzzle.format(question) for question in drawn.questions]  # strings, as a user has them
    solution = model.solve(tokenizer(boards, return_tensors="pt").input_ids)
    for number, (question, answer) in enumerate(zip(drawn.questions, drawn.answers, strict=True)):
        ours = solution.sequences[number].numpy()
        error = puzzle.find_error(question, ours)
        confidence = float(solution.q_halt_logits[number].sigmoid())
        print(f"\n{'solved' if error is None else 'not solved: ' + error}   (confidence {confidence:.1%})")
        print_boards(
            [
                ("question", puzzle.draw_text(question, question)),
                ("the model's answer", puzzle.draw_text(ours, question, answer, color)),
                ("solution", puzzle.draw_text(answer, question)),
            ]
        )
    if args.picture:
        from air_hf.analysis.figures import draw_boards, save  # matplotlib is needed here only

        candidates = puzzles.sample(min(64, len(puzzles)), args.seed)
        t = trace(model, torch.from_numpy(candidates.questions).long(), max_segments=args.segments)
        index = slowest_solved(t, candidates.answers)
        save(draw_boards(puzzle, candidates.questions[index], candidates.answers[index], t, index), args.picture)
        print(f"\nwhat z_H and z_L decode to, segment by segment: {args.picture}")


if __name__ == "__main__":
    main()
