"""What holds for every mixer of the package's own."""

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from air_hf.training import Learner, Recipe


def check_counts_and_gradients(model, ids, labels):
    """Weights and FLOPs are those that the configuration counts, and every parameter of the mixer learns."""
    assert model.num_parameters() == model.config.num_weights
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(ids)
    # The counter takes a depthwise convolution's multiplications at the edge, where there is no neighbour, for done.
    assert forward.get_total_flops() == model.config.estimate_flops(len(ids))
    model(ids, labels=labels).loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None and "mixer" in name]
    assert not missing


def check_compiled_step_in_bfloat16(model, ids, labels, part):
    """A compiled training step changes every weight whose name has `part` in it, and leaves all of them finite."""
    recipe = Recipe(batch_size=len(ids), compile="on", warmup_steps=0)
    learner = Learner(model, recipe, Accelerator(cpu=True, mixed_precision="bf16"))
    before = {name: weight.clone() for name, weight in model.named_parameters() if part in name}
    learner.train_step({"input_ids": ids, "labels": labels, "puzzle_ids": torch.zeros(len(ids), dtype=torch.long)})
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert all(not torch.equal(model.get_parameter(name), weight) for name, weight in before.items())
