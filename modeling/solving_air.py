"""Solving with as much compute as a puzzle needs, and no more: early exit, depth, rollouts, a budget of model calls.

A puzzle is solved by one or several *rollouts*, trajectories of segments that differ by their noise, their start or the
symmetric image they look at. The rollouts of a puzzle run in *waves*, those of a wave in step; when one of them is
accepted, the puzzle is done. A *model call* is one segment of one puzzle. What a puzzle takes is planned from its
[`SolveConfig`] alone, and its noise is drawn from generators of its own, so its answer depends on nothing around it.

One engine of slots, on top of `model.unroll`, runs whatever is planned: between two segments finished rollouts leave
their slots and waiting ones take them. This file travels to the Hub with every checkpoint.
Axis letters: B puzzles, S cells, n slots or boards.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import numbers
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import ModelOutput, cached_file

from .weights_air import CheckpointError, read_json_object

SOLVE_CONFIG = "solve_config.json"
CHOICES = {
    "early_exit": ("never", "q_halt", "trained", "unchanged", "verifier"),
    "noise_on": ("z_l", "z_h", "both"),
    "noise_every": ("segment", "cycle"),
    "start": ("fixed", "random"),
    "select": ("q_halt", "most_frequent", "cells", "margin", "change", "verifier"),
}
_MOST_NOISE = 1000  # the states' numbers are of the order of 1; far larger ones overflow
_LEAST = {"max_segments": 1, "patience": 1, "rollouts": 1, "rollouts_at_once": 1, "budget": 1}
_DEEPER = 2  # times the model's own segments, where a budget allows it: depth pays before rollouts do
_OVER = object()  # what a source that has ended gives
MOST = 2**16  # of each; more is a mistake that would look like a hang

Verifier = Callable[[torch.LongTensor, torch.LongTensor], Iterable[bool]]
Images = Callable[[torch.LongTensor, int], tuple[torch.LongTensor, Callable[[torch.LongTensor], torch.LongTensor]]]


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, NumPy's included."""
    return isinstance(value, numbers.Integral) and type(value) is not bool


