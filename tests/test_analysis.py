"""The analysis instruments: exact against the recorded reference, and against the model's own steps.

AIR_REFERENCE_DIR points the reference tests at another folder of such files.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from air_hf.analysis import trace
from air_hf.analysis.attention import (
    RowMetrics,
    attention_contrasts,
    attention_maps,
    contrast,
    metric_names,
    query_rows,
)
from air_hf.analysis.roles import transitions
from air_hf.data import PuzzleSet
from air_hf.puzzles import get_puzzle
from air_hf.reference import load_reference
from air_hf.variants import VARIANTS

FOLDER = Path(os.environ.get("AIR_REFERENCE_DIR", Path(__file__).parent / "fixtures" / "reference"))
SUDOKU = sorted(FOLDER.glob("analysis_sudoku_*.safetensors"))
MAZES = sorted(FOLDER.glob("analysis_maze_*.safetensors"))


class Recording:
    """A file recorded from the published code."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        self.variant = self.metadata.get("variant", path.stem.removeprefix("analysis_sudoku_"))

        self.stages = json.loads(self.metadata.get("stages", "[]"))

    def model(self):
        weights = {name.removeprefix("init."): t for name, t in self.tensors.items() if name.startswith("init.")}
        return load_reference(weights, json.loads(self.metadata["config"]), self.variant).eval()


@pytest.fixture(scope="module", params=SUDOKU, ids=lambda path: path.stem)
def recording(request):
    return Recording(request.param)


@pytest.fixture(scope="module")
def model(recording):
    return recording.model()


def nudged(recording, seed):
    """The recording's model with weights that are off by some float32 roundings."""
    model, generator = recording.model().double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1 + 1e-6 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return model


def determined(recording, t, **options) -> torch.Tensor:
    """Updates and puzzles (U, B) before the first at which nudged weights decode to another board.

    These random nets double a rounding error every update or two, so later boards are those of one machine's kernels.
    The first segment is always determined.
    """
    within = torch.ones(len(t.moments), t.symbols_h.shape[1], dtype=torch.bool)
    for seed in range(2):
        other = trace(
            nudged(recording, seed), recording.tensors["batch.inputs"].long(), None, len(t.segment_ends), **options
        )
        same = (t.symbols_h == other.symbols_h).all(-1) & (t.symbols_l == other.symbols_l).all(-1)
        within &= same.long().cumprod(0).bool()
    assert within[: t.segment_ends[0] + 1].all()
    return within


@pytest.mark.parametrize(("run", "frozen"), [("normal", ()), ("freeze_H", "H"), ("freeze_L", "L")])
def test_analysis_decoded_symbols_and_changes_are_the_recorded_ones(recording, model, run, frozen):
    ids = recording.tensors["batch.inputs"].long()
    segments = recording.tensors[f"trace.{run}.pred_H"].shape[0]
    t = trace(model, ids, recording.tensors["batch.puzzle_identifiers"].long(), segments, frozen=frozen)
    stages = [(level, h if level == "H" else h * model.config.l_cycles + i) for level, h, i in recording.stages]
    assert t.labels == [f"{segment}.{level}.{index}" for segment in range(segments) for level, index in stages]
    within = determined(recording, t, frozen=frozen)
    for level in "HL":
        recorded = recording.tensors[f"trace.{run}.pred_{level}"].flatten(0, 1).flatten(2).long()
        assert torch.equal(t.symbols(level)[within], recorded[within])
        ours = transitions(t.symbols(level), get_puzzle("sudoku-9x9").held_back)
        of_recorded = transitions(recorded, get_puzzle("sudoku-9x9").held_back)
        for puzzle in range(len(ids)):
            for kind, found, again in zip(("mask_flips", "content_changes"), ours, of_recorded, strict=True):
                expected = recording.tensors[f"trace.{run}.p{puzzle}.{level}.{kind}"]
                assert torch.equal(again.sum(-1)[:, puzzle], expected)
                known = within[1:, puzzle]
                assert torch.equal(found.sum(-1)[known, puzzle], expected[known])


