"""`air-hf recipes`: the published recipes, listed or printed."""

import argparse
from collections.abc import Callable

import yaml

from air_hf.recipes import get_recipe, recipe_names


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("name", nargs="?", help="print this recipe as YAML (default: list all)")
    return _recipes


def _recipes(args: argparse.Namespace) -> None:
    if args.name:
        print(yaml.safe_dump(get_recipe(args.name), sort_keys=False), end="")
    else:
        print("\n".join(recipe_names()))
        print("\nprint one: air-hf recipes NAME\ntrain one: air-hf train --config NAME")
