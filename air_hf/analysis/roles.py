"""The roles of the two states in numbers: what is committed, what is held back, what changes (AIR, arXiv 2605.17811).

A cell is *committed* where a state decodes to a symbol of answers, *held back* where it decodes to the family's own
"nothing yet": blank in Sudoku, padding in mazes. Between two updates a cell *flips* when it goes from held back to not
or the other way, and its *content changes* when it decodes to another symbol without a flip.

Axis letters: U updates, B puzzles, S cells.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from air_hf.analysis.statistics import Estimate, estimate
from air_hf.analysis.tracing import Trace, iterate_traces
from air_hf.data import PuzzleSet
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import Puzzle
from air_hf.puzzles.base import PADDING


@dataclass
class Roles:
    """What one state does over a rollout, for each of B puzzles.

    Args:
        committed (array of shape `(U, B)`): share of the open cells, those that an answer decides
            ([`Puzzle.undecided`]: blank in Sudoku, floor in mazes), decoded to a symbol of answers; of this and the
            following two NaN where a board has no such cell.
        held_back (array of shape `(U, B)`): share of the open cells decoded to the held-back symbol.
        accuracy (array of shape `(U, B)`): share of the open cells that are right.
        exact (array of shape `(U, B)`): 1 where every labelled cell of the board is right.
        mask_flips, content_changes (arrays of shape `(U - 1, B)`): cells, on the whole board, per transition.
        fixed, broken (arrays of shape `(U - 1, B)`): cells that became right, or stopped being so, per transition.
    """

    committed: np.ndarray
    held_back: np.ndarray
    accuracy: np.ndarray
    exact: np.ndarray
    mask_flips: np.ndarray
    content_changes: np.ndarray
    fixed: np.ndarray
    broken: np.ndarray

    def total(self, name: str) -> Estimate:
        """Of a count per transition, summed over the rollout; mean over puzzles."""
        return estimate(getattr(self, name).sum(0))

    def final(self, name: str) -> Estimate:
        """Of a share, after the last update; mean over puzzles."""
        return estimate(getattr(self, name)[-1])

    @classmethod
    def cat(cls, parts: "list[Roles]") -> "Roles":
        """The puzzles of all parts, behind one another."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(arrays, axis=1) for arrays in columns))


def transitions(symbols: torch.Tensor, held_back: int) -> tuple[torch.BoolTensor, torch.BoolTensor]:
    """Cells that flip and cells whose content changes, each bool (U - 1, B, S), of decoded symbols (U, B, S)."""
    held = symbols == held_back
    flips = held[1:] != held[:-1]
    return flips, (symbols[1:] != symbols[:-1]) & ~flips


def measure_roles(symbols: torch.Tensor, puzzle: Puzzle, questions: np.ndarray, answers: np.ndarray) -> Roles:
    """Roles of a state from what it decodes to.

    Args:
        symbols (`torch.LongTensor` of shape `(U, B, S)`): `trace.symbols_h` or `trace.symbols_l`.
        puzzle ([`Puzzle`]): says what is held back.
        questions, answers (arrays of shape `(B, S)`): symbol ids; 0 in an answer means "no label".
    """
    target = torch.from_numpy(answers.astype(np.int64))
    labelled = target != PADDING
    open_cells = labelled & torch.from_numpy(puzzle.undecided(questions))
    right = (symbols == target) & labelled
    held = symbols == puzzle.held_back
    committed = ~held & (symbols != PADDING)
    flips, changes = transitions(symbols, puzzle.held_back)
    num_open = open_cells.sum(-1).double()

    def share(cells: torch.Tensor) -> np.ndarray:
        return ((cells & open_cells).sum(-1).double() / num_open).numpy()

    def count(cells: torch.Tensor) -> np.ndarray:
        return cells.sum(-1).numpy()

    return Roles(
        committed=share(committed),
        held_back=share(held),
        accuracy=share(right),
        exact=(right | ~labelled).all(-1).double().numpy(),
        mask_flips=count(flips),
        content_changes=count(changes),
        fixed=count(right[1:] & ~right[:-1]),
        broken=count(right[:-1] & ~right[1:]),
    )


@dataclass
class RoleStudy:
    """Both states of many puzzles under one condition.

    Args:
        roles (`dict[str, Roles]`): by level.
        trace ([`Trace`]): what else was recorded, without symbols: "change" and "q_halt".
        frozen (`tuple[str, ...]`), freeze_from (`int`): the condition.
    """

    roles: dict[str, Roles]
    trace: Trace
    frozen: tuple[str, ...] = ()
    freeze_from: int = 0

    def is_still(self, level: str) -> bool:
        """Whether a level is its initial state throughout."""
        return level in self.frozen and self.freeze_from == 0

    def _since_written(self, level: str, name: str) -> np.ndarray:
        """A share from the first update on that wrote the level; before, it is the same for every puzzle."""
        first = 0 if self.is_still(level) else self.trace.writes(level)[0]
        return getattr(self.roles[level], name)[first:]

    def mean(self, level: str, name: str) -> Estimate:
        """Of a share, averaged over the updates of each puzzle since the level was first written; mean over puzzles."""
        return estimate(self._since_written(level, name).mean(0))

    def ever(self, level: str, name: str) -> Estimate:
        """Share of the puzzles in which a share is above 0 at some update since the level was first written."""
        shares = self._since_written(level, name)
        return estimate(np.where(np.isnan(shares).all(0), np.nan, (shares > 0).any(0)))


def study_roles(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    max_segments: int | None = None,
    *,
    frozen: str | Collection[str] = (),
    freeze_from: int = 0,
    batch_size: int = 64,
) -> RoleStudy:
    """Traces puzzles batch by batch and keeps the roles of both states, not the boards.

    Raises:
        ValueError: what [`trace`] and [`check_fit`] refuse.
    """
    check_fit(model, puzzles)
    roles, rest = {"H": [], "L": []}, []
    ids = torch.from_numpy(puzzles.questions).long()
    batches = iterate_traces(
        model, ids, puzzle_ids_of(puzzles), max_segments, frozen=frozen, freeze_from=freeze_from, batch_size=batch_size,
        keep=("symbols", "change", "q_halt"),
    )  # fmt: skip
    for batch, part in batches:
        for level, found in roles.items():
            boards = puzzles.questions[batch], puzzles.answers[batch]
            found.append(measure_roles(part.symbols(level), puzzles.puzzle, *boards))
        rest.append(replace(part, symbols_h=None, symbols_l=None))
    merged = {
        name: torch.cat([getattr(part, name) for part in rest], dim=1)
        for name in ("change", "cosine", "q_halt", "halts")
    }
    frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen)
    return RoleStudy(
        {level: Roles.cat(found) for level, found in roles.items()},
        Trace(rest[0].moments, **merged),
        frozen,
        freeze_from,
    )


def puzzle_ids_of(puzzles: PuzzleSet, rows: slice | np.ndarray = slice(None)) -> torch.LongTensor:
    """Rows of the prefix table (B,) of some puzzles."""
    return torch.from_numpy(puzzles.puzzle_ids[rows])


def check_fit(model: AIRForPuzzleSolving, puzzles: PuzzleSet) -> None:
    """Checks that puzzles are what a model takes.

    Raises:
        ValueError: another puzzle, or another number of cells or symbols; the message gives both.
    """
    puzzles.check_model(model.config)
    if model.config.puzzle not in (None, puzzles.puzzle.name):
        raise ValueError(f"the model solves {model.config.puzzle}; {puzzles.source} holds {puzzles.puzzle.name}")
