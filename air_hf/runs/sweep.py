"""Fields of a recipe × seeds: the commands, and running what of them is not finished."""

import itertools
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import torch

from air_hf.cores import usable_cores
from air_hf.hub import EVALUATION, TRAINING_FACTS, read_config
from air_hf.modeling.weights_air import read_json_object
from air_hf.parsing import Parser
from air_hf.run_recipe import RunRecipe
from air_hf.runs.arguments import add_recipe_arguments, read_recipe
from air_hf.runs.records import read_evaluations

# What decides, in a recipe, of which puzzles a run is.
_DATA = ("train_data", "test_data", "dataset", "dataset_config", "dataset_revision", "puzzle", "train_limit")
_DATA += ("eval_limit", "data_seed")
BASE = "base"  # name of the recipe as it is, or, where fields are varied one at a time, with the first value of each


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the sweep.

    Args:
        name (`str`): of the setting, e.g. `Lx_H` or `Lx_H,ema_decay=0.99`.
        seed (`int`): which of its runs.
        folder (`Path`): where it is trained.
        words (`tuple[str, ...]`): of `air-hf train`; the same command again goes on where a broken-off run stopped.
    """

    name: str
    seed: int
    folder: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def command(self) -> list[str]:
        # Not through `accelerate launch`, which dies of a signal before the run it started is saved.
        return ["python", "-m", "air_hf", "train", *self.words]

    @property
    def scores(self) -> dict | None:
        """The final evaluation; None while the run is not finished."""
        scores = self.folder / "checkpoint" / EVALUATION
        is_finished = scores.is_file() and self.facts.get("finished")
        return read_json_object(scores) if is_finished else None

    @property
    def facts(self) -> dict:
        """What its checkpoint records of the training."""
        return read_json_object(self.folder / "checkpoint" / TRAINING_FACTS)

    @property
    def evaluations(self) -> list[dict]:
        """The scores of every evaluation, with `step` and `minutes`; the last where the checkpoint is all there is."""
        return read_evaluations(self.folder) or [self.scores | {"minutes": self.facts["minutes"]}]


def plan_runs(
    fields: dict[str, list[str]],
    seeds: Iterable[int],
    output: Path,
    recipe: Callable[[dict[str, str]], str],
    extra: Iterable[str] = (),
    one_at_a_time: bool = False,
) -> list[PlannedRun]:
    """The runs, seed by seed, so that a sweep that is cut short has whole seeds.

    Args:
        fields (`dict[str, list[str]]`): values by field of a recipe or a model, as typed.
        seeds (`Iterable[int]`): what to cross them with.
        output (`Path`): folder of the sweep.
        recipe (`Callable`): the `--config` of a setting.
        extra (`Iterable[str]`): further words of every command.
        one_at_a_time (`bool`): not every combination, but those that differ from the first value in one field at most.
    """
    first = {field: values[0] for field, values in fields.items()}
    settings = []
    for values in itertools.product(*fields.values()):
        setting = dict(zip(fields, values, strict=True))
        changed = {field: value for field, value in setting.items() if value != first[field]}
        if one_at_a_time and len(changed) < 2:
            settings.append((_name(changed) or BASE, setting))
        elif not one_at_a_time:
            settings.append((_name(setting) or BASE, setting))
    runs = []
    for seed in seeds:
        for name, setting in settings:
            folder = output / quote(name, safe="=,") / f"seed-{seed}"
            words = ["--config", recipe(setting), *extra]
            words += [word for field, value in setting.items() for word in (f"--{field}", value)]
            words += ["--seed", str(seed), "--output_dir", str(folder), "--resume_from", "latest"]
            runs.append(PlannedRun(name, seed, folder, tuple(words)))
    return runs


def _name(setting: dict[str, str]) -> str:
    return ",".join(value if field == "variant" else f"{field}={value}" for field, value in setting.items())


def check_recipe(run: PlannedRun) -> RunRecipe:
    """Reads a run's recipe, and compares a finished run with what this sweep would have trained.

    Returns:
        the recipe.

    Raises:
        ValueError: it is no recipe, or the run is of another; the message names a field.
    """
    parser = Parser("air-hf train")
    add_recipe_arguments(parser)
    try:
        recipe, fields = read_recipe(parser.parse_args(list(run.words)), with_data=False)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error
    if run.scores is None:
        return recipe
    trained, config = run.facts["arguments"], read_config(run.folder / "checkpoint")
    trained |= {name: getattr(config, name) for name in fields}
    # Whether a constant rate went on to this end is told by the end, which is compared as well.
    ours = recipe.settled | {"max_steps": recipe.max_steps} | fields
    for name, value in ours.items():
        left_open = value in (None, "auto")
        if name in trained and not left_open and trained[name] != value:
            raise ValueError(
                f"{run.folder} was trained with {name}={trained[name]!r}; this sweep has {value!r}; choose another "
                "--output"
            )
    return recipe


def check_data(runs: Iterable[tuple[PlannedRun, RunRecipe]]) -> None:
    """Compares the puzzles of finished runs whose recipes name the same: a file may have changed between them.

    Raises:
        ValueError: some had others; the message names two runs.
    """
    first: dict[tuple, tuple[PlannedRun, dict[str, str]]] = {}
    for run, recipe in runs:
        if run.scores is not None:
            digests = {split: facts["sha256"] for split, facts in run.facts["data"].items()}
            known, expected = first.setdefault(tuple(getattr(recipe, name) for name in _DATA), (run, digests))
            if digests != expected:
                raise ValueError(
                    f"{run.folder} and {known.folder} had different puzzles, and their recipes name the same "
                    f"({recipe.train_data or recipe.dataset}); choose another --output"
                )


def share_cores(run: PlannedRun, recipe: RunRecipe, jobs: int) -> PlannedRun:
    """The run with its share of this machine's cores, where several are at work and its recipe does not say."""
    if jobs == 1 or recipe.num_threads is not None:
        return run
    return replace(run, words=(*run.words, "--num_threads", str(max(1, usable_cores() // jobs))))


def _devices(jobs: int) -> list[str | None]:
    """The `CUDA_VISIBLE_DEVICES` of runs at work at the same time, so that they do not meet on the first device; None
    is what this process has."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return [names[job % len(names)] if jobs > 1 and len(names) > 1 else None for job in range(jobs)]


class Execution:
    """Runs planned runs, some at a time.

    SIGTERM and SIGINT are passed on to the runs at work, which save themselves, and no other is started. On a machine
    with several GPUs each run at work has one of them.

    Args:
        jobs (`int`): runs at a time.
        report (`Callable[[str], None]`): gets a line about the end of every run.
    """

    def __init__(self, jobs: int, report: Callable[[str], None]):
        self.jobs, self.report = jobs, report
        self._children: set[subprocess.Popen] = set()
        self._starting = threading.Lock()
        self._signal: int | None = None
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for device in _devices(jobs):
            self._devices.put(device)

    def run(self, runs: list[PlannedRun]) -> list[PlannedRun]:
        """Runs what is not finished; the runs that are not finished afterwards."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(self._run_one, [run for run in runs if run.scores is None]))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return [run for run in runs if run.scores is None]

    def _stop(self, number: int, frame) -> None:
        self._signal = number
        for child in tuple(self._children):
            child.send_signal(number)

    def _run_one(self, run: PlannedRun) -> None:
        device = self._devices.get()
        try:
            self._run_on(run, {} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        finally:
            self._devices.put(device)

    def _run_on(self, run: PlannedRun, variables: dict[str, str]) -> None:
        log = run.folder / "output.txt"
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as output:
                with self._starting:
                    if self._signal is not None:
                        return
                    command = [sys.executable, *run.command[1:]]
                    child = subprocess.Popen(
                        command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables
                    )
                    self._children.add(child)
                    if self._signal is not None:  # it came while the run was started, and was not passed on
                        child.send_signal(self._signal)
                status = child.wait()
        except OSError as error:
            self.report(f"{run}: cannot be started ({error})")
            return
        self._children.discard(child)
        if status == 0 and (scores := run.scores) is not None:
            self.report(f"{run}: exact {scores['exact_accuracy']:.1%}")
        else:
            ended = "failed" if self._signal is None else "stopped"
            said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            self.report(
                f"{run}: {ended} with status {status}, see {log}" + "".join(f"\n  {line}" for line in said[-1:])
            )


def shell_line(run: PlannedRun) -> str:
    """The run's command for a shell, as for one element of a Slurm array."""
    return shlex.join(run.command)
