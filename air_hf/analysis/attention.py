"""Attention of the two updates: maps, where their mass lies, and how L and H differ (AIR, arXiv 2605.17811).

The maps are what the model's own eager attention computes, seen by forward hooks while the model runs. They are reduced
as they come, so at no time more than those of one batch and one update exist.

Axis letters: B puzzles, S cells, T positions inside f, Q query cells of a batch, A heads, U updates.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from air_hf.analysis.roles import check_fit, puzzle_ids_of
from air_hf.analysis.statistics import Z_95
from air_hf.analysis.walk import LEVELS, Moment, Walk, in_batches, read_moment
from air_hf.data import PuzzleSet
from air_hf.modeling import AIRForPuzzleSolving, AIRState
from air_hf.modeling.modeling_air import AIRAttention
from air_hf.puzzles import Puzzle
from air_hf.puzzles.base import PADDING

DEFAULT_SEGMENTS = (2, 4, 6, 8, 10, 12, 14, 15)  # those of the paper
CLASSES = ("control", "adjacent")
_MAP_BYTES = 2**27  # of the maps of one layer and one update, which set how many puzzles run together


def check_attention(model: AIRForPuzzleSolving) -> None:
    """Raises ValueError where a model has no attention to look at."""
    if model.config.mixer != "attention":
        raise ValueError(
            f'this checkpoint mixes positions by "{model.config.mixer}" and has no attention maps; '
            'a checkpoint with mixer "attention" is needed'
        )


def check_indices(name: str, chosen: Sequence[int] | None, count: int) -> list[int]:
    """`chosen` as a list, or all of `count` if None.

    Raises:
        ValueError: none, or one out of range; the message gives the range.
    """
    indices = list(range(count)) if chosen is None else list(chosen)
    if odd := [index for index in indices if not isinstance(index, (int, np.integer)) or isinstance(index, bool)]:
        raise ValueError(f"{name} is {odd[0]!r}; expected a whole number of 0 to {count - 1}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"{name}s {', '.join(map(str, indices))} name one twice")
    outside = [index for index in indices if not 0 <= index < count]
    if outside or not indices:
        found = f"{name} {outside[0]} does not exist" if outside else f"no {name} was chosen"
        raise ValueError(f"{found}; this run has {name}s 0 to {count - 1}")
    return indices


def choose_segments(segments: Sequence[int] | None, max_segments: int) -> list[int]:
    """The segments, from 0, at which attention is looked at: those of the paper that a rollout has if None.

    Raises:
        ValueError: one that the rollout does not have.
    """
    if segments is None:
        segments = [segment for segment in DEFAULT_SEGMENTS if segment < max_segments] or [max_segments - 1]
    return check_indices("segment", segments, max_segments)


@contextmanager
def attention_hooks(
    model: AIRForPuzzleSolving, receive: Callable[[int, torch.Tensor], None]
) -> Iterator[AIRForPuzzleSolving]:
    """While the block runs, the model attends eagerly and `receive(layer, maps)` gets the maps (B, A, T, T) of a layer.

    Raises:
        ValueError: the model has no attention.
    """
    check_attention(model)
    before, handles = model.config._attn_implementation, []

    def listen(module: AIRAttention, layer: int) -> None:
        handles.append(module.register_forward_hook(lambda _, __, output: receive(layer, output[1])))

    model.set_attn_implementation("eager")
    try:
        for network in model.model.networks.values():
            for layer, block in enumerate(network.layers):
                listen(block.mixer.attention, layer)
        yield model
    finally:
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(before)


def attention_maps(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    update: str,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    puzzle_ids: torch.LongTensor | None = None,
    max_segments: int | None = None,
) -> torch.FloatTensor:
    """Maps of one update among the cells, as they are: a row sums to 1 less what it gives to prefix and token.

    Args:
        model ([`AIRForPuzzleSolving`]): with attention.
        input_ids (`torch.LongTensor` of shape `(B, S)`): questions.
        update (`str`): its label, e.g. "4.L.0".
        layers, heads (sequences of `int`, *optional*): which; all if None.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table.
        max_segments (`int`, *optional*): segments the rollout may have; the model's own number if None.

    Returns:
        `torch.FloatTensor` of shape `(B, layers, heads, S, S)`, rows the queries.

    Raises:
        ValueError: no attention, or an update, a layer or a head that does not exist; the message gives the range.
    """
    check_attention(model)
    max_segments = model.config.max_segments if max_segments is None else max_segments
    wanted = read_moment(update, model, max_segments)
    layers = check_indices("layer", layers, model.config.num_hidden_layers)
    heads = check_indices("head", heads, model.config.num_attention_heads)
    found: dict[int, torch.Tensor] = {}
    walk = Walk(model, input_ids, puzzle_ids, max_segments)

    def receive(layer: int, maps: torch.Tensor) -> None:
        if walk.now == wanted and layer in layers:
            found[layer] = maps[:, heads, -model.config.seq_len :, -model.config.seq_len :].float().cpu()

    with attention_hooks(model, receive):
        for _ in walk:
            if len(found) == len(layers):
                break
    return torch.stack([found[layer] for layer in layers], dim=1)


def query_rows(maps: torch.Tensor, queries: torch.BoolTensor) -> torch.DoubleTensor:
    """What the query cells give to every cell, as probabilities (Q, A, S); a row without any mass is uniform.

    Args:
        maps (`torch.FloatTensor` of shape `(B, A, T, T)`): of a layer.
        queries (`torch.BoolTensor` of shape `(B, S)`): the cells whose rows are wanted, in order of puzzle and cell.
    """
    cells = queries.shape[1]
    rows = maps[:, :, -cells:, -cells:].transpose(1, 2)[queries]
    rows = (rows.cpu() if rows.device.type == "mps" else rows).double()  # which that device does not have
    mass = rows.sum(-1, keepdim=True)
    return torch.where(mass > 0, rows / mass.clamp(min=torch.finfo(rows.dtype).tiny), 1 / cells)


def mass(rows: torch.Tensor, cells: torch.BoolTensor) -> torch.DoubleTensor:
    """Share (Q, A) of rows (Q, A, S) that lies on cells (Q, S)."""
    return torch.einsum("qas,qs->qa", rows, cells.to(rows.dtype))


def normalized_entropy(rows: torch.Tensor) -> torch.DoubleTensor:
    """Entropy (Q, A) of rows (Q, A, S) as a share of the largest possible, log S."""
    return -torch.xlogy(rows, rows).sum(-1) / np.log(max(rows.shape[-1], 2))


def metric_names(puzzle: Puzzle) -> list[str]:
    """What is measured of a row: the masses of the family's neighbourhoods, entropy, violation mass."""
    return [*puzzle.neighbourhoods(), "entropy", "violation"]


