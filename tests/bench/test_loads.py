"""A load under which something broke is no figure."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench import loads, wrk
from loadtest.bench.loads import WrkLoad
from loadtest.bench.requests import Wishes
from loadtest.bench.setting import Crowd
from loadtest.bench.usage import Pids, read
from loadtest.bench.wrk import CONNECTIONS

WISHES = Wishes(Crowd("x-", (1,), 1), "tag-", datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("broken", [0, 1])
async def test_a_connection_that_breaks_ends_the_run(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    async def ended(*_: Any, **__: Any) -> str:
        return f'{{"requests":9,"refused":0,"broken":{broken},"microseconds":1,"p50":1,"p99":1}}'

    monkeypatch.setattr(loads, "run_wrk", ended)
    for load in (WrkLoad().book(1, WISHES, 1.0), WrkLoad().get(1, "/", 1.0)):
        if broken:
            with pytest.raises(RuntimeError, match="1 connections broke"):
                await load
        else:
            assert (await load).requests == 9


@pytest.mark.parametrize(("clients", "connections"), [(None, CONNECTIONS), (12_000, 12_000)])
async def test_so_many_connections_are_made_as_there_are_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clients: int | None, connections: int
) -> None:
    told = tmp_path / "told"
    binary = tmp_path / "wrk"
    counted = '{"requests":9,"refused":0,"broken":0,"microseconds":1,"p50":1,"p99":1}'
    binary.write_text(f"#!/bin/sh\necho \"$@\" > {told}\necho 'COUNTED {counted}'\n")
    binary.chmod(0o755)
    monkeypatch.setattr(wrk, "wrk_binary", lambda: str(binary))
    await WrkLoad().book(1, WISHES, 1.0, clients=clients)
    assert f"-c{connections}" in told.read_text().split()


class Nothing:
    """A Postgres and a Redis that have counted nothing."""

    async def fetchrow(self, _: str) -> dict[str, int]:
        return {"commits": 0, "writes": 0, "wal": 0}

    async def info(self, _: str) -> dict[str, Any]:
        return {}


def test_what_a_child_of_redis_used_is_counted_when_it_has_ended() -> None:
    ask = "; ".join(
        (
            "import os, subprocess, sys, time",
            "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.2: pass'])",
            "print(flush=True)",
            "sys.stdin.read()",
        )
    )
    with subprocess.Popen([sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = Pids((), (), (), redis=(process.pid,), postgres=process.pid)
        found = asyncio.run(read(pids, Nothing(), Nothing()))
        process.communicate()
    assert found.cpu_us["Redis"] >= 200_000
