"""`air-hf train`: a model from a recipe."""

import argparse
from collections.abc import Callable

from air_hf.runs import exit_statuses, train
from air_hf.runs.arguments import add_recipe_arguments, read_recipe


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.usage = "%(prog)s --config RECIPE.yaml [--field value ...]"
    parser.epilog = "Exit status: 0 done, 2 bad input or a failing machine, 75 stopped by a signal and saved."
    add_recipe_arguments(parser)
    return _train


def _train(args: argparse.Namespace) -> None:
    with exit_statuses("air-hf train"):
        train(*read_recipe(args))
