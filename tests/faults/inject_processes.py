"""Processes that are killed, and processes that stand still for seconds and then go on as if nothing had been."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

from tests.faults.inject import Evidence, Fault, Inject, Site
from tests.faults.machine import Machine

_STILL = (1.0, 4.0)


def _killing(pids: Callable[[Machine], list[int]]) -> Inject:
    """SIGKILL for one of them, sometimes for all; `booking up` must replace them."""

    @asynccontextmanager
    async def inject(site: Site, chance: Random) -> AsyncIterator[Evidence]:
        there = pids(site.machine)
        victims = there if chance.random() < 0.3 else [chance.choice(there)]
        site.machine.stack.kill(*victims)
        evidence = Evidence("processes replaced")
        yield evidence
        await site.machine.complete()
        evidence.count = len(set(victims) - set(pids(site.machine)))

    return inject


def _stopping(pids: Callable[[Machine], list[int]]) -> Inject:
    """SIGSTOP, and SIGCONT in the end."""

    @asynccontextmanager
    async def inject(site: Site, chance: Random) -> AsyncIterator[Evidence]:
        victims = pids(site.machine)
        evidence = Evidence("processes stood still", look=lambda: sum(_stands_still(pid) for pid in victims))
        try:
            _send(victims, signal.SIGSTOP)
            yield evidence
        finally:
            _send(victims, signal.SIGCONT)

    return inject


@asynccontextmanager
async def _kill_redis(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    machine = site.machine
    before = await _run_id(machine)
    machine.redis_server.kill()
    evidence = Evidence("new run id")
    try:
        yield evidence
    finally:
        await machine.start_server(machine.redis_server)
    evidence.count = int(await _run_id(machine) != before)


@asynccontextmanager
async def _kill_postgres(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    machine = site.machine
    before = machine.postgres.pid
    machine.postgres.kill()
    evidence = Evidence("new postmaster")
    try:
        yield evidence
    finally:
        await machine.start_server(machine.postgres)
    evidence.count = int(machine.postgres.pid != before)


async def _run_id(machine: Machine) -> str:
    async with machine.redis() as redis:
        return (await redis.info("server"))["run_id"]


def _one_api(machine: Machine) -> list[int]:
    return machine.api_pids()[:1]


def _redis(machine: Machine) -> list[int]:
    assert machine.redis_server.pid is not None
    return [machine.redis_server.pid]


def _postgres(machine: Machine) -> list[int]:
    """The postmaster first, so that nobody is forked between."""
    postmaster = machine.postgres.pid
    assert postmaster is not None
    os.kill(postmaster, signal.SIGSTOP)
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [postmaster, *(pid for pid in numbers if _facts(pid)[1:2] == [str(postmaster)])]


def _facts(pid: int) -> Sequence[str]:
    """State, parent and so on (proc(5), `stat` from the third field on); empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _stands_still(pid: int) -> bool:
    return _facts(pid)[:1] == ["T"]


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


FAULTS = (
    Fault("kill_api", "api", _killing(Machine.api_pids), (0.5, 1.5)),
    Fault("kill_worker", "worker", _killing(Machine.worker_pids), (0.5, 1.5)),
    Fault("kill_redis", "redis", _kill_redis),
    Fault("kill_postgres", "postgres", _kill_postgres),
    Fault("stop_api", "api", _stopping(_one_api), _STILL),
    Fault("stop_worker", "worker", _stopping(Machine.worker_pids), _STILL),
    Fault("stop_redis", "redis", _stopping(_redis), _STILL),
    Fault("stop_postgres", "postgres", _stopping(_postgres), _STILL),
)
