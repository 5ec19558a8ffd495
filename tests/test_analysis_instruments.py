"""The instruments beyond the recordings: against independent computations, through the commands, and on bad input."""

import csv
import importlib.util
import json
import re
import statistics
import weakref
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from air_hf import cli
from air_hf.analysis import attention as attention_module
from air_hf.analysis import iterate_traces, measure_roles, study_roles, trace
from air_hf.analysis import study as study_module
from air_hf.analysis.attention import attention_contrasts, attention_maps
from air_hf.analysis.cache import activation_cache, activation_names
from air_hf.analysis.dynamics import (
    MODES,
    measure_geometry,
    patch_states,
    principal_components,
    solution_modes,
    spectral_radius,
)
from air_hf.analysis.probes import fit_probes
from air_hf.analysis.statistics import estimate
from air_hf.analysis.study import Study, run_study
from air_hf.analysis.tables import modes_table
from air_hf.analysis.tracing import puzzles_within
from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.hub import load_model
from air_hf.modeling import AIRState
from air_hf.modeling.modeling_air import apply_rotary, rotary_tables
from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def puzzles() -> PuzzleSet:
    puzzle = get_puzzle("sudoku-4x4")
    return PuzzleSet(puzzle, *make_generator(puzzle).draw(12, np.random.default_rng(0)), "generated")


@pytest.fixture
def ids(puzzles) -> torch.Tensor:
    return torch.from_numpy(puzzles.questions).long()


# --- trace and roles ---


def test_a_trace_does_not_depend_on_the_batches(make_lively_model, ids):
    model = make_lively_model()
    whole = trace(model, ids)
    parts = list(iterate_traces(model, ids, batch_size=5))
    assert [part.stop - part.start for part, _ in parts] == [5, 5, 2]
    for name in ("symbols_h", "symbols_l", "halts"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for _, part in parts], dim=1))
    torch.testing.assert_close(whole.entropy_l, torch.cat([p.entropy_l for _, p in parts], dim=1), rtol=1e-3, atol=1e-4)
    assert torch.equal(whole.only([3]).symbols_l, whole.symbols_l[:, 3:4])
    assert all(len(symbols.unique()) > 3 for symbols in (whole.symbols_h, whole.symbols_l))


def test_entropy_confidence_and_change_are_what_the_states_say(make_lively_model, ids):
    model = make_lively_model(loss_function="softmax")
    t = trace(model, ids, max_segments=2, keep=("symbols", "entropy", "confidence", "change", "states"))
    probabilities = model.lm_head(t.z_l[:, :, -16:]).softmax(-1).detach()
    torch.testing.assert_close(t.confidence_l, probabilities.amax(-1))
    torch.testing.assert_close(
        t.entropy_l, torch.distributions.Categorical(probabilities).entropy(), rtol=1e-4, atol=1e-5
    )
    first, second = t.writes("L")[:2]
    before, after = t.z_l[first].flatten(1), t.z_l[second].flatten(1)
    torch.testing.assert_close(t.change[second], (after - before).norm(dim=1) / before.norm(dim=1))
    torch.testing.assert_close(t.cosine[second], (after * before).sum(1) / after.norm(dim=1) / before.norm(dim=1))


def test_a_frozen_state_stays_from_its_segment_on(make_lively_model, ids):
    t = trace(make_lively_model(), ids, frozen="L", freeze_from=2, keep=("states",))
    assert torch.equal(t.z_l[t.segment_ends[1]], t.z_l[-1])
    assert not torch.equal(t.z_l[t.segment_ends[0]], t.z_l[t.segment_ends[1]])
    assert not torch.equal(t.z_h[-1], t.z_h[-2])


def test_roles_count_what_a_loop_over_cells_counts(puzzles):
    symbols = torch.randint(0, 6, (5, 12, 16), generator=torch.Generator().manual_seed(0))
    roles = measure_roles(symbols, puzzles.puzzle, puzzles.questions, puzzles.answers)
    flips = changes = fixed = broken = held = 0
    for cell in range(16):
        before, after, answer = int(symbols[1, 3, cell]), int(symbols[2, 3, cell]), int(puzzles.answers[3, cell])
        flips += (before == 1) != (after == 1)
        changes += before != after and before != 1 and after != 1
        fixed += after == answer != before
        broken += before == answer != after
        held += after == 1 and puzzles.questions[3, cell] == 1
    assert [flips, changes, fixed, broken] == [
        getattr(roles, name)[1, 3] for name in ("mask_flips", "content_changes", "fixed", "broken")
    ]
    open_cells = puzzles.questions[3] == 1
    assert roles.held_back[2, 3] == pytest.approx(held / open_cells.sum())
    assert roles.committed[2, 3] == pytest.approx((symbols[2, 3].numpy() > 1)[open_cells].mean())
    right = symbols[2, 3].numpy() == puzzles.answers[3]
    assert roles.accuracy[2, 3] == pytest.approx(right[open_cells].mean())


