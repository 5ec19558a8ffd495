"""`air-hf sweep`: fields of a recipe × seeds, run here or printed for a cluster, and the table of their results."""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from air_hf.puzzles import family_name
from air_hf.recipes import recipe_tasks
from air_hf.run_recipe import RunRecipe
from air_hf.runs.sweep import Execution, check_data, check_recipe, plan_runs, share_cores, shell_line
from air_hf.runs.sweep_table import compare, write_evaluations, write_tables
from air_hf.variants import CONFIG_FIELDS, VARIANTS

_OWN = ("seed", "output_dir", "resume_from")  # fields that a sweep sets


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    variants = "comma-separated names, or all (default: all with --task, that of the recipe with --config)"
    parser.add_argument("--variants", help=variants)
    vary = 'values of a field of the recipe or the model, e.g. "ema_decay=0.99,0.999"; may be given again'
    parser.add_argument("--vary", metavar="FIELD=VALUE,VALUE", action="append", default=[], help=vary)
    alone = "not every combination, but the first values together, and every other value with the first of the others"
    parser.add_argument("--one_at_a_time", action="store_true", help=alone)
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
    fields, seeds = _fields(args), parse_seeds(args.seeds)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {args.seeds!r}, which names one more than once")
    if args.jobs < 1:
        raise ValueError(f"jobs is {args.jobs}; it must be at least 1")
    recipe = (lambda setting: f"{args.task}/{setting['variant']}") if args.task else (lambda setting: args.config)
    runs = plan_runs(fields, seeds, args.output, recipe, shlex.split(args.extra), args.one_at_a_time)
    if args.print:
        print("\n".join(shell_line(run) for run in runs))
        return 0
    if find_spec("matplotlib") is None:
        raise ValueError("matplotlib is not installed, which draws the table; pip install air-hf[demo]")
    recipes = [check_recipe(run) for run in runs]
    runs = [share_cores(run, recipe, args.jobs) for run, recipe in zip(runs, recipes, strict=True)]
    check_data(zip(runs, recipes, strict=True))
    if not args.table_only:
        Execution(args.jobs, print).run(runs)
        check_data(zip(runs, recipes, strict=True))
    finished = {run: scores for run in runs if (scores := run.scores) is not None}
    if not finished:
        raise ValueError(f"{args.output}: no run is finished, there is nothing to tabulate")
    scores = next(iter(finished.values()))
    curves = [(run.name, run.evaluations) for run in finished]
    note = (
        f"{args.task or args.config}{f', {args.extra}' if args.extra else ''}: {scores['num_puzzles']:,} test puzzles "
        f"({scores['puzzle']}), {scores['num_segments']} segments. {len(finished)} of {len(runs)} runs."
    )
    if args.one_at_a_time:
        first = ", ".join(f"{field}={values[0]}" for field, values in fields.items())
        note += f" base: {first}."
    comparison = compare(curves, family_name(scores["puzzle"]))
    write_tables(comparison, curves, args.output, f"Sweep of {args.task or args.config}", note)
    write_evaluations({str(run): run.evaluations for run in finished}, args.output)
    print((args.output / "table.md").read_text(encoding="utf-8"))
    return 0 if args.table_only or len(finished) == len(runs) else 1


def _fields(args: argparse.Namespace) -> dict[str, list[str]]:
    """What to vary, variants first.

    Raises:
        ValueError: an unknown field or variant, one that is given twice, or a value that is.
    """
    fields = {}
    if args.variants or args.task:
        fields["variant"] = list(VARIANTS) if args.variants in (None, "all") else args.variants.split(",")
    known = {entry.name for entry in dataclasses.fields(RunRecipe)} | set(CONFIG_FIELDS)
    for words in args.vary:
        field, equals, values = words.partition("=")
        if not (equals and values):
            raise ValueError(f"vary is {words!r}; expected FIELD=VALUE,VALUE")
        if field not in known or field in _OWN:
            raise ValueError(f"vary names {field!r}, which is no field to vary; `air-hf train --help` lists them")
        if field in fields:
            raise ValueError(f"{field} is varied more than once")
        fields[field] = values.split(",")
    for field, values in fields.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{field} is varied over {','.join(values)!r}, which names one more than once")
    if unknown := [name for name in fields.get("variant", ()) if name not in VARIANTS]:
        raise ValueError(f"unknown variants {', '.join(unknown)}; known variants: {', '.join(VARIANTS)}")
    return fields


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