@dataclasses.dataclass(frozen=True)
class SolveConfig:
    """How puzzles are solved; every default is the plain loop: all segments once, no noise.

    Args:
        max_segments (`int`, *optional*): segments of a rollout; if None, the model's `config.max_segments`, or twice as
            many where there is a budget.
        early_exit (`str`): what ends a puzzle before: "never"; "q_halt" above `q_halt_threshold`; "trained", the
            halting rule of training, whose margin (Q-learning: q_halt − q_continue) must exceed the threshold;
            "unchanged", which ends a rollout whose answer stayed the same over `patience` further segments; "verifier",
            an answer that the rules accept.
        q_halt_threshold (`float`): a logit; higher is slower and safer. `air-hf calibrate` chooses it.
        patience (`int`): segments over which an answer must not change.
        rollouts (`int`): K, trajectories of a puzzle.
        noise (`float`): σ, standard deviation of the Gaussian noise added to a state, see `noise_every`; the states'
            root mean square is 1 (PTRM, arXiv 2605.19943: 0.3 for Sudoku, 1.0 for mazes). Where a checkpoint's
            `solve_config.json` has one, the adaptive mode of the commands takes it.
        noise_on (`str`): which states get noise: "z_l", "z_h" or "both".
        noise_every (`str`): before what they get it: each "segment", as PTRM's, or each "cycle", an H-update and the
            L-updates in front of it, which lets a model of several a segment explore as often as one of one.
        start (`str`): "fixed", the two vectors of training, or "random", standard normal states.
        symmetries (`bool`): every rollout but the first looks at a random symmetric image of the board; its answer is
            mapped back.
        select (`str`): whose answer is taken where several rollouts have one: "q_halt" highest; "most_frequent" board;
            "cells", the most frequent symbol of each cell; "margin", the highest mean gap between a cell's two highest
            logits; "change", the smallest change of z_H in the last segment; "verifier", one that the rules accept.
            Rollouts that were accepted go before others; ties go to the highest q_halt.
        plain_first (`bool`): the first rollout is the plain one: it runs alone, without noise, from the fixed start.
        rollouts_at_once (`int`): rollouts in a wave; fewer need less memory and, with an early exit, fewer calls.
        budget (`int`, *optional*): most model calls of a puzzle; the rollout that would exceed it is cut short.
        seed (`int`): of all noise, together with the puzzle's own symbols and the rollout's number.
        trusted_q_halt (`float`, *optional*): a record of `air-hf calibrate`: the score above which no answer was wrong,
            which the adaptive mode of the commands takes as its threshold. Solving itself does not read it.

    Raises:
        ValueError: a value out of its range, named.
    """

    max_segments: int | None = None
    early_exit: str = "never"
    q_halt_threshold: float = 0.0
    patience: int = 3
    rollouts: int = 1
    noise: float = 0.0
    noise_on: str = "z_l"
    noise_every: str = "segment"
    start: str = "fixed"
    symmetries: bool = False
    select: str = "q_halt"
    plain_first: bool = False
    rollouts_at_once: int = 16
    budget: int | None = None
    seed: int = 0
    trusted_q_halt: float | None = None

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}.")
        optional = {field.name for field in dataclasses.fields(self) if field.default is None}
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if not is_whole(value):
                raise ValueError(f"{name} is {value!r}; expected a whole number.")
            object.__setattr__(self, name, int(value))  # one of NumPy's would not become JSON
            if not least <= value <= MOST:
                raise ValueError(f"{name} is {value}; it must be at least {least} and at most {MOST}.")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed!r}; expected a whole number from 0 to 2**63 - 1.")
        object.__setattr__(self, "seed", int(self.seed))
        for name in ("symmetries", "plain_first"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        for name in ("noise", "q_halt_threshold", "trusted_q_halt"):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            is_number = abs(value) <= 2**53 if is_whole(value) else isinstance(value, float) and math.isfinite(value)
            if not is_number:
                raise ValueError(f"{name} is {value!r}; expected a number.")
            object.__setattr__(self, name, int(value) if is_whole(value) else float(value))
        if not 0 <= self.noise <= _MOST_NOISE:
            raise ValueError(
                f"noise is {self.noise}; a standard deviation is at least 0, and here at most {_MOST_NOISE}."
            )
        if self.budget is not None and self.max_segments is not None and self.budget < self.max_segments:
            raise ValueError(
                f"budget is {self.budget}; one answer of max_segments = {self.max_segments} takes more model calls."
            )

    @classmethod
    def adaptive(cls, budget: int = 256, **options) -> "SolveConfig":
        """Cheap first, then depth, then rollouts, only for what is unsolved, for at most `budget` model calls a puzzle.

        The plain rollout runs until it is accepted or spent; then come noisy ones, one after another.

        Raises:
            ValueError: no budget, or a value out of its range.
        """
        if budget is None:
            raise ValueError("budget is None; the adaptive mode needs one, a whole number.")
        first = {"early_exit": "q_halt", "q_halt_threshold": 4.0, "noise": 0.3}
        always = {"rollouts": max(1, min(budget, MOST)) if is_whole(budget) else 1, "plain_first": True}
        return cls(**(first | always | {"rollouts_at_once": 1, "budget": budget} | options))

    @property
    def needs_verifier(self) -> bool:
        """Whether the rules take part in solving."""
        return "verifier" in (self.early_exit, self.select)

    def to_json(self, **facts) -> str:
        """The text of `solve_config.json`: what differs from the defaults, and facts about how it was chosen."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {field.name: values[field.name] for field in dataclasses.fields(self)
                   if values[field.name] != field.default}  # fmt: skip
        return json.dumps(changed | ({"calibration": facts} if facts else {}), indent=2) + "\n"

    @classmethod
    def load(cls, source: str | Path, **place) -> "SolveConfig":
        """What is written in a checkpoint folder or repository; the defaults where there is nothing.

        Raises:
            CheckpointError: the file is no JSON object, or holds an unknown name or a bad value.
        """
        path = cached_file(source, SOLVE_CONFIG, _raise_exceptions_for_missing_entries=False, **place)
        if path is None:
            return cls()
        where, values = f"{SOLVE_CONFIG} of {source}", read_json_object(path)
        values.pop("calibration", None)
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise CheckpointError(f"{where} holds {', '.join(sorted(unknown))}, which no option of solving is called")
        try:
            return cls(**values)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error


@dataclasses.dataclass
class AIRSolution(ModelOutput):
    """The answers to B puzzles, and what they took.

    Args:
        sequences (`torch.LongTensor` of shape `(B, S)`): the symbol ids of the answers.
        q_halt_logits (`torch.FloatTensor` of shape `(B,)`): the model's confidence in each answer (a logit).
        num_segments (`torch.LongTensor` of shape `(B,)`): segments after which the rollout of each answer had it.
        num_calls (`torch.LongTensor` of shape `(B,)`): segments of all rollouts of each puzzle together.
        accepted (`torch.BoolTensor` of shape `(B,)`): whether the early exit accepted each answer.
        rollouts (`list` of B lists of [`Rollout`]): what every rollout ended with, for pass@K and votes of one's own.
        verified (`bool`): whether the verifier took part in choosing or stopping.
    """

    sequences: torch.LongTensor | None = None
    q_halt_logits: torch.FloatTensor | None = None
    num_segments: torch.LongTensor | None = None
    num_calls: torch.LongTensor | None = None
    accepted: torch.BoolTensor | None = None
    rollouts: list[list["Rollout"]] | None = None
    verified: bool | None = None


class Question(NamedTuple):
    """One question of a stream: symbol ids (S,) on the CPU and the row of the prefix table."""

    question: torch.LongTensor
    puzzle_id: int = 0


class Answer(NamedTuple):
    """The answer to the puzzle of a stream whose number is `index`; the fields are those of [`AIRSolution`]."""

    index: int
    sequence: torch.LongTensor
    q_halt_logit: float
    num_segments: int
    num_calls: int
    accepted: bool
    rollouts: list["Rollout"]


class Rollout:
    """One trajectory, in its slot or finished.

    Attributes:
        answer (`torch.LongTensor` of shape `(S,)`): after its last segment, on the CPU.
        q_halt_logit, score (`float`): of that answer; the score is what `select` compares.
        num_segments (`int`): segments run.
        accepted (`bool`): the early exit accepted the answer.
        history (`list`, *optional*): `(answer, q_halt_logit)` after every segment, where it was asked for.
    """

    def __init__(self, question: torch.LongTensor, restore: Callable | None, generator, cap: int, keep_history: bool):
        self.question, self.restore, self.generator, self.cap = question, restore, generator, cap
        self.answer: torch.LongTensor | None = None
        self.q_halt_logit = self.score = -math.inf
        self.num_segments = self.unchanged = 0
        self.accepted = self.verified = self.running = False
        self.history: list[tuple[torch.LongTensor, float]] | None = [] if keep_history else None

    def restored(self, answer: torch.LongTensor) -> torch.LongTensor:
        """An answer to the image it looked at as one to the puzzle."""
        return answer if self.restore is None else self.restore(answer)


def _seed(seed: int, puzzle: Question, rollout: int) -> int:
    """A number of 63 bits from what a rollout is; nothing of its batch enters."""
    text = f"{seed} {puzzle.puzzle_id} {rollout} {puzzle.question.tolist()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class _Task:
    """A puzzle on its way: plans its waves and chooses its answer."""

    def __init__(self, index: int, puzzle: Question, config: SolveConfig, max_segments: int):
        self.index, self.puzzle, self.config, self.max_segments = index, puzzle, config, max_segments
        self.rollouts: list[Rollout] = []
        self.running: list[Rollout] = []

    @property
    def num_calls(self) -> int:
        return sum(rollout.num_segments for rollout in self.rollouts)

    def next_wave(self) -> tuple[int, int]:
        """Rollouts that shall start together, and the segments of each; (0, 0) where the plan is at its end."""
        config = self.config
        width = config.rollouts - len(self.rollouts)
        width = min(width, 1 if config.plain_first and not self.rollouts else config.rollouts_at_once)
        if config.budget is None:
            return width, self.max_segments
        left = config.budget - self.num_calls
        if not left or not width:
            return 0, 0
        # A wave is no wider than lets each rollout run to its end; only the last one of all is cut short.
        return min(width, max(1, left // self.max_segments)), min(self.max_segments, left)

    def start(self, width: int, cap: int, images: Images | None, device, keep_history: bool) -> list[Rollout]:
        wave = []
        for number in range(len(self.rollouts), len(self.rollouts) + width):
            question, restore, generator = self.puzzle.question, None, None
            plain = self.config.plain_first and number == 0
            seed = _seed(self.config.seed, self.puzzle, number)
            if self.config.symmetries and number > 0:
                question, restore = images(question, seed)
            if not plain and (self.config.noise or self.config.start == "random"):
                generator = torch.Generator(device).manual_seed(seed)
            wave.append(Rollout(question, restore, generator, cap, keep_history))
        self.rollouts += wave
        self.running = wave
        return wave

    def answer(self) -> Answer:
        """The selected answer; see `select` of [`SolveConfig`]."""
        candidates = [rollout for rollout in self.rollouts if rollout.accepted] or self.rollouts
        chosen, sequence = candidates[0], None
        if len(candidates) > 1:
            if self.config.select == "most_frequent":
                boards = [tuple(rollout.answer.tolist()) for rollout in candidates]
                times = Counter(boards)
                best = max(range(len(boards)), key=lambda i: (times[boards[i]], candidates[i].q_halt_logit))
                chosen = candidates[best]
            elif self.config.select == "cells":
                sequence = _vote(sorted(candidates, key=lambda each: -each.q_halt_logit))
                chosen = max(candidates, key=lambda each: (int((each.answer == sequence).sum()), each.q_halt_logit))
            else:
                chosen = max(candidates, key=lambda each: (each.score, each.q_halt_logit))
        return Answer(
            self.index, chosen.answer if sequence is None else sequence, chosen.q_halt_logit, chosen.num_segments,
            self.num_calls, chosen.accepted, self.rollouts,
        )  # fmt: skip


def _vote(rollouts: list[Rollout]) -> torch.LongTensor:
    """The most frequent symbol of each cell (S,); where several are as frequent, that of the foremost rollout."""
    answers = torch.stack([rollout.answer for rollout in rollouts])  # (K, S)
    votes = answers.new_zeros(int(answers.max()) + 1, answers.shape[1])  # by symbol and cell
    votes.scatter_add_(0, answers, torch.ones_like(answers))
    places = torch.arange(len(answers))[:, None]
    best = (votes.gather(0, answers) * len(answers) - places).argmax(0, keepdim=True)
    return answers.gather(0, best)[0]


class SolvingEngine:
    """Runs what [`SolveConfig`] plans for a stream of puzzles in a fixed number of slots.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        config ([`SolveConfig`]): the plan.
        batch_size (`int`): slots; a wave that is wider takes what it needs, alone.
        verifier (`Callable`, *optional*): which of n answers (n, S) solve their questions (n, S): n booleans.
        images (`Callable`, *optional*): a random symmetric image (S,) of a question (S,), by a seed, and what maps its
            answer back.
        return_trajectory (`bool`): keep the answer of every segment in each rollout's `history`.

    Raises:
        ValueError: the plan needs a verifier or images that are not given; no slots.
    """

    def __init__(
        self,
        model,
        config: SolveConfig,
        batch_size: int = 64,
        verifier: Verifier | None = None,
        images: Images | None = None,
        return_trajectory: bool = False,
    ):
        if not is_whole(batch_size) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be at least 1.")
        name = model.config.puzzle or "a model that names no puzzle"
        if config.needs_verifier and verifier is None:
            option = "early_exit" if config.early_exit == "verifier" else "select"
            hint = "air_hf.solving.solve(model, input_ids, config) brings those of its family, if it has any"
            raise ValueError(f'{option} is "verifier", but no rules are given that prove an answer of {name}; {hint}.')
        if config.symmetries and images is None:
            hint = "air_hf.solving.solve(model, input_ids, config) brings those of its family"
            raise ValueError(f"symmetries are asked for, but none are given for {name}; {hint}.")
        if config.rollouts > 1 and not (config.noise or config.symmetries or config.start == "random"):
            warnings.warn(
                f"all {config.rollouts} rollouts of a puzzle will be alike: noise is 0, the start is fixed, and there "
                "are no symmetries; set noise, e.g. 0.3",
                stacklevel=3,
            )
        self.model, self.config, self.batch_size = model, config, int(batch_size)
        self.verifier, self.images, self.return_trajectory = verifier, images, return_trajectory
        own = model.config.max_segments * (1 if config.budget is None else _DEEPER)
        self.max_segments = config.max_segments or own
        self._slots: list[Rollout] = []
        self._tasks: list[_Task] = []
        self._unroll = None  # the AIRRollout; row i is slot i
        self._answers: torch.LongTensor | None = None  # (n, S) after the last segment; -1 in new slots

    @torch.no_grad()
    def run(self, puzzles: Iterable[Question | None]) -> Iterator[Answer]:
        """Answers as they are found, not in the puzzles' order; reads ahead no further than there are slots.

        A source that has no puzzle yet and may have one later gives None: what is in the slots goes on meanwhile.
        """
        self._slots, self._tasks, self._unroll, self._answers = [], [], None, None  # of a run that was broken off
        index = itertools.count()
        source = (
            None if puzzle is None else _Task(next(index), puzzle, self.config, self.max_segments) for puzzle in puzzles
        )
        waiting: deque[_Task] = deque()
        while True:
            is_over = self._fill(source, waiting)
            if not self._slots:
                if is_over:
                    return
                continue
            before = self._unroll.state = self._disturb(self._unroll.state)
            self._record(next(self._unroll), before)
            yield from self._settle(waiting)

    def _fill(self, source: Iterator[_Task | None], waiting: deque[_Task]) -> bool:
        """Lets waves start while there is room: of puzzles that go on, then of new ones; whether the source is over."""
        new: list[tuple[_Task, Rollout]] = []
        is_over = False
        while (room := self.batch_size - len(self._slots) - len(new)) > 0:
            if not waiting:
                task = next(source, _OVER)
                is_over = task is _OVER
                if is_over or task is None:
                    break
                waiting.append(task)
            width, cap = waiting[0].next_wave()
            if width > room and (self._slots or new):
                break
            task = waiting.popleft()
            self._tasks.append(task)
            wave = task.start(width, cap, self.images, self.model.device, self.return_trajectory)
            new += [(task, rollout) for rollout in wave]
        if new:
            self._place(new)
        return is_over

    def _place(self, new: list[tuple[_Task, Rollout]]) -> None:
        """Encodes the questions of new rollouts and puts them behind the slots in use."""
        device = self.model.device
        ids = torch.stack([rollout.question for _, rollout in new]).to(device)
        puzzle_ids = torch.tensor([task.puzzle.puzzle_id for task, _ in new], device=device)
        fresh = self.model.unroll(ids, puzzle_ids)
        inputs, state = fresh.inputs, fresh.state
        if self.config.start == "random":
            state = self._random_start(state, [rollout for _, rollout in new])
        answers = torch.full_like(ids, -1)
        if self._slots:
            inputs, state = (type(now).cat([now, more]) for now, more in
                             ((self._unroll.inputs, inputs), (self._unroll.state, state)))  # fmt: skip
            answers = torch.cat([self._answers, answers])
        self._unroll = type(fresh)(self.model, inputs, state)  # one without an end
        if self.config.noise_every == "cycle":
            self._unroll.between_cycles = self._disturb
        self._answers = answers
        for _, rollout in new:
            rollout.running = True
            self._slots.append(rollout)

    def _random_start(self, state, rollouts: list[Rollout]):
        for name in ("z_h", "z_l"):
            rows = list(getattr(state, name))
            for row, rollout in enumerate(rollouts):
                if rollout.generator is not None:
                    rows[row] = _draw(rows[row], rollout.generator)
            state = dataclasses.replace(state, **{name: torch.stack(rows)})
        return state

    def _disturb(self, state):
        """The states with noise for the rollouts that have any (PTRM, arXiv 2605.19943)."""
        rows = [row for row, rollout in enumerate(self._slots) if rollout.generator is not None]
        if not rows or not self.config.noise:
            return state
        for name in ("z_l", "z_h") if self.config.noise_on == "both" else (self.config.noise_on,):
            z = getattr(state, name).clone()
            noise = torch.stack([_draw(z[row], self._slots[row].generator) for row in rows])
            z[torch.tensor(rows, device=z.device)] += self.config.noise * noise
            state = dataclasses.replace(state, **{name: z})
        return state

    def _record(self, output, before) -> None:
        """Notes what a segment said in every slot, and which answers are accepted."""
        config, answers = self.config, output.logits.argmax(-1)
        finite = output.logits.isfinite().flatten(1).all(-1) & output.q_halt_logits.isfinite()
        columns = [finite, output.q_halt_logits, (answers == self._answers).all(-1), self._scores(output, before)]
        if config.early_exit == "trained":
            columns.append(self.model.wants_to_halt(output, config.q_halt_threshold))
        table = torch.stack([column.float() for column in columns], dim=1).tolist()  # waits for the device once
        boards = answers.cpu()
        self._answers = answers
        for rollout, values in zip(self._slots, table, strict=True):
            if not values.pop(0):
                raise ValueError(
                    f"the model's outputs are not finite numbers in segment {rollout.num_segments + 1}; "
                    "its weights are too large, or were damaged."
                )
        changed = [row for row, values in enumerate(table) if not values[1]]
        for rollout, values, board in zip(self._slots, table, boards, strict=True):
            rollout.q_halt_logit, same, rollout.score = values[:3]
            rollout.unchanged = rollout.unchanged + 1 if same else 0
            rollout.num_segments += 1
            rollout.answer = board
            if rollout.history is not None:
                rollout.history.append((rollout.restored(board), rollout.q_halt_logit))
            if config.early_exit == "q_halt":
                rollout.accepted = rollout.q_halt_logit > config.q_halt_threshold
            elif config.early_exit == "trained":
                rollout.accepted = bool(values[3])
        if config.needs_verifier:
            self._verify(changed, boards)

    def _scores(self, output, before) -> torch.Tensor:
        """What `select` compares, (n,); higher is better."""
        if self.config.select == "margin":
            best = output.logits.float().topk(2, dim=-1).values
            return (best[..., 0] - best[..., 1]).mean(-1)
        if self.config.select == "change":
            return -(output.state.z_h.float() - before.z_h.float()).square().mean((1, 2)).sqrt()
        return output.q_halt_logits

    def _verify(self, rows: list[int], boards: torch.LongTensor) -> None:
        """Asks the verifier about answers that are new; the others are what they were."""
        if rows:
            questions = torch.stack([self._slots[row].question for row in rows])
            for row, verdict in zip(rows, self.verifier(questions, boards[rows]), strict=True):
                self._slots[row].verified = bool(verdict)
        for rollout in self._slots:
            if self.config.early_exit == "verifier":
                rollout.accepted = rollout.verified
            if self.config.select == "verifier":
                rollout.score = float(rollout.verified)

    def _settle(self, waiting: deque[_Task]) -> Iterator[Answer]:
        """Takes finished rollouts out of their slots and gives the answers of finished puzzles."""
        unfinished, found = [], []
        for task in self._tasks:
            accepted = any(rollout.accepted for rollout in task.running)
            for rollout in task.running:
                settled = self.config.early_exit == "unchanged" and rollout.unchanged >= self.config.patience
                rollout.running = not (accepted or settled or rollout.num_segments >= rollout.cap)
            task.running = [rollout for rollout in task.running if rollout.running]
            if task.running:
                unfinished.append(task)
            elif not accepted and task.next_wave()[0]:
                waiting.append(task)
            else:
                found.append(task)
        self._tasks = unfinished
        self._compact()
        for task in found:
            for rollout in task.rollouts:
                # A copy, since a row of the batch's answers would keep all of them.
                rollout.answer = rollout.restored(rollout.answer).clone()
            yield task.answer()

    def _compact(self) -> None:
        keep = [row for row, rollout in enumerate(self._slots) if rollout.running]
        if len(keep) == len(self._slots):
            return
        rows = torch.tensor(keep, dtype=torch.long, device=self._answers.device)
        self._slots = [self._slots[row] for row in keep]
        self._unroll.inputs, self._unroll.state = self._unroll.inputs[rows], self._unroll.state[rows]
        self._answers = self._answers[rows]


def _draw(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers of a tensor's shape and type; drawn in float32, so that types agree on them."""
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


def solve_puzzles(
    model,
    input_ids: torch.LongTensor,
    config: SolveConfig,
    puzzle_ids: torch.LongTensor | None = None,
    batch_size: int | None = None,
    **engine: Any,
) -> AIRSolution:
    """Solves B puzzles, B rollouts at a time if there is no `batch_size`; see [`SolvingEngine`] for other arguments.

    Raises:
        ValueError: boards of another size or with unknown symbols, or what [`SolvingEngine`] refuses.
    """
    model.model.check_symbols("input_ids", input_ids, wait_for_device=True)
    questions = input_ids.cpu().long()
    if puzzle_ids is not None:
        model.model.check_puzzle_ids(puzzle_ids, len(questions), wait_for_device=True)
    ids = [0] * len(questions) if puzzle_ids is None else puzzle_ids.tolist()
    running = SolvingEngine(model, config, max(len(questions), 1) if batch_size is None else batch_size, **engine)
    puzzles = (Question(question, puzzle_id) for question, puzzle_id in zip(questions, ids, strict=True))
    answers = sorted(running.run(puzzles), key=lambda answer: answer.index)
    sequences = torch.stack([answer.sequence for answer in answers]) if answers else questions
    device = input_ids.device
    return AIRSolution(
        sequences=sequences.to(device),
        q_halt_logits=torch.tensor([answer.q_halt_logit for answer in answers], dtype=torch.float32, device=device),
        num_segments=torch.tensor([answer.num_segments for answer in answers], dtype=torch.long, device=device),
        num_calls=torch.tensor([answer.num_calls for answer in answers], dtype=torch.long, device=device),
        accepted=torch.tensor([answer.accepted for answer in answers], dtype=torch.bool, device=device),
        rollouts=[answer.rollouts for answer in answers],
        verified=config.needs_verifier,
    )


__all__ = [
    "SOLVE_CONFIG", "AIRSolution", "Answer", "Question", "Rollout", "SolveConfig", "SolvingEngine", "solve_puzzles",
]  # fmt: skip