def test_boards_without_an_open_cell_have_no_share_of_them(make_lively_model, puzzles):
    """They are left out of its mean, which is that of the others."""
    complete = np.arange(12) % 2 == 0
    mixed = replace(puzzles, questions=np.where(complete[:, None], puzzles.answers, puzzles.questions))
    others = replace(puzzles, questions=puzzles.questions[~complete], answers=puzzles.answers[~complete],
                     puzzle_ids=puzzles.puzzle_ids[~complete])  # fmt: skip
    model = make_lively_model()
    found, alone = study_roles(model, mixed), study_roles(model, others)
    assert found.roles["H"].final("accuracy").mean == pytest.approx(alone.roles["H"].final("accuracy").mean)
    for measure in ("mean", "ever"):
        ours, theirs = (getattr(study, measure)("L", "held_back") for study in (found, alone))
        assert (ours.count, ours.mean) == (6, pytest.approx(theirs.mean))
    study = run_study(model, replace(puzzles, questions=puzzles.answers), {"puzzle": "sudoku-4x4"}, ["roles", "probe"])
    assert study.skipped == {"probe": "all boards of one half of the puzzles are complete"}


def test_means_over_updates_begin_where_a_level_was_written(make_lively_model, puzzles):
    study = study_roles(make_lively_model(), puzzles)
    first = study.trace.writes("H")[0]
    assert first > 0
    shares = np.zeros_like(study.roles["H"].held_back)
    shares[:first], shares[first:, 0], shares[-1, 1] = 1, 0.5, 0.25
    study.roles["H"].held_back = shares
    assert study.mean("H", "held_back").mean == pytest.approx((0.5 + 0.25 / (len(shares) - first)) / 12)
    assert study.ever("H", "held_back").mean == pytest.approx(2 / 12)


def test_spread_is_that_of_a_sample():
    values = [1.0, 2.0, 4.0, float("nan")]
    found, alone = estimate(values), estimate([3.0])
    assert (found.mean, found.count) == (pytest.approx(7 / 3), 3)
    assert found.std == pytest.approx(statistics.stdev(values[:3]))
    assert found.sem == pytest.approx(statistics.stdev(values[:3]) / 3**0.5)
    assert (alone.mean, alone.to_dict()["sem"]) == (3, None)


def test_when_puzzles_halt_is_counted(make_lively_model, puzzles):
    study = study_roles(make_lively_model(max_segments=4), puzzles)
    halts = torch.zeros(4, 12, dtype=torch.bool)
    halts[1:, :5] = halts[2:, 5:8] = True  # and four never
    study.trace.halts = halts
    data = modes_table(Study({"segments": 4}, study)).data
    assert (data["halting_histogram"], data["never_halted"]) == ([0, 5, 3, 4], 4)


def test_modes_follow_the_segments_that_are_right(make_model, puzzles):
    study = study_roles(make_model(max_segments=4), puzzles)
    updates = len(study.trace.moments)
    exact, moved = np.zeros((updates, 12)), np.zeros((updates - 1, 12), dtype=int)
    ends = study.trace.segment_ends
    exact[ends[1] :, 0] = 1  # from the second segment on
    exact[ends[3], 1] = 1  # at the end only
    exact[ends[0], 2] = 1  # lost again
    moved[-1, 3] = 1
    study.roles["H"].exact, study.roles["H"].content_changes = exact, moved
    study.roles["H"].mask_flips = np.zeros_like(moved)
    assert [MODES[kind] for kind in solution_modes(study)[:4]] == [
        "quick",
        "delayed",
        "failed, settled",
        "failed, wandering",
    ]


# --- attention ---


