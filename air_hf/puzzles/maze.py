"""Mazes: mark a shortest path from S to G. Ids: 0 padding, 1 wall, 2 open, 3 start, 4 goal, 5 path.

Axis letters: N boards, S = rows·columns cells.
"""

import numpy as np

from air_hf.puzzles.base import Puzzle, PuzzleError, mix
from air_hf.puzzles.symmetry import Symmetries

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5
UNREACHABLE = -1


class Maze(Puzzle):
    family = "maze"
    symbols = "# SGo"
    aliases = {}

    def __init__(self, rows: int, columns: int):
        if rows * columns < 2:
            raise PuzzleError(f"a maze of {rows}x{columns} has no room for a start and a goal")
        super().__init__(rows, columns)
        square = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
        images = [np.rot90(flipped, turns) for flipped in (square, square.T) for turns in range(4)]
        # Of the 8 symmetries of the square, those that keep the board's shape: 8, or 4 where it is not square.
        self._images = np.stack([image.reshape(-1) for image in images if image.shape == (rows, columns)])

    def check_question(self, question: np.ndarray) -> None:
        for symbol, expected in ((START, "start"), (GOAL, "goal")):
            count = int((question == symbol).sum())
            if count != 1:
                raise PuzzleError(
                    f"{self.name}: the board has {count} {expected}s ({self.symbols[symbol - 1]}), expected 1"
                )
        marked = np.flatnonzero(question == PATH)
        if len(marked):
            raise PuzzleError(f"{self.name}: the question already marks a path, in {self.place(int(marked[0]))}")
        if self.path_lengths(question[None])[0] == UNREACHABLE:
            raise PuzzleError(f"{self.name}: no path leads from S to G")

    def find_error(self, question: np.ndarray, answer: np.ndarray) -> str | None:
        try:
            self.check_question(question)
        except PuzzleError as error:
            return str(error).removeprefix(f"{self.name}: ")
        for cell in range(self.num_cells):
            if question[cell] != answer[cell] and not (question[cell] == OPEN and answer[cell] == PATH):
                before, after = self.format(question[[cell]]), self.format(answer[[cell]])
                return f"{self.place(cell)} holds {after!r} but the question has {before!r}"
        shortest = int(self.path_lengths(question[None])[0])
        along_marks = int(self._lengths(answer[None], (answer == PATH)[None])[0])
        marked = int((answer == PATH).sum())
        if along_marks == UNREACHABLE:
            return f"the {marked} marked cells do not connect S with G"
        if along_marks != shortest:
            return f"the marked path takes {along_marks} steps, a shortest one {shortest}"
        if marked != shortest - 1:
            return f"{marked} cells are marked, a shortest path passes {shortest - 1}"
        return None

    def is_solution(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        marks = answers == PATH
        well_formed = ((questions == START).sum(1) == 1) & ((questions == GOAL).sum(1) == 1)
        well_formed &= ~(questions == PATH).any(1)
        agrees = ((questions == answers) | ((questions == OPEN) & marks)).all(1)
        shortest = self.path_lengths(questions)
        along_marks = self._lengths(answers, marks)
        return well_formed & agrees & (shortest > 0) & (along_marks == shortest) & (marks.sum(1) == shortest - 1)

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

    def random_symmetries(self, count: int, rng: np.random.Generator) -> Symmetries:
        return self._symmetries(rng.integers(len(self._images), size=count))

    def symmetry_pool(self, count: int, rng: np.random.Generator) -> Symmetries:
        if not 1 <= count <= len(self._images):
            raise PuzzleError(f"{count} images of a {self.name} were asked for; it has 1 to {len(self._images)}")
        others = 1 + rng.permutation(len(self._images) - 1)[: count - 1]
        return self._symmetries(np.concatenate(([0], others)))

    def all_symmetries(self) -> Symmetries:
        """Every element of the group once: 8 on a square board, 4 on another."""
        return self._symmetries(np.arange(len(self._images)))

    def _symmetries(self, which: np.ndarray) -> Symmetries:
        symbols = np.tile(np.arange(self.vocab_size, dtype=np.uint8), (len(which), 1))
        return Symmetries(self._images[which], symbols)

    def class_keys(self, boards: np.ndarray) -> np.ndarray:
        keys = np.zeros(len(boards), dtype=np.uint64)
        places = np.arange(self.num_cells, dtype=np.uint64) * np.uint64(self.vocab_size + 1)
        for cells in self._images:
            keys += mix(mix(boards[:, cells] + places).sum(1))
        return keys

    def draw_picture(self, axes, board, question, answer=None) -> None:
        shades = np.array([0.5, 0.15, 1.0, 1.0, 1.0, 1.0])[board].reshape(self.rows, self.columns)
        axes.imshow(shades, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        right = np.ones(self.num_cells, dtype=bool) if answer is None else board == answer
        for symbol, marker, color in ((START, "s", "tab:blue"), (GOAL, "*", "tab:purple"), (PATH, "o", "tab:green")):
            for shown, shade in ((right, color), (~right, "tab:red")):
                cells = np.flatnonzero((board == symbol) & shown)
                axes.scatter(
                    cells % self.columns, cells // self.columns, s=400 / self.columns, marker=marker, color=shade
                )

    def _layout(self, rows: list[list[str]]) -> list[str]:
        return ["".join(row) for row in rows]
