"""What a stretch of time cost: processor time by part, script calls, commits and log bytes, as differences of counters.

Everything is read from outside: /proc, `INFO commandstats` of Redis, the statistics of Postgres.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM, _REAPED_USER, _REAPED_SYSTEM = 1, 11, 12, 13, 14  # of /proc/PID/stat, after the name
_SCRIPTS = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")


@dataclass(frozen=True)
class Pids:
    """The processes of an installation; `postgres` is the first of its family."""

    api: tuple[int, ...]
    worker: tuple[int, ...]
    mocks: tuple[int, ...]
    redis: tuple[int, ...]
    postgres: int


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; processor time in microseconds by part."""

    cpu_us: dict[str, float]
    script_calls: int
    script_us: float
    commits: int
    writes: int
    wal_bytes: int

    def since(self, earlier: Reading) -> Reading:
        """What was added since an earlier reading."""
        return Reading(
            {part: value - earlier.cpu_us[part] for part, value in self.cpu_us.items()},
            self.script_calls - earlier.script_calls,
            self.script_us - earlier.script_us,
            self.commits - earlier.commits,
            self.writes - earlier.writes,
            self.wal_bytes - earlier.wal_bytes,
        )


async def read(pids: Pids, sql: Any, redis: Any) -> Reading:
    """All counters now. `commits` are all of Postgres' transactions, `writes` those that wrote something."""
    script_calls, script_us = await script_time(redis)
    row = await sql.fetchrow(
        "SELECT xact_commit AS commits, pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS writes,"
        " (pg_current_wal_insert_lsn() - '0/0')::bigint AS wal FROM pg_stat_database"
        " WHERE datname = current_database()"
    )
    return Reading(
        {
            "API": sum(_own_us(pid) for pid in pids.api),
            # With its children, which write its log anew.
            "Redis": sum(_family_us(pid) for pid in pids.redis),
            "Postgres": _family_us(pids.postgres),
            "worker": sum(_own_us(pid) for pid in pids.worker),
            "mocks": sum(_own_us(pid) for pid in pids.mocks),
            "load": _ended_us(),
        },
        script_calls=script_calls,
        script_us=script_us,
        commits=row["commits"],
        writes=row["writes"],
        wal_bytes=row["wal"],
    )


async def script_time(redis: Any) -> tuple[int, float]:
    """(calls of scripts so far, microseconds Redis spent in them)."""
    stats: dict[str, dict[str, float]] = await redis.info("commandstats")
    scripts = [stats[name] for name in _SCRIPTS if name in stats]
    return sum(int(one["calls"]) for one in scripts), sum(one["usec"] for one in scripts)


def children_of(parent: int) -> dict[int, str]:
    """The command lines of a process's children by their numbers."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[_PARENT]) == parent:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def memory_bytes(pid: int) -> tuple[int, int]:
    """(resident, proportional) memory of a process."""
    lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return int(sizes["Rss"]) * 1024, int(sizes["Pss"]) * 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()


def _own_us(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[_USER]) + int(fields[_SYSTEM])) * _TICK_US


def _family_us(parent: int) -> float:
    """Of a process, its children, and those of them that have ended."""
    fields = _stat(parent)
    total = sum(int(fields[part]) for part in (_USER, _SYSTEM, _REAPED_USER, _REAPED_SYSTEM)) * _TICK_US
    for pid in children_of(parent):
        with contextlib.suppress(OSError):
            total += _own_us(pid)
    return total


def _ended_us() -> float:
    """Of children of ours that have ended: what made the load."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e6 * (spent.ru_utime + spent.ru_stime)
