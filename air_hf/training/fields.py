"""Fields that describe themselves: default, range, whether they may change on resume, whether they are published."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

_LARGEST = 2**32 - 1  # of whole numbers; far below what the libraries count with


class Range(NamedTuple):
    """The values a field may have.

    Args:
        holds (`Callable`): whether a value is one of them.
        words (`str`): which they are, as the end of "it must …".
    """

    holds: Callable[[float], bool]
    words: str


POSITIVE = Range(lambda value: value > 0, "be positive")
NOT_NEGATIVE = Range(lambda value: value >= 0, "not be negative")
DECAY = Range(lambda value: 0 <= value < 1, "be at least 0 and less than 1")
SHARE = Range(lambda value: 0 <= value <= 1, "lie between 0 and 1")
SIZE = Range(lambda value: 0 < value <= 2**20, "be positive, and at most 2**20")
THREADS = Range(lambda value: 0 < value <= 2**12, "be positive, and at most 2**12")
IMAGES = Range(lambda value: 0 <= value <= 2**20, "not be negative, and at most 2**20")
SEED = Range(lambda value: 0 <= value < 2**32, "not be negative, and less than 2**32")


def setting(
    default,
    help: str,
    range: Range | None = None,
    *,
    published: bool = False,
    may_change: bool = False,
    rounds: bool = False,
):
    """A field that describes itself.

    Args:
        default: its value where nothing is said; of a new field, what runs did before there was one, which go on so.
        help (`str`): units, and the value that turns it off.
        range ([`Range`], *optional*): the values it may have; None of an optional field is always one.
        published (`bool`): whether `training.json` and the card may show it; what is on one machine only may not.
        may_change (`bool`): whether it may differ when a run goes on.
        rounds (`bool`): whether that changes the order of sums, and with it the last digits.
    """
    metadata = {"help": help, "range": range, "published": published, "may_change": may_change, "rounds": rounds}
    return field(default=default, metadata=metadata)


class Settings:
    """Base of a dataclass whose fields are all made by [`setting`].

    Raises:
        ValueError: a value of the wrong type or out of its range; the message names it.
    """

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value == "" != entry.default:  # a path would be that of the current folder
                raise ValueError(f"{entry.name} is ''; leave it out, or say which")
            _check(entry.name, value, hints[entry.name], entry.metadata["range"])

    def marked(self, mark: str) -> dict[str, Any]:
        """The fields whose metadata say `mark` ("published", "may_change", "rounds"), and their values."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.metadata[mark]}


def plain_type(hint) -> tuple[Any, bool]:
    """A field's type as a parser wants it, and whether it may be None: `int | None` is int, `float | int` is float."""
    if not isinstance(hint, types.UnionType) and typing.get_origin(hint) is not typing.Union:
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    return float if float in members else members[0], types.NoneType in typing.get_args(hint)


def _check(name: str, value, hint, range: Range | None) -> None:
    expected, optional = plain_type(hint)
    if value is None and optional:
        return
    if choices := typing.get_args(expected):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
        return
    allowed = (int, float) if expected is float else expected
    if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{name} is {value!r}; it must be of type {expected.__name__}")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{name} is {value!r}; it must not hold a NUL character")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number")
    if range is not None and not range.holds(value):
        raise ValueError(f"{name} is {value}; it must {range.words}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{name} is {value}; it must be less than 2**32")