def test_maps_are_softmax_of_queries_and_keys(make_model, ids):
    model = make_model(num_hidden_layers=2)
    found = attention_maps(model, ids, "1.H.1")
    assert found.shape == (12, 2, 2, 16, 16)
    t = trace(model, ids, max_segments=2, keep=("states",))
    attention, at = model.model.networks.shared.layers[0].mixer.attention, t.labels.index("1.H.1")
    argument = t.z_h[at - 1] + t.z_l[at - 1]  # Lx_H gives the H-update no input
    query, key, _ = attention.qkv_proj(argument).view(12, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    turned = [apply_rotary(x, *rotary_tables(17, 16, model.config.rope_theta, ids.device)) for x in (query, key)]
    maps = (turned[0] @ turned[1].transpose(2, 3) / 4).softmax(-1)[:, :, 1:, 1:]
    torch.testing.assert_close(found[:, 0], maps.detach(), rtol=1e-4, atol=1e-6)
    assert model.config._attn_implementation == "sdpa"  # as it was


def test_contrasts_are_those_of_maps_measured_one_by_one(make_model, puzzles, ids):
    """Means, intervals, shares and both classes, by loops over whole maps; and heads average to the whole."""
    model = make_model(num_hidden_layers=2)
    found = attention_contrasts(model, puzzles, [1, 3], batch_size=5)
    units = puzzles.puzzle.units
    rows = {"control": [], "adjacent": []}
    for segment in (1, 3):
        maps = {level: attention_maps(model, ids, f"{segment}.{level}.0", [1])[:, 0].double().numpy() for level in "LH"}
        t = trace(model, ids, max_segments=segment + 1, keep=("symbols",))
        boards = t.symbols_h[t.labels.index(f"{segment}.H.0")].numpy()
        for number, board in enumerate(boards):
            twice = [
                any(b != a and board[b] == board[a] > 1 and (units[:, a] == units[:, b]).any() for b in range(16))
                for a in range(16)
            ]
            for cell in np.flatnonzero(puzzles.questions[number] == 1):
                near = (units == units[:, [cell]]).any(0)
                mean = {"unit": {}, "entropy": {}, "violation": {}}
                for level in "LH":
                    p = maps[level][number, :, cell] / maps[level][number, :, cell].sum(-1, keepdims=True)
                    mean["unit"][level] = p[:, near].sum(1).mean()
                    mean["entropy"][level] = -(p * np.log(p)).sum(1).mean() / np.log(16)
                    mean["violation"][level] = p[:, twice].sum(1).mean()
                others = [b for b in range(16) if near[b] and b != cell]
                kind = "adjacent" if any(twice[b] for b in others) else "control"
                rows[kind].append(
                    [number, *((v["H"] - v["L"]) if k == "entropy" else (v["L"] - v["H"]) for k, v in mean.items())]
                )
    assert min(map(len, rows.values())) > 0
    for kind, values in rows.items():
        values = np.array(values)
        for column, name in enumerate(("unit", "entropy", "violation"), start=1):
            numbers, summary = values[:, column], found.summary(1, kind, name)
            assert summary["queries"] == len(numbers)
            assert summary["mean"] == pytest.approx(numbers.mean(), abs=1e-5)
            assert summary["interval"] == pytest.approx(1.96 * numbers.std(ddof=1) / len(numbers) ** 0.5, abs=1e-5)
            assert summary["positive"] == pytest.approx((numbers > 0).mean(), abs=2 / len(numbers))
            assert summary["puzzles"] == len(set(values[:, 0]))
            # Of boards, whose queries are not independent: their sums about the mean, n / (n - 1) for the mean's own.
            apart = [(numbers[values[:, 0] == board] - numbers.mean()).sum() for board in set(values[:, 0])]
            spread = (np.square(apart).sum() * len(apart) / (len(apart) - 1)) ** 0.5
            assert summary["interval_puzzles"] == pytest.approx(1.96 * spread / len(numbers), abs=1e-5)
            one = slice(int(values[0, 0]), int(values[0, 0]) + 1)
            arrays = {name: getattr(found, name)[one] for name in ("counts", "sums", "squares", "positives")}
            alone = replace(found, **arrays, levels=found.levels[:, one]).summary(1, kind, name)
            assert (alone["puzzles"], alone["interval_puzzles"]) == (1, None)
    halves = [attention_contrasts(model, puzzles, [1, 3], heads=[head]) for head in (0, 1)]
    np.testing.assert_allclose((halves[0].sums + halves[1].sums) / 2, found.sums, atol=1e-4)
    np.testing.assert_allclose(
        found.levels[0] - found.levels[1], found.sums * np.where(np.array(found.names) == "entropy", -1, 1), atol=1e-6
    )


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside took at a time."""

    def __init__(self):
        super().__init__()
        self.counts, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for tensor in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.take(storage.data_ptr(), storage.nbytes())
                weakref.finalize(tensor, self.give, storage.data_ptr(), storage.nbytes())
        return outputs

    def take(self, address: int, size: int) -> None:
        if not self.counts.get(address):
            self.now += size
            self.peak = max(self.peak, self.now)
        self.counts[address] = self.counts.get(address, 0) + 1

    def give(self, address: int, size: int) -> None:
        self.counts[address] -= 1
        if not self.counts[address]:
            self.now -= size


def test_maps_of_large_mazes_are_never_all_held(make_model, monkeypatch):
    """Peak below 6 times the maps of one update of a batch (the softmax makes some copies); all of them would be 16."""
    puzzle = get_puzzle("maze-30x30")
    model = make_model(
        vocab_size=6, seq_len=900, puzzle=puzzle.name, h_cycles=1, l_cycles=1, num_hidden_layers=2, max_segments=2
    )
    questions = np.full((2, 900), 2, dtype=np.uint8)
    answers = questions.copy()
    answers[:, :30] = 5
    one_batch = 4 * 2 * 901**2
    monkeypatch.setattr(attention_module, "_MAP_BYTES", one_batch)
    live = LiveBytes()
    with live:
        attention_contrasts(model, PuzzleSet(puzzle, questions, answers, "made up"), [0, 1])
    assert one_batch < live.peak < 6 * one_batch


# --- dynamics, probes, patching, activations ---


def test_spectral_radius_is_that_of_the_whole_jacobian(make_model):
    model = make_model(hidden_size=8, seq_len=4, puzzle=None).double()
    ids = torch.randint(1, 6, (2, 4), generator=torch.Generator().manual_seed(1))
    inputs, state = model.model.encode(ids), model(input_ids=ids).state
    found = spectral_radius(model, inputs, state, steps=100)
    for number in range(2):
        one, size = inputs[[number]], state.z_h[0].numel()

        def segment(z, one=one, size=size):
            shape = (1, 5, 8)
            after = model.model.segment(
                one, AIRState(z[size:].view(shape), z[:size].view(shape), torch.zeros(1, dtype=torch.int64))
            )
            return torch.cat((after.z_l.flatten(), after.z_h.flatten()))

        model.set_attn_implementation("eager")
        with torch.no_grad():
            z = torch.cat((state.z_l[number].flatten(), state.z_h[number].flatten()))
            jacobian = torch.func.jacfwd(segment)(z)
        assert float(found[number]) == pytest.approx(float(torch.linalg.eigvals(jacobian).abs().max()), rel=0.05)


def test_geometry_ends_where_the_rollout_ends(make_model, ids):
    found = measure_geometry(make_model(), ids[:3], horizon=4, power_steps=2)
    assert found.distance["H"].shape == (24, 3)
    np.testing.assert_allclose(found.distance["L"][-1], 0, atol=1e-6)
    assert (found.distance["H"][0] > 0.1).all()


def test_principal_components_are_those_of_a_singular_value_decomposition():
    z = torch.randn(7, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    found, explained = principal_components(z)
    centered = (z - z.mean(0)).flatten(2)[:, 1].double().numpy()
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(found[:, 1]), np.abs(left[:, :2] * values[:2]), atol=1e-5)
    np.testing.assert_allclose(explained[1], values[:2] ** 2 / (values**2).sum(), rtol=1e-5)


def test_cells_without_a_label_are_no_errors_of_a_swap(make_lively_model, puzzles, ids):
    model = make_lively_model()
    with torch.no_grad():
        final = model.solve(ids, max_segments=4).sequences.numpy().astype(np.uint8)
    answers = np.where(final == puzzles.answers, final, 0)  # labels where the model happens to be right
    answers[:, :4] = np.where(np.arange(len(answers)) % 2, 0, puzzles.answers[:, :4].T).T
    found = patch_states(model, replace(puzzles, answers=answers), "L", 2)
    right = ((final == answers) | (answers == 0)).all(1)[(answers > 0).any(1)]
    assert found.exact_unpatched == right.mean() > 0
    theirs, blank = np.roll(answers, -1, 0), puzzles.questions == 1
    compared = blank & np.roll(blank, -1, 0) & (answers > 0) & (theirs > 0) & (answers != theirs)
    assert found.cells == compared.sum() > 0


def test_swapping_both_states_goes_on_with_the_donors(make_lively_model, puzzles, ids):
    model = make_lively_model()
    answers = puzzles.answers.astype(np.int64)
    found = patch_states(model, puzzles, "LH", 2)
    state = None
    for segment in range(4):
        output = model(ids, state=state)
        state = output.state
        if segment == 1:
            state = AIRState(state.z_h.roll(-1, 0), state.z_l.roll(-1, 0), state.num_segments)
    final, theirs = output.logits.argmax(-1).numpy(), np.roll(answers, -1, 0)
    questions = ids.numpy()
    cells = (questions == 1) & (np.roll(questions, -1, 0) == 1) & (answers != theirs)
    assert found.own == pytest.approx((final == answers)[cells].mean(), abs=1e-9)
    assert found.donor == pytest.approx((final == theirs)[cells].mean(), abs=1e-9)
    assert 0 < found.own != found.donor > 0
    for size in (1, 5, 12):  # of which one has no successor in its batch
        again = patch_states(model, puzzles, "LH", 2, batch_size=size)
        assert (again.own, again.donor, again.cells) == (found.own, found.donor, found.cells)
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        patch_states(model, puzzles, "L", 2, batch_size=0)


def test_probes_are_ridge_regressions_tested_on_other_puzzles(make_model, puzzles, ids):
    model = make_model()
    found = fit_probes(model, puzzles, max_segments=1, batch_size=4)
    t = trace(model, ids, max_segments=1, keep=("states",))
    open_cells = torch.from_numpy(puzzles.questions == 1)
    features = torch.nn.functional.pad(t.z_l[3, :, 1:], (0, 1), value=1.0).double()
    onehot = torch.nn.functional.one_hot(torch.from_numpy(puzzles.answers).long(), 6).double()
    x, y = features[:6][open_cells[:6]], onehot[:6][open_cells[:6]]
    gram = x.T @ x
    weights = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(33), x.T @ y)
    right = (features[6:] @ weights).argmax(-1) == onehot[6:].argmax(-1)
    assert found.probe["L"][3] == pytest.approx(float(right[open_cells[6:]].double().mean()))
    assert (found.num_train, found.num_test) == (6, 6)


@pytest.mark.parametrize("variant", ["Lx_H", "hrm", "trm-mlp", "L2x_H2x-prepend-strip"])
def test_activations_have_names_and_are_the_models_own(variant, make_model, ids):
    model = make_model(variant)
    names = activation_names(model, 2)
    cache = activation_cache(model, ids[:3], ["segment.1.*"], 2)
    assert list(cache) == [name for name in names if name.startswith("segment.1.")]
    t = trace(model, ids[:3], max_segments=2, keep=("states",))
    last = t.moments[-1]
    torch.testing.assert_close(cache[f"segment.{last}.hook_z_h"], t.z_h[-1], rtol=1e-3, atol=1e-4)  # eager, sdpa
    post = cache[f"segment.{last}.blocks.{model.config.num_hidden_layers - 1}.hook_resid_post"]
    assert torch.equal(post[:, -16:], cache[f"segment.{last}.hook_z_h"][:, -16:])
    if model.config.mixer == "attention":
        pattern = cache["segment.1.L.0.blocks.0.attn.hook_pattern"]
        assert pattern.shape == (3, 2, model.config.num_network_positions, model.config.num_network_positions)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
    else:
        assert not any("pattern" in name for name in names)


# --- documentation and commands ---


@pytest.fixture
def saved(make_model, puzzles, tmp_path):
    """A checkpoint folder and a CSV file."""

    def save(**overrides):
        model = make_model(**overrides)
        model.save_pretrained(tmp_path / "checkpoint")
        build_tokenizer(puzzles.puzzle).save_pretrained(tmp_path / "checkpoint")
        with open(tmp_path / "test.csv", "w", newline="", encoding="utf-8") as file:
            rows = zip(*map(puzzles.puzzle.format_all, (puzzles.questions, puzzles.answers)), strict=True)
            csv.writer(file).writerows([("question", "answer"), *rows])
        return tmp_path / "checkpoint", tmp_path / "test.csv"

    return save


def test_the_code_of_the_documentation_runs(saved, tmp_path):
    checkpoint, data = saved()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8"), re.DOTALL)
    try:
        version("nnsight")
    except PackageNotFoundError:
        blocks = [block for block in blocks if "nnsight" not in block]
    source = "\n".join(blocks)
    for name, ours in (('"sudoku-6x6"', checkpoint), ('"data/sudoku-6x6/test.csv"', data)):
        assert name in source
        source = source.replace(name, repr(str(ours)))
    path = tmp_path / "documented.py"  # a file, since nnsight reads the source of the block it traces
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("documented", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.t.symbols_l.shape == (24, 8, 16)
    assert len(module.outputs) == 6
    if hasattr(module, "seen"):
        for ours, theirs in zip(module.outputs, module.seen, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def exit_status(*words) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    return exit_.value.code


def test_analyze_writes_every_table_and_figure(saved, tmp_path, capsys):
    checkpoint, data = saved(h_cycles=1, l_cycles=1, max_segments=2)
    output = tmp_path / "inside"
    words = ("--checkpoint", checkpoint, "--data", data, "--puzzles", 8, "--output", output)
    assert exit_status("analyze", *words) == 0, capsys.readouterr().err
    names = ("boards", "roles", "segments", "freeze", "attention", "attention-example", "probe", "trajectories")
    assert {path.name for path in output.iterdir()} == {
        "report.md", "report.json", "states.gif", *(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    }  # fmt: skip
    assert Image.open(output / "states.gif").n_frames > 1
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["facts"]["puzzles"] == 8
    assert len(report["facts"]["weights_sha256"]) == 64
    assert len(report["tables"]) == 8
    contrasts = report["tables"]["Attention contrasts"]["contrasts"]
    assert {row["class"] for row in contrasts} == {"control", "adjacent"}
    assert sum(row["queries"] for row in contrasts if row["metric"] == "unit") > 0

    assert exit_status("analyze", *words, "--parts", "freeze") == 0  # no figure of the study before is left
    names = ("boards", "roles", "segments", "freeze")
    assert {path.stem for path in output.iterdir()} == {"report", "states", *names}
    assert exit_status("analyze", *words, "--parts", "roles", "--no_figures") == 0
    assert {path.stem for path in output.iterdir()} == {"report"}


def test_analyze_complete_boards(saved, tmp_path, capsys):
    """Nothing is open in them: no shares, no probe, and pictures all the same."""
    checkpoint, data = saved()
    answer = data.read_text().splitlines()[1].split(",")[1]
    data.write_text(f"question,answer\n{answer},{answer}\n{answer},{answer}\n")
    words = ("--checkpoint", checkpoint, "--data", data, "--puzzles", 2, "--output", tmp_path / "out")
    assert exit_status("analyze", *words) == 0, capsys.readouterr().err
    assert "No probe: all boards of one half of the puzzles are complete." in (tmp_path / "out/report.md").read_text()
    assert (tmp_path / "out/states.gif").exists()


def test_analyze_asks_for_puzzles_where_none_are_published(saved, tmp_path, capsys):
    words = ("--checkpoint", saved()[0], "--output", tmp_path / "inside")  # Sudoku-Extreme is of 9x9 boards
    assert exit_status("analyze", *words) == 2
    assert "there is no public data set of sudoku-4x4; say which puzzles, by --data" in capsys.readouterr().err


def test_analyze_looks_at_its_place_before_it_runs(saved, tmp_path, capsys):
    checkpoint, data = saved()
    with mock.patch.object(study_module, "study_roles", side_effect=AssertionError("it ran")):
        assert exit_status("analyze", "--checkpoint", checkpoint, "--data", data, "--output", data / "below") == 2
    assert f"{data} is a file, not a folder" in capsys.readouterr().err


def test_analyze_holds_a_state_from_a_segment_on(saved, puzzles, tmp_path, capsys):
    """The numbers of the report are those of boards traced so, counted here."""
    checkpoint, data = saved()
    model = load_model(checkpoint)
    with torch.no_grad():  # weights at their start settle in one segment, after which holding a state changes nothing
        for parameter in model.parameters():
            parameter *= 2
    model.save_pretrained(checkpoint)
    words = ("--checkpoint", checkpoint, "--data", data, "--puzzles", len(puzzles), "--parts", "roles", "freeze")
    assert exit_status("analyze", *words, "--no_figures", "--output", tmp_path / "out", "--freeze_from", 1) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    found = report["tables"]["Freezing one state"]
    assert "Held from segment 1 on" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    blank, ids = 1, torch.from_numpy(puzzles.questions).long()

    def changes(read: str, **condition) -> float:
        boards = trace(model, ids, **condition).symbols(read)
        before, after = boards[:-1], boards[1:]
        return ((before != after) & (before != blank) & (after != blank)).sum((0, 2)).double().mean().item()

    for level, other in (("L", "H"), ("H", "L")):
        expected = changes(other, frozen=level, freeze_from=1)
        assert found[level]["content_changes"][other]["mean"] == pytest.approx(expected)
        assert expected not in (changes(other, frozen=level), changes(other))
        assert found[level]["paper"] == {}
    assert exit_status("analyze", *words, "--output", tmp_path / "no", "--freeze_from", 4) == 2
    assert "freeze_from is segment 4; this rollout has segments 0 to 3" in capsys.readouterr().err
    assert exit_status("analyze", *words[:-1], "--output", tmp_path / "no", "--freeze_from", 1) == 2
    assert "no state is held without the part freeze" in capsys.readouterr().err


def test_reproduce_puts_the_papers_numbers_beside_ours(saved, tmp_path, capsys):
    checkpoint, data = saved(mixer="mlp", position_embedding="none")
    output = tmp_path / "paper"
    words = ("--checkpoint", checkpoint, "--data", data, "--puzzles", 8, "--output", output)
    assert exit_status("reproduce", "--task", "sudoku", *words) == 0, capsys.readouterr().err
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "z_L 1,235, z_H 275" in text
    assert 'No attention: this checkpoint mixes positions by "mlp"' in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "maze"], "solves sudoku-4x4 (6 symbols, 16 cells); the task asked for is maze"),
        (["--task", "sudoku", "--puzzles", "13"], "13"),
        (
            ["--task", "sudoku", "--puzzles", "4", "--attention_segments", "9"],
            "segment 9 does not exist; this run has segments 0 to 3",
        ),
        (["--task", "sudoku", "--checkpoint", "nowhere/at/all"], "nowhere/at/all does not exist"),
        (["--task", "sudoku", "--puzzles", "4", "--batch_size", "0"], "argument --batch_size: 0 is less than 1"),
        (["--task", "sudoku", "--puzzles", "0"], "argument --puzzles: 0 is less than 1"),
        (["--task", "sudoku", "--seed", "-1"], "argument --seed: -1 is negative, or not less than 2**32"),
    ],
)
def test_commands_refuse_in_one_line(saved, tmp_path, capsys, words, said):
    checkpoint, data = saved()
    start = ("reproduce", "--checkpoint", checkpoint, "--data", data, "--output", tmp_path / "out")
    assert exit_status(*start, *words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, p, i: trace(m, i, keep=("symbol",)), "keep names 'symbol'; a trace can keep symbols, entropy"),
        (lambda m, p, i: trace(m, i, frozen="Z"), "no state 'Z' to freeze; a model has"),
        (lambda m, p, i: trace(m, i, frozen="L", freeze_from=4), "freeze_from is segment 4; this rollout has"),
        (lambda m, p, i: trace(m, i, freeze_from=2), "freeze_from is segment 2, but frozen names no state"),
        (lambda m, p, i: trace(m, i, max_segments=0), "max_segments is 0"),
        (lambda m, p, i: trace(m, i[:0]), "no puzzles to trace"),
        (lambda m, p, i: trace(m, i, keep=("states",), max_memory=1e-4), "more than max_memory"),
        (lambda m, p, i: trace(m, i + 3), "this model knows 0 to 5"),
        (lambda m, p, i: trace(m, i, torch.zeros(13, dtype=torch.long)), "puzzle_ids has shape .*13"),
        (lambda m, p, i: attention_maps(m, i, "4.L.0"), "no update '4.L.0'; expected .* 0 to 3 and one of L.0, L.1,"),
        (lambda m, p, i: attention_maps(m, i, "0.L.0", [1]), "layer 1 does not exist; this run has layers 0"),
        (lambda m, p, i: attention_maps(m, i, "0.L.0", heads=[-1]), "head -1 does not exist; this run has heads"),
        (lambda m, p, i: attention_contrasts(m, p, []), "no segment was chosen"),
        (lambda m, p, i: attention_contrasts(m, p, [1, 1]), "segments 1, 1 name one twice"),
        (lambda m, p, i: attention_contrasts(m, p, layers=[0.5]), "layer is 0.5; expected a whole number of 0 to 0"),
        (lambda m, p, i: attention_contrasts(m, p, [3], max_segments=2), "segment 3 does not exist; this run has"),
        (lambda m, p, i: attention_contrasts(m, p, [1]).summary(7, "control", "entropy"), "layer 7 was not looked at"),
        (lambda m, p, i: trace(m, i, frozen="L", freeze_from=1.5), "freeze_from is segment 1.5; this rollout has"),
        (lambda m, p, i: patch_states(m, p, "X", 1), "level is 'X'"),
        (lambda m, p, i: patch_states(m, p, "L", 4), "before segments 1 to 3"),
        (lambda m, p, i: activation_cache(m, i, ["segment.9.*"]), "no activation is called 'segment.9.*'"),
        (lambda m, p, i: measure_geometry(m, i, horizon=2), "horizon is 2 segments"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_the_valid_range(make_model, puzzles, ids, call, said):
    with pytest.raises(ValueError, match=re.escape(said) if ".*" not in said else said):
        call(make_model(), puzzles, ids)


def test_a_model_without_attention_says_so(make_model, puzzles, ids):
    model = make_model("trm-mlp")
    for call in (lambda: attention_maps(model, ids, "0.L.0"), lambda: attention_contrasts(model, puzzles)):
        with pytest.raises(ValueError, match='mixes positions by "mlp" and has no attention maps'):
            call()


def test_what_is_asked_for_and_cannot_be_had_is_refused_before_anything_runs(make_model, puzzles):
    mlp, one, other = make_model("trm-mlp"), puzzles.sample(1, 0), get_puzzle("maze-4x4")
    boards = np.full((2, 16), 2, dtype=np.uint8)
    refused = [
        (mlp, puzzles, {"parts": ["attention"], "skip": False}, "attention was asked for, but this checkpoint mixes"),
        (mlp, puzzles, {"segments": [1]}, "attention was asked for, but this checkpoint mixes"),
        (
            make_model(),
            one,
            {"parts": ["probe"], "skip": False},
            "probe was asked for, but it needs at least 2 puzzles",
        ),
        (make_model(), puzzles, {"max_segments": 2, "segments": [3]}, "this run has segments 0 to 1"),
        (make_model(), PuzzleSet(other, boards, boards, "mazes"), {}, "solves sudoku-4x4; mazes holds maze-4x4"),
    ]
    for model, boards, options, said in refused:
        with (
            mock.patch.object(study_module, "study_roles", side_effect=AssertionError("it ran")),
            pytest.raises(ValueError, match=re.escape(said)),
        ):
            run_study(model, boards, {}, **options)
    assert run_study(make_model(), one, {"puzzle": "sudoku-4x4"}, ["probe", "patching"]).skipped.keys() == {
        "probe", "patching",
    }  # fmt: skip


def test_in_mazes_every_cell_of_floor_is_to_be_decided(make_lively_model):
    """A path's cells alone would be one symbol: nothing to probe, and no two solutions that differ."""
    puzzle = get_puzzle("maze-4x4")
    generator = make_generator(puzzle)
    mazes = PuzzleSet(puzzle, *generator.draw(8, np.random.default_rng(0)), "made")
    model = make_lively_model(puzzle="maze-4x4", vocab_size=6)
    floor = mazes.questions == 2
    found = patch_states(model, mazes, "LH", 2)
    differing = floor & np.roll(floor, -1, 0) & (mazes.answers != np.roll(mazes.answers, -1, 0))
    assert found.cells == differing.sum() > 0
    probe = fit_probes(model, mazes, max_segments=1)
    tested = mazes.answers[4:][floor[4:]]
    assert probe.chance == pytest.approx(np.bincount(tested).max() / len(tested))
    assert 0 < probe.chance < 1


def test_states_are_held_for_as_many_puzzles_as_memory_allows(make_model, puzzles):
    model = make_model()
    one = puzzles_within(1, model, 4, ("states",))
    assert puzzles_within(2, model, 4, ("states",)) == pytest.approx(2 * one, abs=1)
    assert puzzles_within(1e-9, model, 4, ("states",)) == 1
    with mock.patch.object(study_module, "_GEOMETRY_GIB", 2.5 / one):
        study = run_study(model, puzzles, {"puzzle": "sudoku-4x4"}, ["geometry"])
    assert len(study.geometry.settled) == 2


def test_analyze_boards_of_another_size(tmp_path, capsys):
    """Of weights that fit any; a single one has no spread, and no option goes by a part of its name."""
    puzzle = get_puzzle("maze-5x5")
    boards = [
        [puzzle.format(board) for board in part] for part in make_generator(puzzle).draw(2, np.random.default_rng(0))
    ]
    (tmp_path / "test.csv").write_text(
        "question,answer\n" + "".join(f"{q},{a}\n" for q, a in zip(*boards, strict=True))
    )
    words = ("--checkpoint", "maze-10x10", "--data", tmp_path, "--parts", "freeze", "--no_figures",
             "--output", tmp_path / "out", "--max_segments", 2, "--puzzles", 1)  # fmt: skip
    assert exit_status("analyze", *words, "--puzzle", "maze-5x5") == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "| none | z_L " in out
    assert "nan" not in out
    assert exit_status("analyze", *words, "--puzz", "maze-5x5") == 2
    assert "unrecognized arguments: --puzz maze-5x5" in capsys.readouterr().err
