"""One case measured: the machine's ceiling, then training, evaluation, solving and data by the package's own code."""

import copy
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch._dynamo.utils import counters

from air_hf.benchmark.cases import Case
from air_hf.benchmark.ceiling import SquareProduct, copy_rate, record_products, time_products, timed, timed_in_turn
from air_hf.benchmark.published import PublishedCode
from air_hf.benchmark.where import time_by_group
from air_hf.data import PuzzleStream
from air_hf.runs.data import make_stream
from air_hf.runs.start import make_accelerator, make_model
from air_hf.training import Learner
from air_hf.training.backend import should_compile


def measure(case: Case, seconds: float, published: Path | None = None) -> dict[str, Any]:
    """Measures a case, each part for about so many seconds.

    Args:
        published (`Path`, *optional*): a checkout of the published code, whose steps are taken in turn with these.

    Returns:
        `dict`: numbers by part, for JSON; times in ms, memory in MiB. Solving is a rollout of all segments.
            `share_of_peak` is the rate of a part's counted
        FLOPs over that of a large square product measured in turn with it, medians of both.

    Raises:
        ValueError: see [`PublishedCode`].
    """
    recipe, config, batch_size = case.recipe, case.config, case.recipe.batch_size
    accelerator = make_accelerator(recipe, config)
    clock = _Clock(accelerator, batch_size, seconds)
    theirs = None
    if published:
        theirs = PublishedCode(published, case, clock.device, clock.dtype, should_compile(recipe.compile, clock.device))
    model = case.model or make_model(recipe, config, accelerator)
    stream = make_stream(case.puzzles, recipe)
    plain_stream = PuzzleStream(case.puzzles, batch_size, recipe.seed, augment=False)
    ids = stream.batch(0)["input_ids"].to(clock.device)
    plain = Learner(copy.deepcopy(model), replace(recipe, compile="off"), accelerator)
    products = record_products(plain, stream)
    solver = copy.deepcopy(plain.model).to(clock.dtype).eval()  # as `air-hf solve` has it: not compiled
    learner = Learner(model, recipe, accelerator)
    training, beside = _measure_training(learner, stream, clock, theirs)
    training["products_alone_ms"] = 1000 * time_products(products, clock.device, seconds / 100, clock.wait)
    model.eval()
    with torch.no_grad(), accelerator.autocast(), learner.evaluating():
        segment = lambda: next(model.unroll(ids))  # noqa: E731
        if theirs:
            beside["evaluation"] = clock.beside(segment, theirs.evaluator(stream.batch(0)))
        evaluation = clock.part(segment, config.estimate_flops(batch_size))
    solving = _spread(timed(lambda: solver.solve(ids), seconds, clock.wait))
    return {
        "machine": clock.machine(),
        "model": {"puzzle": config.puzzle, "hidden_size": config.hidden_size, "cells": config.seq_len,
                  "layers": config.num_hidden_layers, "mixer": config.mixer, "parameters": model.num_parameters(),
                  "batch_size": batch_size},
        "training": training,
        "evaluation": evaluation,
        "solving": {"ms": solving, "puzzles_per_second": 1000 * batch_size / solving["median"]},
        "data": {"puzzles_per_second": _rate(plain_stream, seconds / 5)},
        "augmented_data": {"puzzles_per_second": _rate(stream, seconds / 5)},
        "peak_memory_mib": training.pop("peak_memory_mib"),
    } | ({"beside_published": beside} if theirs else {})  # fmt: skip


class _Clock:
    """Times work of one device in turn with what it is compared with, so that a slower minute meets both."""

    def __init__(self, accelerator: Accelerator, batch_size: int, seconds: float):
        self.device, self.batch_size, self.seconds = accelerator.device, batch_size, seconds
        self.dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        self._square = SquareProduct(self.device, self.dtype)

    def part(self, work: Callable[[], object], flops: int) -> dict[str, Any]:
        times = timed_in_turn({"work": work, "square": self._square}, self.seconds, self.wait)
        ms, peak = _spread(times["work"]), self._square.flops / statistics.median(times["square"])
        share = 1000 * flops / ms["median"] / peak
        rate = 1000 * self.batch_size / ms["median"]
        return {"ms": ms, "puzzles_per_second": rate, "peak_gflops": peak / 1e9, "share_of_peak": share}

    def beside(self, work: Callable[[], object], published_work: Callable[[], object]) -> dict[str, Any]:
        works = {"ours": work, "published": published_work}
        ours, other = timed_in_turn(works, self.seconds, self.wait).values()
        return {"ms": _spread(ours), "published_ms": _spread(other)}

    def machine(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
            "threads": torch.get_num_threads(), "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "copy_gb_per_second": copy_rate(self.device, self.seconds / 5, self.wait) / 1e9,
        }  # fmt: skip


def _measure_training(
    learner: Learner, stream: PuzzleStream, clock: _Clock, theirs: PublishedCode | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Times the first step and the next ones, and these in turn with the published code's where it is given."""
    if clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clock.device)
    training = _first_step(learner, stream, clock.wait)
    training["peak_memory_mib"] = _peak_memory(clock.device)
    step = lambda: learner.train_step(stream.batch(learner.step))  # noqa: E731
    training |= clock.part(step, learner.model.config.estimate_flops(clock.batch_size, with_gradient=True))
    training["compilations"] = counters["stats"]["unique_graphs"]
    training["compile_seconds"] = training["first_step_seconds"] - training["ms"]["median"] / 1000
    training["where_ms"] = time_by_group(learner, lambda: stream.batch(learner.step), clock.wait)
    if theirs is None:
        return training, {}
    return training, {"training": clock.beside(step, lambda: theirs.train_step(stream.batch(learner.step)))}


def _first_step(learner: Learner, stream: PuzzleStream, wait: Callable[[], object]) -> dict[str, Any]:
    """Runs the first step, which compiles, and says how long it took."""
    torch._dynamo.reset()
    counters.clear()
    start = time.perf_counter()
    learner.train_step(stream.batch(0))
    wait()
    return {"compiled": learner.compiled, "first_step_seconds": time.perf_counter() - start}


def _spread(times: list[float]) -> dict[str, float]:
    """Median, fifth and ninety-fifth percentile in ms, and how many there were."""
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    low, high = cuts[0], cuts[-1]
    return {"median": 1000 * statistics.median(times), "low": 1000 * low, "high": 1000 * high, "runs": len(times)}


def _rate(stream: PuzzleStream, seconds: float) -> float:
    """Puzzles a second that the stream draws."""
    steps = itertools.count()
    return stream.batch_size / statistics.median(timed(lambda: stream.batch(next(steps)), seconds, lambda: None))


def _peak_memory(device: torch.device) -> float:
    """MiB: of the device since its count began anew, which holds other models of this case, too; or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
