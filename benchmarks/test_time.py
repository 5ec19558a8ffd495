"""Accuracy against model calls of every way to solve, on any checkpoint and sets of puzzles: figure, table and JSON.

python benchmarks/test_time.py --model DIR_OR_REPO --data "minimal=min/test.csv" --data "36 clues=c36/test.csv" \
    --limit 200 --sweep minimal --output docs/results/test_time/sudoku-9x9

What a set has in the folder's JSON already is not measured again.
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_time_study import Study

from air_hf.data import load_puzzles
from air_hf.files import atomic_file, write_text
from air_hf.hub import load_model
from air_hf.puzzles import puzzle_of

_STYLES = {  # what is drawn: what a method's name begins and ends with, and how
    ("plain", ""): ("o-", "0.55", "plain, deeper and deeper"),
    ("q_halt", ""): ("s-", "tab:blue", "stopped by q_halt"),
    ("rollouts,", "by q_halt"): ("^-", "tab:orange", "K noisy rollouts, best q_halt"),
    ("rollouts,", "most frequent"): ("v--", "tab:green", "K noisy rollouts, most frequent"),
    ("rollouts of images,", "by q_halt"): ("^-", "tab:purple", "K of symmetric images, best q_halt"),
    ("adaptive, rollouts,", "verifier"): ("*", "tab:orange", "adaptive, rules"),
    ("adaptive, rollouts of images,", "q_halt"): ("P", "tab:red", "adaptive of images, q_halt"),
    ("adaptive, rollouts of images,", "verifier"): ("*", "tab:red", "adaptive of images, rules"),
}


def is_kind(method: str, kind: tuple[str, str]) -> bool:
    return method.lstrip("0123456789 ").startswith(kind[0]) and method.endswith(kind[1])


def draw(results: dict, path: Path) -> None:
    """One panel a set, accuracy over calls, and one of what q_halt says against what is right."""
    sets = results["sets"]
    figure = Figure(figsize=(4.2 * (len(sets) + 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets) + 1)
    for axes, (name, found) in zip(panels, sets.items(), strict=False):
        for kind, (style, color, label) in _STYLES.items():
            rows = [row for row in found["rows"] if is_kind(row["method"], kind)]
            size = 12 if style in "*P" else 5
            points = [row["calls"] for row in rows], [100 * row["exact"] for row in rows]
            if rows:
                axes.plot(*points, style, color=color, label=label, markersize=size)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel="model calls a puzzle, mean", title=f"{name} ({found['puzzles']:,} puzzles)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("exact, %")
    handles = {label: handle for axes in panels[:-1] for handle, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(sets) + 2, fontsize=8)
    for name, found in sets.items():
        bins = found["calibration"]["bins"]
        said, right, count = ([row[key] for row in bins] for key in ("said", "right", "puzzles"))
        panels[-1].scatter(said, right, s=[8 + 2 * puzzles for puzzles in count], alpha=0.6, label=name)
    panels[-1].plot([0, 1], [0, 1], color="0.7", linewidth=1)
    panels[-1].set(xlabel="σ(q_halt), as said", ylabel="share right", title="does q_halt know? (area: puzzles)")
    panels[-1].legend(fontsize=8)
    panels[-1].grid(alpha=0.3)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def table(results: dict) -> str:
    """Markdown: every method of every set."""
    lines = [f"Checkpoint: `{results['model']}`, {results['parameters']:,} parameters, {results['puzzle']}."]
    for name, found in results["sets"].items():
        lines += ["", f"### {name}: {found['puzzles']:,} puzzles", "", "| method | exact | pass@K | calls | verifier |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for row in found["rows"]:
            passed = f"{row['pass_at_k']:.1%}" if "pass_at_k" in row else ""
            part = "took part" if row["verifier"] else ""
            lines.append(f"| {row['method']} | {row['exact']:.1%} | {passed} | {row['calls']:.1f} | {part} |")
        fit = found["calibration"]
        lines += [
            "",
            f"q_halt tells of {fit['says_rightly']:.1%} of the answers after {fit['segments']} segments whether they "
            "are right; "
            f"expected calibration error {fit['expected_calibration_error']:.3f}. The lowest threshold that loses "
            f"nothing: {fit['threshold']:.2f}, {fit['exact']:.1%} exact after {fit['mean_segments']:.2f} segments.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub repository")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=CSV", help="a set; may be repeated")
    parser.add_argument("--limit", type=int, default=200, help="puzzles of each set")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--sweep", action="append", default=[], metavar="NAME", help="sets to try other noise on, too")
    parser.add_argument("--noise", type=float, default=0.3, help="σ of the rollouts")
    parser.add_argument("--rollouts", type=int, default=8, help="K")
    parser.add_argument("--segments", type=int, default=32, help="segments of a rollout")
    parser.add_argument("--depth", type=int, default=128, help="segments of the plain run")
    parser.add_argument("--budget", type=int, default=512, help="model calls a puzzle, of the adaptive mode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json, table.md and figure.png")
    args = parser.parse_args()

    model = load_model(args.model).to(args.device)
    if args.depth < model.config.max_segments:
        parser.error(f"--depth is {args.depth}; the model was trained with {model.config.max_segments} segments")
    path = args.output / "results.json"
    about = {"model": Path(args.model).name, "parameters": model.num_parameters(), "puzzle": model.config.puzzle}
    options = {name: getattr(args, name) for name in ("seed", "noise", "rollouts", "segments", "depth", "budget")}
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else about | {"sets": {}}
    if others := {name: results[name] for name in about if results[name] != about[name]}:
        parser.error(f"{path} is of {others}, this is of {about}; choose another --output")
    for named in args.data:
        name, _, source = named.partition("=")
        if known := results["sets"].get(name):
            if known["options"] != options:
                parser.error(f"{path} has {name!r} with {known['options']}, not {options}; choose another --output")
            continue
        puzzles = load_puzzles(source, puzzle_of(model.config))
        puzzles = puzzles.sample(min(args.limit, len(puzzles)), args.seed)
        print(f"{name}: {len(puzzles):,} puzzles", flush=True)
        study = Study(
            model, puzzles, args.noise, args.rollouts, args.segments, args.depth, args.budget, args.batch_size,
            tell=lambda line: print(line, flush=True),
        )  # fmt: skip
        results["sets"][name] = {"puzzles": len(puzzles), "options": options} | study.run(name in args.sweep)
        write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        write_text(args.output / "table.md", table(results))
        draw(results, args.output / "figure.png")


if __name__ == "__main__":
    main()
