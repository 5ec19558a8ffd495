"""What is measured: a model, a recipe and puzzles."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from air_hf.data import PuzzleSet
from air_hf.hub import load_model
from air_hf.modeling import AIRConfig, AIRForPuzzleSolving
from air_hf.puzzles import Puzzle, get_puzzle, puzzle_of
from air_hf.run_recipe import RunRecipe
from air_hf.runs.data import load_data
from air_hf.runs.start import make_config
from air_hf.variants import variant_config

_NUM_BOARDS = 2048


class Case(NamedTuple):
    """A model to measure.

    Args:
        config ([`AIRConfig`]): the model; its weights are drawn anew where there is no `model`.
        recipe ([`RunRecipe`]): batch size, optimiser, precision, attention, compilation.
        puzzles ([`PuzzleSet`]): boards to train on.
        model ([`AIRForPuzzleSolving`], *optional*): a trained one.
    """

    config: AIRConfig
    recipe: RunRecipe
    puzzles: PuzzleSet
    model: AIRForPuzzleSolving | None = None


@dataclass(frozen=True)
class _Size:
    puzzle: str
    batch_size: int
    fields: dict[str, Any]


_SMALL = {"mixer": "mlp", "position_embedding": "none", "halting": "halt_only", "num_hidden_layers": 2,
          "h_cycles": 1, "l_cycles": 1}  # fmt: skip
# MLPs of two small sizes (`sudoku-9x9-mlp` has the second), and the paper's two, in batches that a CPU can take.
SIZES = {
    "sudoku-6x6": _Size("sudoku-6x6", 64, {**_SMALL, "hidden_size": 96}),
    "sudoku-9x9": _Size("sudoku-9x9", 64, {**_SMALL, "hidden_size": 128}),
    "paper-sudoku": _Size("sudoku-9x9", 8, {}),
    "paper-maze": _Size("maze-30x30", 1, {}),
}


def case_of_size(name: str) -> Case:
    """A case of `SIZES`, on boards of random symbols: what is on a board changes no time.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r}; expected one of {', '.join(SIZES)}")
    size = SIZES[name]
    puzzle = get_puzzle(size.puzzle)
    config = variant_config(
        "Lx_H", vocab_size=puzzle.vocab_size, seq_len=puzzle.num_cells, puzzle=puzzle.name, **size.fields
    )
    return Case(config, _recipe(size.batch_size), random_boards(puzzle))


def case_of_recipe(recipe: RunRecipe, model_fields: dict[str, Any]) -> Case:
    """A recipe's own model, on its own data."""
    puzzles = load_data(recipe)[0].puzzles
    recipe, config = make_config(recipe, model_fields, puzzles)
    return Case(config, recipe, puzzles)


def case_of_checkpoint(source: str) -> Case:
    """A trained model, on boards of random symbols.

    Raises:
        ValueError: the checkpoint does not say what its boards are.
    """
    model = load_model(source)
    puzzle = puzzle_of(model.config)
    if puzzle is None:
        raise ValueError(f"{source}: config.json names no puzzle; benchmark the recipe, with --config, instead")
    return Case(model.config, _recipe(64), random_boards(puzzle), model)


def _recipe(batch_size: int) -> RunRecipe:
    return RunRecipe(batch_size=batch_size, mixed_precision="auto")


def random_boards(puzzle: Puzzle) -> PuzzleSet:
    """Boards of random symbols, N = 2,048 questions and answers of (N, S): what is on a board changes no time."""
    rng = np.random.default_rng(0)
    questions, answers = rng.integers(1, puzzle.vocab_size, (2, _NUM_BOARDS, puzzle.num_cells), dtype=np.uint8)
    return PuzzleSet(puzzle, questions, answers, "random symbols")
