"""A recipe read from YAML and from the command line, where `--field value` overrides."""

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from air_hf.files import kind_of
from air_hf.modeling import AIRConfig
from air_hf.parsing import Parser
from air_hf.recipes import get_recipe, recipe_names
from air_hf.run_recipe import RunRecipe
from air_hf.training.fields import plain_type

# Of a docstring's Args: "    name (`type`): text", on one line or several.
_DESCRIBED = re.compile(r"^    (\w+) \(.*?\): (.*?)(?=\n    \w|\n\n|\Z)", re.MULTILINE | re.DOTALL)
_FROM_DATA = ("vocab_size", "seq_len", "puzzle", "puzzle_options", "num_puzzle_ids")
_OF_A_DATASET = ("dataset", "dataset_config", "dataset_revision")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_MOST_BRACKETS = 100  # of a recipe, which is flat


class _Option(NamedTuple):
    """How a field is read: a function that a parser calls with a word, the words it may be, and its help."""

    read: Callable[[str], Any]
    choices: tuple[str, ...] | None
    help: str
    optional: bool


def _option(hint, help: str, optional: bool = False) -> _Option:
    kind, may_be_none = plain_type(hint)
    choices = typing.get_args(kind) or None
    read = str if choices else _truth if kind is bool else kind
    return _Option(read, choices, help, optional or may_be_none)


def _truth(word: str) -> bool:
    if word.lower() not in _TRUTH:
        raise argparse.ArgumentTypeError(f"invalid truth value: {word!r}")
    return _TRUTH[word.lower()]


