"""Variants × seeds of one recipe: the commands, running them, and the table beside the paper's numbers."""

import csv
import json
import math
import shlex
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from air_hf.hub import EVALUATION, TRAINING_FACTS
from air_hf.modeling import AIRConfig
from air_hf.runs.arguments import parse_recipe
from air_hf.runs.checkpoint import FREE_FIELDS
from air_hf.variants import VARIANTS

ASYMMETRIC = ("L_Hx", "Lx_H", "L_H2x", "L2x_H", "Lx_H2x", "L2x_Hx")
SYMMETRIC = ("Lx_Hx", "L2x_H2x")
GROUPS: dict[str, tuple[str, ...]] = {
    "asymmetric": ASYMMETRIC,
    "symmetric": SYMMETRIC,
    "level tokens on L2x_H2x": ("L2x_H2x-add", "L2x_H2x-prepend-strip", "L2x_H2x-prepend-keep"),
    "operators on Lx_H": ("Lx_H-negate", "Lx_H-linear", "Lx_H-tanh", "Lx_H-hadamard"),
    "ancestors": ("hrm", "trm-att", "trm-mlp"),
}
# Exact accuracy in %, mean and standard deviation over five seeds: AIR (arXiv 2605.17811), main table and level tokens.
# NaN: the sources at hand give no deviation.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "sudoku": {
        "L_Hx": (58.7, 3.3), "Lx_H": (60.0, 2.0), "L_H2x": (58.6, 1.9), "L2x_H": (59.1, 2.4), "Lx_H2x": (59.6, 0.9),
        "L2x_Hx": (58.6, 2.9), "Lx_Hx": (52.1, 1.6), "L2x_H2x": (50.9, 2.9), "L2x_H2x-add": (50.0, 1.9),
        "L2x_H2x-prepend-strip": (57.5, 1.3), "L2x_H2x-prepend-keep": (47.8, 1.6), "hrm": (55.0, math.nan),
    },
    "maze": {
        "L_Hx": (75.3, 3.2), "Lx_H": (71.0, 6.3), "L_H2x": (75.6, 1.9), "L2x_H": (71.1, 6.4), "Lx_H2x": (70.9, 2.4),
        "L2x_Hx": (74.5, 1.6), "Lx_Hx": (69.4, 2.5), "L2x_H2x": (70.3, 4.2), "hrm": (74.5, math.nan),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One cell of the sweep.

    Args:
        variant (`str`): name of the variant.
        seed (`int`): of the run.
        folder (`Path`): where it is trained.
        command (`list[str]`): what trains it; the same command again goes on where a broken-off run stopped.
    """

    variant: str
    seed: int
    folder: Path
    command: list[str]

    @property
    def scores(self) -> dict | None:
        """The final evaluation; None while the run is not finished."""
        checkpoint = self.folder / "checkpoint"
        if not (checkpoint / EVALUATION).is_file():
            return None
        facts = json.loads((checkpoint / TRAINING_FACTS).read_text(encoding="utf-8"))
        return json.loads((checkpoint / EVALUATION).read_text(encoding="utf-8")) if facts.get("finished") else None


def plan_runs(
    variants: Iterable[str], seeds: Iterable[int], output: Path, script: Path, recipe: Callable[[str], str], extra=()
) -> list[Run]:
    """The runs, seed by seed, so that a sweep that is cut short has whole seeds.

    Args:
        variants, seeds: what to cross.
        output (`Path`): folder of the sweep.
        script (`Path`): `examples/train.py`.
        recipe (`Callable`): the `--config` of a variant.
        extra (`list[str]`): further words of every command.
    """
    runs = []
    for seed in seeds:
        for variant in variants:
            folder = output / variant / f"seed-{seed}"
            words = ["--config", recipe(variant), *extra, "--variant", variant, "--seed", str(seed)]
            words += ["--output_dir", str(folder), "--resume_from", "latest"]
            # Not through `accelerate launch`, which dies of a signal before the run it started is saved.
            runs.append(Run(variant, seed, folder, [sys.executable, str(script), *words]))
    return runs


def check_recipe(run: Run) -> None:
    """Compares a finished run with what this sweep would have trained.

    Raises:
        ValueError: it is of another recipe; the message names a field.
    """
    arguments, fields = parse_arguments(run.command[2:], with_data=False)
    checkpoint = run.folder / "checkpoint"
    trained = json.loads((checkpoint / TRAINING_FACTS).read_text(encoding="utf-8"))["arguments"]
    config = AIRConfig.from_pretrained(checkpoint)
    trained |= {name: getattr(config, name) for name in fields}
    for name, value in (vars(arguments) | fields).items():
        if name in trained and name not in FREE_FIELDS and value is not None and trained[name] != value:
            raise ValueError(
                f"{run.folder} was trained with {name}={trained[name]!r}; this sweep has {value!r}; choose another "
                "--output"
            )


def shell_line(run: Run) -> str:
    """The run's command for a shell, as for one element of a Slurm array."""
    return shlex.join(["python", *run.command[1:]])


def execute(runs: list[Run], jobs: int, report: Callable[[str], None]) -> list[Run]:
    """Runs what is not finished, `jobs` at a time; returns the runs that are not finished afterwards.

    SIGTERM and SIGINT are passed on to the runs at work, which save themselves, and no other is started.
    """
    children: set[subprocess.Popen] = set()
    starting, told_to_stop = threading.Lock(), threading.Event()

    def stop(number: int, frame) -> None:
        told_to_stop.set()
        for child in tuple(children):
            child.send_signal(number)

    def execute_one(run: Run) -> bool:
        log = run.folder / "output.txt"
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as output:
                with starting:
                    if told_to_stop.is_set():
                        return False
                    child = subprocess.Popen(run.command, stdout=output, stderr=subprocess.STDOUT)
                    children.add(child)
                status = child.wait()
        except OSError as error:
            report(f"{run.variant}, seed {run.seed}: cannot be started ({error})")
            return False
        children.discard(child)
        if status == 0 and run.scores is not None:
            report(f"{run.variant}, seed {run.seed}: exact {run.scores['exact_accuracy']:.1%}")
            return True
        ended = "stopped" if told_to_stop.is_set() else "failed"
        report(f"{run.variant}, seed {run.seed}: {ended} with status {status}, see {log}")
        return False

    waiting = [run for run in runs if run.scores is None]
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            return [run for run, good in zip(waiting, pool.map(execute_one, waiting), strict=True) if not good]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Row:
    """A line of the table: percentages, NaN where nothing was measured; `values` are a variant's own runs."""

    name: str
    mean: float
    deviation: float
    runs: int
    paper: float
    paper_deviation: float
    values: tuple[float, ...] = ()


def collect(runs: list[Run], task: str | None) -> list[Row]:
    """Exact accuracy of every variant with finished runs, group means, and asymmetric minus symmetric."""
    measured: dict[str, list[float]] = {}
    for run in runs:
        if run.scores is not None:
            measured.setdefault(run.variant, []).append(100 * run.scores["exact_accuracy"])
    paper = PAPER.get(task, {})
    rows = [
        Row(name, statistics.mean(values), _deviation(values), len(values), *paper.get(name, (math.nan, math.nan)),
            tuple(values))
        for name in VARIANTS
        if (values := measured.get(name))
    ]  # fmt: skip
    groups = {}
    for group, members in GROUPS.items():
        if members and all(member in measured for member in members):
            ours = statistics.mean(statistics.mean(measured[member]) for member in members)
            known = all(member in paper for member in members)
            theirs = statistics.mean(paper[member][0] for member in members) if known else math.nan
            count = sum(len(measured[member]) for member in members)
            groups[group] = Row(f"mean of {group}", ours, math.nan, count, theirs, math.nan)
    rows += groups.values()
    if "asymmetric" in groups and "symmetric" in groups:
        one, other = groups["asymmetric"], groups["symmetric"]
        rows.append(
            Row("asymmetric − symmetric", one.mean - other.mean, math.nan, one.runs + other.runs,
                one.paper - other.paper, math.nan)
        )  # fmt: skip
    return rows


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _number(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def write_tables(rows: list[Row], folder: Path, title: str, note: str) -> None:
    """Writes `table.md`, `table.csv` and `table.png` beside one another."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", note, "", "| | exact accuracy, % | runs | each run | the paper, % |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| {row.name} | {_number(row.mean, row.deviation)} | {row.runs} | {_list(row.values)} "
        f"| {_number(row.paper, row.paper_deviation)} |"
        for row in rows
    ]
    lines += ["", "Mean ± standard deviation over seeds.", "", "![The table as a picture](table.png)", ""]
    (folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "mean", "deviation", "runs", "paper_mean", "paper_deviation", "values"))
        writer.writerows(
            (row.name, row.mean, row.deviation, row.runs, row.paper, row.paper_deviation, _list(row.values))
            for row in rows
        )
    _draw(rows, folder / "table.png")


def _draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure  # optional: pip install air-hf[demo]

    shown = [row for row in rows if row.name in VARIANTS]
    figure = Figure(figsize=(7, 0.6 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    # The runs themselves: a mean and a deviation hide that some of them do not learn at all.
    for place, row in zip(places, shown, strict=True):
        axes.plot(
            row.values, [place] * len(row.values), "o", color="tab:blue", alpha=0.35, label=None if place else "a run"
        )
    axes.plot([row.mean for row in shown], places, "|", color="tab:blue", markersize=14, label="mean")
    if any(not math.isnan(row.paper) for row in shown):
        axes.plot([row.paper for row in shown], places, "x", color="tab:gray", label="the paper, its own task")
    axes.set_yticks(places, [row.name for row in shown])
    axes.invert_yaxis()
    axes.set(xlabel="exact accuracy, %", xlim=(-2, 102))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
