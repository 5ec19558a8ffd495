"""Runs whose surroundings fail: a full disk, an unwritable folder, other data, too little memory, odd launchers."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from support.training import ROOT, TINY_RUN, make_csv, rewrite_manifest, small_learner, small_stream

from air_hf.files import append_text
from air_hf.hub import CheckpointError
from air_hf.runs import load_checkpoint, save_checkpoint
from air_hf.runs.checkpoint import STATE, TENSORS, check_manifest
from air_hf.runs.facts import check_resumption, read_progress
from air_hf.runs.processes import check_same_step, is_lost_process
from air_hf.training import Learner, Recipe, estimate_memory
from air_hf.training.memory import estimate_activations

TINY = [*TINY_RUN, "--batch_size", "8", "--warmup_steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"))


def train(data, output, *words, largest_file: str = "unlimited") -> subprocess.CompletedProcess:
    """The command a user types, in a shell that limits the size of files (in KiB)."""
    command = [sys.executable, "examples/train.py", *TINY, "--train_data", data, "--output_dir", output, *words]
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"', largest_file, *command]
    return subprocess.run(list(map(str, limited)), cwd=ROOT, capture_output=True, text=True)


make_learner = partial(small_learner, batch_size=8)


@pytest.fixture(scope="module")
def two_steps(data, tmp_path_factory) -> Path:
    """A run that may go on; nobody does so successfully."""
    output = tmp_path_factory.mktemp("two-steps")
    done = train(data, output, "--max_steps", "2")
    assert done.returncode == 0, done.stderr
    return output


GO_ON = ("--max_steps", "4", "--resume_from", "latest")


def test_a_disk_that_fills_up(data, two_steps):
    """The weights of the second checkpoint do not fit: the run ends, the first one is whole, no half one is left."""
    names = sorted(path for path in two_steps.rglob("*"))
    done = train(data, two_steps, *GO_ON, largest_file="100")
    assert done.returncode == 2
    assert re.search(
        r"train\.py: error: the checkpoint cannot be written to .*step-00000004: .*File too large", done.stderr
    )
    assert sorted(path for path in two_steps.rglob("*")) == names
    check_manifest(two_steps / "checkpoint")


def test_a_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = train(data, tmp_path / "file" / "run", "--max_steps", "4")
    assert done.returncode == 2
    why = f"{tmp_path}/file/run cannot be written: {tmp_path}/file is a file, not a folder"
    assert done.stderr.splitlines()[-1] == f"train.py: error: {why}"


def test_data_that_vanished(data, two_steps, tmp_path):
    done = train(tmp_path / "train.csv", two_steps, *GO_ON, "--test_data", data)
    assert done.returncode == 2
    assert f"train.py: error: {tmp_path / 'train.csv'} does not exist" in done.stderr


def test_data_that_changed(data, two_steps, tmp_path):
    (tmp_path / "train.csv").write_text("".join((data / "train.csv").read_text().splitlines(keepends=True)[:51]))
    done = train(tmp_path / "train.csv", two_steps, *GO_ON, "--test_data", data)
    assert done.returncode == 2
    assert re.search(r"was trained on 60 puzzles with SHA-256 \w{16}…; this run has 50 with \w{16}…", done.stderr)


ARGUMENTS = {"accumulation_steps": 1, "compile": "auto", "num_threads": None}


def facts(**changes) -> dict:
    puzzles = {"puzzle": "sudoku-4x4", "puzzles": 40, "sha256": "a" * 64, "example": "." * 16}
    known = {"step": 2, "minutes": 1.0, "data": {"train": puzzles, "test": puzzles}}
    known |= {"processes": 1, "hardware": "CPU"}
    known |= {"versions": {"torch": "2"}, "arguments": ARGUMENTS}
    return known | changes


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"processes": 2}, "processes: 2 before, 1 now"),
        ({"hardware": "NVIDIA H100"}, "hardware: NVIDIA H100 before, CPU now"),
        ({"versions": {"torch": "1"}}, "torch: 1 before, 2 now"),
        ({"arguments": ARGUMENTS | {"accumulation_steps": 4}}, "accumulation_steps: 4 before, 1 now"),
        ({"arguments": ARGUMENTS | {"compile": "off"}}, "compile: off before, auto now"),
    ],
)
def test_going_on_elsewhere(tmp_path, changes, note):
    """It is allowed, and said."""
    (tmp_path / "training.json").write_text(json.dumps(facts(**changes)))
    notes = check_resumption(facts(), tmp_path)
    assert len(notes) == (note is not None)
    assert all(text.startswith(note) and text.endswith("at first by rounding") for text in notes)


def test_going_on_from_before_a_field_existed(make_model, tmp_path):
    """It has the default, which is what was done then."""
    for learning_rate, message in ((1e-3, None), (5e-5, "was trained with learning_rate=0.001; this run has 5e-05")):
        learner = make_learner(make_model(), learning_rate=learning_rate)
        save_checkpoint(learner, tmp_path / str(learning_rate))
        arguments = json.loads((tmp_path / str(learning_rate) / STATE).read_text())["arguments"]
        assert arguments.pop("learning_rate") == learning_rate
        edit_json(tmp_path / str(learning_rate) / STATE, arguments=arguments)
        rewrite_manifest(tmp_path / str(learning_rate))
        with nullcontext() if message is None else pytest.raises(CheckpointError, match=re.escape(message)):
            load_checkpoint(learner, tmp_path / str(learning_rate))
    before = {name: value for name, value in ARGUMENTS.items() if name != "accumulation_steps"}
    (tmp_path / "training.json").write_text(json.dumps(facts(arguments=before)))
    assert check_resumption(facts(), tmp_path) == []


def test_going_on_with_unknown_data(make_model, tmp_path):
    save_checkpoint(make_learner(make_model()), tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="does not record what it was trained on"):
        check_resumption(facts(), tmp_path / "checkpoint")


def edit_json(path: Path, **changes) -> None:
    known = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in (known | changes).items() if value is not None}))


DAMAGES = [
    ({"format": None}, "was written by another version (format 1 of the training state; this one reads 2)"),
    ({"format": 3}, "was written by another version (format 3 of the training state"),
    ({"step": "4"}, "step is '4'; expected int"),
    ({"step": -1}, "step is '-1'; expected int"),
    ({"step": True}, "step is 'True'; expected int"),
    ({"skipped": None}, "skipped is 'None'; expected int"),
    ({"arguments": []}, "arguments is '[]'; expected dict"),
    ({"arguments": {}}, "was trained with batch_size=64; this run has 8"),
    ({"numbers": {"x": "1"}}, "x is '1'; expected a number"),
    ({"numbers": {}}, "of some weights"),
    ({"numbers": {"x.y": 1}}, "state of the optimiser: x.y is no state of AdamAtan2, PrefixSignSGD"),
    ({"tensors": []}, "holds other tensors than"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGES)
def test_a_training_state_that_somebody_wrote_anew(make_model, tmp_path, changes, message):
    """The manifest says that it is as it should be; what is in it is looked at all the same."""
    learner = make_learner(make_model(), variant="Lx_H")
    learner.train_step(small_stream(8).batch(0))
    save_checkpoint(learner, tmp_path / "checkpoint")
    if changes == {"numbers": {}}:
        numbers = json.loads((tmp_path / "checkpoint" / STATE).read_text())["numbers"]
        changes = {"numbers": dict(list(numbers.items())[1:])}
    edit_json(tmp_path / "checkpoint" / STATE, **changes)
    rewrite_manifest(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_checkpoint(make_learner(make_model(), variant="Lx_H"), tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weights.lm_head.weight", torch.zeros(3), "weights.lm_head.weight is (3,) of torch.float32; this run's is"),
        ("ema.lm_head.weight", torch.zeros(6, 32).double(), "ema.lm_head.weight is (6, 32) of torch.float64"),
        ("weights.lm_head.weight", torch.full((6, 32), float("nan")), "not finite numbers: lm_head.weight"),
        ("carry.z_h", torch.zeros(8, 17, 31), "carry.z_h is (8, 17, 31) of torch.float32; this run's is (8, 17, 32)"),
        ("carry.halted", torch.zeros(8), "carry.halted is (8,) of torch.float32; this run's is (8,) of torch.bool"),
        ("junk", torch.zeros(1), "holds junk, which is no part of a run"),
    ],
)
def test_tensors_that_somebody_wrote_anew(make_model, tmp_path, name, tensor, message):
    learner = make_learner(make_model(), variant="Lx_H")
    learner.train_step(small_stream(8).batch(0))
    folder = tmp_path / "checkpoint"
    save_checkpoint(learner, folder)
    tensors = load_file(folder / TENSORS) | {name: tensor}
    save_file(tensors, folder / TENSORS)
    edit_json(folder / STATE, tensors=sorted(tensors))
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_checkpoint(make_learner(make_model(), variant="Lx_H"), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlogged": []}, "unlogged is '[]'; expected dict"),
        ({"unlogged": {"slots": "1"}}, "unlogged holds \"{'slots': '1'}\"; expected numbers"),
        ({"tracker_run": 3}, "tracker_run is '3'; expected str"),
        ({"minutes": "soon"}, "minutes is 'soon'; expected a finite number"),
    ],
)
def test_records_of_a_run_that_somebody_wrote_anew(tmp_path, changes, message):
    (tmp_path / "training.json").write_text(json.dumps(facts(**changes)))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_progress(tmp_path)


def test_a_full_disk_while_a_line_is_written(tmp_path):
    """/dev/full is a disk without room; what a limit on the size of files lets through of a line is taken back."""
    path = tmp_path / "metrics.jsonl"
    append_text(path, "first\n")
    code = (
        f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from pathlib import Path\n"
        f"from air_hf.files import append_text; resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))\n"
        f"append_text(Path({str(path)!r}), 'second\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"File too large: '{path}'" in done.stderr
    assert path.read_text() == "first\n"


@pytest.fixture
def launched():
    """Makes an accelerator of a precision; there is one for all of a process otherwise."""

    def make(precision: str) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, mixed_precision=precision)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def test_another_precision_is_refused(make_model, launched, tmp_path):
    """As launched, where the recipe does not say."""
    save_checkpoint(Learner(make_model(), Recipe(), launched("no")), tmp_path / "checkpoint")
    other = Learner(make_model(), Recipe(), launched("bf16"))
    with pytest.raises(CheckpointError, match="was trained with mixed_precision='no'; this run has 'bf16'"):
        load_checkpoint(other, tmp_path / "checkpoint")


@pytest.mark.parametrize("variant", ["Lx_H", "L2x_H2x-prepend-strip", "trm-mlp"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_memory_is_what_is_there(make_model, launched, tmp_path, variant, precision):
    """After a step: the tensors that stay, counted one by one, and the files of a checkpoint."""
    recipe = Recipe(batch_size=8, max_steps=100, compile="off")
    learner, stream = Learner(make_model(variant), recipe, launched(precision)), small_stream(8)
    needs = estimate_memory(learner)
    gradients = []
    for parameter in learner.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: gradients.append(parameter.grad.nbytes))
    learner.train_step(stream.batch(0))
    assert needs.gradients == sum(gradients)
    moments = [value for value in learner.optimizer.state().values() if torch.is_tensor(value)]
    kept = {
        "weights": learner.model.state_dict().values(),
        "moments": moments,
        "averages": learner.ema.averages.values(),
    }
    assert {name: getattr(needs, name) for name in kept} == {
        name: sum(tensor.nbytes for tensor in tensors) for name, tensors in kept.items()
    }
    save_checkpoint(learner, tmp_path / "checkpoint")
    files = [path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*.safetensors")]
    assert needs.checkpoint == pytest.approx(sum(files), rel=0.05)  # the files have headers


def measure_activations(model, slots: int) -> int:
    """Bytes of the tensors, other than weights, that autograd keeps of one segment."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.train()(**small_stream(batch_size=slots).batch(0), state=model.initial_state(slots))
    assert output.loss.requires_grad  # the graph holds what it keeps, so that no address came up twice
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "variant", ["Lx_H", "L2x_H2x-prepend-strip", "trm-att", "trm-mlp", "convolution", "candidates"]
)
def test_activations_are_what_autograd_keeps(make_model, variant, attention, precision):
    """Counted from the configuration alone, and beside what a segment of three slots keeps more than one of one."""
    if variant in ("convolution", "candidates"):
        model = make_model("Lx_H", hidden_size=64, mixer=variant, position_embedding="none")
    else:
        model = make_model(variant, hidden_size=64)
    model.set_attn_implementation(attention)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        one, three = (measure_activations(model, slots) for slots in (1, 3))
    estimate = estimate_activations(model.config, 2 if precision == "bf16" else 4)
    assert estimate == pytest.approx((three - one) / 2, rel=0.05)


