"""Exported graphs against the model, in onnxruntime: every variant, other batches than the traced one, the command."""

import functools
import importlib.util
import json
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from air_hf.cli import main
from air_hf.export import (
    GRAPHS,
    ExportedForPuzzleSolving,
    ExportError,
    export_checkpoint,
    load_exported,
)
from air_hf.export.graphs import Graph
from air_hf.hub import CheckpointError
from air_hf.variants import VARIANTS

onnxruntime = pytest.importorskip("onnxruntime", reason="the packages of air-hf[export] are not installed")
pytest.importorskip("onnxscript", reason="the packages of air-hf[export] are not installed")


@pytest.fixture(autouse=True, scope="module")
def _one_table_of_operators():
    """torch builds its table of ONNX operators anew for every graph, a sixth of the time of an export; here, once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    build = functools.cache(ONNXRegistry.from_torchlib)
    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(build)):
        yield


@pytest.fixture
def lively_model(make_model):
    """A tiny model whose level tokens and prefix are not the zeros that they start as."""

    def make(variant: str, **overrides):
        model = make_model(variant, **overrides)
        for parameter in (model.model.level_token_h, model.model.level_token_l, model.model.prefix.weight):
            if parameter is not None:
                nn.init.normal_(parameter)
        model.set_attn_implementation("eager")
        return model

    return make


def boards(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(6, (count, 16), generator=torch.Generator().manual_seed(seed))


def assert_same_rollout(model, exported, ids, puzzle_ids=None):
    segments = 0
    with torch.no_grad():
        for ours, theirs in zip(
            model.unroll(ids, puzzle_ids), exported.unroll(ids, puzzle_ids), strict=True
        ):  # every segment
            segments += 1
            for name in ("logits", "q_halt_logits", "q_continue_logits"):
                torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(theirs.state.z_l, ours.state.z_l, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(theirs.state.z_h, ours.state.z_h, atol=1e-4, rtol=1e-4)
    assert segments == model.config.max_segments


class AllGraphs(nn.Module):
    """The four graphs side by side, so that a variant takes one export instead of four."""

    def __init__(self, model):
        super().__init__()
        self.graphs = nn.ModuleDict({name: Graph(model, name) for name in GRAPHS})

    def examples(self) -> dict[str, torch.Tensor]:
        return {f"{name}__{key}": tensor for name in GRAPHS for key, tensor in self.graphs[name].examples().items()}

    def forward(self, **tensors):
        outputs = {}
        for name in GRAPHS:
            results = self.graphs[name](**{key: tensors[f"{name}__{key}"] for key in self.graphs[name].inputs})
            outputs |= {f"{name}__{key}": tensor for key, tensor in results.items()}
        return outputs

    def runners(self) -> dict:
        """What runs each graph: onnxruntime with the exported program, the other graphs' arguments made up."""
        import onnx_ir
        from transformers.exporters import OnnxConfig
        from transformers.exporters.exporter_onnx import OnnxExporter

        examples = self.examples()
        config = OnnxConfig(dynamic_shapes={name: {0: torch.export.Dim("batch", min=1)} for name in examples})
        program = OnnxExporter().export(self, examples, config).program
        session = onnxruntime.InferenceSession(onnx_ir.to_proto(program).SerializeToString())
        needed = {spec.name for spec in session.get_inputs()}

        def runner(name):
            def run(**tensors):
                batch = len(next(iter(tensors.values())))
                feeds = {key: np.repeat(value[:1].numpy(), batch, axis=0) for key, value in examples.items()}
                feeds |= {f"{name}__{key}": tensor.contiguous().numpy() for key, tensor in tensors.items()}
                outputs = self.graphs[name].outputs
                values = session.run(
                    [f"{name}__{key}" for key in outputs], {key: feeds[key] for key in feeds if key in needed}
                )
                return {key: torch.from_numpy(value) for key, value in zip(outputs, values, strict=True)}

            return run

        return {name: runner(name) for name in GRAPHS}


