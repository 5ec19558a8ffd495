"""Scores of a checkpoint on puzzles: exact and cell accuracy, validity by the rules, halting, accuracy by segment."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator

from air_hf.data import PuzzleSet, to_batch
from air_hf.metrics import score_boards
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import family_name, find_family


@dataclass
class EvaluationResult:
    """Scores, and beside them what they depend on. Accuracies are shares of 1.

    Args:
        exact_accuracy: boards with every cell as labelled, after all segments.
        cell_accuracy: cells as labelled, averaged over boards.
        copy_accuracy: the cell accuracy of returning the question unchanged; the floor to compare with.
        valid_rate: boards that the puzzle's rules accept, labelled so or not; None where it has no rules to break.
        halting_accuracy: boards whose q_halt at the last segment says rightly whether the answer is right.
        mean_segments: segments until the halting rule of training is satisfied, at most `num_segments`.
        halting_exact_accuracy: exact accuracy of the answers at that moment.
        exact_accuracy_by_segment: exact accuracy after 1, 2, ... segments.
        num_puzzles: test-set size.
        num_segments: segments run.
        num_parameters: of the model; `num_embedding_parameters` of them in tables.
        puzzle: family and size.
        data: the data set's or the file's name, and which part of it; no path.
        data_sha256: SHA-256 of the puzzles, see [`PuzzleSet.sha256`]; this and the following where they are known.
        dataset, dataset_config, dataset_revision: the data set on the Hub, its configuration and commit.
        split: which split of it, or which file of a folder.
        whole_split: whether all of that was scored.
        step: training step of the weights, where known.
        ema: decay of the average the weights are, 0 for raw weights, None where unknown.
        precision: dtype of the states.
    """

    exact_accuracy: float
    cell_accuracy: float
    copy_accuracy: float
    valid_rate: float | None
    halting_accuracy: float
    mean_segments: float
    halting_exact_accuracy: float
    exact_accuracy_by_segment: list[float]
    num_puzzles: int
    num_segments: int
    num_parameters: int
    num_embedding_parameters: int
    puzzle: str
    data: str
    data_sha256: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    split: str | None = None
    whole_split: bool | None = None
    step: int | None = None
    ema: float | None = None
    precision: str = "float32"

    def to_dict(self) -> dict:
        return asdict(self)

    def table(self) -> str:
        """A table for people: every score with what it was measured on."""
        proves = self.valid_rate is None or find_family(family_name(self.puzzle)).rules_class.proves_answers
        valid = "no rules to check" if self.valid_rate is None else f"{self.valid_rate:.1%}"
        ema = "unknown" if self.ema is None else "off" if self.ema == 0 else f"{self.ema:g}"
        rows = [
            ("exact accuracy", f"{self.exact_accuracy:.1%}"),
            ("cell accuracy", f"{self.cell_accuracy:.1%}  (copying the question: {self.copy_accuracy:.1%})"),
            ("valid by the rules" if proves else "breaks no rule (no proof)", valid),
            ("halting accuracy", f"{self.halting_accuracy:.1%}"),
            ("halting when q_halt says", f"{self.halting_exact_accuracy:.1%} after {self.mean_segments:.2f} segments"),
            ("puzzles", f"{self.num_puzzles:,} of {self.puzzle}, {self.data}"),
            ("segments", f"{self.num_segments}"),
            ("training steps", "unknown" if self.step is None else f"{self.step:,}"),
            ("EMA", ema),
            ("precision", self.precision),
            ("parameters", f"{self.num_parameters:,} ({self.num_embedding_parameters:,} in embeddings)"),
        ]
        lines = [f"{name:<26}{value}" for name, value in rows]
        lines.append("exact accuracy by segment")
        for segment, accuracy in enumerate(self.exact_accuracy_by_segment, start=1):
            lines.append(f"  {segment:>3} {accuracy:>7.1%}  {'█' * round(40 * accuracy)}")
        return "\n".join(lines)


@torch.no_grad()
def evaluate_model(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    batch_size: int = 256,
    max_segments: int | None = None,
    step: int | None = None,
    ema: float | None = None,
    accelerator: Accelerator | None = None,
    origin: dict | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> EvaluationResult:
    """Runs all segments on every puzzle and scores the answers.

    Processes share the batches, each of which one of them runs whole, so their number does not change a digit.

    Args:
        model ([`AIRForPuzzleSolving`]): left in evaluation mode as it was found.
        puzzles ([`PuzzleSet`]): N puzzles of the model's size.
        batch_size (`int`): boards at a time; the last batch is filled up, so every batch has one shape.
        max_segments (`int`, *optional*): segments to run; the model's own number if None.
        step, ema: recorded in the result.
        accelerator (`Accelerator`, *optional*): its processes share the work; every one must call, and gets the result.
        origin (`dict`, *optional*): fields of the result that say where the puzzles came from, `data` to `whole_split`;
            without it, `data` is the last part of their `source`.
        before_batch (`Callable`): called before every batch; what it raises ends the evaluation.

    Raises:
        ValueError: puzzles that the model cannot take, `max_segments` or `batch_size` below 1.
    """
    max_segments = model.config.max_segments if max_segments is None else max_segments
    if max_segments < 1 or batch_size < 1:
        raise ValueError(f"max_segments ({max_segments}) and batch_size ({batch_size}) must be at least 1")
    puzzles.check_model(model.config)
    if not len(puzzles):
        raise ValueError("no puzzles were given; expected at least one")
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    batch_size = min(batch_size, len(puzzles))
    rounds = math.ceil(len(puzzles) / (batch_size * processes))  # the last round may run batches that do not count
    parts, precision = [], ""
    with _in_evaluation_mode(model):
        for index in range(rounds):
            before_batch()
            first = (index * processes + rank) * batch_size
            rows = np.arange(first, first + batch_size) % len(puzzles)
            batch = to_batch(puzzles.questions[rows], puzzles.answers[rows], puzzles.puzzle_ids[rows])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with accelerator.autocast() if accelerator else nullcontext():
                part, precision = _run_segments(model, batch, max_segments)
            left = len(puzzles) - index * processes * batch_size
            parts.append([_gather(values, accelerator)[:, :left] for values in part])
    # (segments, N, S) answers; (segments, N, 1) halting wishes and right-or-not confidences
    answers, wishes, confident, finite = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))
    if not finite.all():
        segment = int(finite.all(axis=(1, 2)).argmin()) + 1
        raise ValueError(
            f"the model's outputs are not finite numbers in segment {segment}; "
            "its weights are too large, or were damaged"
        )
    result = _score(model, puzzles, answers, wishes[..., 0], confident[..., 0])
    return replace(result, step=step, ema=ema, precision=precision, **origin or {})


@contextmanager
def _in_evaluation_mode(model: AIRForPuzzleSolving) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _gather(values: torch.Tensor, accelerator: Accelerator | None) -> np.ndarray:
    """(segments, B, ...) of every process behind one another along the boards."""
    if accelerator is not None and accelerator.num_processes > 1:
        values = accelerator.gather(values.transpose(0, 1).contiguous()).transpose(0, 1)
    return values.cpu().numpy()


def _run_segments(model, batch, max_segments) -> tuple[list[torch.Tensor], str]:
    """After each segment: answers (segments, B, S); wish to halt, q_halt > 0 and whether all outputs are finite
    (segments, B, 1); the states' dtype."""
    records = []
    for output in model.unroll(batch["input_ids"], batch["puzzle_ids"], max_segments=max_segments):
        wish = model.wants_to_halt(output).unsqueeze(-1)
        finite = output.logits.isfinite().flatten(1).all(-1) & output.q_halt_logits.isfinite()
        confident = output.q_halt_logits >= 0
        records.append((output.logits.argmax(-1).to(torch.uint8), wish, confident.unsqueeze(-1), finite.unsqueeze(-1)))
    return [torch.stack(values) for values in zip(*records, strict=True)], str(output.state.z_h.dtype).removeprefix(
        "torch."
    )