class RowMetrics:
    """Measures rows of a puzzle family; holds its geometry as tensors.

    Args:
        puzzle ([`Puzzle`]): the family.
        device (`torch.device`): of the rows.
    """

    def __init__(self, puzzle: Puzzle, device: torch.device | str = "cpu"):
        self.near = {name: torch.from_numpy(near).to(device) for name, near in puzzle.neighbourhoods().items()}
        self.reach = torch.from_numpy(puzzle.violations_in_reach()).to(device)
        first = next(iter(self.near.values()))
        self.adjacent = first & ~torch.eye(len(first), dtype=torch.bool, device=device)

    def measure(
        self, rows: torch.Tensor, queries: torch.BoolTensor, violations: torch.BoolTensor
    ) -> torch.DoubleTensor:
        """Every metric (Q, A, metrics) of rows (Q, A, S), in the order of [`metric_names`].

        Args:
            rows (`torch.Tensor` of shape `(Q, A, S)`): of [`query_rows`].
            queries (`torch.BoolTensor` of shape `(B, S)`): the same that chose the rows.
            violations (`torch.BoolTensor` of shape `(B, S)`): cells that cannot stay.
        """
        puzzle, cell = queries.nonzero(as_tuple=True)
        values = [mass(rows, near[cell]) for near in self.near.values()]
        return torch.stack(
            [*values, normalized_entropy(rows), mass(rows, violations[puzzle] & self.reach[cell])], dim=-1
        )

    def is_adjacent(self, queries: torch.BoolTensor, violations: torch.BoolTensor) -> torch.BoolTensor:
        """Query cells (Q,) with a violation in their first neighbourhood, themselves aside."""
        puzzle, cell = queries.nonzero(as_tuple=True)
        return (self.adjacent[cell] & violations[puzzle]).any(-1)


