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

    def model(self):
        weights = {name.removeprefix("init."): t for name, t in self.tensors.items() if name.startswith("init.")}
        return load_reference(weights, json.loads(self.metadata["config"]), self.variant).eval()


@pytest.fixture(scope="module", params=SUDOKU, ids=lambda path: path.stem)
def recording(request):
    return Recording(request.param)


@pytest.fixture(scope="module")
def model(recording):
    return recording.model()


@pytest.mark.parametrize(("run", "frozen"), [("normal", ()), ("freeze_H", "H"), ("freeze_L", "L")])
def test_analysis_decoded_symbols_and_changes_are_the_recorded_ones(recording, model, run, frozen):
    ids = recording.tensors["batch.inputs"].long()
    segments = recording.tensors[f"trace.{run}.pred_H"].shape[0]
    t = trace(model, ids, recording.tensors["batch.puzzle_identifiers"].long(), segments, frozen=frozen)
    stages = json.loads(recording.metadata["stages"])
    expected = [
        (s, level, h if level == "H" else h * model.config.l_cycles + i)
        for s in range(segments)
        for level, h, i in stages
    ]
    assert t.labels == [f"{s}.{level}.{index}" for s, level, index in expected]
    for level in "HL":
        recorded = recording.tensors[f"trace.{run}.pred_{level}"].flatten(0, 1).flatten(2)
        assert torch.equal(t.symbols(level), recorded.long())
        flips, changes = transitions(t.symbols(level), get_puzzle("sudoku-9x9").held_back)
        for puzzle in range(len(ids)):
            at = f"trace.{run}.p{puzzle}.{level}"
            assert torch.equal(flips.sum(-1)[:, puzzle], recording.tensors[f"{at}.mask_flips"])
            assert torch.equal(changes.sum(-1)[:, puzzle], recording.tensors[f"{at}.content_changes"])


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


def attention_keys(recording, ending):
    """Puzzle, layer, segment of every recorded `attn.p{puzzle}.layer{layer}.segment{segment}.{ending}`."""
    found = [re.fullmatch(rf"attn\.p(\d+)\.layer(\d+)\.segment(\d+)\.{ending}", name) for name in recording.tensors]
    return [(match[0], *map(int, match.groups())) for match in found if match]


def recorded_puzzles(recording):
    questions = recording.tensors["batch.inputs"].numpy().astype(np.uint8)
    answers = recording.tensors["batch.labels"].numpy().astype(np.uint8)
    return PuzzleSet(get_puzzle("sudoku-9x9"), questions, answers, "the recording")


def test_analysis_attention_maps_are_the_recorded_ones(recording, model):
    ids = recording.tensors["batch.inputs"].long()
    keys = attention_keys(recording, r"head(\d+)\.([LH])".replace("(\\d+)", r"\d+").replace("([LH])", "[LH]"))
    assert keys
    maps = {}
    for name, puzzle, layer, segment in keys:
        head, level = re.search(r"head(\d+)\.([LH])$", name).groups()
        label = f"{segment}.{level}.0"
        if label not in maps:
            maps[label] = attention_maps(model, ids, label)
        found = maps[label][puzzle, layer, int(head)]
        torch.testing.assert_close(found, recording.tensors[name], rtol=0, atol=1e-5)


def test_analysis_contrasts_are_the_recorded_ones(recording, model):
    """Also the sums over queries, so that what the summary is made of is the same, cell for cell."""
    puzzles, seen = recorded_puzzles(recording), {}
    keys = attention_keys(recording, "cells")
    segments = sorted({segment for *_, segment in keys})
    result = attention_contrasts(
        model,
        puzzles,
        segments,
        visit=lambda now, layer, cells, values: seen.update({(now.segment, layer): (cells, values)}),
    )
    columns = [result.names.index(name) for name in ("unit", "entropy", "violation")]
    for name, puzzle, layer, segment in keys:
        recorded = recording.tensors[name]
        cells, values = seen[segment, layer]
        owner, cell = cells.nonzero(as_tuple=True)
        assert torch.equal(cell[owner == puzzle].double(), recorded[:, 0])
        found = values[owner == puzzle][:, columns]
        torch.testing.assert_close(found, recorded[:, 2:], rtol=0, atol=1e-5)
        at = (puzzle, segments.index(segment), layer)
        for kind in (0, 1):
            chosen = recorded[recorded[:, 1] == kind]
            assert result.counts[(*at, kind, 0)] == len(chosen)
            np.testing.assert_allclose(result.sums[(*at, kind)][columns], chosen[:, 2:].sum(0), atol=1e-4)
            np.testing.assert_array_equal(result.positives[(*at, kind)][columns], (chosen[:, 2:] > 0).sum(0))


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
