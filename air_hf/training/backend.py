"""What "auto" stands for on a device: measured choices, in docs/log.md (2026-11-23)."""

import os
import shutil
import sysconfig
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler

from air_hf.modeling import AIRConfig

_PATIENCE = timedelta(minutes=30)  # with a process that no longer answers: then the others end with an error, too


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


def let_collectives_end(accelerator: Accelerator) -> None:
    """Call it before a model in training on several processes goes out of scope.

    Gloo's thread needs the interpreter's lock to let go of the last collective's tensors. The end of the process group
    waits for that thread and holds the lock: where it comes at once, the process never ends.
    """
    if accelerator.num_processes > 1:
        time.sleep(0.5)  # without the lock


def check_same_step(accelerator: Accelerator, step: int) -> None:
    """Compares where the processes go on; every process must call it.

    Raises:
        ValueError: they go on from different steps, as where every machine has an `output_dir` of its own.
    """
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes go on from steps {', '.join(map(str, steps))}; expected one step: output_dir must be a "
            "folder that all machines share"
        )


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose other processes are gone or silent.

    Neither library has a type of its own for it. Gloo's message names its transport (seen here); NCCL's is that of its
    ncclRemoteError (not seen here: most often its watchdog ends the process first).
    """
    return any(sign in str(error) for sign in ("gloo/transport", "remote process exited"))


def process_handlers(config: AIRConfig) -> list[KwargsHandler]:
    """What an `Accelerator` needs to know to train such a model on several processes."""
    # A token kept in the states gets a gradient only where a segment's first update does.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=config.level_token == "prepend_keep")
    return [ddp, InitProcessGroupKwargs(timeout=_PATIENCE)]
