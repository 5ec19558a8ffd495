"""Pre-emption: SIGTERM and SIGINT let the step finish, so that the run can be saved and go on later."""

import signal
import time

import torch
from accelerate import Accelerator

EXIT_STATUS = 75  # "temporary failure, try again" of sysexits.h
_IMPATIENCE = 5.0  # seconds after which another Ctrl-C is a person's, and not the same one forwarded by a launcher


class Interruption:
    """Notes the first SIGTERM or SIGINT.

    Further ones change nothing, since torchrun forwards what its processes have had already; only another SIGINT, some
    seconds later, ends the process at once. Used as a context, which puts the handlers of before back at its end.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._noted_at = 0.0
        self._handlers = {}

    def __enter__(self) -> "Interruption":
        self._handlers = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.signal is None:
            self.signal, self._noted_at = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._noted_at > _IMPATIENCE:
            raise KeyboardInterrupt

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was told to stop; every process must ask, and all get the same answer."""
        if accelerator.num_processes == 1:
            return self.signal is not None
        told = torch.tensor(float(self.signal is not None), device=accelerator.device)
        return bool(accelerator.reduce(told, reduction="sum") > 0)
