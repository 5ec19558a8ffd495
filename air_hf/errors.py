"""Errors as one line for people."""

import re

from huggingface_hub.errors import StrictDataclassError


def one_line(error: BaseException) -> str:
    """What an error says, on one line; of a configuration's without the name of the validator that found it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StrictDataclassError):
        return re.sub(r"^\w+Error: ", "", " ".join(lines[1:] or lines))
    return " ".join(lines)
