"""`air-hf convert`: files as the published codes write them, made from the numbers recorded from those codes.

The recorded models know 7 symbols on 16 cells, which no puzzle does; they are converted by `--seq_len`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import test_reference
import torch
import yaml
from safetensors import safe_open
from test_reference import FILES, Reference
from transformers import AutoModel, AutoTokenizer

from air_hf.cli import main
from air_hf.hub import CheckpointError, load_model, training_facts
from air_hf.reference import convert_checkpoint, read_state_dict
from air_hf.variants import CONFIG_FIELDS, REFERENCE_NAMES

RECORDED = Path(__file__).parent / "fixtures" / "reference"
PREFIXES = ("_orig_mod.model.", "_orig_mod.", "model.", "")
DATA_SIZES = ("vocab_size", "seq_len", "num_puzzle_identifiers", "batch_size")


class Converted(Reference):
    """A recorded file whose numbers are compared with those of a checkpoint folder."""

    def __init__(self, path: Path, folder: Path):
        super().__init__(path)
        self.folder = folder

    def model(self):
        return AutoModel.from_pretrained(self.folder)


def arch_name(variant: str) -> str:
    """What the published code's configuration calls a variant."""
    if variant == "hrm":
        return "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1"
    if variant.startswith("trm"):
        return "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"
    return f"air.air_1net_{variant}@AIR"


def write_config(folder: Path, variant: str, config: dict, **changes) -> Path:
    """A configuration as the published codes write it; `changes` are made to its `arch`."""
    arch = {name: value for name, value in config.items() if name not in DATA_SIZES}
    arch |= {"name": arch_name(variant), "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}}
    published = {
        "arch": arch | changes,
        "data_path": "data/sudoku",
        "global_batch_size": 768,
        "epochs": 20000,
        "lr": 1e-4,
    }
    path = folder / "all_config.yaml"
    path.write_text(yaml.dump(published))
    return path


def write_step_file(folder: Path, weights: dict, prefix: str = "_orig_mod.model.") -> Path:
    path = folder / "step_26041"
    torch.save({prefix + name: value for name, value in weights.items()}, path)
    return path


def convert(*words) -> int:
    """`air-hf convert`; its exit status."""
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *map(str, words)])
    return stopped.value.code


@pytest.fixture
def published(tmp_path) -> tuple[Reference, Path]:
    """A recorded Lx_H, and its step file with the configuration beside it."""
    reference = Reference(RECORDED / "Lx_H.safetensors")
    write_config(tmp_path, reference.variant, reference.config)
    return reference, write_step_file(tmp_path, reference.group("init."))


