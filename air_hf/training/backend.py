"""What "auto" stands for on a device: measured choices, in docs/log.md (2026-11-23)."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
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
    """Whether to compile the networks: "auto" does on CPUs and CUDA devices for which the compiler has what it needs.

    That is Python's headers and a C++ compiler; for a CUDA device Triton, a C compiler and compute capability 7.0.
    Compiled blocks trained 1.2 to 1.5 times as fast on CPU, for 10 to 35 seconds of compilation.
    """
    if choice != "auto":
        return choice != "off"
    if device.type not in ("cpu", "cuda") or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return False
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    compilers = (os.environ["CC"],) if "CC" in os.environ else ("gcc", "clang")
    has_compiler = any(shutil.which(compiler) for compiler in compilers)
    return has_compiler and find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (7, 0)