def test_activations_of_the_last_cycle(make_model):
    """Of one L- and one H-update in "last_step"; of all L-updates of the cycle, too, in "last_cycle"."""
    kept = {
        (gradient, l_cycles): estimate_activations(
            make_model(gradient=gradient, l_cycles=l_cycles, h_cycles=3).config, 4
        )
        for gradient in ("last_step", "last_cycle")
        for l_cycles in (1, 3, 5)
    }
    assert len({kept["last_step", l_cycles] for l_cycles in (1, 3, 5)}) == 1
    assert kept["last_cycle", 1] == kept["last_step", 1]
    assert kept["last_cycle", 5] - kept["last_cycle", 1] == 2 * (kept["last_cycle", 3] - kept["last_cycle", 1])


def test_parts_need_less_memory(make_model):
    whole, half = (estimate_memory(make_learner(make_model(), accumulation_steps=n)) for n in (1, 2))
    assert half.activations == whole.activations / 2
    between = (whole.total + half.total) / 2 / 2**30
    with pytest.raises(
        ValueError, match=r"max_memory is .* GiB; memory of a process: .*accumulation_steps 2 is enough"
    ):
        estimate_memory(make_learner(make_model(), max_memory=between))
    assert estimate_memory(make_learner(make_model(), max_memory=between, accumulation_steps=2)) == half
    with pytest.raises(ValueError, match="no accumulation_steps is enough"):
        estimate_memory(make_learner(make_model(), max_memory=1e-9))


def test_sharded_weights_are_refused(make_model, monkeypatch):
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    monkeypatch.setattr(type(accelerator), "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="started for FSDP; expected plain data parallelism"):
        Learner(make_model(), Recipe(), accelerator)


def test_machines_without_a_shared_folder():
    """One found its checkpoint, the other one has none."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda step: torch.cat([torch.tensor([8]), step]))
    check_same_step(accelerator, 8)
    with pytest.raises(ValueError, match="go on from steps 8, 0; expected one step: output_dir must be a folder"):
        check_same_step(accelerator, 0)


LOST = "[/x/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (LOST + "pair.cc:553] Connection closed by peer [127.0.0.1]:19867", True),
        (LOST + "unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation to complete", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("gloo does not support reduce of this type", False),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_what_counts_as_a_lost_process(message, lost):
    assert is_lost_process(RuntimeError(message)) == lost


def test_the_slurm_script_runs_its_line(tmp_path):
    """With a stand-in for `srun` that runs what it is given."""
    (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "runs.txt").write_text("echo first\nsh -c 'echo the second; exit 75'\necho third\n")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    command = ["bash", str(ROOT / "examples" / "slurm.sh"), str(tmp_path / "runs.txt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("the second\n", 75), done.stderr
