"""How fast puzzles are solved: compaction against all segments, and one puzzle from a cold and a warm start.

python benchmarks/solving.py --model CHECKPOINT --data easy.csv [--repeats 3]

Ratios are of one run, both sides in turn, the best of several; on a busy machine single numbers mean little.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.data import load_puzzles
from air_hf.hub import load_model
from air_hf.puzzles import puzzle_of
from air_hf.solving import SolveConfig, solve

EXIT = SolveConfig(early_exit="q_halt", q_halt_threshold=4.0)
HOPELESS = SolveConfig(early_exit="q_halt", q_halt_threshold=1e9)


def in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The best seconds of each, taken alternately so that what else runs slows both."""
    best = [float("inf")] * 2
    for _ in range(repeats):
        for side, work in enumerate((first, second)):
            start = time.perf_counter()
            work()
            best[side] = min(best[side], time.perf_counter() - start)
    return best[0], best[1]


def all_segments(model, questions: torch.LongTensor, batch_size: int) -> torch.LongTensor:
    """The loop of published evaluations: every segment of every batch, the last answer."""
    answers = []
    for batch in questions.split(batch_size):
        for output in model.unroll(batch):
            last = output.logits.argmax(-1)
        answers.append(last)
    return torch.cat(answers)


def compare(model, questions, answers, config: SolveConfig, batch_size: int, repeats: int) -> str:
    with torch.no_grad():
        plain, ours = in_turn(
            lambda: all_segments(model, questions, batch_size),
            lambda: solve(model, questions, config, batch_size=batch_size),
            repeats,
        )
        right = (all_segments(model, questions, batch_size) == answers).all(1).float().mean()
    found = solve(model, questions, config, batch_size=batch_size)
    exact = (found.sequences == answers).all(1).float().mean()
    return (
        f"all segments {plain:6.2f} s, exact {right:6.1%}   ours {ours:6.2f} s, exact {exact:6.1%}, "
        f"{found.num_calls.float().mean():5.2f} calls   ratio {plain / ours:.2f}"
    )


def one_puzzle(model, question: torch.LongTensor, config: SolveConfig, repeats: int) -> tuple[float, int]:
    """Best milliseconds of one puzzle, warm, and its segments."""
    solve(model, question, config)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = solve(model, question, config)
        times.append(time.perf_counter() - start)
    return 1000 * min(times), int(found.num_calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a checkpoint that solves most of the puzzles")
    parser.add_argument("--data", required=True, help="CSV file of them")
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = load_model(args.model)
    puzzles = load_puzzles(args.data, puzzle_of(model.config)).sample(args.limit, 0)
    questions, answers = (torch.from_numpy(each.astype(np.int64)) for each in (puzzles.questions, puzzles.answers))
    print("solves most: ", compare(model, questions, answers, EXIT, args.batch_size, args.repeats), flush=True)
    print("solves none: ", compare(model, questions, answers, HOPELESS, args.batch_size, args.repeats), flush=True)
    for name, solver, segments in (
        (args.model, model, None),
        ("13.6 M parameters, random, 1 segment", AIRForPuzzleSolving(variant_config("Lx_H")).eval(), 1),
    ):
        config = SolveConfig(max_segments=segments, early_exit="q_halt", q_halt_threshold=4.0)
        took, calls = one_puzzle(solver, questions[:1], config, 10)
        flops = solver.config.estimate_flops() * calls
        print(
            f"one puzzle, warm: {took:7.1f} ms, {calls} segments, {flops / took / 1e6:.0f} GFLOP/s  ({name})",
            flush=True,
        )
    command = [sys.executable, "-m", "air_hf.cli", "solve", puzzles.puzzle.format(puzzles.questions[0])]
    command += ["--model", args.model, "--device", "cpu"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    print(f"one puzzle, cold: {time.perf_counter() - start:7.1f} s for air-hf solve, import and load included")


if __name__ == "__main__":
    main()
