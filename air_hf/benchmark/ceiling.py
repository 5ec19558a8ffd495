"""What the machine could do: its fastest matrix product, a step's own products alone, and copying memory."""

import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from air_hf.data import PuzzleStream
from air_hf.training import Learner

_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


def timed(work: Callable[[], object], seconds: float, wait: Callable[[], object]) -> list[float]:
    """Seconds of each call of `work` within `seconds`, three calls at least; one call before them is not counted.

    Args:
        wait (`Callable`): returns when the device has done its work.
    """
    return timed_in_turn({"": work}, seconds, wait)[""]


def timed_in_turn(
    works: dict[str, Callable[[], object]], seconds: float, wait: Callable[[], object]
) -> dict[str, list[float]]:
    """As [`timed`], of several taken in turn, so that what else the machine does slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    wait()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, work in works.items():
            start = time.perf_counter()
            work()
            wait()
            times[name].append(time.perf_counter() - start)
    return times


class SquareProduct:
    """The product of two square matrices, about the fastest that a machine multiplies.

    Attributes:
        flops (`int`): of one call.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        side = 1024 if device.type == "cpu" else 8192
        self._factors = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]
        self.flops = 2 * side**3

    def __call__(self) -> torch.Tensor:
        return self._factors[0] @ self._factors[1]


def copy_rate(device: torch.device, seconds: float, wait: Callable) -> float:
    """Bytes a second, read and written, of copying 256 MiB."""
    source = torch.zeros(64 * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source), seconds, wait))


_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, strides, and the type of a number
Products = Counter[tuple[Callable, tuple[_Layout, ...]]]


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.products: Products = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _PRODUCTS:
            self.products[func, tuple((tuple(a.shape), a.stride(), a.dtype) for a in args)] += 1
        return func(*args, **kwargs or {})


def record_products(learner: Learner, stream: PuzzleStream) -> Products:
    """The matrix products of a training step that is not compiled: which, and the layouts of their arguments."""
    with _Recorder() as recorder:
        learner.train_step(stream.batch(0))
    return recorder.products


def time_products(products: Products, device: torch.device, each: float, wait: Callable[[], object]) -> float:
    """Seconds that all of them take with nothing in between: the median of each, measured for `each` seconds."""
    total = 0.0
    for (product, layouts), count in products.items():
        arguments = [torch.empty_strided(s, strides, dtype=d, device=device).fill_(1) for s, strides, d in layouts]
        total += count * statistics.median(timed(lambda p=product, a=arguments: p(*a), each, wait))
    return total
