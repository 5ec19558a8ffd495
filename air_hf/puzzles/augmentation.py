"""A fixed set of images of every puzzle: what a data set holds when it is augmented once and for all.

Axis letters: N boards, S cells.
"""

import numpy as np

from air_hf.puzzles.base import Puzzle
from air_hf.puzzles.symmetry import Symmetries

_FRAMES = 4096


class FixedImages:
    """Image k of the puzzle in row r is a function of (seed, r, k) alone; image 0 is the puzzle itself.

    A pool of symmetries is drawn once, and every row looks at it from a random frame of its own: element k of row r is
    f · p_k · f⁻¹, f the frame of the row and p_k from the pool. Rows 4,096 apart share a frame.

    Args:
        puzzle ([`Puzzle`]): what the boards are.
        count (`int`): images of each puzzle, itself included.
        seed (`int`): the same seed gives the same images.

    Raises:
        PuzzleError: more images than the board has, where all of them can be listed (mazes).
    """

    def __init__(self, puzzle: Puzzle, count: int, seed: int):
        rng = np.random.default_rng([seed, 2])
        self._pool = puzzle.symmetry_pool(count, rng)
        self._frames = puzzle.random_symmetries(_FRAMES, rng)
        self._back = self._frames.inverse()

    def __len__(self) -> int:
        return len(self._pool)

    def symmetries(self, rows: np.ndarray, images: np.ndarray) -> Symmetries:
        """The elements of N rows (N,) and image numbers (N,)."""
        frames = np.asarray(rows) % _FRAMES
        return self._frames[frames].then(self._pool[images]).then(self._back[frames])