@pytest.fixture
def refused(tmp_path, capsys):
    """Asserts that a conversion fails, writes nothing, and returns what it says."""

    def run(*words) -> str:
        before = sorted(tmp_path.iterdir())
        assert convert(*words) == 2
        assert sorted(tmp_path.iterdir()) == before
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("with_variant", [True, False], ids=["asked", "deduced"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_converted_checkpoints_give_the_recorded_numbers(path, with_variant, tmp_path):
    reference = Reference(path)
    write_config(tmp_path, reference.variant, reference.config)
    prefix = PREFIXES[FILES.index(path) % len(PREFIXES)]
    step_file = write_step_file(tmp_path, reference.group("init."), prefix)
    asked = ["--variant", reference.variant] if with_variant else []
    assert convert(step_file, tmp_path / "out", "--seq_len", reference.config["seq_len"], *asked) == 0
    test_reference.test_segments(Converted(path, tmp_path / "out"))
    variant = training_facts(tmp_path / "out")["variant"]
    assert variant == REFERENCE_NAMES.get(reference.variant, reference.variant)
    converted, expected = load_model(tmp_path / "out").config, reference.model().config
    assert all(getattr(converted, name) == getattr(expected, name) for name in CONFIG_FIELDS)


def test_the_command_a_user_types(tmp_path):
    with safe_open(RECORDED / "analysis_sudoku_Lx_H.safetensors", "pt") as file:  # a 9x9 model and what it decodes to
        config, names = json.loads(file.metadata()["config"]), file.keys()
        weights = {name.removeprefix("init."): file.get_tensor(name) for name in names if name.startswith("init.")}
        # (segment, update, puzzle, row, column); the last update of a segment leaves the z_H that is its answer
        expected = file.get_tensor("trace.normal.pred_H")[:, -1].flatten(2).long()
        expected = expected[:3]  # rounding grows a hundredfold a segment: 0.6 % of z_H after the third, 10 % after that
        ids = file.get_tensor("batch.inputs").long()
    write_config(tmp_path, "Lx_H", config)
    step_file, output = write_step_file(tmp_path, weights), tmp_path / "new" / "checkpoint"
    command = [Path(sys.executable).with_name("air-hf"), "convert", step_file, output]
    command += ["--variant", "Lx_H", "--puzzle", "sudoku-9x9"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "sudoku-9x9" in done.stdout

    assert {file.name for file in output.glob("*.json")} >= {"config.json", "tokenizer.json", "training.json"}
    assert (output / "model.safetensors").is_file()
    assert (output / "modeling_air.py").is_file()
    assert json.loads((output / "training.json").read_text()) == {
        "step": 26041,
        "source_file": "step_26041",
        "source_sha256": hashlib.sha256(step_file.read_bytes()).hexdigest(),
        "variant": "Lx_H",
    }
    assert [file.name for file in output.parent.iterdir()] == ["checkpoint"]

    model, tokenizer = load_model(output), AutoTokenizer.from_pretrained(output, trust_remote_code=False)
    assert model.config.puzzle == "sudoku-9x9"
    boards, state = tokenizer(tokenizer.batch_decode(ids), return_tensors="pt").input_ids, None
    assert torch.equal(boards, ids)
    for answers in expected:
        with torch.no_grad():
            segment = model(boards, state=state)
        state = segment.state
        assert torch.equal(segment.logits.argmax(-1), answers)


def test_weights_stored_in_bfloat16_are_widened(published, tmp_path):
    """The published codes store both initial states in the precision of their forward."""
    reference, step_file = published
    weights = reference.group("init.")
    weights["inner.H_init"] = weights["inner.H_init"].bfloat16()
    write_step_file(tmp_path, weights)
    model = convert_checkpoint(step_file, tmp_path / "out", "Lx_H", seq_len=16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(load_model(tmp_path / "out").model.z_h_init, weights["inner.H_init"].float())


def test_configuration_elsewhere_and_files_of_another_name(published, tmp_path):
    reference, step_file = published
    (tmp_path / "elsewhere").mkdir()
    softmax = {"name": "losses@ACTLossHead", "loss_type": "softmax_cross_entropy"}
    config = write_config(tmp_path / "elsewhere", "Lx_H", reference.config, loss=softmax)
    (tmp_path / "all_config.yaml").unlink()
    step_file.rename(tmp_path / "checkpoint")
    assert convert(tmp_path / "checkpoint", tmp_path / "out", "--seq_len", 16, "--config", config) == 0
    assert load_model(tmp_path / "out").config.loss_function == "softmax"
    assert "step" not in training_facts(tmp_path / "out")


def test_says_so_when_another_variant_is_asked_for(published, tmp_path):
    _, step_file = published
    with pytest.warns(UserWarning, match=r"air_1net_Lx_H@AIR' says Lx_H; converting as L_Hx, as asked"):
        convert_checkpoint(step_file, tmp_path / "out", "L_Hx", seq_len=16)


class SideEffect:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_does_not_run(published, refused, tmp_path, zipped):
    reference, step_file = published
    weights = reference.group("init.") | {"extra": SideEffect(tmp_path / "ran")}
    torch.save(weights, step_file, _use_new_zipfile_serialization=zipped)
    message = refused(step_file, tmp_path / "out", "--variant", "Lx_H", "--seq_len", 16)
    assert f"{step_file} holds a pickled {os.mkdir.__module__}.mkdir, which is not loaded" in message
    assert "weights_only" not in message  # PyTorch's own message says how to run the code after all


class Plain:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"inner.H_init": torch.zeros(16)}, "step": 3}, "entry 'model' is an object of type dict"),
        ({"step": 3}, "entry 'step' is an object of type int"),
        ({3: torch.zeros(2)}, "entry 3 is a Tensor"),
        ({"optimizer": [torch.zeros(2)]}, "entry 'optimizer' is an object of type list"),
        ({"inner.H_init": torch.zeros(16, dtype=torch.int64)}, "entry 'inner.H_init' is a Tensor of torch.int64"),
        ({"inner.H_init": torch.eye(4).to_sparse()}, "torch.sparse_coo"),
        ({"inner.H_init": torch.zeros(16, device="meta")}, "on meta"),
        ({"inner.H_init": torch.zeros(1).expand(10**6, 10**6)}, "all their numbers in the file"),
        (torch.zeros(2), "holds a Tensor of torch.float32"),
        ([torch.zeros(2)], "holds an object of type list"),
        ({"object": Plain()}, "holds a pickled test_convert.Plain"),
        (torch.nn.Linear(2, 2), "holds a pickled torch.nn.modules.linear.Linear"),
        ({}, "embed_tokens.embedding_weight, whose rows are the symbols, is missing"),
    ],
)
def test_files_of_anything_but_weights_are_refused(published, content, message, tmp_path):
    _, step_file = published
    torch.save(content, step_file)
    with pytest.raises(ValueError, match=re.escape(message)):
        convert_checkpoint(step_file, tmp_path / "out", "Lx_H", seq_len=16)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(published, share, zipped):
    reference, step_file = published
    torch.save(reference.group("init."), step_file, _use_new_zipfile_serialization=zipped)
    content = step_file.read_bytes()
    step_file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"step_26041 cannot be read \(\w+\): it is damaged, incomplete or not"):
        read_state_dict(step_file)