def first_halt(wishes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where puzzles would leave a rollout, by their wishes to halt (segments, N).

    Returns:
        `np.ndarray` (N,), `np.ndarray` (N,): the segment of the first wish, counted from 0, the last where there is
        none; whether there is one.
    """
    some = wishes.any(0)
    return np.where(some, wishes.argmax(0), len(wishes) - 1), some


def _score(model, puzzles, answers, wishes, confident) -> EvaluationResult:
    labelled = puzzles.answers > 0
    some = labelled.any(1)  # boards without any label do not count
    right = ((answers == puzzles.answers) | ~labelled).all(-1)[:, some]  # (segments, labelled boards)
    wishes, confident = wishes[:, some], confident[:, some]
    final = score_boards(answers[-1], puzzles.answers)
    halted_at, _ = first_halt(wishes)
    tables = [model.model.embed_tokens, model.model.prefix, model.model.embed_positions]
    return EvaluationResult(
        exact_accuracy=final["exact_accuracy"],
        cell_accuracy=final["cell_accuracy"],
        copy_accuracy=score_boards(puzzles.questions, puzzles.answers)["cell_accuracy"],
        valid_rate=_valid_rate(puzzles, answers[-1]),
        halting_accuracy=float((confident[-1] == right[-1]).mean()),
        mean_segments=float(halted_at.mean() + 1),
        halting_exact_accuracy=float(right[halted_at, np.arange(right.shape[1])].mean()),
        exact_accuracy_by_segment=right.mean(1).tolist(),
        num_puzzles=len(puzzles),
        num_segments=len(answers),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_embedding_parameters=sum(table.weight.numel() for table in tables if table is not None),
        puzzle=puzzles.puzzle.name,
        data=bare_name(puzzles.source),
    )


def bare_name(source: str) -> str:
    """A file's name without its folders: "a/b/test.csv (4 of 9, seed 0)" is "test.csv (4 of 9, seed 0)".

    It is the same on every system: "C:\\a\\test.csv" is "test.csv", too.
    """
    return re.split(r"[/\\]|^[A-Za-z]:|^~", source.rstrip("/\\"))[-1]


def _valid_rate(puzzles: PuzzleSet, answers: np.ndarray) -> float | None:
    if not puzzles.puzzle.rules.checks_answers:
        return None
    return float(puzzles.puzzle.is_solution(puzzles.questions, answers).mean())