def contrast(metrics_l: torch.Tensor, metrics_h: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """L − H of masses and H − L of entropy, so that "L is more focused" is positive throughout; any shape (..., M)."""
    signs = torch.tensor([-1.0 if name == "entropy" else 1.0 for name in names], dtype=metrics_l.dtype)
    return (metrics_l - metrics_h) * signs.to(metrics_l.device)


@dataclass
class Contrasts:
    """Head-averaged contrasts of the first L-update with the first H-update of some segments, per query cell.

    Held as sums per puzzle, segment, layer, class of query and metric, arrays of shape `(B, N, layers, 2, M)`; control
    queries come before those adjacent to a violation.

    Args:
        names (`list[str]`): of the M metrics.
        segments, layers (`list[int]`): what was looked at.
        counts, sums, squares, positives (arrays): queries, their contrasts, squared contrasts, and those above 0.
        levels (array of shape `(2, B, N, layers, 2, M)`): sums of the metrics themselves, of L and of H.
    """

    names: list[str]
    segments: list[int]
    layers: list[int]
    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    positives: np.ndarray
    levels: np.ndarray

    def summary(self, layer: int, kind: str, name: str, segment: int | None = None) -> dict:
        """A layer's contrast over all segments, or one of them.

        Returns:
            `dict`: `mean`; `interval`, half a 95 % interval that takes queries for independent, as the paper does;
            `interval_puzzles`, the same for puzzles (queries of one board resemble each other); `positive`, the share
            of queries above 0; `level_l` and `level_h`, the metric's own means; `queries` and `puzzles`, the counts. An
            interval is None where there are fewer than two to tell it from.

        Raises:
            ValueError: something that was not looked at.
        """
        looked_at = (("segment", segment, [None, *self.segments]), ("layer", layer, self.layers),
                     ("class", kind, list(CLASSES)), ("metric", name, self.names))  # fmt: skip
        for what, wanted, there in looked_at:
            if wanted not in there:
                raise ValueError(f"{what} {wanted!r} was not looked at; there are {', '.join(map(str, there))}")
        chosen = slice(None) if segment is None else [self.segments.index(segment)]
        at = (self.layers.index(layer), CLASSES.index(kind), self.names.index(name))
        counts, sums, squares, positives = (
            array[:, chosen, *at].sum(1) for array in (self.counts, self.sums, self.squares, self.positives)
        )
        levels = self.levels[:, :, chosen, *at].sum((1, 2))
        total, puzzles = counts.sum(), int((counts > 0).sum())
        if total == 0:
            return {"mean": None, "queries": 0, "puzzles": 0}
        mean = sums.sum() / total
        interval = between = None
        if total > 1:
            variance = max(squares.sum() - total * mean**2, 0) / (total - 1)
            interval = float(Z_95 * (variance / total) ** 0.5)
        if puzzles > 1:
            between = float(Z_95 * (((sums - counts * mean) ** 2).sum() * puzzles / (puzzles - 1)) ** 0.5 / total)
        return {
            "mean": float(mean),
            "interval": interval,
            "interval_puzzles": between,
            "positive": float(positives.sum() / total),
            "level_l": float(levels[0] / total),
            "level_h": float(levels[1] / total),
            "queries": int(total),
            "puzzles": puzzles,
        }


def maps_within(model: AIRForPuzzleSolving) -> int:
    """As many puzzles as keep the maps of an update in 128 MiB."""
    config = model.config
    return max(1, _MAP_BYTES // (4 * config.num_attention_heads * config.num_network_positions**2))


def attention_contrasts(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    segments: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    max_segments: int | None = None,
    batch_size: int | None = None,
    visit: Callable[[Moment, int, torch.Tensor, torch.Tensor], None] | None = None,
) -> Contrasts:
    """How the first L-update and the first H-update of a segment differ in where they look.

    Queries are the cells that the answer fills in: blank ones in Sudoku, those of the path in mazes. One is *adjacent*
    where its first neighbourhood holds a violation of the board that z_H decodes to after that H-update.

    Args:
        model ([`AIRForPuzzleSolving`]): with attention.
        puzzles ([`PuzzleSet`]): any number of them.
        segments (sequence of `int`, *optional*): from 0; those of the paper that the model has if None.
        layers, heads (sequences of `int`, *optional*): which; all if None. Heads are averaged.
        max_segments (`int`, *optional*): segments of the rollout; the model's own number if None.
        batch_size (`int`, *optional*): puzzles that run together; as many as keep the maps of an update in 128 MiB if
            None.
        visit (`Callable`, *optional*): gets update, layer, queries (B, S) and contrasts (Q, M) of every batch.

    Raises:
        ValueError: no attention; puzzles of another size; a segment, layer or head that does not exist.
    """
    check_attention(model)
    check_fit(model, puzzles)
    config, puzzle = model.config, puzzles.puzzle
    segments = choose_segments(segments, config.max_segments if max_segments is None else max_segments)
    layers = check_indices("layer", layers, config.num_hidden_layers)
    heads = check_indices("head", heads, config.num_attention_heads)
    batch_size = maps_within(model) if batch_size is None else batch_size
    shape = (len(puzzles), len(segments), len(layers), len(CLASSES), len(metric_names(puzzle)))
    sums = {name: np.zeros(shape) for name in ("counts", "sums", "squares", "positives")}
    result = Contrasts(metric_names(puzzle), segments, layers, **sums, levels=np.zeros((2, *shape)))
    metrics = RowMetrics(puzzle, model.device)
    for batch in in_batches(len(puzzles), batch_size, "attention"):
        _Watch(model, puzzles, batch, metrics, heads, result, visit).run()
    return result


@dataclass
class _Watch:
    """One batch on its way: rows of the L-update wait, already chosen, for the board that the H-update decodes to."""

    model: AIRForPuzzleSolving
    puzzles: PuzzleSet
    batch: slice
    metrics: RowMetrics
    heads: list[int]
    result: Contrasts
    visit: Callable | None
    rows: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def run(self) -> None:
        questions, self.answers = self.puzzles.questions[self.batch], self.puzzles.answers[self.batch]
        open_cells = (questions != self.answers) & (self.answers != PADDING)
        self.queries = torch.from_numpy(open_cells).to(self.model.device)
        ids = torch.from_numpy(questions).long()
        self.walk = Walk(
            self.model,
            ids,
            puzzle_ids_of(self.puzzles, self.batch),
            max(self.result.segments) + 1,
            observer=self.observe,
        )
        with attention_hooks(self.model, self.receive):
            for _ in self.walk:
                pass

    def receive(self, layer: int, maps: torch.Tensor) -> None:
        now = self.walk.now
        if now.segment in self.result.segments and now.index == 0 and layer in self.result.layers:
            self.rows[now.level, layer] = query_rows(maps[:, self.heads], self.queries)

    def observe(self, moment: Moment, state: AIRState) -> None:
        if moment.level != "H" or moment.index != 0 or moment.segment not in self.result.segments:
            return
        boards = self.model.decode(state.z_h).argmax(-1).cpu().numpy()
        violations = self.puzzles.puzzle.violations(boards, self.answers)
        violations = torch.from_numpy(violations).to(self.model.device)
        for layer in self.result.layers:
            values = [self.metrics.measure(self.rows[level, layer], self.queries, violations) for level in LEVELS]
            values = [value.mean(1) for value in values]  # over heads: (Q, M)
            self.add(moment, layer, values, self.metrics.is_adjacent(self.queries, violations))
        self.rows.clear()

    def add(self, moment: Moment, layer: int, values: list[torch.Tensor], adjacent: torch.BoolTensor) -> None:
        difference = contrast(*values, self.result.names)
        if self.visit is not None:
            self.visit(moment, layer, self.queries, difference)
        owners = self.queries.nonzero()[:, 0]
        segment, row = self.result.segments.index(moment.segment), self.result.layers.index(layer)
        for kind, chosen in enumerate((~adjacent, adjacent)):

            def summed(numbers: torch.Tensor, chosen=chosen) -> np.ndarray:
                total = numbers.new_zeros(len(self.answers), numbers.shape[1])
                return total.index_add_(0, owners[chosen], numbers[chosen]).cpu().numpy()

            at = (self.batch, segment, row, kind)
            self.result.counts[at] = summed(torch.ones_like(difference))
            self.result.sums[at] = summed(difference)
            self.result.squares[at] = summed(difference**2)
            self.result.positives[at] = summed((difference > 0).to(difference.dtype))
            for level, value in enumerate(values):
                self.result.levels[level][at] = summed(value)
