"""The results of a sweep as a table beside the paper's numbers, in Markdown, CSV and a picture."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import yaml

from air_hf.files import atomic_file, write_text

_NOT_KNOWN = (math.nan, math.nan)
_MARKS = "os^Dv*PX<>"
_SCORES = ("step", "minutes", "exact_accuracy", "cell_accuracy", "num_puzzles")


@cache
def paper() -> dict[str, dict]:
    """`boards` by task; `scores` by task and variant, [mean] or [mean, deviation] in %; `groups` of variants."""
    return yaml.safe_load(files("air_hf.runs").joinpath("paper.yaml").read_text(encoding="utf-8"))


def paper_column(task: str | None) -> str:
    """The heading of the paper's numbers, with its boards, which ours may be smaller or easier than."""
    board = paper()["boards"].get(task)
    return f"the paper, {board}" if board else "the paper"


class Row(NamedTuple):
    """A line of the table: percentages, NaN where nothing was measured; `values` are a setting's own runs."""

    name: str
    mean: float
    deviation: float
    runs: int
    paper: float
    paper_deviation: float
    values: tuple[float, ...] = ()


class Comparison(NamedTuple):
    """Rows at equal cost.

    Args:
        steps (`int`): of the run that has the fewest.
        minutes (`float`): of training, of the run that has the fewest.
        by_steps, by_minutes (`list[Row]`): exact accuracy at the last evaluation within these.
        paper (`str`): the heading of the paper's numbers.
    """

    steps: int
    minutes: float
    by_steps: list[Row]
    by_minutes: list[Row]
    paper: str


def compare(curves: list[tuple[str, list[dict]]], task: str | None) -> Comparison:
    """Compares runs by their evaluations.

    Args:
        curves: setting and evaluations of every finished run, see [`read_evaluations`].
        task (`str`, *optional*): as [`make_rows`] takes it.
    """
    ends = [evaluations[-1] for _, evaluations in curves]
    steps, minutes = min(end["step"] for end in ends), min(end["minutes"] for end in ends)

    def rows(unit: str, limit: float) -> list[Row]:
        within = ((name, [e for e in evaluations if e[unit] <= limit]) for name, evaluations in curves)
        return make_rows([(name, found[-1]["exact_accuracy"]) for name, found in within if found], task)

    return Comparison(steps, minutes, rows("step", steps), rows("minutes", minutes), paper_column(task))


def make_rows(results: Iterable[tuple[str, float]], task: str | None) -> list[Row]:
    """Exact accuracy of every setting, group means of variants, and asymmetric minus symmetric.

    Args:
        results: setting and exact accuracy, a share of 1, of every finished run.
        task (`str`, *optional*): whose numbers of the paper stand beside variants.
    """
    measured: dict[str, list[float]] = {}
    for name, accuracy in results:
        measured.setdefault(name, []).append(100 * accuracy)
    published = {name: (*score, math.nan)[:2] for name, score in paper()["scores"].get(task, {}).items()}
    rows = [
        Row(name, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values),
            *published.get(name, _NOT_KNOWN), tuple(values))
        for name, values in measured.items()
    ]  # fmt: skip
    by_name = {row.name: row for row in rows}
    groups = {}
    for group, names in paper()["groups"].items():
        members = [by_name[name] for name in names if name in by_name]
        if len(members) == len(names):
            ours, theirs = (statistics.mean(getattr(row, field) for row in members) for field in ("mean", "paper"))
            runs = sum(row.runs for row in members)
            groups[group] = Row(f"mean of {group}", ours, math.nan, runs, theirs, math.nan)
    rows += groups.values()
    if {"asymmetric", "symmetric"} <= groups.keys():
        one, other = groups["asymmetric"], groups["symmetric"]
        rows.append(
            Row("asymmetric − symmetric", one.mean - other.mean, math.nan, one.runs + other.runs,
                one.paper - other.paper, math.nan)
        )  # fmt: skip
    return rows


