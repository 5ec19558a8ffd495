"""How commands speak of a bad command line: on one line, as of all other bad input."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that ends with status 2 and one line; `--help` shows the usage. Options are written out: a part of a
    name may be that of another option, or of one to come."""

    def __init__(self, *args, allow_abbrev: bool = False, **kwargs):
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """A word as its option reads it: none holds a NUL, and an empty one, which as a folder would be the current
        one, only stands where it is the default. What follows a subcommand is looked at by the parser of that."""
        may_be_empty = action.default in ("", argparse.SUPPRESS)
        if action.nargs != argparse.PARSER and ("\0" in arg_string or not (arg_string or may_be_empty)):
            raise argparse.ArgumentError(action, f"{arg_string!r} names nothing")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")


def count(text: str) -> int:
    """A whole number from 1, as the type of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def seed(text: str) -> int:
    """A whole number from 0 and below 2**32, as the type of an option."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{number} is negative, or not less than 2**32")
    return number


def share(text: str) -> float:
    """A share of 1, itself excluded, as the type of an option."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{number} is no share of 1: expected at least 0 and below 1")
    return number
