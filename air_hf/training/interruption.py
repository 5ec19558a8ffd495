"""Pre-emption: SIGTERM and SIGINT let the step finish, so that the run can be saved and go on later."""

import signal

import torch
from accelerate import Accelerator

EXIT_STATUS = 75  # "temporary failure, try again" of sysexits.h


class Interruption:
    """Notes the first SIGTERM or SIGINT; a second one acts as if nobody had listened.

    Used as a context, which puts the handlers of before back at its end.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._handlers = {}

    def __enter__(self) -> "Interruption":
        self._handlers = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self.signal = signal.Signals(number)
        self.__exit__()

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was told to stop; every process must ask, and all get the same answer."""
        if accelerator.num_processes == 1:
            return self.signal is not None
        told = torch.tensor(float(self.signal is not None), device=accelerator.device)
        return bool(accelerator.reduce(told, reduction="sum") > 0)
