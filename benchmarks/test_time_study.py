"""A study of test-time compute on one checkpoint: what depth, early exit, rollouts, votes and a budget are worth.

Two long runs a set, one plain and one of noisy rollouts, are kept segment by segment; every depth, threshold, number of
rollouts and way to choose is read off them. Axis letters: N puzzles, S cells, K rollouts.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from air_hf.data import PuzzleSet
from air_hf.evaluation import first_halt
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.solving_air import SolveConfig
from air_hf.solving.calibration import Segments, calibrate
from air_hf.solving.report import is_exact, report
from air_hf.solving.rules import find_images, find_verifier, solve

SAFE = 4.0  # a q_halt threshold that is right on what has been tried, for runs that stop before one is chosen
_BINS = 10


class Study:
    """Measures methods on one set of puzzles.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        puzzles ([`PuzzleSet`]): N of them.
        noise, rollouts, segments: σ, K and length of the noisy rollouts.
        depth (`int`): segments of the plain run.
        budget (`int`): of the adaptive mode, model calls a puzzle.
        tell (`Callable`): gets a line about every method.
    """

    def __init__(
        self,
        model: AIRForPuzzleSolving,
        puzzles: PuzzleSet,
        noise: float = 0.3,
        rollouts: int = 8,
        segments: int = 32,
        depth: int = 128,
        budget: int = 512,
        batch_size: int = 32,
        tell: Callable[[str], None] = print,
    ):
        self.model, self.puzzles, self.tell, self.batch_size = model, puzzles, tell, batch_size
        self.depth, self.budget = depth, budget
        self.noisy = SolveConfig(noise=noise, rollouts=rollouts, max_segments=segments)
        self._questions = torch.from_numpy(puzzles.questions.astype(np.int64))
        self._puzzle_ids = torch.from_numpy(puzzles.puzzle_ids)
        self.rows: list[dict] = []

    def run(self, sweep: bool) -> dict:
        """All methods; with `sweep`, other σ and states, too. Returns the rows and the calibration of q_halt."""
        calibration = self._plain()
        exits = {"early_exit": "q_halt", "q_halt_threshold": SAFE}
        for symmetries in (False, True) if find_images(self.puzzles.puzzle) else (False,):
            rollouts = "rollouts of images" if symmetries else "rollouts"
            self._rollouts(rollouts, replace(self.noisy, symmetries=symmetries))
            for early_exit in ("q_halt", "verifier") if find_verifier(self.puzzles.puzzle) else ("q_halt",):
                options = {"noise": self.noisy.noise, "early_exit": early_exit, "symmetries": symmetries}
                self._solve(f"adaptive, {rollouts}, {early_exit}", SolveConfig.adaptive(self.budget, **options))
        if sweep:
            for noise, on in ((0.1, "z_l"), (0.3, "z_l"), (1.0, "z_l"), (0.3, "z_h"), (0.3, "both")):
                config = replace(self.noisy, noise=noise, noise_on=on, **exits)
                self._solve(f"rollouts to the first q_halt > {SAFE:g}: {noise:g} on {on}", config)
            self._solve("random starts", replace(self.noisy, noise=0.0, start="random", **exits))
            if find_images(self.puzzles.puzzle):
                self._solve("images without noise", replace(self.noisy, noise=0.0, symmetries=True, **exits))
        return {"rows": self.rows, "calibration": calibration}

    def _add(self, method: str, exact: np.ndarray, calls: np.ndarray, verified: bool = False, **more) -> None:
        row = {"method": method, "exact": float(exact.mean()), "calls": float(np.mean(calls)), "verifier": verified}
        self.rows.append(row | more)
        self.tell(f"  {method:52} exact {row['exact']:6.1%}   calls {row['calls']:7.1f}")

    def _solve(self, method: str, config: SolveConfig) -> None:
        start = time.perf_counter()
        solution = solve(self.model, self._questions, config, self._puzzle_ids, self.batch_size)
        scores = report(self.puzzles, solution, time.perf_counter() - start)
        exact = is_exact(solution.sequences.numpy(), self.puzzles.answers)
        calls = solution.num_calls.numpy()
        more = {"pass_at_k": scores.pass_at_k, "accepted": scores.accepted, "most_calls": scores.most_calls}
        self._add(method, exact, calls, scores.verified, **more)

    def _record(self, config: SolveConfig) -> tuple[np.ndarray, np.ndarray]:
        """Answers (K, segments, N, S) and q_halt (K, segments, N) of all segments of all rollouts."""
        solution = solve(self.model, self._questions, config, self._puzzle_ids, self.batch_size, True)
        histories = [[rollout.history for rollout in rollouts] for rollouts in solution.rollouts]
        boards = np.stack(
            [[[board.numpy().astype(np.uint8) for board, _ in history] for history in each] for each in histories], 2
        )
        scores = np.stack([[[score for _, score in history] for history in each] for each in histories], 2)
        return boards, scores

    def _plain(self) -> dict:
        """Depths, and the early exit at each, from one run; how well q_halt knows."""
        boards, scores = self._record(SolveConfig(max_segments=self.depth))
        exact, scores = is_exact(boards[0], self.puzzles.answers), scores[0]
        self._exact_once = exact
        own = self.model.config.max_segments
        for depth in _powers(4, self.depth):
            self._add(f"plain, {depth} segments", exact[depth - 1], np.full(len(self.puzzles), depth))
            if depth >= own:
                stop, wished = first_halt(scores[:depth] > SAFE)
                right = exact[stop, np.arange(len(stop))]
                self._add(f"q_halt > {SAFE:g}, at most {depth}", right, stop + 1, accepted=float(wished.mean()))
        chosen = calibrate(Segments(exact[:own], scores[:own]))
        return _reliability(exact[own - 1], scores[own - 1]) | {
            "segments": own,
            "threshold": chosen.threshold,
            "exact": chosen.exact,
            "mean_segments": chosen.mean_segments,
            "exact_all_segments": chosen.exact_without,
        }

    def _rollouts(self, name: str, config: SolveConfig) -> None:
        """Every number of rollouts and every way to choose that needs no logits, from one run."""
        boards, scores = self._record(config)
        exact, answers, final = is_exact(boards[:, -1], self.puzzles.answers), boards[:, -1], scores[:, -1]
        everyone, sigma = np.arange(len(self.puzzles)), f"σ {self.noisy.noise:g}"
        total, segments = len(boards), boards.shape[1]
        self._add(f"1 of the {name}, {sigma}, mean of {total}", exact.mean(0), np.full(len(everyone), segments))
        for count in _powers(2, total):
            calls = np.full(len(everyone), count * segments)
            best = exact[final[:count].argmax(0), everyone]
            frequent = np.array([_most_frequent(answers[:count, i], final[:count, i]) for i in everyone])
            passed = float(exact[:count].any(0).mean())
            self._add(f"{count} {name}, {sigma}, by q_halt", best, calls, pass_at_k=passed)
            self._add(f"{count} {name}, {sigma}, most frequent", exact[frequent, everyone], calls, pass_at_k=passed)
        if verify := find_verifier(self.puzzles.puzzle):
            flat = torch.from_numpy(answers.reshape(-1, answers.shape[-1]).astype(np.int64))
            valid = verify(self._questions.repeat(total, 1), flat).reshape(total, -1)
            right = exact[np.where(valid.any(0), valid.argmax(0), final.argmax(0)), everyone]
            calls = np.full(len(everyone), total * segments)
            self._add(f"{total} {name}, {sigma}, by the verifier", right, calls, True, pass_at_k=passed)


def _powers(first: int, last: int) -> Iterator[int]:
    """`first` doubled again and again, up to `last`, which is always among them."""
    while first < last:
        yield first
        first *= 2
    yield last


def _most_frequent(boards: np.ndarray, scores: np.ndarray) -> int:
    """Which of K boards (K, S) occurs most often; of several, that of the highest score (K,)."""
    texts = [board.tobytes() for board in boards]
    times = Counter(texts)
    return max(range(len(texts)), key=lambda i: (times[texts[i]], scores[i]))


def _reliability(exact: np.ndarray, scores: np.ndarray) -> dict:
    """How q_halt's probability agrees with being right, in ten bins of equal width, and the mean gap of all."""
    probability = 1 / (1 + np.exp(-scores))
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    rows = [
        {"said": float(probability[bins == i].mean()), "right": float(exact[bins == i].mean()), "puzzles": int(n)}
        for i in range(_BINS)
        if (n := (bins == i).sum())
    ]
    gap = sum(row["puzzles"] * abs(row["said"] - row["right"]) for row in rows) / len(exact)
    decided = float(((scores > 0) == exact).mean())
    return {"bins": rows, "expected_calibration_error": gap, "says_rightly": decided}