@pytest.mark.parametrize("variant", VARIANTS)
def test_analysis_trace_of_every_variant_ends_in_what_the_model_computes(variant, make_model):
    model = make_model(variant)
    ids = torch.randint(1, 6, (5, 16), generator=torch.Generator().manual_seed(0))
    t = trace(model, input_ids=ids, max_segments=3, batch_size=2, keep=("symbols", "q_halt", "states"))
    assert len(t.labels) == 3 * len(model.config.schedule)
    state = None
    for segment, end in enumerate(t.segment_ends):
        output = model(ids, state=state)
        state = output.state
        torch.testing.assert_close(t.z_h[end], state.z_h, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(t.z_l[end], state.z_l, rtol=1e-4, atol=1e-5)
        assert torch.equal(t.symbols_h[end], output.logits.argmax(-1))
        assert torch.equal(t.symbols_l[end], model.decode(state.z_l).argmax(-1))
        torch.testing.assert_close(t.q_halt[end], output.q_halt_logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(t.halts[segment], model.wants_to_halt(output))


def attention_keys(recording):
    """Name, puzzle, layer and segment of every recorded `attn.p{puzzle}.layer{layer}.segment{segment}.cells`."""
    found = [re.fullmatch(r"attn\.p(\d+)\.layer(\d+)\.segment(\d+)\.cells", name) for name in recording.tensors]
    return [(match[0].removesuffix(".cells"), *map(int, match.groups())) for match in found if match]


def recorded_maps(recording, name):
    """L and H, each (1, heads, S, S)."""
    heads = json.loads(recording.metadata["config"])["num_heads"]
    return [
        torch.stack([recording.tensors[f"{name}.head{head}.{level}"] for head in range(heads)])[None] for level in "LH"
    ]


def test_analysis_attention_maps_are_the_recorded_ones(recording, model):
    """Compared where nudged weights give the same maps; some of the first segment's always do."""
    ids, other, compared = recording.tensors["batch.inputs"].long(), nudged(recording, 0), set()
    for name, puzzle, layer, segment in attention_keys(recording):
        for level, recorded in zip("LH", recorded_maps(recording, name), strict=True):
            update = f"{segment}.{level}.0"
            found = attention_maps(model, ids[[puzzle]], update, [layer])[:, 0]
            if (found - attention_maps(other, ids[[puzzle]], update, [layer])[:, 0]).abs().max() < 5e-5:
                torch.testing.assert_close(found, recorded, rtol=0, atol=1e-5)
                compared.add(segment)
    assert 0 in compared


def test_analysis_contrasts_of_recorded_maps_are_the_recorded_ones(recording):
    puzzle, questions = get_puzzle("sudoku-9x9"), recording.tensors["batch.inputs"]
    metrics, names = RowMetrics(puzzle), metric_names(puzzle)
    columns = [names.index(name) for name in ("unit", "entropy", "violation")]
    keys = attention_keys(recording)
    assert keys
    for name, number, _, segment in keys:
        recorded = recording.tensors[f"{name}.cells"]
        queries = questions[[number]] == 1
        violations = recording.tensors[f"attn.p{number}.segment{segment}.violation_mask"].view(1, 81).bool()
        values = [
            metrics.measure(query_rows(maps, queries), queries, violations) for maps in recorded_maps(recording, name)
        ]
        found = contrast(*(value.mean(1) for value in values), names)[:, columns]
        assert torch.equal(queries.nonzero()[:, 1].double(), recorded[:, 0])
        assert torch.equal(metrics.is_adjacent(queries, violations).double(), recorded[:, 1])
        torch.testing.assert_close(found, recorded[:, 2:], rtol=0, atol=1e-5)


def test_analysis_contrasts_of_the_running_model_are_the_recorded_ones(recording, model):
    """The first segment's, and what the summary is made of: counts, sums and how many are positive."""
    questions, answers = (recording.tensors[f"batch.{name}"].numpy().astype(np.uint8) for name in ("inputs", "labels"))
    puzzles, seen = PuzzleSet(get_puzzle("sudoku-9x9"), questions, answers, "the recording"), {}
    result = attention_contrasts(model, puzzles, [0], visit=lambda _, layer, *found: seen.update({layer: found}))
    columns = [result.names.index(name) for name in ("unit", "entropy", "violation")]
    for name, puzzle, layer, segment in attention_keys(recording):
        if segment != 0:
            continue
        recorded, (cells, values) = recording.tensors[f"{name}.cells"], seen[layer]
        owner, cell = cells.nonzero(as_tuple=True)
        assert torch.equal(cell[owner == puzzle].double(), recorded[:, 0])
        torch.testing.assert_close(values[owner == puzzle][:, columns], recorded[:, 2:], rtol=0, atol=1e-5)
        for kind in (0, 1):
            chosen = recorded[recorded[:, 1] == kind]
            assert result.counts[puzzle, 0, layer, kind, 0] == len(chosen)
            np.testing.assert_allclose(result.sums[puzzle, 0, layer, kind][columns], chosen[:, 2:].sum(0), atol=1e-3)


def test_analysis_violations_are_the_recorded_ones(recording):
    names = [name for name in recording.tensors if name.endswith("violation_mask")]
    assert names
    for name in names:
        board = recording.tensors[name.replace("violation_mask", "decoded_H")].reshape(1, 81).numpy()
        found = get_puzzle("sudoku-9x9").violations(board, board)
        np.testing.assert_array_equal(found[0], recording.tensors[name].numpy().astype(bool).reshape(-1))


@pytest.mark.parametrize("path", MAZES, ids=lambda path: path.stem)
def test_analysis_maze_metrics_are_the_recorded_ones(path):
    recording, puzzle = Recording(path), get_puzzle("maze-30x30")
    names = json.loads(recording.metadata["metric_columns"])
    assert metric_names(puzzle) == ["4-connected", "8-connected", "5x5", "entropy", "violation"]
    ours = {"entropy": "entropy", "nbr4_mass": "4-connected", "nbr8_mass": "8-connected", "window5_mass": "5x5"}
    ours["violation_mass"] = "violation"
    metrics = RowMetrics(puzzle)
    for number in range(len({name.split(".")[0] for name in recording.tensors})):
        row = {
            name: recording.tensors[f"{number}.{name}"] for name in ("attn_L", "attn_H", "decoded", "label", "metrics")
        }
        query = int(recording.tensors[f"{number}.query_index"])
        violations = torch.from_numpy(puzzle.violations(row["decoded"].numpy()[None], row["label"].numpy()[None]))
        queries = torch.zeros(1, 900, dtype=torch.bool)
        queries[0, query] = True
        values = {}
        for level in "LH":
            maps = torch.zeros(1, 1, 901, 901)
            maps[0, 0, 1 + query, 1:] = row[f"attn_{level}"]
            values[level] = metrics.measure(query_rows(maps, queries), queries, violations)[0, 0]
        differences = contrast(values["L"], values["H"], metric_names(puzzle))
        for column, expected in zip(names, row["metrics"].tolist(), strict=True):
            kind = re.match("(entropy|nbr4|nbr8|window5|violation)", column)[0]
            index = metric_names(puzzle).index(ours[kind if kind == "entropy" else f"{kind}_mass"])
            found = differences[index] if "delta" in column else values[column[-1]][index]
            assert abs(float(found) - expected) < 1e-5, (number, column)
        neighbours = int((metrics.adjacent[query] & violations[0]).sum())
        assert neighbours == int(recording.tensors[f"{number}.violation_neighbours"])
