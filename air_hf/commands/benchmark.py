"""`air-hf benchmark`: what this machine could do, and what training, evaluation and solving make of it."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from air_hf.benchmark import SIZES, case_of_checkpoint, case_of_recipe, case_of_size, measure, table
from air_hf.files import check_place, write_text
from air_hf.runs.arguments import add_recipe_arguments, read_recipe


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    small = "sudoku-6x6,sudoku-9x9"
    sizes = f"comma-separated, of {', '.join(SIZES)} (default {small})"
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--sizes", default=small, help=sizes)
    source.add_argument("--model", metavar="DIR_OR_REPO", help="a checkpoint instead")
    source.add_argument("--config", metavar="RECIPE", help="a recipe of `air-hf train` instead, on its data")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the recipe's, or all cores)")
    precision = "bf16, no (float32) or auto (bf16 where the device has units for it); default: the recipe's, or auto"
    parser.add_argument("--mixed_precision", choices=("auto", "no", "bf16"), help=precision)
    compile = "as in `air-hf train`; default: the recipe's, or auto"
    parser.add_argument("--compile", choices=("auto", "on", "off", "reduce-overhead"), help=compile)
    published = "checkout of the published AIR code, whose Python files are run, timed in turn with this package"
    parser.add_argument("--published", type=Path, metavar="DIR", help=published)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.epilog = "Compare ratios of one run: what else the machine does changes every time in it."
    return _benchmark


def _benchmark(args: argparse.Namespace) -> None:
    for name in ("threads", "seconds"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
    if args.output:
        check_place(args.output)
    if args.model:
        cases = {args.model: case_of_checkpoint(args.model)}
    elif args.config:
        parser = argparse.ArgumentParser()
        add_recipe_arguments(parser)
        cases = {args.config: case_of_recipe(*read_recipe(parser.parse_args(["--config", args.config])))}
    else:
        cases = {name: case_of_size(name) for name in args.sizes.split(",")}
    options = {"num_threads": args.threads, "mixed_precision": args.mixed_precision, "compile": args.compile}
    chosen = {name: value for name, value in options.items() if value is not None}
    results = {}
    for name, case in cases.items():
        recipe = replace(case.recipe, **chosen)
        results[name] = measure(case._replace(recipe=recipe), args.seconds, args.published)
        print(table({name: results[name]}), flush=True)
        if args.output:
            write_text(args.output, json.dumps(results, indent=1) + "\n")
