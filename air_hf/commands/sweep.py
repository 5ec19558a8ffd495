"""`air-hf sweep`: variants × seeds, run here or printed for a cluster, and the table of their results."""

import argparse
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from air_hf.recipes import recipe_tasks
from air_hf.runs.sweep import Execution, check_recipe, plan_runs, shell_line
from air_hf.runs.sweep_table import make_rows, write_tables
from air_hf.variants import VARIANTS


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--variants", default="all", help="comma-separated names, or all")
    parser.add_argument("--seeds", default="0-4", help="e.g. 0-4 or 0,3,7 (default 0-4)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", choices=recipe_tasks(), help="the published recipe of each variant")
    source.add_argument("--config", help="one recipe for all of them, a YAML file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and the tables")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--print", action="store_true", help="print the commands, one a line, instead of running them")
    parser.add_argument("--table_only", action="store_true", help="only write the tables of what is finished")
    parser.add_argument("--extra", default="", help='further fields of every run, e.g. "--max_steps 500"')
    parser.epilog = "Exit status: 0 if every run is finished, 1 if some are not, 2 for bad input."
    return _sweep


def _sweep(args: argparse.Namespace) -> int:
    variants = list(VARIANTS) if args.variants == "all" else args.variants.split(",")
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"unknown variants {', '.join(unknown)}; known variants: {', '.join(VARIANTS)}")
    seeds = parse_seeds(args.seeds)
    for name, values in (("variants", variants), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} is {getattr(args, name)!r}, which names one more than once")
    if args.jobs < 1:
        raise ValueError(f"jobs is {args.jobs}; it must be at least 1")
    recipe = (lambda variant: f"{args.task}/{variant}") if args.task else (lambda variant: args.config)
    runs = plan_runs(variants, seeds, args.output, recipe, shlex.split(args.extra))
    if args.print:
        print("\n".join(shell_line(run) for run in runs))
        return 0
    if find_spec("matplotlib") is None:
        raise ValueError("matplotlib is not installed, which draws the table; pip install air-hf[demo]")
    for run in runs:
        if run.scores is not None:
            check_recipe(run)
    if not args.table_only:
        Execution(args.jobs, print).run(runs)
    finished = {run: scores for run in runs if (scores := run.scores) is not None}
    if not finished:
        raise ValueError(f"{args.output}: no run is finished, there is nothing to tabulate")
    scores = next(iter(finished.values()))
    results = [(run.variant, scores["exact_accuracy"]) for run, scores in finished.items()]
    rows = make_rows(results, scores["puzzle"].split("-")[0])
    note = (
        f"{args.task or args.config}{f', {args.extra}' if args.extra else ''}: {scores['num_puzzles']:,} test puzzles "
        f"({scores['puzzle']}), {scores['num_segments']} segments. {len(finished)} of {len(runs)} runs."
    )
    write_tables(rows, args.output, f"Sweep of {args.task or args.config}", note)
    print((args.output / "table.md").read_text(encoding="utf-8"))
    return 0 if args.table_only or len(finished) == len(runs) else 1


def parse_seeds(text: str) -> list[int]:
    """`0-4` or `0,3,7`.

    Raises:
        ValueError: anything else.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"seeds is {text!r}; expected e.g. 0-4 or 0,3,7")
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"seeds is {text!r}; {part} counts down")
        seeds += range(int(first), int(last or first) + 1)
    return seeds
