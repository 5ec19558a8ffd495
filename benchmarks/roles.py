"""Compares `air-hf analyze` reports of several runs: one table and one figure, see docs/results/roles.md.

python benchmarks/roles.py reports/h1l1-0 reports/h1l1-1 reports/h2l2-0 ... --output docs/results/roles

A folder is called SETTING-SEED; the seeds of a setting share a line, their numbers one behind another.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

from air_hf.analysis.figures import COLORS, NAMES, STYLE, new_figure, save
from air_hf.files import write_text

HEADER = ["setting", "seeds", "exact, %", "z_L at the end, % of open cells", "z_L exact, %", "held back, z_H / z_L, %",
          "content changes, z_H / z_L", "z_H held: z_L changes", "z_L held: z_H changes", "exact if held",
          "neighbourhood L − H, by layer", "entropy H − L, by layer"]  # fmt: skip


def contrasts(report: dict, metric: str) -> list[float]:
    """Of control queries, a number for each layer; empty where the run has no attention."""
    table = report["tables"].get("Attention contrasts", {"contrasts": []})["contrasts"]
    return [row["mean"] for row in table if row["metric"] == metric and row["class"] == "control" and row["queries"]]


Groups = dict[str, dict[str, dict]]  # reports by seed by setting


def row(setting: str, reports: dict[str, dict]) -> list[str]:
    columns = zip(*(numbers(report) for report in reports.values()), strict=True)
    return [setting, " · ".join(reports), *(" · ".join(column) for column in columns)]


def numbers(report: dict) -> list[str]:
    tables = report["tables"]
    roles, frozen = tables["Roles"], tables["Freezing one state"]
    changes = [roles[level]["content_changes"]["mean"] for level in "HL"]
    held = [100 * roles[level]["held_back"]["mean"] for level in "HL"]
    return [
        f"{100 * tables['Accuracy']['mean']:.1f}",
        f"{100 * roles['L']['final_cell_accuracy']['mean']:.1f}",
        f"{100 * roles['L']['final_exact']['mean']:.1f}",
        f"{held[0]:.2f} / {held[1]:.2f}",
        f"{changes[0]:.1f} / {changes[1]:.1f}",
        f"{frozen['H']['content_changes']['L']['mean']:.1f}",
        f"{frozen['L']['content_changes']['H']['mean']:.1f}",
        ", ".join(f"{100 * frozen[level]['exact']['mean']:.1f}" for level in "HL"),
        " ".join(f"{value:+.3f}" for value in contrasts(report, "unit")) or "–",
        " ".join(f"{value:+.3f}" for value in contrasts(report, "entropy")) or "–",
    ]


def draw(groups: Groups):
    """What z_L still gets right of what z_H answers, and how often each changes its mind: means, and a dot a run."""
    figure = new_figure(11, 0.45 * len(groups) + 1.4)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(groups))
    for axes, scale, name in ((left, 100, "final_exact"), (right, 1, "content_changes")):
        for shift, level in ((-0.2, "H"), (0.2, "L")):
            runs = [
                [scale * report["tables"]["Roles"][level][name]["mean"] for report in reports.values()]
                for reports in groups.values()
            ]
            means = [np.mean(values) for values in runs]
            axes.barh(places + shift, means, 0.38, color=COLORS[level], label=NAMES[level], alpha=0.75)
            for place, mean, values in zip(places + shift, means, runs, strict=True):
                axes.plot(values, [place] * len(values), "o", color="black", markersize=3)
                axes.text(max(values), place, f"  {mean:.1f}", va="center", fontsize=8)
        axes.grid(False, axis="y")
        axes.margins(x=0.14)
    left.set_yticks(places, list(groups))
    left.invert_yaxis()
    left.set(title="Boards right at the end, read off each state", xlabel="%")
    right.set(title="Content changes in a rollout", xlabel="cells")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path, help="folders with report.json")
    parser.add_argument("--output", type=Path, required=True, help="folder of table.md and roles.png")
    args = parser.parse_args()
    groups: Groups = {}
    for path in args.reports:
        setting, _, seed = path.name.rpartition("-")
        groups.setdefault(setting, {})[seed] = json.loads((path / "report.json").read_text(encoding="utf-8"))
    lines = [HEADER, ["---"] * len(HEADER), *(row(setting, reports) for setting, reports in groups.items())]
    write_text(args.output / "table.md", "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n")
    with matplotlib.rc_context(STYLE):
        save(draw(groups), args.output / "roles.png")
    print((args.output / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
