"""Several processes: how they are started, how they agree, and how one notices that another is gone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler

from air_hf.modeling import AIRConfig


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


def any_process(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Whether each flag is set on any process; every process must ask, and all get the same answer."""
    if accelerator.num_processes == 1:
        return list(flags)
    told = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(told, reduction="sum") > 0).tolist()


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose other processes are gone or silent.

    Neither library has a type of its own for it. Gloo's message names its transport (seen here); NCCL's is that of its
    ncclRemoteError (not seen here: most often its watchdog ends the process first).
    """
    return any(sign in str(error) for sign in ("gloo/transport", "remote process exited"))


@contextmanager
def naming_lost_processes(accelerator: Accelerator) -> Iterator[None]:
    """Makes of a collective's failure an error that says who no longer reaches whom.

    Raises:
        ConnectionError: another process is gone or silent.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise ConnectionError(
            f"process {accelerator.process_index} of {accelerator.num_processes} no longer reaches the others "
            f"({str(error).splitlines()[0]}); go on with --resume_from latest"
        ) from error


def process_handlers(config: AIRConfig, timeout: float = 30.0) -> list[KwargsHandler]:
    """What an `Accelerator` needs to know to train such a model on several processes.

    Args:
        config ([`AIRConfig`]): the model's.
        timeout (`float`): minutes to wait for a process that no longer answers; then the others end with an error, too.
    """
    # A token kept in the states gets a gradient only where a segment's first update does. Buffers are constants.
    keeps_token = config.level_token == "prepend_keep"
    ddp = DistributedDataParallelKwargs(find_unused_parameters=keeps_token, broadcast_buffers=False)
    return [ddp, InitProcessGroupKwargs(timeout=timedelta(minutes=timeout))]