# One of every kind of update, start and mixer; the others, some seconds each, on request.
KINDS = ("Lx_H", "L_H2x", "Lx_H-tanh", "Lx_H-hadamard", "L2x_H2x-add", "L2x_H2x-prepend-keep", "hrm", "trm-mlp")


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow) for name in VARIANTS]
)
def test_every_variant_gives_the_same_numbers_in_onnxruntime(lively_model, variant):
    model = lively_model(variant, h_cycles=1, l_cycles=1, max_segments=2, num_puzzle_ids=3)
    exported = ExportedForPuzzleSolving(model.config, AllGraphs(model).runners())
    for count in (1, 5):  # traced with 2
        assert_same_rollout(model, exported, boards(count), torch.arange(count) % 3)


@pytest.mark.parametrize(("mixer", "puzzle"), [("convolution", "maze-2x8"), ("candidates", "sudoku-4x4")])
def test_mixers_of_our_own_give_the_same_numbers_in_onnxruntime(lively_model, mixer, puzzle):
    fields = {"mixer": mixer, "position_embedding": "none", "h_cycles": 1, "l_cycles": 1, "max_segments": 2}
    model = lively_model("Lx_H", puzzle=puzzle, **fields)
    exported = ExportedForPuzzleSolving(model.config, AllGraphs(model).runners())
    for count in (1, 5):
        assert_same_rollout(model, exported, boards(count))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from air_hf import AIRForPuzzleSolving, variant_config

    torch.manual_seed(1)
    config = variant_config(
        "Lx_H", vocab_size=6, seq_len=16, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, h_cycles=1,
        l_cycles=2, max_segments=3, puzzle="sudoku-4x4",
    )  # fmt: skip
    model = AIRForPuzzleSolving(config)
    nn.init.normal_(model.q_head.weight)
    folder = tmp_path_factory.mktemp("export") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint):
    """What the command wrote."""
    folder = checkpoint.parent / "onnx"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(checkpoint), "--output", str(folder), "--attentions"])
    assert ended.value.code == 0
    return folder


def test_the_command_writes_graphs_that_solve_as_the_checkpoint_does(checkpoint, exported):
    from air_hf.hub import load_model

    model, graphs = load_model(checkpoint), load_exported(exported)
    for count in (1, 7):
        assert_same_rollout(model, graphs, boards(count))
    ours, theirs = model.solve(boards(7)), graphs.solve(boards(7))
    assert torch.equal(ours.sequences, theirs.sequences)
    with pytest.raises(ValueError, match="symbol 9"):
        graphs.solve(torch.full((1, 16), 9))


def test_attention_maps_are_the_models(checkpoint, exported):
    from air_hf.hub import load_model

    model, graphs = load_model(checkpoint, attn_implementation="eager"), load_exported(exported)
    maps = []
    layer = model.model.networks["shared"].layers[0].mixer.attention
    layer.register_forward_hook(lambda module, arguments, output: maps.append(output[1]))
    with torch.no_grad():
        inputs, state = model.model.encode(boards(3)), model.initial_state(3)
        model.model.l_update(state.z_l, state.z_h, inputs)
    found = graphs.runners["l_update"](z_l=state.z_l, z_h=state.z_h, l_injection=inputs.l_injection)["attentions"]
    assert found.shape == (1, 3, 2, 17, 17)  # layers, B, heads, T, T
    torch.testing.assert_close(found[0], maps[0], atol=1e-5, rtol=1e-5)


