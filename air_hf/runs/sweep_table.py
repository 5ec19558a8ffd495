"""The results of a sweep as a table beside the paper's numbers, in Markdown, CSV and a picture."""

import csv
import io
import math
import statistics
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import yaml

from air_hf.files import atomic_file, write_text
from air_hf.variants import VARIANTS

_NOT_KNOWN = (math.nan, math.nan)


@cache
def paper() -> dict[str, dict]:
    """`scores` by task and variant, [mean] or [mean, deviation] in %, and `groups` of variants: `paper.yaml`."""
    return yaml.safe_load(files("air_hf.runs").joinpath("paper.yaml").read_text(encoding="utf-8"))


class Row(NamedTuple):
    """A line of the table: percentages, NaN where nothing was measured; `values` are a variant's own runs."""

    name: str
    mean: float
    deviation: float
    runs: int
    paper: float
    paper_deviation: float
    values: tuple[float, ...] = ()


def make_rows(results: Iterable[tuple[str, float]], task: str | None) -> list[Row]:
    """Exact accuracy of every variant, group means, and asymmetric minus symmetric.

    Args:
        results: variant and exact accuracy, a share of 1, of every finished run.
        task (`str`, *optional*): whose numbers of the paper stand beside them.
    """
    measured: dict[str, list[float]] = {}
    for variant, accuracy in results:
        measured.setdefault(variant, []).append(100 * accuracy)
    published = {name: (*score, math.nan)[:2] for name, score in paper()["scores"].get(task, {}).items()}
    rows = [
        Row(name, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values),
            *published.get(name, _NOT_KNOWN), tuple(values))
        for name in VARIANTS
        if (values := measured.get(name))
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


def write_tables(rows: list[Row], folder: Path, title: str, note: str) -> None:
    """Writes `table.md`, `table.csv` and `table.png` beside one another."""
    lines = [f"# {title}", "", note, "", "| | exact accuracy, % | runs | each run | the paper, % |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| {row.name} | {_number(row.mean, row.deviation)} | {row.runs} | {_list(row.values)} "
        f"| {_number(row.paper, row.paper_deviation)} |"
        for row in rows
    ]
    lines += ["", "Mean ± standard deviation over seeds.", "", "![The table as a picture](table.png)", ""]
    write_text(folder / "table.md", "\n".join(lines))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("name", "mean", "deviation", "runs", "paper_mean", "paper_deviation", "values"))
    writer.writerows((*row[:-1], _list(row.values)) for row in rows)
    write_text(folder / "table.csv", text.getvalue())
    _draw([row for row in rows if row.name in VARIANTS], folder / "table.png")


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
    axes.invert_yaxis()
    axes.set(xlabel="exact accuracy, %", xlim=(-2, 102))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
