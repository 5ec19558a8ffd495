"""The same weights on CPU and on a CUDA device: segments, training steps, bfloat16, compiled blocks, CUDA graphs."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from air_hf.data import PuzzleSet, PuzzleStream
from air_hf.dataset_builders.generate import make_generator
from air_hf.puzzles import get_puzzle
from air_hf.runs import load_checkpoint, save_checkpoint
from air_hf.training import Learner, Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none is here"),
]
VARIANTS = pytest.mark.parametrize("variant", ["Lx_H", "hrm", "trm-mlp", "L2x_H2x-prepend-keep"])


def train(
    model, device: str, precision: str = "no", compiled: str = "off", steps: int = 1
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of the last training step, and the weights after it."""
    AcceleratorState._reset_state(reset_partial_state=True)  # the device is chosen once per process otherwise
    puzzle = get_puzzle("sudoku-4x4")
    questions, answers = make_generator(puzzle).draw(32, np.random.default_rng(0))
    stream = PuzzleStream(PuzzleSet(puzzle, questions, answers, "generated"), 16, seed=0, augment=True)
    recipe = Recipe(batch_size=16, max_steps=10, warmup_steps=0, compile=compiled)
    learner = Learner(model, recipe, Accelerator(cpu=device == "cpu", mixed_precision=precision))
    assert learner.model.device.type == device
    for step in range(steps):
        metrics = learner.train_step(stream.batch(step))
        with torch.no_grad(), learner.evaluating() as evaluated:
            evaluated.solve(stream.batch(step)["input_ids"].to(evaluated.device))
    return float(metrics["lm_loss"]), {name: tensor.cpu() for name, tensor in learner.model.state_dict().items()}


@VARIANTS
@torch.no_grad()
def test_segments_agree(make_model, variant):
    model = make_model(variant)
    ids = torch.randint(1, 6, (8, 16), generator=torch.Generator().manual_seed(0))
    expected = model(ids)
    ours = model.cuda()(ids.cuda())
    torch.testing.assert_close(ours.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.state.z_l.cpu(), expected.state.z_l, rtol=1e-3, atol=1e-3)


@VARIANTS
def test_training_steps_agree(make_model, variant):
    loss, weights = train(make_model(variant), "cpu")
    gpu_loss, gpu_weights = train(make_model(variant), "cuda")
    assert gpu_loss == pytest.approx(loss, rel=1e-4)
    # AdamAtan2's first step is ±lr per weight, so a gradient of rounding size may turn its sign.
    for name, expected in weights.items():
        assert ((gpu_weights[name] - expected).abs() > 1e-4).float().mean() < 0.01, name


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_bfloat16_step(make_model, compiled):
    loss, _ = train(make_model(), "cpu")
    gpu_loss, weights = train(make_model(), "cuda", "bf16", compiled)
    assert gpu_loss == pytest.approx(loss, rel=0.05)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())


def test_counters_of_an_optimiser_that_goes_on_stay_on_the_host(make_model, tmp_path):
    """On the device every step would wait for each of them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = Recipe(batch_size=8, optimizer="adamw", compile="off")
    learner = Learner(make_model(), recipe, Accelerator(mixed_precision="no"))
    boards = torch.randint(1, 6, (8, 16), generator=torch.Generator().manual_seed(0))
    learner.train_step({"input_ids": boards, "labels": boards, "puzzle_ids": torch.zeros(8, dtype=torch.long)})
    save_checkpoint(learner, tmp_path / "checkpoint")
    load_checkpoint(learner, tmp_path / "checkpoint")
    counters = {name: value for name, value in learner.optimizer.state().items() if name.endswith(".step")}
    assert counters
    assert {value.device.type for value in counters.values()} == {"cpu"}


@VARIANTS
def test_cuda_graphs(make_model, variant):
    """The steps that record a graph and those that run it: as compiled without, and evaluation in between."""
    loss, weights = train(make_model(variant), "cuda", compiled="on", steps=6)
    graph_loss, graph_weights = train(make_model(variant), "cuda", compiled="reduce-overhead", steps=6)
    assert graph_loss == pytest.approx(loss, rel=1e-3)
    for name, expected in weights.items():
        assert ((graph_weights[name] - expected).abs() > 1e-4).float().mean() < 0.01, name
