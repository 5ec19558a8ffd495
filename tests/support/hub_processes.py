"""Processes that talk to the Hub of hub_server.py: commands a user types, and functions of ours."""

import io
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

from support.hub_server import Fault, HubServer

ROOT = Path(__file__).parents[2]
# What walks through a push let happen at each of its requests; MOST_FAULTS are those that differ most.
MOST_FAULTS = [
    *(Fault("status", status=status) for status in (401, 409, 500)),
    Fault("status", status=503, retry_after=0),
    Fault("slow", seconds=0.1),
    *(Fault(kind) for kind in ("reset", "reset_after", "html", "stall")),
]
FAULTS = [
    *MOST_FAULTS,
    *(Fault("status", status=status) for status in (400, 403, 404, 408, 412, 429, 502, 503, 504)),
    Fault("status", status=503, retry_after=1),
    *(Fault(kind) for kind in ("reset_mid_body", "truncate")),
]
STALLED, PATIENT = 5, 60  # seconds that a push may take where the Hub falls silent, and elsewhere


def time_limit(fault: Fault) -> float:
    """Seconds for a push that a fault strikes."""
    return STALLED if fault.kind == "stall" else PATIENT


def run(
    hub: HubServer, home: Path, *words, token: str | None = None, check: bool = True
) -> subprocess.CompletedProcess:
    """A command that knows this Hub by its environment only, and must not show its token."""
    environment = hub.environment(home, token)
    done = subprocess.run(list(map(str, words)), env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    assert environment["HF_TOKEN"] not in done.stdout + done.stderr
    return done


def client_pool(hub: HubServer, home: Path, **more: str) -> ProcessPoolExecutor:
    """A process that knows this Hub, for functions of ours; the client reads its environment when it is imported.

    `more` are further variables of that environment.
    """
    with mock.patch.dict(os.environ, hub.environment(home) | more, clear=True):
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        pool.submit(os.getpid).result()  # starts it
    return pool


def command(*words) -> subprocess.CompletedProcess:
    """One of several `air-hf` commands of a `client_pool`, whose start takes longer than most of them."""
    from air_hf.cli import main

    words = ["air-hf", *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(words[1:])
        except SystemExit as ended:
            status = ended.code
    assert os.environ["HF_TOKEN"] not in out.getvalue() + err.getvalue()
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
