"""The published recipes of every variant on both tasks, derived from one base: `recipes.yaml`."""

from functools import cache
from importlib.resources import files

import yaml

from air_hf.variants import VARIANTS


@cache
def _table() -> dict:
    return yaml.safe_load(files("air_hf").joinpath("recipes.yaml").read_text(encoding="utf-8"))


def recipe_tasks() -> list[str]:
    """The tasks that recipes are published for."""
    return list(_table()["tasks"])


def recipe_names() -> list[str]:
    """`task/variant` of every recipe."""
    return [f"{task}/{variant}" for task in recipe_tasks() for variant in VARIANTS]


def get_recipe(name: str) -> dict:
    """The fields of a recipe, as a YAML recipe file would hold them.

    Raises:
        ValueError: an unknown name; the message says how they are built.
    """
    if name not in recipe_names():
        raise ValueError(f"unknown recipe {name!r}; expected TASK/VARIANT, e.g. {recipe_names()[0]!r}")
    task, variant = name.split("/")
    table = _table()
    own = table["variants"].get(variant, {}).get(task, {})
    place = {"variant": variant, "output_dir": f"runs/{name}"}
    return table["base"] | table["tasks"][task] | own | place
