"""Random-wall mazes with a long enough shortest path, as in Maze-Hard (random walls, 30x30, 110 cells)."""

import numpy as np

from air_hf.puzzles import Maze, PuzzleError
from air_hf.puzzles.maze import GOAL, OPEN, PATH, START, WALL

_BATCH = 64
_BATCHES = 200


class MazeGenerator:
    """Draws mazes of one size.

    Args:
        puzzle ([`Maze`]): the board.
        min_path_cells (`int`): least number of cells on a shortest path, S and G included.
        wall_share (`float`): probability of a wall in a cell.
        unique_path (`bool`): only mazes with a single shortest path, so that the answer is the only right one.

    Raises:
        PuzzleError: an impossible length or wall share.
    """

    def __init__(self, puzzle: Maze, min_path_cells: int = 2, wall_share: float = 0.37, unique_path: bool = False):
        # A shortest path never touches itself, so it fills at most about two thirds of the board (snake in the box).
        longest = min(puzzle.num_cells, 2 * puzzle.num_cells // 3 + max(puzzle.rows, puzzle.columns))
        if not 2 <= min_path_cells <= longest:
            raise PuzzleError(
                f"min_path_cells is {min_path_cells}; shortest paths in a {puzzle.name} have 2 to {longest} cells"
            )
        if not 0 <= wall_share < 1:
            raise PuzzleError(f"wall_share is {wall_share}; expected at least 0 and less than 1")
        self.puzzle, self.min_path_cells, self.wall_share, self.unique_path = (
            puzzle,
            min_path_cells,
            wall_share,
            unique_path,
        )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` mazes: questions and answers, each (count, S) of symbol ids (uint8).

        Raises:
            PuzzleError: no maze with so long a path turned up in 12,800 boards.
        """
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        barren = 0
        while len(drawn) < count:
            batch = self._draw_batch(rng)
            drawn += batch
            barren = 0 if batch else barren + 1
            if barren == _BATCHES:
                kind = "only one shortest path, of" if self.unique_path else "a shortest path of"
                raise PuzzleError(
                    f"{self.puzzle.name}: no maze with {kind} {self.min_path_cells} cells and a wall share of "
                    f"{self.wall_share} in {_BATCHES * _BATCH} random boards; ask for a shorter path"
                )
        questions, answers = zip(*drawn[:count], strict=True)
        return np.stack(questions), np.stack(answers)

    def _draw_batch(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        cells = self.puzzle.num_cells
        boards = np.where(rng.random((_BATCH, cells)) < self.wall_share, WALL, OPEN).astype(np.uint8)
        boards[np.arange(_BATCH), rng.integers(cells, size=_BATCH)] = START
        distances = self.puzzle.distances(boards == OPEN, boards == START)
        drawn = []
        for board, distance in zip(boards, distances, strict=True):
            far = np.flatnonzero(distance >= self.min_path_cells - 1)
            if len(far):
                goal = int(rng.choice(far))
                answer = self._mark_path(board, distance, goal, rng)
                if answer is not None:
                    board[goal] = GOAL
                    drawn.append((board, answer))
        return drawn

    def _mark_path(self, board: np.ndarray, distance: np.ndarray, goal: int, rng) -> np.ndarray | None:
        """The board with one shortest path marked; None if it is not the only one and had to be."""
        answer, columns = board.copy(), self.puzzle.columns
        answer[goal] = GOAL
        cell = goal
        for steps in range(int(distance[goal]) - 1, 0, -1):
            row, column = divmod(cell, columns)
            before = [
                r * columns + c
                for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
                if 0 <= r < self.puzzle.rows and 0 <= c < columns and distance[r * columns + c] == steps
            ]
            if self.unique_path and len(before) > 1:
                return None
            cell = before[int(rng.integers(len(before)))]
            answer[cell] = PATH
        return answer
