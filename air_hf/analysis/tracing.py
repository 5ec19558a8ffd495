"""The trace: what both states say after every update of every segment (AIR, arXiv 2605.17811, "decoded rollouts").

    t = trace(model, input_ids=ids, max_segments=4)
    t.labels[3], t.symbols_l[3]      # "0.L.1", what z_L decodes to after it

Axis letters: U updates of the rollout, N segments, B puzzles, S cells, T positions of the states, D hidden size.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace

import torch

from air_hf.analysis.walk import Moment, Walk, check_frozen, in_batches, moments
from air_hf.modeling import AIRForPuzzleSolving, AIRState
from air_hf.modeling.modeling_air import check_max_segments

# What can be kept, the fields of a trace that hold it, and the bytes that takes, counted in numbers of 4.
KEEPABLE = {
    "symbols": ("symbols_h", "symbols_l"),
    "entropy": ("entropy_h", "entropy_l"),
    "confidence": ("confidence_h", "confidence_l"),
    "change": ("change", "cosine"),
    "q_halt": ("q_halt", "halts"),
    "states": ("z_h", "z_l"),
}
DEFAULT_KEEP = ("symbols", "entropy", "confidence", "change", "q_halt")


@dataclass
class Trace:
    """A recorded rollout of B puzzles; None where a thing was not kept. Everything is on the CPU.

    Args:
        moments (`list[Moment]`): the U updates in order.
        symbols_h, symbols_l (`torch.LongTensor` of shape `(U, B, S)`): what z_H and z_L decode to after each update.
        entropy_h, entropy_l (`torch.FloatTensor` of shape `(U, B, S)`): of a cell's symbol probabilities, in nats.
        confidence_h, confidence_l (`torch.FloatTensor` of shape `(U, B, S)`): probability of the decoded symbol.
        change (`torch.FloatTensor` of shape `(U, B)`): of the state that the update writes, since the update before
            that wrote it: ‖z − z′‖ / ‖z′‖ over all positions.
        cosine (`torch.FloatTensor` of shape `(U, B)`): between the same two.
        q_halt (`torch.FloatTensor` of shape `(U, B)`): the wish to halt, a logit, read from z_H after each update.
        halts (`torch.BoolTensor` of shape `(N, B)`): whether the model's rule would halt after each segment.
        z_h, z_l (`torch.FloatTensor` of shape `(U, B, T, D)`): the states.
    """

    moments: list[Moment]
    symbols_h: torch.LongTensor | None = None
    symbols_l: torch.LongTensor | None = None
    entropy_h: torch.FloatTensor | None = None
    entropy_l: torch.FloatTensor | None = None
    confidence_h: torch.FloatTensor | None = None
    confidence_l: torch.FloatTensor | None = None
    change: torch.FloatTensor | None = None
    cosine: torch.FloatTensor | None = None
    q_halt: torch.FloatTensor | None = None
    halts: torch.BoolTensor | None = None
    z_h: torch.FloatTensor | None = None
    z_l: torch.FloatTensor | None = None

    @property
    def labels(self) -> list[str]:
        """ "SEGMENT.LEVEL.INDEX" of each, counted from 0: "1.L.0" is the first L-update of the second segment."""
        return [str(moment) for moment in self.moments]

    @property
    def segment_ends(self) -> list[int]:
        """Positions of the updates that end a segment."""
        return [
            i for i, now in enumerate(self.moments) if i + 1 == len(self.moments) or self.moments[i + 1][0] > now[0]
        ]

    def symbols(self, level: str) -> torch.LongTensor:
        """`symbols_h` or `symbols_l`."""
        return self.symbols_h if level == "H" else self.symbols_l

    def writes(self, level: str) -> list[int]:
        """Positions of the updates that write a level."""
        return [position for position, moment in enumerate(self.moments) if moment.level == level]

    def only(self, puzzles) -> "Trace":
        """The same of some puzzles, chosen by a slice, a mask (B,) or indices."""
        chosen = {name: tensor[:, puzzles] for name, tensor in self._tensors().items()}
        return replace(self, **chosen)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), torch.Tensor)
        }


def trace(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    puzzle_ids: torch.LongTensor | None = None,
    max_segments: int | None = None,
    *,
    frozen: str | Collection[str] = (),
    freeze_from: int = 0,
    keep: Collection[str] = DEFAULT_KEEP,
    batch_size: int = 64,
    max_memory: float = 4.0,
) -> Trace:
    """Runs a checkpoint of any variant and records every update.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): questions, any number of them.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table; 0 if not given.
        max_segments (`int`, *optional*): segments to run; the model's own number if None.
        frozen (`str` or collection of `str`): levels, "L" or "H", whose state is held at what it is.
        freeze_from (`int`): the segment from which on; 0 holds the initial state.
        keep (collection of `str`): of "symbols", "entropy", "confidence", "change", "q_halt" and "states".
        batch_size (`int`): puzzles that run together.
        max_memory (`float`): GiB that the trace may take.

    Raises:
        ValueError: an argument out of its range, or more to keep than `max_memory`; see [`iterate_traces`] then.
    """
    max_segments = model.config.max_segments if max_segments is None else max_segments
    check_max_segments(max_segments)
    needed = len(input_ids) * _bytes_of_one(model, max_segments, _check_keep(keep)) / 2**30
    if needed > max_memory:
        raise ValueError(
            f"the trace of {len(input_ids)} puzzles over {max_segments} segments takes {needed:.2g} GiB, more than "
            f"max_memory ({max_memory:g}); keep less than {', '.join(keep)}, or go through iterate_traces"
        )
    parts = [
        part
        for _, part in iterate_traces(
            model, input_ids, puzzle_ids, max_segments, frozen=frozen, freeze_from=freeze_from, keep=keep,
            batch_size=batch_size,
        )
    ]  # fmt: skip
    columns = {name: [part._tensors()[name] for part in parts] for name in parts[0]._tensors()}
    return replace(parts[0], **{name: torch.cat(tensors, dim=1) for name, tensors in columns.items()})


def iterate_traces(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    puzzle_ids: torch.LongTensor | None = None,
    max_segments: int | None = None,
    *,
    frozen: str | Collection[str] = (),
    freeze_from: int = 0,
    keep: Collection[str] = DEFAULT_KEEP,
    batch_size: int = 64,
) -> Iterator[tuple[slice, Trace]]:
    """The same, batch after batch, so that only one batch's trace is ever held; see [`trace`].

    Yields:
        which puzzles, and their [`Trace`].
    """
    keep = _check_keep(keep)
    max_segments = model.config.max_segments if max_segments is None else max_segments
    check_max_segments(max_segments)
    frozen = check_frozen(frozen, freeze_from, max_segments)
    if len(input_ids) == 0:
        raise ValueError("there are no puzzles to trace; input_ids has shape (0, ...)")
    # What cannot be told on the device is looked at once, before anything runs.
    model.model.check_symbols("input_ids", input_ids, wait_for_device=True)
    if puzzle_ids is not None:
        model.model.check_puzzle_ids(puzzle_ids, len(input_ids), wait_for_device=True)
    for batch in in_batches(len(input_ids), batch_size, "trace"):
        ids = None if puzzle_ids is None else puzzle_ids[batch]
        recorder = _Recorder(model, keep)
        walk = Walk(model, input_ids[batch], ids, max_segments, frozen, freeze_from, recorder.observe)
        recorder.start(walk.rollout.state)
        for output in walk:
            if "q_halt" in keep:
                recorder.add("halts", model.wants_to_halt(output))
        yield batch, recorder.finish(moments(model, max_segments))


def _check_keep(keep: Collection[str]) -> tuple[str, ...]:
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    unknown = [name for name in keep if name not in KEEPABLE]
    if unknown:
        raise ValueError(f"keep names {unknown[0]!r}; a trace can keep {', '.join(KEEPABLE)}")
    return keep


def puzzles_within(
    max_memory: float, model: AIRForPuzzleSolving, max_segments: int | None, keep: Collection[str]
) -> int:
    """How many puzzles' traces take at most `max_memory` GiB; 1 where not even one does."""
    max_segments = model.config.max_segments if max_segments is None else max_segments
    return max(1, int(max_memory * 2**30 / _bytes_of_one(model, max_segments, _check_keep(keep))))