@pytest.mark.parametrize("content", [b"not a checkpoint\n", b"\x80\x02]q\x00.", bytes(range(256))])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "step_1").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step_1 cannot be read .* not a file that torch\.save wrote"):
        read_state_dict(tmp_path / "step_1")


def test_what_is_missing_or_in_the_way_is_named(published, refused, tmp_path):
    _, step_file = published
    output, size = tmp_path / "out", ("--seq_len", 16)
    assert f"{tmp_path / 'step_9'} is no file" in refused(tmp_path / "step_9", output, *size)
    assert f"{tmp_path / 'x.yaml'} is no file" in refused(step_file, output, *size, "--config", tmp_path / "x.yaml")
    assert "unknown variant 'Lx_G'; known variants: L_Hx, " in refused(step_file, output, *size, "--variant", "Lx_G")
    assert "unknown puzzle 'sudoku'" in refused(step_file, output, "--puzzle", "sudoku")
    assert "7 symbols; sudoku-9x9 has 11" in refused(step_file, output, "--puzzle", "sudoku-9x9")
    assert "--puzzle --seq_len is required" in refused(step_file, output)
    with pytest.raises(ValueError, match="give either puzzle or seq_len; they are None and None"):
        convert_checkpoint(step_file, output)
    (tmp_path / "all_config.yaml").unlink()
    assert f"{tmp_path / 'all_config.yaml'} is no file" in refused(step_file, output, *size)
    output.mkdir()
    assert f"{output} exists" in refused(step_file, output, *size)


def test_a_failing_write_leaves_nothing(published, refused, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    _, step_file = published
    monkeypatch.setattr("air_hf.reference.AIRForPuzzleSolving.save_pretrained", fail)
    assert "no space left" in refused(step_file, tmp_path / "out", "--seq_len", 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "recursive_reasoning.trm_hier6@Model"}, r"trm_hier6@Model' does not say the variant; known variants"),
        ({"width": 3}, r"unknown reference config names \['width'\]"),
        ({"loss": {"name": "losses@ACTLossHead", "q_weight": 1}}, r"unknown names \['q_weight'\] in arch\.loss"),
        ({"loss": "stablemax"}, r"arch\.loss an object of type str"),
        ({"loss": {"loss_type": "hinge"}}, r"loss_type is 'hinge'; expected one of \['softmax"),
        ({"pos_encodings": ["rope"]}, r"pos_encodings is \['rope'\]"),
        ({"hidden_size": 0}, r"hidden_size is 0; expected a whole number of at least 1"),
        ({"hidden_size": "16"}, r"hidden_size is '16'; expected a whole number"),
        ({"hidden_size": 32}, r"of another shape: lm_head\.weight \(7, 16\), not \(7, 32\)"),
        ({"hidden_size": 2**15}, r"of another shape: lm_head\.weight \(7, 16\), not \(7, 32768\)"),
        ({"mlp_t": "no"}, r"mlp_t is 'no'; expected true or false"),
        ({"H_layers": 3, "L_layers": 3}, r"the weights have 2 layers; the config says"),
        ({"vocab_size": 9}, r"the config says vocab_size 9; the weights and the puzzle say 7"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(published, changes, message, tmp_path):
    reference, step_file = published
    write_config(tmp_path, "Lx_H", reference.config, **changes)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(step_file, tmp_path / "out", seq_len=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: [", "is not YAML"),
        ("!!python/object/apply:os.mkdir [ran]", "is not YAML"),
        ("- 1", "no mapping named arch"),
        ("arch: 3", "no mapping named arch"),
    ],
)
def test_files_of_no_configuration_are_refused(published, text, message, tmp_path, monkeypatch):
    _, step_file = published
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all_config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(step_file, tmp_path / "out", "Lx_H", seq_len=16)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused(published, tmp_path):
    reference, step_file = published
    weights, output = reference.group("init."), tmp_path / "out"

    def attempt(changed: dict, **options):
        write_step_file(tmp_path, changed)
        return convert_checkpoint(step_file, output, seq_len=16, **options)

    without_head = {name: tensor for name, tensor in weights.items() if "lm_head" not in name}
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        attempt(without_head)
    with pytest.raises(ValueError, match=r"unexpected: model\.input_proj\.weight"):
        attempt(weights | {"inner.g_input.weight": torch.zeros(16, 16)})
    with pytest.raises(ValueError, match=r"weight 'mystery' is not one of"):
        attempt(weights | {"inner.mystery": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"weight lm_head\.weight is there twice, the second time as '_orig_mod\.mode"):
        attempt(weights | {"lm_head.weight": weights["inner.lm_head.weight"]})
    with (
        pytest.warns(UserWarning, match="converting as hrm"),
        pytest.raises(ValueError, match=r"missing: model\.networks\.\S+"),
    ):
        attempt(weights, variant="hrm")
    assert not output.exists()
