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


def precision_for(precision: str | None, device_type: str) -> str | None:
    """The `mixed_precision` of a name: "auto" is "bf16" where bfloat16 is multiplied in hardware, else "no".

    On a CPU without such units bfloat16 products take 14 times as long as float32 ones (docs/log.md, 2026-11-24).
    """
    if precision != "auto":
        return precision
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    known = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    return "bf16" if any(known.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16")) else "no"


def should_compile(choice: str, device: torch.device) -> bool:
    """Whether to compile the networks: "auto" does, except on a CPU without a C++ compiler or Python's headers.

    Compiled blocks trained 1.2 to 1.5 times as fast on CPU, for 10 to 35 seconds of compilation.
    """
    if choice != "auto":
        return choice != "off"
    if device.type != "cpu":
        return True
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.is_file()
