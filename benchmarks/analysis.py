"""Traces puzzles one at a time and in batches, in one run, and prints the ratio.

python benchmarks/analysis.py                        # a small 4x4 model, 1,000 puzzles
python benchmarks/analysis.py --paper --puzzles 16   # the paper's size, 9x9
"""

import argparse
import time

import numpy as np
import torch

from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.analysis.attention import attention_contrasts
from air_hf.analysis.roles import study_roles
from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.puzzles import get_puzzle

SMALL = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "h_cycles": 1, "l_cycles": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--paper", action="store_true", help="D 512, 4 layers, H2 L2, 9x9, instead of a small 4x4 model"
    )
    parser.add_argument("--puzzles", type=int, default=1000, help="in batches")
    parser.add_argument("--alone", type=int, default=50, help="one at a time; the rate is compared (default 50)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_segments", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; the best of each is taken (default 3)")
    args = parser.parse_args()
    torch.manual_seed(0)
    puzzle = get_puzzle("sudoku-9x9" if args.paper else "sudoku-4x4")
    size = {} if args.paper else SMALL
    config = variant_config(
        "Lx_H", vocab_size=puzzle.vocab_size, seq_len=puzzle.num_cells, puzzle=puzzle.name,
        max_segments=args.max_segments, **size,
    )  # fmt: skip
    model = AIRForPuzzleSolving(config).eval()
    drawn = make_generator(puzzle).draw(min(args.puzzles, 64), np.random.default_rng(0))
    rows = np.arange(args.puzzles) % len(drawn[0])
    puzzles = PuzzleSet(puzzle, *(boards[rows] for boards in drawn), "generated")
    some = PuzzleSet(puzzle, puzzles.questions[: args.alone], puzzles.answers[: args.alone], "generated")

    def rate(run, which: PuzzleSet, batch_size: int) -> float:
        start = time.perf_counter()
        run(which, batch_size)
        return len(which) / (time.perf_counter() - start)

    work = {
        "roles": lambda which, batch: study_roles(model, which, batch_size=batch),
        "attention": lambda which, batch: attention_contrasts(model, which, batch_size=batch),
    }
    for name, run in work.items():
        alone = batched = 0.0
        for _ in range(args.rounds):
            alone = max(alone, rate(run, some, 1))
            batched = max(batched, rate(run, puzzles, args.batch_size))
        print(
            f"{name}: one at a time {alone:,.1f} puzzles/s, batches of {args.batch_size} {batched:,.1f}: "
            f"{batched / alone:.1f} times as fast ({config.num_weights:,} weights, {args.max_segments} segments)"
        )


if __name__ == "__main__":
    main()
