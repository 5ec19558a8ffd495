"""A study as tables, in Markdown and JSON; where the paper has the number, it stands beside ours."""

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from air_hf.analysis.attention import CLASSES
from air_hf.analysis.dynamics import MODES, solution_modes
from air_hf.analysis.statistics import Estimate, estimate
from air_hf.analysis.study import Study
from air_hf.evaluation import first_halt
from air_hf.files import write_text
from air_hf.puzzles import family_name
from air_hf.runs.sweep_table import paper, paper_column

PAPER = json.loads((files("air_hf.analysis") / "paper.json").read_text(encoding="utf-8"))
_NAMES = {"H": "z_H", "L": "z_L"}


@dataclass
class Table:
    """One table of the report.

    Args:
        title (`str`), note (`str`): what it shows and how to read it.
        header (`list[str]`), rows (`list[list[str]]`): text, as it is printed.
        data (`dict` or `list`): the same numbers, unrounded, for the JSON.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    data: object

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.note, ""] if self.note else [f"## {self.title}", ""]
        lines += [f"| {' | '.join(self.header)} |", f"|{' --- |' * len(self.header)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])


# Figures that a study may have, drawn by [`draw_study`].
_DRAWN = ("boards", "roles", "segments", "freeze", "attention", "attention-example", "probe", "trajectories")
FIGURES = ("states.gif", *(f"{name}.{kind}" for name in _DRAWN for kind in ("png", "svg")))


def write_report(study: Study, folder: Path, title: str) -> list[Table]:
    """Writes report.md and report.json, and returns the tables. Figures of an earlier study there are removed."""
    tables = make_tables(study)
    facts = "\n".join(f"- {name}: {value}" for name, value in study.facts.items() if value is not None)
    skipped = "".join(f"\n\nNo {part}: {reason}." for part, reason in study.skipped.items())
    body = "\n\n".join(table.markdown() for table in tables)
    write_text(folder / "report.md", f"# {title}\n\n{facts}{skipped}\n\n{body}\n")
    content = {"facts": study.facts, "skipped": study.skipped, "paper": PAPER["source"]}
    content["tables"] = {table.title: table.data for table in tables}
    write_text(folder / "report.json", json.dumps(content, indent=1, default=float, allow_nan=False) + "\n")
    for name in FIGURES:
        (folder / name).unlink(missing_ok=True)
    return tables


def make_tables(study: Study) -> list[Table]:
    """The tables of what was run."""
    tables = [accuracy_table(study), roles_table(study), modes_table(study)]
    if study.frozen:
        tables.append(freeze_table(study))
    if study.contrasts is not None:
        tables.append(contrast_table(study))
    if study.probe is not None:
        tables.append(probe_table(study))
    if study.geometry is not None:
        tables.append(geometry_table(study))
    if study.patching:
        tables.append(patching_table(study))
    return tables


def _family(study: Study) -> str:
    return family_name(study.facts["puzzle"])


def _percent(found: Estimate) -> str:
    return f"{100 * found.mean:.1f}{_spread(100 * found.sem)}"


def _count(found: Estimate) -> str:
    return f"{found.mean:.1f}{_spread(found.std)}"


def _spread(value: float | None, digits: int = 1) -> str:
    """After a mean; nothing where there are too few to tell."""
    return "" if value is None or value != value else f" ± {value:.{digits}f}"


def accuracy_table(study: Study) -> Table:
    """Exact accuracy after the last segment."""
    scores = paper()["scores"].get(_family(study), {}).get(study.facts["variant"])
    found = study.roles.roles["H"].final("exact")
    beside = "–" if scores is None else " ± ".join(map(str, scores))
    data = found.to_dict() | {"paper": scores}
    note = "Ours: mean and standard error over puzzles. The paper's: mean and deviation over five trainings."
    header = ["variant", "exact, %", f"{paper_column(_family(study))}, %"]
    return Table("Accuracy", note, header, [[study.facts["variant"], _percent(found), beside]], data)


def roles_table(study: Study) -> Table:
    """What each state commits to and holds back, and how it changes."""
    theirs = PAPER["roles"].get(_family(study), {})
    shares = ("committed", "held_back")
    counts = ("mask_flips", "content_changes", "fixed", "broken")
    rows, data = [], {}
    for level, roles in study.roles.roles.items():
        ever, final = study.roles.ever(level, "held_back"), roles.final("accuracy")
        found = {name: study.roles.mean(level, name) for name in shares}
        found |= {name: roles.total(name) for name in counts}
        shown = [_percent(value) for value in (*(found[name] for name in shares), ever, final)]
        shown += [_count(found[name]) for name in counts]
        rows.append([_NAMES[level], *shown, theirs.get(level, "–")])
        found |= {"puzzles_ever_held_back": ever, "final_cell_accuracy": final, "final_exact": roles.final("exact")}
        data[level] = {name: value.to_dict() for name, value in found.items()} | {"paper": theirs.get(level)}
    note = (
        "Shares are of the cells that an answer decides (blank in Sudoku, floor in mazes), averaged over the updates "
        "since the state was first written, ± standard error over puzzles; counts are cells per rollout, summed "
        "over its transitions, the first write included, ± standard deviation over puzzles."
    )
    header = ["state", "committed, %", "held back, %", "puzzles ever holding back, %", "right at the end, %"]
    header += ["mask flips", "content changes", "cells fixed", "cells broken", paper_column(_family(study))]
    return Table("Roles", note, header, rows, data)


def modes_table(study: Study) -> Table:
    """How puzzles are solved, and when the model would halt."""
    modes, halts = solution_modes(study.roles), study.roles.trace.halts.numpy()
    halted_at, some = first_halt(halts)
    exact = study.roles.roles["H"].exact[study.roles.trace.segment_ends]  # (N, B)
    rows = [
        [mode, f"{int((modes == kind).sum())}", f"{100 * (modes == kind).mean():.1f}"]
        for kind, mode in enumerate(MODES)
    ]
    data = {
        "modes": {mode: int((modes == kind).sum()) for kind, mode in enumerate(MODES)},
        "exact_by_segment": exact.mean(1).tolist(),
        "halting_histogram": np.bincount(halted_at, minlength=len(halts)).tolist(),
        "never_halted": int((~some).sum()),
    }
    note = (
        "Quick: right from one of the first two segments to the end; delayed: right at the end, later; failed: wrong, "
        "with an answer that no longer moves in the last two segments (settled) or does (wandering). Exact after each "
        f"segment, %: {' '.join(f'{100 * share:.1f}' for share in data['exact_by_segment'])}. First wish to halt in "
        f"segment 0, 1, …: {' '.join(map(str, data['halting_histogram']))} puzzles, of which {data['never_halted']} "
        "never wish to and count in the last."
    )
    return Table("Modes and halting", note, ["mode", "puzzles", "%"], rows, data)


def freeze_table(study: Study) -> Table:
    """Content changes and accuracy with one state held; the paper holds it from the start."""
    since = max((condition.freeze_from for condition in study.frozen.values()), default=0)
    published = {} if since else PAPER["freeze"].get(_family(study), {})
    rows, data = [], {}
    for name, condition in (("none", study.roles), *study.frozen.items()):
        changes = {level: condition.roles[level].total("content_changes") for level in ("L", "H") if level != name}
        exact = condition.roles["H"].final("exact")
        theirs = published.get(name, {})
        beside = ", ".join(f"{_NAMES[level]} {theirs[level]:,}" for level in changes if level in theirs) or "–"
        beside_exact = f"{theirs['exact']} %" if theirs else "–"
        shown = ", ".join(f"{_NAMES[level]} {_count(found)}" for level, found in changes.items())
        rows.append(
            [f"freeze {_NAMES[name]}" if name in _NAMES else name, shown, beside, f"{_percent(exact)} %", beside_exact]
        )
        data[name] = {"content_changes": {level: found.to_dict() for level, found in changes.items()}}
        data[name] |= {"exact": exact.to_dict(), "paper": theirs}
    paper = paper_column(_family(study))
    header = ["intervention", "content changes per rollout", paper, "exact", paper]
    held = f"segment {since} on" if since else "the start"
    note = f"Held from {held}; changes ± standard deviation over puzzles. The paper: {PAPER['freeze']['note']}."
    return Table("Freezing one state", note, header, rows, data)


def contrast_table(study: Study) -> Table:
    """L − H contrasts by layer and class of query."""
    found, published = study.contrasts, PAPER["attention"].get(_family(study), {})
    rows, data = [], []
    for name in found.names:
        for kind in CLASSES:
            for layer in found.layers:
                numbers = found.summary(layer, kind, name)
                theirs = published.get(f"{name}, {kind}", [])
                paper = theirs[layer] if layer < len(theirs) else None
                beside = f"{paper[0]:+.3f} ± {paper[1]:.3f}" if paper else "–"
                data.append({"metric": name, "class": kind, "layer": layer, "paper": paper} | numbers)
                if numbers["mean"] is None:
                    rows.append([name, kind, str(layer), "no such query", "", "", "", "", beside])
                    continue
                shown = [f"{numbers['mean']:+.4f}{_spread(numbers['interval'], 4)}"]
                shown += [_spread(numbers["interval_puzzles"], 4).strip() or "–"]
                shown += [f"{100 * numbers['positive']:.0f}", f"{numbers['level_l']:.3f}", f"{numbers['level_h']:.3f}"]
                rows.append([name, kind, str(layer), *shown, beside])
    note = (
        f"Mass is L − H, entropy (a share of log S) H − L, so that a focused L is positive. Segments "
        f"{', '.join(map(str, found.segments))}, heads averaged; ± half a 95 % interval over queries as in the paper, "
        "and over puzzles, whose queries are not independent. Adjacent: a violation of z_H's board in the first "
        f"neighbourhood. The paper: {PAPER['attention']['note']}."
    )
    header = ["metric", "queries", "layer", "L − H (H − L)", "over puzzles", "positive, %", "L", "H"]
    header.append(paper_column(_family(study)))
    return Table("Attention contrasts", note, header, rows, {"segments": found.segments, "contrasts": data})


def probe_table(study: Study) -> Table:
    """What a linear probe reads after every segment."""
    probe = study.probe
    ends = study.roles.trace.segment_ends
    rows = [
        [
            str(number),
            *(f"{100 * values[level][end]:.1f}" for level in ("H", "L") for values in (probe.probe, probe.head)),
        ]
        for number, end in enumerate(ends)
    ]
    data = {"labels": probe.labels, "train": probe.num_train, "test": probe.num_test, "ridge": probe.ridge}
    data["chance"] = probe.chance
    for kind in ("probe", "head"):
        data[kind] = {level: values.tolist() for level, values in getattr(probe, kind).items()}
    note = (
        "Cells that an answer decides whose solution is read off the state, %: ridge regression fitted to "
        f"{probe.num_train} puzzles at that update, tested on {probe.num_test} others; beside it the model's own "
        "answer head on the same cells. "
        f"The most frequent symbol alone would be right in {100 * probe.chance:.1f} %."
    )
    return Table("Linear probe", note, ["segment", "z_H probe", "z_H head", "z_L probe", "z_L head"], rows, data)


def geometry_table(study: Study) -> Table:
    """Fixed points of the rollout."""
    found = study.geometry
    solved = study.roles.roles["H"].exact[-1][: len(found.settled)] > 0
    rows, data = [], {}
    each = {"spectral_radius": found.spectral_radius, "last_step": found.settled, "distance_h": found.distance["H"][-1],
            "distance_l": found.distance["L"][-1]}  # fmt: skip
    for name, chosen in (("solved", solved), ("not solved", ~solved)):
        data[name] = {key: estimate(values[chosen]).to_dict() for key, values in each.items()}
        if chosen.any():
            rows.append(
                [name, str(int(chosen.sum())), *(f"{np.median(all_of[chosen]):.3g}" for all_of in each.values())]
            )
    note = (
        "z* is the state after at least 64 segments. Spectral radius: of a segment's Jacobian at z*; "
        "below 1, z* attracts. Last step: ‖F(z*) − z*‖ / ‖z*‖. Distances: ‖z − z*‖ / ‖z*‖ after the rollout. Medians, "
        "since these spread over decades (means and deviations are in the JSON)."
    )
    header = ["puzzles", "count", "spectral radius", "last step at z*", "z_H to z*", "z_L to z*"]
    return Table("Fixed points", note, header, rows, data)


def patching_table(study: Study) -> Table:
    """Which puzzle the answer follows after a swap."""
    rows = [
        [" and ".join(_NAMES[level] for level in found.level), _share(found.own), _share(found.donor),
         f"{100 * found.exact_own:.1f}", f"{100 * found.exact_unpatched:.1f}"]
        for found in study.patching
    ]  # fmt: skip
    note = (
        f"Before segment {study.patching[0].segment} every puzzle gets that state of another. Of the "
        f"{study.patching[0].cells:,} cells that both answers decide, and differently, %: where the answer "
        "is the puzzle's own, and the donor's; then exact, with and "
        "without the swap."
    )
    header = ["swapped", "own solution", "donor's solution", "exact, %", "exact without, %"]
    return Table("Patching", note, header, rows, [_without_nan(asdict(found)) for found in study.patching])


def _share(value: float) -> str:
    """In %; a dash where there was nothing to take a share of."""
    return "–" if value != value else f"{100 * value:.1f}"


def _without_nan(record: dict) -> dict:
    return {name: None if value != value else value for name, value in record.items()}
