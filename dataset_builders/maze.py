"""The data of mazes: Maze-Hard, and random-wall mazes with a long enough shortest path, as it has them."""

import functools
import operator
from typing import ClassVar

import numpy as np

from air_hf.dataset_builders.builders import PuzzleBuilder, PuzzleDataConfig
from air_hf.dataset_builders.generate import PuzzleGenerator
from air_hf.puzzles import PuzzleError
from air_hf.puzzles.maze import GOAL, OPEN, PATH, START, WALL, Maze

_WALK = 4  # moves between far ends, enough to forget which end the search found first
_PAIRS_SHARE = 3  # about this times the pairs of ends, in boards' sizes, is a board's chance; chosen on Maze-Hard


class MazeGenerator(PuzzleGenerator):
    """Draws mazes of one size, and marks of several shortest paths the one that Maze-Hard would.

    Args:
        puzzle ([`Maze`]): the board.
        min_path_cells (`int`): least number of cells on a shortest path, S and G included.
        wall_share (`float`): probability of a wall in a cell.
        unique_path (`bool`): only mazes with a single shortest path, so that the answer is the only right one.

    Raises:
        PuzzleError: an impossible length or wall share.
    """

    options: ClassVar = {
        "min_path_cells": {"type": int, "help": "least cells on a shortest path, S and G included"},
        "wall_share": {"type": float, "help": "probability of a wall (default 0.37)"},
        "unique_path": {"action": "store_true", "default": None, "help": "only one shortest path"},
    }
    rating = "steps of a shortest path"

    def __init__(self, puzzle: Maze, min_path_cells: int = 2, wall_share: float = 0.37, unique_path: bool = False):
        # A shortest path never touches itself, so it fills at most about two thirds of the board (snake in the box).
        longest = min(puzzle.num_cells, 2 * puzzle.num_cells // 3 + max(puzzle.rows, puzzle.columns))
        if not 2 <= min_path_cells <= longest:
            raise PuzzleError(
                f"min_path_cells is {min_path_cells}; shortest paths in a {puzzle.name} have 2 to {longest} cells"
            )
        if not 0 <= wall_share < 1:
            raise PuzzleError(f"wall_share is {wall_share}; expected at least 0 and less than 1")
        self.puzzle, self.min_path_cells, self.wall_share, self.unique = puzzle, min_path_cells, wall_share, unique_path

        # A board is one integer with a bit a cell. A wall column at the right keeps rows apart.
        self._stride = puzzle.columns + 1

    def rate(self, question: np.ndarray) -> int:
        return int(self.puzzle.path_lengths(question[None])[0])

    def count_solutions(self, question: np.ndarray, limit: int = 2) -> int:
        walls = (question == WALL).reshape(self.puzzle.rows, self.puzzle.columns)
        board, goal = question.reshape(walls.shape), self._to_bits((question == GOAL).reshape(walls.shape))
        ways = {self._to_bits(board == START): 1}
        for wave in self._waves(next(iter(ways)), self._to_bits(~walls))[1:]:
            onward: dict[int, int] = {}
            for cell, count in ways.items():
                reached = self._neighbours(cell) & wave
                while reached:
                    bit = reached & -reached
                    onward[bit] = min(limit, onward.get(bit, 0) + count)
                    reached ^= bit
            ways = onward
            if goal in ways:
                return ways[goal]
        return 0

    def try_once(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        walls = rng.random((self.puzzle.rows, self.puzzle.columns)) < self.wall_share
        drawn = self._draw_path(walls, rng)
        if drawn is None:
            return None
        path, start, goal = drawn
        question = np.where(walls.reshape(-1), WALL, OPEN).astype(np.uint8)
        question[start], question[goal] = START, GOAL
        answer = question.copy()
        answer[path] = PATH
        return question, answer

    @classmethod
    def showcase(cls, puzzle: Maze) -> dict[str, dict]:
        far = {"min_path_cells": puzzle.rows + puzzle.columns // 2}
        return {"one": far, "two": far, "three": far}

    def wanted(self) -> str:
        kind = "only one shortest path, of" if self.unique else "a shortest path of"
        return f"{kind} {self.min_path_cells} cells and a wall share of {self.wall_share}"

    def _draw_path(self, walls: np.ndarray, rng: np.random.Generator) -> tuple[list[int], int, int] | None:
        """The cells of a long enough shortest path between its ends, and the ends; None if the board has none.

        Of several shortest paths it is the one that Maze-Hard marks in each of its 2,000 answers: seen from S the first
        one, if down comes before left, left before right and right before up.

        Looking from the farthest cell of a random cell finds nearly every board that has such a path. Moving between
        ends that are far enough apart, each time to a random one, then draws nearly uniformly from all pairs of ends.
        A board with few such pairs is passed over more often, because in Maze-Hard it would be: there the ends of a
        random board are random.
        """
        passable = self._to_bits(~walls)
        far = self.min_path_cells - 1
        if not passable:
            return None
        waves = self._waves(_random_bit(passable, rng), passable)
        if 2 * (len(waves) - 1) < far:  # no two cells of this region are farther apart
            return None
        start = _random_bit(waves[-1], rng)
        waves = self._waves(start, passable)
        if len(waves) - 1 < far:
            return None
        for _ in range(_WALK):
            start = _random_bit(_union(waves[far:]), rng)
            waves = self._waves(start, passable)
        goals = _union(waves[far:])
        goal = _random_bit(goals, rng)
        to_goal = self._waves(goal, passable)
        starts = _union(to_goal[far:])
        if rng.random() * self.puzzle.num_cells > _PAIRS_SHARE * starts.bit_count() * goals.bit_count():
            return None
        path, cell = [], start
        steps = next(i for i, wave in enumerate(to_goal) if wave & start)
        for wave in to_goal[steps - 1 : 0 : -1]:
            ahead = [bit for bit in self._moves(cell) if bit & wave]
            if self.unique and len(ahead) > 1:
                return None
            cell = ahead[0]
            path.append(self._cell(cell))
        return path, self._cell(start), self._cell(goal)

    def _waves(self, start: int, passable: int) -> list[int]:
        """The cells 0, 1, 2, ... steps from `start`, as bits."""
        waves, unseen = [], passable
        wave = start
        while wave:
            waves.append(wave)
            unseen &= ~wave
            wave = self._neighbours(wave) & unseen
        return waves

    def _neighbours(self, cells: int) -> int:
        return cells << 1 | cells >> 1 | cells << self._stride | cells >> self._stride

    def _moves(self, cell: int) -> tuple[int, int, int, int]:
        """What is below, to the left, to the right and above: the order in which Maze-Hard's answers prefer them."""
        return cell << self._stride, cell >> 1, cell << 1, cell >> self._stride

    def _to_bits(self, cells: np.ndarray) -> int:
        padded = np.pad(cells, ((0, 0), (0, 1)))
        return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")

    def _cell(self, bit: int) -> int:
        row, column = divmod(bit.bit_length() - 1, self._stride)
        return row * self.puzzle.columns + column


def _union(waves: list[int]) -> int:
    return functools.reduce(operator.or_, waves)


def _random_bit(bits: int, rng: np.random.Generator) -> int:
    """One of the set bits, each as likely."""
    for _ in range(int(rng.integers(bits.bit_count()))):
        bits &= bits - 1
    return bits & -bits


class MazeHard(PuzzleBuilder):
    """Maze-Hard: 1,000 train and 1,000 test mazes of 30x30 cells with a shortest path of at least 110 cells."""

    FAMILY = "maze"
    HUB_REPO = "sapientinc/maze-30x30-hard-1k"
    DESCRIPTION = "Mazes of random walls with a shortest path of at least 110 cells, one of which the answer marks."
    PUBLISHED_RATING = MazeGenerator.rating
    BUILDER_CONFIGS: ClassVar = [
        PuzzleDataConfig("1k", puzzle="maze-30x30", subsample_size=1000, description="1,000 train mazes"),
        PuzzleDataConfig(
            "1k-aug-8",
            puzzle="maze-30x30",
            subsample_size=1000,
            images_per_puzzle=8,
            description="1,000 train mazes, each in its 8 orientations",
        ),
    ]

    def measure(self, questions: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "cells of a shortest path": self.puzzle.path_lengths(questions) + 1,
            "share of walls": (questions == WALL).mean(1),
        }

    def limits(self) -> str:
        if self.config.check_unique or self.config.generator.get("unique_path"):
            return super().limits()
        several = "A maze may have several shortest paths, of which the answer marks one: a solver may be right by the "
        return several + "rules and still differ from the label. " + super().limits()
