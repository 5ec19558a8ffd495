"""Runs whose surroundings fail: a full disk, an unwritable folder, other data, too little memory, odd launchers."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from support.training import ROOT, TINY_RUN, make_csv

from air_hf.data import PuzzleSet, PuzzleStream
from air_hf.dataset_builders.generate import make_generator
from air_hf.hub import CheckpointError
from air_hf.puzzles import get_puzzle
from air_hf.runs import load_checkpoint, save_checkpoint
from air_hf.runs.checkpoint import check_manifest
from air_hf.runs.facts import check_resumption
from air_hf.runs.processes import check_same_step, is_lost_process
from air_hf.training import Learner, Recipe

TINY = [*TINY_RUN, "--batch_size", "8", "--warmup_steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"))


def train(data, output, *words, largest_file: str = "unlimited") -> subprocess.CompletedProcess:
    """The command a user types, in a shell that limits the size of files (in KiB)."""
    command = [sys.executable, "examples/train.py", *TINY, "--train_data", data, "--output_dir", output, *words]
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"', largest_file, *command]
    return subprocess.run(list(map(str, limited)), cwd=ROOT, capture_output=True, text=True)


def make_stream(count: int = 40, seed: int = 0, batch_size: int = 8) -> PuzzleStream:
    puzzle = get_puzzle("sudoku-4x4")
    questions, answers = make_generator(puzzle).draw(count, np.random.default_rng(seed))
    return PuzzleStream(PuzzleSet(puzzle, questions, answers, "generated"), batch_size, seed=0, augment=True)


def make_learner(model, **fields) -> Learner:
    recipe = Recipe(**({"batch_size": 8, "max_steps": 100, "compile": "off"} | fields))
    return Learner(model, recipe, Accelerator(cpu=True, mixed_precision="no"))


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
    assert done.returncode == 1
    assert re.search(r"train\.py: error: the weights cannot be written to .*File too large", done.stderr)
    assert sorted(path for path in two_steps.rglob("*")) == names
    check_manifest(two_steps / "checkpoint")


def test_a_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = train(data, tmp_path / "file" / "run", "--max_steps", "4")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("train.py: error: [Errno 20] Not a directory")


def test_data_that_vanished(data, two_steps, tmp_path):
    done = train(tmp_path / "train.csv", two_steps, *GO_ON, "--test_data", data)
    assert done.returncode == 1
    assert f"train.py: error: {tmp_path / 'train.csv'} does not exist" in done.stderr


def test_data_that_changed(data, two_steps, tmp_path):
    (tmp_path / "train.csv").write_text("".join((data / "train.csv").read_text().splitlines(keepends=True)[:51]))
    done = train(tmp_path / "train.csv", two_steps, *GO_ON, "--test_data", data)
    assert done.returncode == 1
    assert re.search(r"was trained on 60 puzzles with SHA-256 \w{16}…; this run has 50 with \w{16}…", done.stderr)


ARGUMENTS = {"accumulation_steps": 1, "compile": "auto", "num_threads": None}


def facts(**changes) -> dict:
    known = {"data": {name: {"puzzles": 40, "sha256": "a" * 64} for name in ("train", "test")}}
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


def test_going_on_with_unknown_data(make_model, tmp_path):
    save_checkpoint(make_learner(make_model()), tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="does not record what it was trained on"):
        check_resumption(facts(), tmp_path / "checkpoint")


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
    learner, stream = Learner(make_model(variant), recipe, launched(precision)), make_stream()
    needs = measure_memory(learner, stream.batch(0))
    gradients = []
    for parameter in learner.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: gradients.append(parameter.grad.nbytes))
    learner.train_step(stream.batch(0))
    assert needs.gradients == sum(gradients)
    moments = [tensor for state in learner.adam.state.values() for tensor in state.values() if torch.is_tensor(tensor)]
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


def test_counting_memory_leaves_nothing_behind(make_model):
    learner, batch = make_learner(make_model()), make_stream().batch(0)
    gc.collect()
    before = sum(map(torch.is_tensor, gc.get_objects()))
    measure_memory(learner, batch)
    assert sum(map(torch.is_tensor, gc.get_objects())) == before


def test_activations_of_the_last_cycle(make_model):
    """Of one L- and one H-update in "last_step"; of all L-updates of the cycle, too, in "last_cycle"."""
    batch = make_stream().batch(0)
    kept = {
        (gradient, l_cycles): measure_memory(
            make_learner(make_model(gradient=gradient, l_cycles=l_cycles, h_cycles=3)), batch
        ).activations
        for gradient in ("last_step", "last_cycle")
        for l_cycles in (1, 3, 5)
    }
    assert len({kept["last_step", l_cycles] for l_cycles in (1, 3, 5)}) == 1
    update = (kept["last_cycle", 3] - kept["last_cycle", 1]) / 2
    assert kept["last_cycle", 5] == kept["last_cycle", 1] + 4 * update
    assert kept["last_cycle", 1] == kept["last_step", 1]
    assert update == pytest.approx(kept["last_step", 1] / 2, rel=0.15)  # the head keeps something as well


def test_parts_need_less_memory(make_model):
    batch = make_stream().batch(0)
    whole, half = (measure_memory(make_learner(make_model(), accumulation_steps=n), batch) for n in (1, 2))
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.1)
    between = (whole.total + half.total) / 2 / 2**30
    with pytest.raises(
        ValueError, match=r"max_memory is .* GiB; memory of a process: .*accumulation_steps 2 is enough"
    ):
        measure_memory(make_learner(make_model(), max_memory=between), batch)
    assert measure_memory(make_learner(make_model(), max_memory=between, accumulation_steps=2), batch) == half
    with pytest.raises(ValueError, match="no accumulation_steps is enough"):
        measure_memory(make_learner(make_model(), max_memory=1e-9), batch)


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
