"""Pre-emption: SIGTERM and SIGINT let the step finish, so that the run can be saved and go on later."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_STATUS = 75  # "temporary failure, try again" of sysexits.h
_IMPATIENCE = 5.0  # seconds after which another Ctrl-C is a person's, and not the same one forwarded by a launcher


class Interrupted(Exception):
    """The run was told to stop, and saved itself."""


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
        self._call: Callable[[], None] | None = None

    def __enter__(self) -> "Interruption":
        self._handlers = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __str__(self) -> str:
        return self.signal.name if self.signal else "a signal to another process"

    def _note(self, number: int, frame) -> None:
        if self.signal is None:
            self.signal, self._noted_at = signal.Signals(number), time.monotonic()
            if self._call:
                self._call()
        elif number == signal.SIGINT and time.monotonic() - self._noted_at > _IMPATIENCE:
            raise KeyboardInterrupt

    @contextmanager
    def calling(self, function: Callable[[], None]) -> Iterator[None]:
        """Calls `function`, which ends what the block waits for, when a signal comes or has come already."""
        self._call = function
        if self.signal:
            function()
        try:
            yield
        finally:
            self._call = None
