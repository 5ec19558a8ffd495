"""Fixtures: one thread per test process for determinism and speed, and tiny trained-shape models."""

import os

# Before torch is imported, and for the commands that tests start: threads of several processes on few cores wait for
# one another, which makes tiny models thirty times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from accelerate.state import AcceleratorState

from air_hf import AIRForPuzzleSolving, variant_config

TINY = {"vocab_size": 6, "seq_len": 16, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
        "h_cycles": 2, "l_cycles": 2, "max_segments": 4, "puzzle": "sudoku-4x4"}  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_precision_left_over():
    """Accelerate keeps a process's first precision, and recipes that say "auto" have bfloat16 where a CPU has it.

    Commands, also those in fixtures of modules, set the precision of float32 products of the whole process; every test
    begins with PyTorch's own.
    """
    torch.set_float32_matmul_precision("highest")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def make_model():
    """Builds a tiny 4x4 Sudoku model of a variant; its halting head is random, so that halting differs by puzzle."""

    def make(variant: str = "Lx_H", seed: int = 0, **overrides) -> AIRForPuzzleSolving:
        torch.manual_seed(seed)
        model = AIRForPuzzleSolving(variant_config(variant, **(TINY | overrides)))
        torch.nn.init.normal_(model.q_head.weight)
        torch.nn.init.zeros_(model.q_head.bias)
        return model.eval()

    return make


@pytest.fixture
def make_lively_model(make_model):
    """As `make_model`, but with answers that differ by cell and segment: at their start weights answer padding."""

    def make(*args, **overrides) -> AIRForPuzzleSolving:
        model = make_model(*args, **overrides)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 3
        return model

    return make