def _options() -> dict[str, _Option]:
    """Every field of a recipe and, where it is not read off the data, of a model."""
    hints = typing.get_type_hints(RunRecipe)
    options = {}
    for entry in dataclasses.fields(RunRecipe):
        default = "" if entry.default is None else f" (default: {entry.default})"
        options[entry.name] = _option(hints[entry.name], entry.metadata["help"] + default)
    described = dict(_DESCRIBED.findall(inspect.getdoc(AIRConfig) or ""))
    for name, hint in AIRConfig.__annotations__.items():
        if name not in _FROM_DATA:
            text = " ".join(described.get(name, "").split()).replace("`", "")
            options[name] = _option(hint, f"model: {text} (default: as the variant has it)", optional=True)
    return options


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives a parser `--config` and an option for every field; only those that are typed are in its namespace."""
    parser.add_argument("--config", help="recipe: a YAML file of the fields below, or a name of `air-hf recipes`")
    for name, option in _options().items():
        flag = {"nargs": "?", "const": True} if option.read is _truth else {}
        help = option.help.replace("%", "%%")
        parser.add_argument(
            f"--{name}", type=option.read, choices=option.choices, help=help, default=argparse.SUPPRESS, **flag
        )


def read_recipe(typed: argparse.Namespace, with_data: bool = True) -> tuple[RunRecipe, dict[str, Any]]:
    """The recipe that a command line means.

    Args:
        typed (`argparse.Namespace`): of a parser with [`add_recipe_arguments`].
        with_data (`bool`): whether the run's data must be named.

    Returns:
        the recipe, and the model's fields that were set.

    Raises:
        ValueError: a file that is no recipe, an unknown field, a value of the wrong type, or fields that contradict one
            another; the message names them.
    """
    words = {name: value for name, value in vars(typed).items() if name != "config"}
    file = _read_file(typed.config) if typed.config is not None else {}
    for typed_source, others in (("dataset", ("train_data", "test_data")), ("train_data", _OF_A_DATASET)):
        if words.get(typed_source):  # data that are typed take the place of the recipe's, wherever those are from
            file = {name: value for name, value in file.items() if name not in others}
    fields = file | words
    known = {entry.name for entry in dataclasses.fields(RunRecipe)}
    recipe = RunRecipe(**{name: value for name, value in fields.items() if name in known})
    if with_data:
        _check_data(recipe)
    if recipe.train_data and recipe.test_data is None:
        recipe.test_data = recipe.train_data
    return recipe, {name: value for name, value in fields.items() if name not in known}


def parse_recipe(argv: list[str] | None = None, description: str = "") -> tuple[RunRecipe, dict[str, Any]]:
    """[`read_recipe`] of a command line, that of the process if None.

    Raises:
        SystemExit: with status 2, after a line about what is wrong.
    """
    usage = "%(prog)s [--config RECIPE] [--field value ...]"
    parser = Parser(description=description, usage=usage, allow_abbrev=False)
    add_recipe_arguments(parser)
    try:
        return read_recipe(parser.parse_args(argv))
    except ValueError as error:
        parser.error(str(error))


def _check_data(recipe: RunRecipe) -> None:
    train_data, test_data = recipe.train_data, recipe.test_data
    if recipe.dataset:
        if train_data:
            raise ValueError(f"both train_data ({train_data}) and dataset ({recipe.dataset}) are given; choose one")
    elif not train_data:
        raise ValueError("train_data is missing: a CSV file, or a folder with train.csv; or name a dataset on the Hub")
    elif test_data is None and not Path(train_data).is_dir():
        raise ValueError(f"test_data is missing, and train_data ({train_data}) is not a folder with test.csv")


def _read_file(name: str) -> dict[str, Any]:
    """The fields of a recipe file, or of a published recipe where there is no file of that name."""
    path = Path(name)
    if not path.is_file():
        if name in recipe_names():
            return get_recipe(name)
        if kind := kind_of(path):
            raise ValueError(f"recipe {name!r} is {kind}; expected a YAML file, or a name of `air-hf recipes`")
        raise ValueError(f"recipe {name!r} does not exist, and `air-hf recipes` has none of that name")
    try:
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MOST_BRACKETS:  # for a thousand of them the reader takes seconds
            raise RecursionError
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        recipe = None if node is None else loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise ValueError(f"recipe {path} is nested too deeply; expected one `name: value` a line") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is a number or a date that is none
        raise ValueError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        found = "nothing" if recipe is None else f"a {type(recipe).__name__}"
        raise ValueError(f"recipe {path} holds {found}; expected fields, one `name: value` a line")
    _check_repeated(path, node)
    options = _options()
    if unknown := sorted(set(map(str, recipe)) - options.keys()):
        raise ValueError(
            f"recipe {path}: unknown fields {', '.join(unknown)}; known fields: {', '.join(sorted(options))}"
        )
    written = {key.value: entry.value for key, entry in node.value if isinstance(entry, yaml.ScalarNode)}
    return {
        name: _read_value(f"recipe {path}: {name}", value, options[name], written.get(name))
        for name, value in recipe.items()
        if value is not None or not options[name].optional
    }


def _check_repeated(path: Path, node: yaml.MappingNode) -> None:
    """Raises ValueError: a field is given twice, of which YAML would silently take the last."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise ValueError(f"recipe {path}, line {line}: {key.value} is given twice, first in line {seen[key.value]}")
        seen[key.value] = line


def _read_value(place: str, value, option: _Option, written: str | None):
    """A value of YAML, read as the same word on a command line would be; text is taken as it is written there."""
    if value is None:
        raise ValueError(f"{place} has no value; leave the line out, or give the field's off value")
    if isinstance(value, (list, dict)):
        raise ValueError(f"{place} holds a {type(value).__name__}; expected one value")
    is_text = option.read is str and not option.choices
    if isinstance(value, bool) and is_text:  # push_to_hub: false, say, which would be a repository of that name
        raise ValueError(f"{place} is the truth value {value}; expected text: leave the line out, or put it in quotes")
    word = written if is_text and written is not None else str(value)
    if isinstance(value, bool) and option.choices:  # YAML 1.1 reads a bare on, off, yes or no as a truth value
        word = next((word for word in (("on", "yes") if value else ("off", "no")) if word in option.choices), word)
    if option.choices and word not in option.choices:
        raise ValueError(f"{place}: invalid choice: {word!r} (choose from {', '.join(option.choices)})")
    try:
        return option.read(word)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: invalid {option.read.__name__} value: {word[:40]!r}") from error
