"""Looks inside a checkpoint: what both states say after every update, and what happens when one of them is held.

python examples/analyze.py --checkpoint runs/quickstart/checkpoint --data data/sudoku-6x6/test.csv --picture states.gif

`air-hf analyze` does more: attention, probes, geometry, patching, all tables and figures.
"""

import argparse
from pathlib import Path

import torch

from air_hf.analysis import study_roles, trace
from air_hf.data import DataError, load_puzzles
from air_hf.hub import CheckpointError, load_model
from air_hf.parsing import count
from air_hf.puzzles import puzzle_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub repository")
    parser.add_argument("--data", required=True, help="CSV file of puzzles, or a folder with test.csv")
    parser.add_argument("--count", type=count, default=64, help="puzzles, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="which puzzles")
    parser.add_argument("--picture", type=Path, help="GIF of one board in both states (needs matplotlib)")
    args = parser.parse_args()
    try:
        model = load_model(args.checkpoint)
        puzzles = load_puzzles(args.data, puzzle_of(model.config), split="test").sample(args.count, args.seed)
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"analyze.py: error: {error}") from error

    ids = torch.from_numpy(puzzles.questions).long()
    t = trace(model, ids[:1])  # everything about one puzzle, update by update
    print("update  wrote cells changed  entropy of z_L  wish to halt")
    for position, (label, moment) in enumerate(zip(t.labels, t.moments, strict=True)):
        symbols = t.symbols(moment.level)[:, 0]
        changed = int((symbols[position] != symbols[position - 1]).sum()) if position else 0
        print(f"{label:7} z_{moment.level}   {changed:13} {float(t.entropy_l[position].mean()):15.3f} "
              f"{float(t.q_halt[position]):+13.1f}")  # fmt: skip

    for frozen in ((), "H", "L"):  # many puzzles, of which only the counts are kept
        study = study_roles(model, puzzles, frozen=frozen)
        changes = ", ".join(f"z_{level} {study.roles[level].total('content_changes').mean:.1f}" for level in "HL")
        exact = study.roles["H"].final("exact").mean
        print(f"{f'z_{frozen} held' if frozen else 'undisturbed':11}  content changes: {changes}   solved {exact:.1%}")

    if args.picture:
        from air_hf.analysis.figures import animate_states  # matplotlib is needed here only

        animate_states(puzzles.puzzle, puzzles.questions[0], puzzles.answers[0], t, args.picture)


if __name__ == "__main__":
    main()
