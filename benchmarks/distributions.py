"""Draws how generated puzzles differ from published ones: clues and rating of Sudokus, walls and path length of mazes.

python benchmarks/distributions.py --sudoku SUDOKU_FOLDER --maze MAZE_FOLDER --output docs/images
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from air_hf.data import load_puzzles
from air_hf.dataset_builders.generate import make_generator
from air_hf.files import atomic_file
from air_hf.puzzles.maze import WALL
from air_hf.puzzles.sudoku import BLANK

QUANTILES = (5, 25, 50, 75, 95)


def draw(path: Path, panels: list[tuple[str, dict[str, np.ndarray], np.ndarray]], logarithmic: int | None) -> None:
    """One panel a quantity: the share of puzzles in each bin, for each source."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for index, (axes, (name, values, edges)) in enumerate(zip(figure.subplots(1, len(panels)), panels, strict=True)):
        for source, numbers in values.items():
            weights = np.full(len(numbers), 100 / len(numbers))
            axes.hist(np.clip(numbers, edges[0], edges[-1]), edges, weights=weights, histtype="step", label=source)
            shown = " ".join(f"{value:6g}" for value in np.round(np.percentile(numbers, QUANTILES), 3))
            print(f"{name:28}{source:32}{shown}")
        if index == logarithmic:
            axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel=name, ylabel="% of the puzzles")
        axes.legend(fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sudoku", required=True, help="folder with the published train.csv")
    parser.add_argument("--maze", required=True, help="folder with the published train.csv")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=1000, help="puzzles of each source")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'':60}" + " ".join(f"{q:5d}%" for q in QUANTILES))

    published = load_puzzles(args.sudoku, split="train")
    published = published.sample(min(args.count, len(published)), 0)
    puzzle = published.puzzle
    sudokus = {
        "published": published.questions,
        "generated": make_generator(puzzle).draw(args.count, rng)[0],
        "generated, rating ≥ 10": make_generator(puzzle, min_rating=10).draw(args.count // 2, rng)[0],
    }
    rate = make_generator(puzzle).rate
    clues = {source: (boards > BLANK).sum(1) for source, boards in sudokus.items()}
    ratings = {source: np.array([rate(board) for board in boards]) for source, boards in sudokus.items()}
    panels = [
        ("clues", clues, np.arange(16.5, 36)),
        ("rating (our solver)", ratings, np.unique(np.geomspace(1, 1000, 25).astype(int)) - 1.5),
    ]
    draw(args.output / "sudoku-distributions.png", panels, logarithmic=1)

    published = load_puzzles(args.maze, split="train")
    published = published.sample(min(args.count, len(published)), 0)
    puzzle = published.puzzle
    mazes = {
        "published": published.questions,
        "generated": make_generator(puzzle, min_path_cells=110).draw(args.count, rng)[0],
    }
    lengths = {source: puzzle.path_lengths(boards) + 1 for source, boards in mazes.items()}
    walls = {source: (boards == WALL).mean(1) for source, boards in mazes.items()}
    panels = [
        ("cells of a shortest path", lengths, np.arange(110, 152, 2)),
        ("walls", walls, np.linspace(0.28, 0.46, 30)),
    ]
    draw(args.output / "maze-distributions.png", panels, logarithmic=None)


if __name__ == "__main__":
    main()
