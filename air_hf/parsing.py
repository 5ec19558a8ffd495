"""How commands speak of a bad command line: on one line, as of all other bad input."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that ends with status 2 and one line; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")