def test_the_manifest_says_what_is_inside_and_transformers_reads_it(checkpoint, exported):
    from transformers.exporters.base import ExportedModel

    from air_hf.files import sha256

    facts = json.loads((exported / "export.json").read_text())["air_hf"]
    assert (facts["puzzle"], facts["symbols"], facts["schedule"]) == ("sudoku-4x4", ".1234", ["L", "L", "H"])
    assert facts["graphs"]["h_update"] == {"inputs": ["z_h", "z_l"], "outputs": ["z", "attentions"]}
    assert facts["graphs"]["encode"] == {"inputs": ["input_ids"], "outputs": ["z_h", "z_l", "l_injection"]}
    assert facts["source"]["sha256"] == sha256(checkpoint / "model.safetensors")
    assert facts["largest_difference"] < 1e-4
    assert facts["files"]["l_update.onnx.data"] == facts["files"]["h_update.onnx.data"]  # one network, the same bytes
    assert facts["files"] == {name: sha256(exported / name) for name in facts["files"]}
    assert set(ExportedModel.from_pretrained(exported).runners) == set(GRAPHS)


@pytest.mark.slow
def test_8_bits_make_the_updates_smaller_and_are_near(checkpoint, exported, tmp_path):
    folder = export_checkpoint(checkpoint, tmp_path / "int8", int8=True)
    sizes = [(path / "l_update.onnx.data").stat().st_size for path in (folder, exported)]
    assert sizes[0] < sizes[1] / 3
    assert 1e-6 < json.loads((folder / "export.json").read_text())["air_hf"]["largest_difference"] < 0.5


@pytest.mark.slow
def test_8_bits_reach_the_position_mixer(make_model, tmp_path):
    """Its products have their weights on the left where nothing is exported, where 8 bits would pass them by."""
    make_model("trm-mlp").save_pretrained(tmp_path / "model")
    sizes = {}
    for int8 in (True, False):
        folder = export_checkpoint(tmp_path / "model", tmp_path / f"int8-{int8}", int8=int8)
        sizes[int8] = (folder / "l_update.onnx.data").stat().st_size
    assert sizes[True] < sizes[False] / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/", "--output", "{new}"], "checkpoint folder nowhere/ does not exist"),
        (["{checkpoint}", "--output", "{checkpoint}"], "exists and holds no export"),
    ],
)
def test_bad_requests_are_named_and_nothing_is_written(checkpoint, tmp_path, capsys, arguments, message):
    before = sorted(checkpoint.iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["export", *(word.format(new=tmp_path / "new", checkpoint=checkpoint) for word in arguments)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert sorted(checkpoint.iterdir()) == before


def test_boards_to_compare_on_are_read_as_the_models_before_an_export(make_model, tmp_path, monkeypatch, capsys):
    """Of a grid nothing in the file says what they are."""
    folder = tmp_path / "grid"
    make_model(puzzle="grid-2x2", puzzle_options={"symbols": "abc"}, vocab_size=4, seq_len=4).save_pretrained(folder)
    file = tmp_path / "boards.csv"
    monkeypatch.setattr("air_hf.commands.export.export_checkpoint", mock.Mock(side_effect=ExportError("got so far")))
    for board, said in (("abca", "got so far"), ("abxa", "boards.csv, row 1, question: ")):
        file.write_text(f"question,answer\n{board},abca\n")
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--output", str(tmp_path / "new"), "--test_data", str(file)])
        assert said in capsys.readouterr().err


def test_requests_that_cannot_be_met_are_refused_before_anything_is_loaded(make_model, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"format 'tflite' is unknown; expected one of onnx"):
        export_checkpoint(tmp_path, tmp_path / "new", format="tflite")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        export_checkpoint(tmp_path, tmp_path / "new")
    make_model("trm-mlp").save_pretrained(tmp_path / "mlp")
    with pytest.raises(ExportError, match='no attention to export: its mixer is "mlp"'):
        export_checkpoint(tmp_path / "mlp", tmp_path / "new", attentions=True)
    with pytest.raises(ExportError, match=r"holds no export: config\.json is missing"):
        load_exported(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ExportError, match=r"needs onnxscript, not installed here: pip install 'air-hf\[export\]'"):
        export_checkpoint(tmp_path / "mlp", tmp_path / "new")
    assert not (tmp_path / "new").exists()