def _bytes_of_one(model: AIRForPuzzleSolving, max_segments: int, keep: tuple[str, ...]) -> int:
    """What the kept tensors of a puzzle take: 8 bytes a symbol, 4 a number."""
    config = model.config
    cells = 2 * config.seq_len
    each = {"symbols": 8 * cells, "entropy": 4 * cells, "confidence": 4 * cells, "change": 8, "q_halt": 5,
            "states": 8 * config.num_positions * config.hidden_size}  # fmt: skip
    return sum(each[name] for name in keep) * len(config.schedule) * max_segments


class _Recorder:
    """Collects what one batch's trace keeps; a level is decoded only when it was written."""

    def __init__(self, model: AIRForPuzzleSolving, keep: tuple[str, ...]):
        self.model, self.keep = model, keep
        self.columns: dict[str, list[torch.Tensor]] = {name: [] for group in keep for name in KEEPABLE[group]}
        self.latest: dict[str, dict[str, torch.Tensor]] = {}
        self.before: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def start(self, state: AIRState) -> None:
        for level in ("L", "H"):
            self._read(level, state)

    def observe(self, moment: Moment, state: AIRState) -> None:
        z = _state_of(moment.level, state)
        if "change" in self.keep:
            before = self.before[moment.level].flatten(1).float()
            after = z.flatten(1).float()
            self.add("change", (after - before).norm(dim=1) / before.norm(dim=1))
            self.add("cosine", torch.cosine_similarity(after, before, dim=1))
        if z is not self.before[moment.level]:
            self._read(moment.level, state)
        for level in ("L", "H"):
            for name, tensor in self.latest[level].items():
                self.columns[name].append(tensor)
        if "q_halt" in self.keep:
            self.add("q_halt", self.model.halting_logits(state.z_h)[0])

    def _read(self, level: str, state: AIRState) -> None:
        """What a level that was just written says, under the names of the trace's fields."""
        z = _state_of(level, state)
        self.before[level] = z
        here, found = level.lower(), {}
        if {"symbols", "entropy", "confidence"} & set(self.keep):
            logits = self.model.decode(z)
            symbols = logits.argmax(-1)
            if "symbols" in self.keep:
                found[f"symbols_{here}"] = symbols
            if {"entropy", "confidence"} & set(self.keep):
                log_probs = self.model.log_probabilities(logits)
                if "entropy" in self.keep:
                    found[f"entropy_{here}"] = -(log_probs.exp() * log_probs).sum(-1).float()
                if "confidence" in self.keep:
                    found[f"confidence_{here}"] = log_probs.amax(-1).exp().float()
        if "states" in self.keep:
            found[f"z_{here}"] = z.float()
        self.latest[level] = {name: tensor.cpu() for name, tensor in found.items()}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        self.columns[name].append(tensor.cpu())

    def finish(self, steps: list[Moment]) -> Trace:
        return Trace(steps, **{name: torch.stack(tensors) for name, tensors in self.columns.items()})


def _state_of(level: str, state: AIRState) -> torch.Tensor:
    return state.z_h if level == "H" else state.z_l
