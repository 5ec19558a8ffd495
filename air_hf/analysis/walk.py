"""One watched rollout: the model's own segments, with the name of every update and levels that can be held."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from tqdm import tqdm

from air_hf.modeling import AIRForPuzzleSolving, AIRPuzzleSolvingOutput, AIRState

LEVELS = ("L", "H")


class Moment(NamedTuple):
    """An update of a rollout, everything counted from 0.

    Args:
        segment (`int`): the segment.
        level (`str`): "L" or "H", the state that it writes.
        index (`int`): its number among the segment's updates of that level.
    """

    segment: int
    level: str
    index: int

    def __str__(self) -> str:
        return f"{self.segment}.{self.level}.{self.index}"


def moments(model: AIRForPuzzleSolving, max_segments: int) -> list[Moment]:
    """Every update of a rollout of so many segments, in order."""
    schedule = model.config.schedule
    return [Moment(segment, step.level, step.index) for segment in range(max_segments) for step in schedule]


def read_moment(label: str, model: AIRForPuzzleSolving, max_segments: int) -> Moment:
    """The update called "SEGMENT.LEVEL.INDEX".

    Raises:
        ValueError: it is no label, or of no update of such a rollout; the message gives the valid ones.
    """
    known = {str(moment): moment for moment in moments(model, max_segments)}
    if label not in known:
        within = ", ".join(f"{step.level}.{step.index}" for step in model.config.schedule)
        raise ValueError(
            f'there is no update {label!r}; expected "SEGMENT.LEVEL.INDEX" with a segment of 0 to '
            f"{max_segments - 1} and one of {within} in it"
        )
    return known[label]


def check_frozen(frozen: str | Collection[str], freeze_from: int, max_segments: int) -> tuple[str, ...]:
    """The levels to hold, as a tuple.

    Raises:
        ValueError: a level that is neither "L" nor "H", a first segment that the rollout does not have, or one from
            which no level is held.
    """
    frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen or ())
    unknown = [level for level in frozen if level not in LEVELS]
    if unknown:
        raise ValueError(f'there is no state {unknown[0]!r} to freeze; a model has the states "L" and "H"')
    if not isinstance(freeze_from, int) or not 0 <= freeze_from < max_segments:
        raise ValueError(f"freeze_from is segment {freeze_from}; this rollout has segments 0 to {max_segments - 1}")
    if freeze_from and not frozen:
        raise ValueError(f"freeze_from is segment {freeze_from}, but frozen names no state to hold from there on")
    return frozen


class Walk:
    """A rollout in which `now` says which update is running.

    Args:
        model ([`AIRForPuzzleSolving`]): whose segments run.
        input_ids (`torch.LongTensor` of shape `(B, S)`), puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*).
        max_segments (`int`, *optional*): segments; the model's own number if None.
        frozen (`str` or collection of `str`): levels, "L" or "H", that stay as they are.
        freeze_from (`int`): the first segment in which they do.
        observer (`Callable`, *optional*): gets every [`Moment`] and the state after it.

    Raises:
        ValueError: what `unroll` and [`check_frozen`] refuse.
    """

    def __init__(
        self,
        model: AIRForPuzzleSolving,
        input_ids: torch.LongTensor,
        puzzle_ids: torch.LongTensor | None = None,
        max_segments: int | None = None,
        frozen: str | Collection[str] = (),
        freeze_from: int = 0,
        observer: Callable[[Moment, AIRState], None] | None = None,
    ):
        device = model.device
        puzzle_ids = None if puzzle_ids is None else puzzle_ids.to(device)
        max_segments = model.config.max_segments if max_segments is None else max_segments
        self.rollout = model.unroll(input_ids.to(device), puzzle_ids, max_segments=max_segments)
        self.rollout.observer = self._observe
        self._frozen, self._freeze_from = check_frozen(frozen, freeze_from, max_segments), freeze_from
        self._moments, self._position, self._observer = moments(model, max_segments), 0, observer

    @property
    def now(self) -> Moment:
        return self._moments[self._position]

    def _observe(self, _, state: AIRState) -> None:
        if self._observer is not None:
            self._observer(self.now, state)
        self._position += 1

    def __iter__(self) -> Iterator[AIRPuzzleSolvingOutput]:
        """Runs segment after segment, without gradient."""
        while self._position < len(self._moments):
            if self.now.segment == self._freeze_from:
                self.rollout.frozen = self._frozen
            with torch.no_grad():
                output = next(self.rollout)
            yield output


def in_batches(count: int, batch_size: int, what: str) -> Iterator[slice]:
    """Slices of at most `batch_size`; a bar appears once two seconds have passed.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    with tqdm(total=count, desc=what, unit="puzzle", delay=2, leave=False) as bar:
        for first in range(0, count, batch_size):
            batch = slice(first, min(first + batch_size, count))
            yield batch
            bar.update(batch.stop - batch.start)
