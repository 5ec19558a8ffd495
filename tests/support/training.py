"""What tests of training share: puzzles to train on, and a run of seconds."""

import json
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from air_hf.data import PuzzleSet, PuzzleStream
from air_hf.dataset_builders.generate import generate_split, make_generator, write_split
from air_hf.files import sha256
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import get_puzzle
from air_hf.run_recipe import RunRecipe
from air_hf.runs.checkpoint import MANIFEST
from air_hf.training import Learner

ROOT = Path(__file__).parents[2]
# The words of a run of a tiny model in float32; a word given again overrides.
TINY_RUN = ["--config", "examples/configs/sudoku-6x6.yaml", "--hidden_size", "32", "--num_attention_heads", "2",
            "--num_hidden_layers", "1", "--max_segments", "3", "--compile", "off", "--num_threads", "1",
            "--batch_size", "16", "--warmup_steps", "2", "--mixed_precision", "no"]  # fmt: skip
# Run first in a fresh process, this makes the package one that is not installed.
WITHOUT_AIR_HF = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "air_hf":
            raise ImportError("air_hf is not importable here")
sys.meta_path.insert(0, Blocker())
"""


def make_csv(folder: Path, puzzle: str = "sudoku-4x4", train: int = 60, test: int = 20, **options) -> Path:
    """A folder with `train.csv` and `test.csv`; options are the generator's."""
    board = get_puzzle(puzzle)
    write_split(folder, board, generate_split(board, train, test, workers=1, **options), 0, {})
    return folder


def rewrite_manifest(checkpoint: Path) -> None:
    """Makes a checkpoint's manifest say that its files are as they are now."""
    manifest = checkpoint / MANIFEST
    names = [path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()]
    manifest.write_text(json.dumps({name: sha256(checkpoint / name) for name in names if name != MANIFEST}))


def small_stream(batch_size: int) -> PuzzleStream:
    """Batches of 40 minimal 4x4 Sudokus."""
    puzzle = get_puzzle("sudoku-4x4")
    questions, answers = make_generator(puzzle).draw(40, np.random.default_rng(0))
    return PuzzleStream(PuzzleSet(puzzle, questions, answers, "generated"), batch_size, seed=0, augment=True)


def small_learner(model: AIRForPuzzleSolving, **fields) -> Learner:
    """A model in training in this process, uncompiled, in float32; `fields` are the recipe's."""
    recipe = RunRecipe(**({"max_steps": 100, "compile": "off"} | fields))
    return Learner(model, recipe, Accelerator(cpu=True, mixed_precision="no"))
