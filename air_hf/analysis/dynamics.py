"""The rollout as a dynamical system: how far it is from where it ends, whether it is drawn there, how it gets there.

Axis letters: U updates, N segments, B puzzles, T positions, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.autograd import forward_ad
from tqdm import tqdm

from air_hf.analysis.roles import RoleStudy, check_fit, puzzle_ids_of
from air_hf.analysis.tracing import trace
from air_hf.analysis.walk import LEVELS, Walk, in_batches
from air_hf.data import PuzzleSet
from air_hf.metrics import score_boards
from air_hf.modeling import AIRForPuzzleSolving, AIRInputs, AIRState
from air_hf.puzzles.base import PADDING

MODES = ("quick", "delayed", "failed, settled", "failed, wandering")


@dataclass
class Geometry:
    """Trajectories of both states of B puzzles.

    Args:
        labels (`list[str]`): of the U updates.
        distance (`dict[str, array]` of shape `(U, B)`): by level, ‖z − z*‖ / ‖z*‖, z* where a longer rollout ends.
        settled (array of shape `(B,)`): ‖F(z*) − z*‖ / ‖z*‖ of both states together over the last segment F of that
            longer rollout; near 0 where z* is a fixed point.
        path (`dict[str, array]` of shape `(U, B, 2)`): by level, the first two principal components of the updates of
            each puzzle.
        explained (`dict[str, array]` of shape `(B, 2)`): by level, their shares of the variance.
        spectral_radius (array of shape `(B,)`): of a segment's Jacobian at z*; below 1 where z* attracts.
    """

    labels: list[str]
    distance: dict[str, np.ndarray]
    settled: np.ndarray
    path: dict[str, np.ndarray]
    explained: dict[str, np.ndarray]
    spectral_radius: np.ndarray


def measure_geometry(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    max_segments: int | None = None,
    horizon: int = 64,
    power_steps: int = 30,
    seed: int = 0,
    puzzle_ids: torch.LongTensor | None = None,
) -> Geometry:
    """Distances, principal components and spectral radius for a handful of puzzles, whose states are all held.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): questions.
        max_segments (`int`, *optional*): segments of the trajectory; the model's own number if None.
        horizon (`int`): segments after which z* is read; at least those of the trajectory.
        power_steps (`int`): products with the Jacobian in the power iteration.
        seed (`int`): of the vector that it starts from.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table.

    Raises:
        ValueError: a horizon shorter than the trajectory, or what [`trace`] refuses.
    """
    max_segments = model.config.max_segments if max_segments is None else max_segments
    if horizon < max_segments:
        raise ValueError(f"horizon is {horizon} segments; the trajectory alone has {max_segments}")
    t = trace(model, input_ids, puzzle_ids, max_segments, keep=("states",), batch_size=len(input_ids))
    walk = Walk(model, input_ids, puzzle_ids, horizon)
    before = end = walk.rollout.state
    for output in tqdm(walk, "geometry", horizon, delay=2, leave=False):
        before, end = end, output.state
    distance, path, explained = {}, {}, {}
    for level, z, final in (("L", t.z_l, end.z_l), ("H", t.z_h, end.z_h)):
        final = final.float().cpu()
        distance[level] = ((z - final).flatten(2).norm(dim=2) / final.flatten(1).norm(dim=1)).numpy()
        path[level], explained[level] = principal_components(z)
    difference = (joined(end) - joined(before)).norm(dim=1) / joined(end).norm(dim=1)
    radius = spectral_radius(model, walk.rollout.inputs, end, power_steps, seed)
    return Geometry(t.labels, distance, difference.cpu().numpy(), path, explained, radius.cpu().numpy())


def joined(state: AIRState) -> torch.Tensor:
    """Both states of a puzzle as one vector (B, 2·T·D)."""
    return torch.cat((state.z_l.flatten(1), state.z_h.flatten(1)), dim=1)


def principal_components(z: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The first two of every puzzle's trajectory (U, B, T, D): coordinates (U, B, 2), shares of the variance (B, 2).

    By the Gram matrix of the updates (U, U), since there are many fewer updates than numbers in a state.
    """
    centered = z.flatten(2).transpose(0, 1).double()
    centered = centered - centered.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centered @ centered.transpose(1, 2))  # ascending
    values, vectors = values.flip(-1).clamp(min=0)[:, :2], vectors.flip(-1)[:, :, :2]
    total = centered.square().sum((1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    return (vectors * values.sqrt().unsqueeze(1)).transpose(0, 1).numpy(), (values / total.unsqueeze(1)).numpy()


@torch.no_grad()
def spectral_radius(
    model: AIRForPuzzleSolving, inputs: AIRInputs, state: AIRState, steps: int = 30, seed: int = 0
) -> torch.Tensor:
    """Largest modulus (B,) of the eigenvalues of a segment's Jacobian d(z_L′, z_H′) / d(z_L, z_H) at a state.

    Power iteration with Jacobian-vector products; the growth is averaged over the second half of the steps, since a
    complex pair makes it swing.
    """
    if steps < 2:
        raise ValueError(f"power iteration needs at least 2 steps; {steps} were asked for")
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # fused kernels have no forward-mode derivative

    def product(vector_l: torch.Tensor, vector_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with forward_ad.dual_level():
            duals = (forward_ad.make_dual(z, v) for z, v in ((state.z_h, vector_h), (state.z_l, vector_l)))
            after = model.model.segment(inputs, AIRState(*duals, state.num_segments))
            return tuple(forward_ad.unpack_dual(z).tangent for z in (after.z_l, after.z_h))

    generator = torch.Generator().manual_seed(seed)
    shape = state.z_l.shape
    vectors = tuple(torch.randn(shape, generator=generator).to(state.z_l) for _ in range(2))
    growth = []
    try:
        for _ in tqdm(range(steps), "spectral radius", delay=2, leave=False):
            scale = torch.cat([v.flatten(1) for v in vectors], dim=1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1)
            vectors = product(*(v / scale for v in vectors))
            growth.append(torch.cat([v.flatten(1) for v in vectors], dim=1).norm(dim=1))
    finally:
        model.set_attn_implementation(before)
    return torch.stack(growth[steps // 2 :]).clamp(min=1e-30).log().mean(0).exp()


def solution_modes(study: RoleStudy, quick_segments: int = 2) -> np.ndarray:
    """How each of B puzzles was solved, as indices into [`MODES`].

    *Quick*: right from one of the first `quick_segments` segments to the end. *Delayed*: right at the end, but not from
    so early on. *Failed*: wrong at the end; *settled* where z_H decodes to the same board throughout the last two
    segments, *wandering* where not.
    """
    ends = study.trace.segment_ends
    exact = study.roles["H"].exact[ends] > 0  # (N, B)
    since = len(ends) - np.flip(np.cumprod(np.flip(exact, 0), 0), 0).sum(0)  # first segment of the last right stretch
    moved = (study.roles["H"].content_changes + study.roles["H"].mask_flips)[ends[-1] - 2 * _length(ends) + 1 :]
    failed = np.where(moved.sum(0) == 0, 2, 3)
    return np.where(exact[-1], np.where(since < quick_segments, 0, 1), failed)


def _length(ends: list[int]) -> int:
    return ends[0] + 1


@dataclass
class Patching:
    """What the answer follows after two puzzles swapped one state.

    Args:
        level (`str`), segment (`int`): the state, and the segment before which it was swapped.
        own, donor (`float`): share of the cells that both answers decide and whose solutions differ, where the answer
            has the symbol of the puzzle's own solution, or of the donor's; NaN without such a cell.
        exact_own (`float`): share of puzzles whose answer is their own whole solution.
        exact_unpatched (`float`): the same without a swap.
        pairs (`int`): puzzles; each is patched with its successor.
        cells (`int`): those that `own` and `donor` are shares of.
    """

    level: str
    segment: int
    own: float
    donor: float
    exact_own: float
    exact_unpatched: float
    pairs: int
    cells: int


def patch_states(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    level: str,
    segment: int,
    max_segments: int | None = None,
    batch_size: int = 64,
) -> Patching:
    """Before a segment, gives every puzzle the state of the next one, the last that of the first, and runs to the end.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        puzzles ([`PuzzleSet`]): at least two.
        level (`str`): "L", "H", or "LH" for both.
        segment (`int`): from 1, before which the states are swapped.
        max_segments (`int`, *optional*): segments in all; the model's own number if None.
        batch_size (`int`): puzzles that run together.

    Raises:
        ValueError: another level, a segment out of range, or a single puzzle.
    """
    max_segments = model.config.max_segments if max_segments is None else max_segments
    if not level or set(level) - set(LEVELS):
        raise ValueError(f'level is {level!r}; expected "L", "H" or "LH"')
    if not 1 <= segment < max_segments:
        raise ValueError(f"segment is {segment}; states can be swapped before segments 1 to {max_segments - 1}")
    check_fit(model, puzzles)
    if len(puzzles) < 2:
        raise ValueError(f"{len(puzzles)} puzzles were given; a swap needs at least 2")
    boards = [
        _run_patched(model, puzzles, rows, level, segment, max_segments)
        for rows in in_batches(len(puzzles), batch_size, "patching")
    ]
    donors = np.roll(np.arange(len(puzzles)), -1)
    plain, patched = (np.concatenate(parts) for parts in zip(*boards, strict=True))
    questions, answers = puzzles.questions, puzzles.answers
    theirs = answers[donors]
    open_cells = puzzles.puzzle.undecided(questions)
    differing = open_cells & open_cells[donors] & (answers != theirs) & (answers != PADDING) & (theirs != PADDING)
    cells = int(differing.sum())
    return Patching(
        level,
        segment,
        own=float((patched == answers)[differing].mean()) if cells else float("nan"),
        donor=float((patched == theirs)[differing].mean()) if cells else float("nan"),
        exact_own=score_boards(patched, answers)["exact_accuracy"],
        exact_unpatched=score_boards(plain, answers)["exact_accuracy"],
        pairs=len(puzzles),
        cells=cells,
    )


def _run_patched(
    model, puzzles: PuzzleSet, batch: slice, level: str, segment: int, max_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Final boards (B, S) without and with the swap."""
    rows = np.arange(batch.start, batch.stop + 1) % len(puzzles)  # and the one whose state the last of them gets
    ids, finals = torch.from_numpy(puzzles.questions[rows]).long(), []
    for swap in (False, True):
        walk = Walk(model, ids, puzzle_ids_of(puzzles, rows), max_segments)
        for number, output in enumerate(walk, start=1):
            final = output.logits.argmax(-1)
            if swap and number == segment:
                state = walk.rollout.state
                z_h, z_l = (z.roll(-1, 0) if here in level else z for here, z in (("H", state.z_h), ("L", state.z_l)))
                walk.rollout.state = AIRState(z_h, z_l, state.num_segments)
        finals.append(final[:-1].cpu().numpy())
    return finals[0], finals[1]
