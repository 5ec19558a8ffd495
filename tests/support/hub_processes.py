"""Processes that talk to the Hub of hub_server.py: commands a user types, and functions of ours."""

import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

from support.hub_server import HubServer

ROOT = Path(__file__).parents[2]


def run(
    hub: HubServer, home: Path, *words, token: str | None = None, check: bool = True
) -> subprocess.CompletedProcess:
    """A command that knows this Hub by its environment only, and must not show its token."""
    environment = hub.environment(home, token)
    done = subprocess.run(list(map(str, words)), env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    assert environment["HF_TOKEN"] not in done.stdout + done.stderr
    return done


def client_pool(hub: HubServer, home: Path) -> ProcessPoolExecutor:
    """A process that knows this Hub, for functions of ours; the client reads its environment when it is imported."""
    with mock.patch.dict(os.environ, hub.environment(home), clear=True):
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        pool.submit(os.getpid).result()  # starts it
    return pool


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
