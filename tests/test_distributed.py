"""Two processes, started by torchrun, train and evaluate as one does: gloo on CPU, float32, exploration off."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.distributed_steps import CASES

from air_hf.dataset_builders.generate import generate_split, write_split
from air_hf.puzzles import get_puzzle

ROOT = Path(__file__).parent.parent
TINY = ["--config", "examples/configs/sudoku-6x6.yaml", "--hidden_size", "32", "--num_attention_heads", "2",
        "--num_hidden_layers", "1", "--max_segments", "3", "--compile", "off", "--num_threads", "1",
        "--batch_size", "16", "--warmup_steps", "3", "--mixed_precision", "no", "--log_every", "2"]  # fmt: skip


def torchrun(processes: int, *words) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, *words]
    done = subprocess.run(
        list(map(str, launch)),
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
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


def test_the_command_on_two_processes_goes_on_exactly(tmp_path):
    """Bit for bit, with accumulation; the records are those of one process."""
    puzzle = get_puzzle("sudoku-4x4")
    write_split(tmp_path / "data", puzzle, generate_split(puzzle, 60, 20, workers=1), 0, {})
    words = ["examples/train.py", *TINY, "--train_data", tmp_path / "data", "--accumulation_steps", "2"]
    done = torchrun(2, *words, "--output_dir", tmp_path / "whole", "--max_steps", "8")
    assert "2 processes" in done.stdout
    torchrun(2, *words, "--output_dir", tmp_path / "parts", "--max_steps", "5")
    torchrun(2, *words, "--output_dir", tmp_path / "parts", "--max_steps", "8", "--resume_from", "latest")
    whole, parts = (
        load_file(tmp_path / name / "checkpoint" / "training_state" / "state.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["slots"] for line in lines] == [32.0] * 4
