"""Mazes: mark a shortest path from S to G. Ids: 0 padding, 1 wall, 2 open, 3 start, 4 goal, 5 path.

Axis letters: N boards, S = rows·columns cells.
"""

from functools import cached_property

import numpy as np

from air_hf.modeling.rules_air import MazeRules
from air_hf.puzzles.base import PADDING, Puzzle
from air_hf.puzzles.symmetry import dihedral

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5
UNREACHABLE = -1


class Maze(Puzzle):
    family = "maze"
    symbols = "# SGo"
    rules_class = MazeRules
    generator = "air_hf.dataset_builders.maze:MazeGenerator"
    data_builder = "air_hf.dataset_builders.maze:MazeHard"
    description = "A maze: mark a shortest path from the start to the goal."
    symbols_help = "`#` wall, space, `S` start, `G` goal; the answer marks a shortest path with `o`"

    @property
    def example(self) -> str:
        """A way that winds from the first cell to the last, between walls with one door each."""
        board = np.full((self.rows, self.columns), OPEN, dtype=np.uint8)
        for wall, row in enumerate(range(1, self.rows - 1, 2)):
            board[row] = WALL
            board[row, 0 if wall % 2 else -1] = OPEN
        board[0, 0], board[-1, -1] = START, GOAL
        return self.format(board.reshape(-1))

    @cached_property
    def arrangements(self) -> np.ndarray:
        return dihedral(self.rows, self.columns)

    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        marks = answers == PATH
        well_formed = ((questions == START).sum(1) == 1) & ((questions == GOAL).sum(1) == 1)
        well_formed &= ~(questions == PATH).any(1)
        agrees = ((questions == answers) | ((questions == OPEN) & marks)).all(1)
        shortest = self.path_lengths(questions)
        along_marks = self._lengths(answers, marks)
        return well_formed & agrees & (shortest > 0) & (along_marks == shortest) & (marks.sum(1) == shortest - 1)

    def has_several_answers(self, questions: np.ndarray) -> np.ndarray:
        """Which mazes have several shortest paths: more cells lie on one of them than one has."""
        from_start, from_goal = (
            self.distances((questions != WALL) & (questions != PADDING), questions == end) for end in (START, GOAL)
        )
        lengths = self.path_lengths(questions)
        between = (from_start != UNREACHABLE) & (from_goal != UNREACHABLE)
        return (between & (from_start + from_goal == lengths[:, None])).sum(1) > lengths + 1

    def path_lengths(self, questions: np.ndarray) -> np.ndarray:
        """Steps (N,) of a shortest path from S to G, over open or marked cells; -1 where there is none."""
        return self._lengths(questions, (questions == OPEN) | (questions == PATH))

    def _lengths(self, boards: np.ndarray, passable: np.ndarray) -> np.ndarray:
        goals = boards == GOAL
        distances = self.distances(passable | goals, boards == START)
        return np.where(goals, distances, UNREACHABLE).max(1)

    def distances(self, passable: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Steps (N, S) from the nearest source to every passable cell, -1 where no way leads; inputs are bool (N, S).

        Breadth-first search in all boards at once, one step of all frontiers at a time.
        """
        shape = (len(passable), self.rows, self.columns)
        distances = np.where(sources, 0, UNREACHABLE).astype(np.int32).reshape(shape)
        unseen = (passable & ~sources).reshape(shape)
        frontier = sources.reshape(shape).copy()
        going = np.arange(len(passable))
        for step in range(1, self.num_cells):
            wave = np.zeros_like(frontier)
            wave[:, 1:] |= frontier[:, :-1]
            wave[:, :-1] |= frontier[:, 1:]
            wave[:, :, 1:] |= frontier[:, :, :-1]
            wave[:, :, :-1] |= frontier[:, :, 1:]
            wave &= unseen
            moving = wave.any((1, 2))
            if not moving.any():
                break
            going, unseen, frontier = going[moving], unseen[moving] & ~wave[moving], wave[moving]
            boards, rows, columns = np.nonzero(frontier)
            distances[going[boards], rows, columns] = step
        return distances.reshape(len(passable), -1)

    @property
    def blank(self) -> int:
        return OPEN

    def draw_picture(self, axes, board, question, answer=None) -> None:
        shades = np.array([0.5, 0.15, 1.0, 1.0, 1.0, 1.0])[board].reshape(self.rows, self.columns)
        axes.imshow(shades, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        right = np.ones(self.num_cells, dtype=bool) if answer is None else board == answer
        for symbol, marker, color in ((START, "s", "tab:blue"), (GOAL, "*", "tab:purple"), (PATH, "o", "#009E73")):
            for shown, shade in ((right, color), (~right, "#D55E00")):
                cells = np.flatnonzero((board == symbol) & shown)
                axes.scatter(
                    cells % self.columns, cells // self.columns, s=400 / self.columns, marker=marker, color=shade
                )

    def _layout(self, rows: list[list[str]]) -> list[str]:
        return ["".join(row) for row in rows]
