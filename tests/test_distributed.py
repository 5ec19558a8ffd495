"""Two processes, started by torchrun, train and evaluate as one does: gloo on CPU, float32, exploration off."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.utils import InitProcessGroupKwargs
from safetensors.torch import load_file
from support.distributed_steps import CASES
from support.training import ROOT, TINY_RUN, make_csv

from air_hf.runs.processes import process_handlers
from air_hf.variants import variant_config

TINY = [*TINY_RUN, "--log_every", "2"]


SETTING = {"cwd": ROOT, "env": os.environ | {"ACCELERATE_USE_CPU": "true"}, "stdout": subprocess.PIPE, "text": True}


def launch(processes: int, *words) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return list(map(str, [*torchrun, *words]))


def torchrun(processes: int, *words) -> subprocess.CompletedProcess:
    done = subprocess.run(launch(processes, *words), **SETTING, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def twenty_steps(tmp_path_factory) -> dict[int, Path]:
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        torchrun(processes, "tests/support/distributed_steps.py", folders[processes])
    return folders


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 2), (2, 1), (2, 2)])
def test_the_same_weights(twenty_steps, case, processes, accumulation):
    """After 20 steps, for processes and accumulated parts alike."""
    expected = load_file(twenty_steps[1] / f"{case}-1.safetensors")
    weights = load_file(twenty_steps[processes] / f"{case}-{accumulation}.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_same_scores(twenty_steps, case):
    """50 puzzles in batches of 7: no process gets as many as another, and every puzzle counts once."""
    one, two = (json.loads((folder / f"{case}-1.json").read_text()) for folder in twenty_steps.values())
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert two["num_puzzles"] == 50
    assert two == one


def command(folder: Path, output: Path) -> list:
    """Training with accumulation; where the output holds a run, this goes on with it."""
    return ["examples/train.py", *TINY, "--train_data", folder / "data", "--output_dir", output, "--save_every", "2",
            "--max_steps", "30", "--accumulation_steps", "2", "--resume_from", "latest"]  # fmt: skip


def final_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "training_state" / "state.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run on two processes that nobody disturbed, beside its data."""
    folder = tmp_path_factory.mktemp("whole")
    make_csv(folder / "data")
    done = torchrun(2, *command(folder, folder / "run"), "--keep_checkpoints", "100")
    assert "processes 2" in done.stdout
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["slots"] for line in lines] == [32.0] * 15
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on_exactly(whole, tmp_path, victim):
    """SIGKILL for one of two: the other one ends at once, and says why; then the same command, bit for bit."""
    launcher = subprocess.Popen(launch(2, *command(whole, tmp_path)), **SETTING, stderr=subprocess.PIPE)
    try:
        while not (tmp_path / "checkpoint").exists():
            assert launcher.poll() is None, launcher.stderr.read()
            time.sleep(0.01)
        workers = {int(worker.environ()["RANK"]): worker for worker in psutil.Process(launcher.pid).children()}
        workers[victim].kill()
        error = launcher.communicate(timeout=60)[1]
    finally:
        launcher.kill()
    assert launcher.returncode == 1
    assert "exitcode  : -9" in error
    said = f"train.py: error: process {1 - victim} of 2 no longer reaches the others"
    assert said in error or "exitcode  : -15" in error  # torchrun ends the other one, too, and may be faster
    torchrun(2, *command(whole, tmp_path))
    expected, resumed = final_state(whole / "run" / "checkpoint"), final_state(tmp_path / "checkpoint")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


def test_another_number_of_processes_goes_on_to_rounding(whole, tmp_path):
    checkpoints = whole / "run" / "checkpoints"
    words = [*command(whole, tmp_path), "--resume_from", checkpoints / "step-00000004", "--max_steps", "8"]
    done = torchrun(1, *words)
    assert "note: processes: 2 before, 1 now; from here on this run differs" in done.stdout
    expected, resumed = final_state(checkpoints / "step-00000008"), final_state(tmp_path / "checkpoint")
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        bound = 1e-5 if name.startswith("carry.") else 1e-6  # a state is what a network makes of its weights
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=bound, msg=name)


SILENT = """
import time
from air_hf import variant_config
from air_hf.runs.processes import check_same_step, naming_lost_processes
from air_hf.runs.start import make_accelerator
from air_hf.run_recipe import RunRecipe
recipe = RunRecipe(collective_timeout=0.05, mixed_precision="no", batch_size=2)
accelerator = make_accelerator(recipe, variant_config("Lx_H"))
if accelerator.process_index == 1:
    time.sleep(60)
started = time.monotonic()
try:
    with naming_lost_processes(accelerator):
        check_same_step(accelerator, 0)
except ConnectionError as error:
    print(f"after {time.monotonic() - started:.0f} seconds: {error}", flush=True)
    raise
"""


def test_a_silent_process_is_given_up_when_the_recipe_says_so(tmp_path):
    """After three seconds, by one that answers no collective and does not end."""
    (tmp_path / "silent.py").write_text(SILENT)
    done = subprocess.run(launch(2, tmp_path / "silent.py"), **SETTING, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1
    seconds = int(re.search(r"after (\d+) seconds: process 0 of 2 no longer reaches the others", done.stdout)[1])
    assert 2 <= seconds <= 20


def test_how_long_a_silent_process_is_waited_for():
    handlers = process_handlers(variant_config("Lx_H"), timeout=2.5)
    assert [handler.timeout for handler in handlers if isinstance(handler, InitProcessGroupKwargs)] == [
        timedelta(minutes=2.5)
    ]
