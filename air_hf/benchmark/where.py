"""Where the time of a training step goes, by torch.profiler on the host."""

import time
from collections import Counter
from collections.abc import Callable

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from air_hf.training import Learner

_STEPS = 10
# What the names of operations begin with, whatever they are part of.
_OPERATIONS = {
    "matmul": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash", "aten::_softmax"),
    "optimiser": ("aten::_foreach_lerp",),  # the EMA
    "waiting": ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize"),
}
# What the names of blocks begin with, and the group of all that is in them.
_BLOCKS = {"loss": ("loss",), "data": ("data",), "optimiser": ("Optimizer.",)}


def time_by_group(
    learner: Learner, next_batch: Callable[[], dict], wait: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Milliseconds of the host in a training step by group, and of the whole "step"; means of ten steps.

    "elementwise" is what compiled graphs do besides products, and every operation without a group of its own; "loss"
    the forward pass of the loss; "optimiser" includes the EMA; "other" is the time in no operation: Python, and other
    programs' turns.
    """
    model, compute_loss = learner.model, learner.model.compute_loss

    def named_loss(*args):
        with record_function("loss"):
            return compute_loss(*args)

    model.compute_loss = named_loss
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            start = time.perf_counter()
            for _ in range(_STEPS):
                with record_function("data"):
                    batch = next_batch()
                learner.train_step(batch)
            wait()
            step = 1000 * (time.perf_counter() - start) / _STEPS
    finally:
        del model.compute_loss  # the class's own is there again
    times = Counter(dict.fromkeys(("matmul", "attention", "elementwise", "loss", "optimiser", "data", "waiting"), 0.0))
    for event in profiled.events():
        times[_group(event)] += event.self_cpu_time_total / 1000 / _STEPS
    return {"step": step, **times, "other": step - times.total()}


def _group(event: FunctionEvent) -> str:
    for group, names in _OPERATIONS.items():
        if event.name.startswith(names):
            return group
    block: FunctionEvent | None = event
    while block is not None:
        for group, names in _BLOCKS.items():
            if block.name.startswith(names):
                return group
        block = block.cpu_parent
    return "elementwise"
