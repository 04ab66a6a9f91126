"""The promise: an embedded Redis keeps what was written, whatever ended it, and evicts nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from service.embedded import EmbeddedRedis
from service.errors import Unavailable
from service.supervisor import Supervisor
from tests.embedded.conftest import REDIS_BINARIES, processes_on, wait_for
from tests.servers import free_port


@pytest.fixture(params=REDIS_BINARIES, ids=lambda path: path.name if path else "wheel")
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path, binary=request.param)
    server.start()
    yield server
    server.stop()
    assert processes_on(tmp_path) == []


@contextlib.contextmanager
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, protocol=2, decode_responses=True) as connection:
        yield connection


def _keep(server: EmbeddedRedis, word: str) -> None:
    with client(server) as connection:
        connection.set("kept", word)


def _kept(server: EmbeddedRedis) -> object:
    with client(server) as connection:
        return connection.get("kept")


def test_the_server_of_the_wheel_has_a_better_malloc_and_one_of_ones_own_what_it_was_built_with(
    server: EmbeddedRedis, request: pytest.FixtureRequest
) -> None:
    mapped = Path(f"/proc/{server.pid}/maps").read_text()
    assert ("/libmimalloc.so" in mapped) is (request.node.callspec.params["server"] is None)


def test_a_stop_and_a_start_keep_what_was_written(server: EmbeddedRedis) -> None:
    _keep(server, "before the stop")
    server.stop()
    assert not server.alive()
    server.start()
    assert _kept(server) == "before the stop"


def test_a_killed_server_starts_again_with_its_data(server: EmbeddedRedis) -> None:
    _keep(server, "before the kill")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not server.alive())
    server.start()
    assert _kept(server) == "before the kill"


def test_the_server_of_an_earlier_run_is_stopped_before_ours_starts(server: EmbeddedRedis) -> None:
    _keep(server, "by the earlier one")
    ours = EmbeddedRedis(server._data_dir, binary=server._binary)
    ours.start()
    try:
        assert not server.alive()
        assert server.exit_code == 0
        assert _kept(ours) == "by the earlier one"
    finally:
        ours.stop()


def test_a_pid_file_naming_somebody_else_does_not_kill_them(server: EmbeddedRedis) -> None:
    server.stop()
    # Even their command line looks like ours, but for the folder.
    somebody = subprocess.Popen(["sleep", "600"])
    try:
        (server._folder / "redis.pid").write_text(f"{somebody.pid}\n")
        server.start()
        assert somebody.poll() is None
    finally:
        somebody.kill()
        somebody.wait()


def test_a_cut_off_tail_of_the_append_only_file_does_not_stop_the_start(server: EmbeddedRedis) -> None:
    _keep(server, "whole")
    with client(server) as connection:
        connection.set("torn", "x" * 100)
    server.stop()
    (last,) = server._folder.glob("appendonlydir/*.incr.aof")
    os.truncate(last, last.stat().st_size - 50)
    server.start()
    with client(server) as connection:
        assert connection.mget("kept", "torn") == ["whole", None]


def test_it_appends_every_write_evicts_nothing_and_opens_no_port(server: EmbeddedRedis) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
        "unixsocketperm": "700",
    }
    with client(server) as connection:
        assert connection.config_get(*wanted) == wanted
    assert server._sockets.stat().st_mode & 0o777 == 0o700


def test_a_start_that_cannot_be_says_what_the_log_says(server: EmbeddedRedis) -> None:
    server.stop()
    (manifest,) = server._folder.glob("appendonlydir/*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(Unavailable, match="manifest"):
        server.start()


def test_one_node_of_a_cluster_has_every_slot_again_after_a_restart(tmp_path: Path) -> None:
    servers = [
        EmbeddedRedis(tmp_path / str(number), binary=binary, cluster=True, tcp_port=free_port())
        for number, binary in enumerate(REDIS_BINARIES)
    ]
    with Supervisor() as supervisor:  # a node takes two seconds until it serves: side by side
        supervisor.start(*servers)
        for server in servers:
            _keep(server, "in a slot")
    assert not any(server.alive() for server in servers)
    with Supervisor() as supervisor:
        supervisor.start(*servers)
        for server in servers:
            assert _kept(server) == "in a slot"
            with client(server) as connection:
                info: Any = connection.execute_command("CLUSTER INFO")
                assert info["cluster_slots_ok"] == "16384"
                with pytest.raises(ResponseError, match="same slot"):
                    connection.mget("a", "b")


def test_a_cluster_without_a_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tcp_port"):
        EmbeddedRedis(tmp_path, cluster=True)
