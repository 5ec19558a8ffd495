"""What "auto" stands for on a device: measured choices, in docs/log.md (2026-11-23)."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch


def attention_for(attention: str, device: torch.device) -> str:
    """The attention backend of a name: on CPU "auto" is explicit softmax, on other devices SDPA.

    On CPU the backward of bfloat16 SDPA is slow: explicit softmax in compiled blocks trained 2.9 times as fast.
    """
    if attention != "auto":
        return attention
    return "eager" if device.type == "cpu" else "sdpa"


def should_compile(choice: str, device: torch.device) -> bool:
    """Whether to compile the networks: "auto" does, except on a CPU without a C++ compiler or Python's headers.

    Compiled blocks trained 1.2 to 1.5 times as fast on CPU, for 10 to 35 seconds of compilation.
    """
    if choice != "auto":
        return choice == "on"
    if device.type != "cpu":
        return True
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.is_file()
