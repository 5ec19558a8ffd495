"""How fast puzzles are drawn, augmented and read, each as a ratio to a plain Python loop over boards in the same run.

python benchmarks/data.py [--seconds 3]
"""

import argparse
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from air_hf.cores import usable_cores
from air_hf.data import load_puzzles
from air_hf.dataset_builders.generate import make_generator, write_csv
from air_hf.puzzles import get_puzzle

SUDOKU, MAZE = get_puzzle("sudoku-9x9"), get_puzzle("maze-30x30")


def rate(draw: Callable[[], int], seconds: float) -> float:
    """Boards a second; `draw` returns how many it made. The first call, which may compile, is not counted."""
    draw()
    start, boards = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        boards += draw()
    return boards / (time.perf_counter() - start)


def plain_solutions(board: list[int], limit: int) -> int:
    """Backtracking over the cell with the fewest candidates, in plain Python."""
    best, choices = -1, None
    for cell in range(81):
        if board[cell] == 0:
            row, column = divmod(cell, 9)
            top, left = row // 3 * 3, column // 3 * 3
            seen = set(board[row * 9 : row * 9 + 9]) | set(board[column::9])
            seen |= {board[(top + i) * 9 + left + j] for i in range(3) for j in range(3)}
            free = [digit for digit in range(1, 10) if digit not in seen]
            if choices is None or len(free) < len(choices):
                best, choices = cell, free
    if choices is None:
        return 1
    found = 0
    random.shuffle(choices)
    for digit in choices:
        board[best] = digit
        found += plain_solutions(board, limit - found)
        if found >= limit:
            return found  # the board keeps the last solution
    board[best] = 0
    return found


def plain_minimal_sudoku() -> int:
    board = [0] * 81
    plain_solutions(board, 1)
    for cell in random.sample(range(81), 81):
        digit, board[cell] = board[cell], 0
        if plain_solutions(board.copy(), 2) > 1:
            board[cell] = digit
    return 1


def plain_maze() -> int:
    """One random board and start; a maze if some cell is 109 steps away."""
    walls = [random.random() < 0.37 for _ in range(900)]
    start = random.choice([cell for cell in range(900) if not walls[cell]])
    distance, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        row, column = divmod(cell, 30)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < 30 and 0 <= c < 30 and not walls[r * 30 + c] and r * 30 + c not in distance:
                distance[r * 30 + c] = distance[cell] + 1
                queue.append(r * 30 + c)
    return int(max(distance.values()) >= 109)


def plain_augmentation(board: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One board at a time: lines permuted inside bands and stacks, digits renamed, transposed or not."""
    digits = np.concatenate(([0, 1], 2 + rng.permutation(9)))
    rows, columns = (np.concatenate([3 * g + rng.permutation(3) for g in rng.permutation(3)]) for _ in range(2))
    square = board.reshape(9, 9)
    square = square.T if rng.random() < 0.5 else square
    return digits[square[rows][:, columns]].reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    seconds = parser.parse_args().seconds
    random.seed(0)
    rng = np.random.default_rng(0)
    cores = usable_cores()
    questions, answers = make_generator(SUDOKU).draw(2000, rng)
    boards = np.resize(questions, (20_000, 81))

    def draw(puzzle, count, **options) -> Callable[[], int]:
        generator = make_generator(puzzle, **options)
        return lambda: len(generator.draw(count, rng)[0])

    def augment(seed: int) -> int:
        SUDOKU.random_symmetries(len(boards), np.random.default_rng(seed)).apply(boards)
        return len(boards)

    def augment_in_threads() -> int:
        with ThreadPoolExecutor(cores) as pool:
            return sum(pool.map(augment, range(8 * cores)))

    def augment_plainly() -> int:
        for board in boards[:200]:
            plain_augmentation(board, rng)
        return 200

    plain = rate(plain_minimal_sudoku, seconds)
    lines = [
        ("minimal 9x9 Sudoku, one core", rate(draw(SUDOKU, 50), seconds), plain),
        ("9x9 of rating 10 or more, one core", rate(draw(SUDOKU, 5, min_rating=10), seconds), None),
        ("16x16 Sudoku, one core", rate(draw(get_puzzle("sudoku-16x16"), 5), seconds), None),
        ("30x30 mazes, 110 cells, one core", rate(draw(MAZE, 10, min_path_cells=110), seconds), rate(plain_maze, 20)),
        (
            f"9x9 boards augmented, {cores} cores",
            rate(augment_in_threads, seconds),
            rate(augment_plainly, seconds),
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        write_csv(path, SUDOKU, questions, answers, "benchmark")

        def read_plainly() -> int:
            for question, answer in zip(questions[:200], answers[:200], strict=True):
                texts = SUDOKU.format(question), SUDOKU.format(answer)
                assert SUDOKU.find_error(*(SUDOKU.parse(text) for text in texts)) is None
            return 200

        reading = rate(lambda: len(load_puzzles(path)), seconds)
        lines.append(("rows read and checked, one core", reading, rate(read_plainly, seconds)))
    print(f"{'':38}{'a second':>12}{'plain loop':>12}{'ratio':>9}")
    for name, ours, reference in lines:
        ratio = ("", "") if reference is None else (f"{reference:,.2f}", f"{ours / reference:,.0f}")
        print(f"{name:38}{ours:>12,.0f}{ratio[0]:>12}{ratio[1]:>9}")


if __name__ == "__main__":
    main()