def write_tables(
    comparison: Comparison, curves: list[tuple[str, list[dict]]], folder: Path, title: str, note: str
) -> None:
    """Writes `table.md`, `table.csv`, `table.png` and `curves.png` beside one another; `curves` as in [`compare`]."""
    rows, timed = comparison.by_steps, {row.name: row for row in comparison.by_minutes}
    heads = [f"exact at {comparison.steps:,} steps, %", "runs", "each run"]
    heads += [f"exact at {comparison.minutes:.1f} minutes, %"]
    has_paper = any(not math.isnan(row.paper) for row in rows)
    heads += [f"{comparison.paper}, %"] * has_paper
    lines = [f"# {title}", "", note, "", f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ("name", "mean", "deviation", "runs", "paper_mean", "paper_deviation", "values", "values_by_minutes")
    )
    for row in rows:
        at_time = timed.get(row.name, Row(row.name, math.nan, math.nan, 0, *_NOT_KNOWN))
        some = f"({at_time.runs} of {row.runs} runs)" if at_time.runs < row.runs else ""
        cells = [_number(row.mean, row.deviation), str(row.runs), _list(row.values)]
        cells += [f"{_number(at_time.mean, at_time.deviation)} {some}".strip()]
        cells += [_number(row.paper, row.paper_deviation)] * has_paper
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
        writer.writerow((*row[:-1], _list(row.values), _list(at_time.values)))
    meaning = (
        "Mean ± standard deviation over seeds, at the last evaluation within so many steps or minutes of training: "
        "those of the run that has the fewest. Runs without an evaluation by then are left out (`eval_every`)."
    )
    lines += ["", meaning, "", "![The table as a picture](table.png)", "", "![Every run](curves.png)", ""]
    write_text(folder / "table.md", "\n".join(lines))
    write_text(folder / "table.csv", text.getvalue())
    _draw([row for row in rows if row.values], folder / "table.png")
    _draw_curves(curves, folder / "curves.png")


def write_evaluations(evaluations: dict[str, list[dict]], folder: Path) -> None:
    """Writes `evaluations.json`: the scores of every evaluation of every run, by the run's name."""
    scores = {name: [{key: line[key] for key in _SCORES} for line in lines] for name, lines in evaluations.items()}
    write_text(folder / "evaluations.json", json.dumps(scores, indent=1) + "\n")


def _number(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure  # optional: pip install air-hf[demo]

    figure = Figure(figsize=(7, 0.6 + 0.3 * len(rows)), layout="constrained")
    axes, places = figure.subplots(), range(len(rows))
    # The runs themselves: a mean and a deviation hide that some of them do not learn at all.
    for place, row in zip(places, rows, strict=True):
        dots = [place] * len(row.values)
        axes.plot(row.values, dots, "o", color="tab:blue", alpha=0.35, label=None if place else "a run")
    axes.plot([row.mean for row in rows], places, "|", color="tab:blue", markersize=14, label="mean")
    if any(not math.isnan(row.paper) for row in rows):
        axes.plot([row.paper for row in rows], places, "x", color="tab:gray", label="the paper, its own task")
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlabel="exact accuracy, %", xlim=(-2, 102))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _draw_curves(curves: list[tuple[str, list[dict]]], path: Path) -> None:
    """Accuracy against steps and against minutes of training, a line a run, a colour and a mark a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_steps, by_minutes = figure.subplots(1, 2, sharey=True)
    styles = {name: (f"C{place % 10}", _MARKS[place % len(_MARKS)]) for place, name in enumerate(dict(curves))}
    for axes, unit in ((by_steps, "step"), (by_minutes, "minutes")):
        unnamed = set(styles)
        for name, evaluations in curves:
            places, exact = zip(*((line[unit], 100 * line["exact_accuracy"]) for line in evaluations), strict=True)
            colour, mark = styles[name]
            label = name if name in unnamed else None
            unnamed.discard(name)
            axes.plot(places, exact, color=colour, marker=mark, markersize=4, linewidth=1, alpha=0.7, label=label)
        axes.grid(alpha=0.3)
    by_steps.set(xlabel="training step", ylabel="exact accuracy, %", ylim=(-2, 102))
    by_minutes.set(xlabel="minutes of training")
    by_steps.legend(fontsize=7)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
