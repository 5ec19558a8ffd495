"""Fixtures around hub_server.py; a test module asks for them with `pytest_plugins = ["support.hub_fixtures"]`."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest import mock

import huggingface_hub
import pytest

from support.hub_server import Account, HubServer

# alice comes first: hers is the token of hub.environment(home).
TOKENS = {
    "hf_alice": Account("alice", orgs=("puzzles",)),
    "hf_alice_reads": Account("alice", role="read", orgs=("puzzles",)),
    "hf_bob": Account("bob"),
    "hf_sapient": Account("sapientinc"),
}


@pytest.fixture
def hub(tmp_path):
    """A running Hub without repositories, for alice (who may also write to the organisation puzzles) and bob."""
    with HubServer(tmp_path / "hub", TOKENS) as server:
        yield server
    assert not server.errors


class ClientError(Exception):
    """What was raised in the client's process, by name: the errors of huggingface_hub cannot be pickled."""


class Client:
    """The functions of huggingface_hub, called in another process: `client.create_repo("alice/model")`."""

    Error = ClientError

    def __init__(self, pool: ProcessPoolExecutor):
        self._pool = pool

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: self._pool.submit(_call, name, args, kwargs).result()


def _call(name: str, args: tuple, kwargs: dict):
    try:
        return getattr(huggingface_hub, name)(*args, **kwargs)
    except Exception as error:
        raise ClientError(f"{type(error).__name__}: {error}") from None


@pytest.fixture
def client(hub, tmp_path):
    """The real client, in a process of its own because it reads its environment when it is imported."""
    environment = mock.patch.dict(os.environ, hub.environment(tmp_path / "home"), clear=True)
    with environment, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield Client(pool)
