"""What a run was measured on: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import sanic

from loadtest.bench.place import ROOT


def of_machine(command: str) -> list[str]:
    """What does not depend on the servers: the command, the commit, the machine, Python, Sanic and wrk."""
    model = _value(Path("/proc/cpuinfo"), "model name") or platform.machine()
    memory_gb = int((_value(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) / 1e6
    return [
        f"`{command}`",
        f"commit {_commit()}",
        f"{os.cpu_count()} processors ({model}), {memory_gb:.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, Sanic {sanic.__version__}, {_wrk()}",
    ]


async def of_servers(sql: Any, redis: Any) -> str:
    """Which servers, and that they write what they promise to keep."""
    version = await sql.fetchval("SHOW server_version")
    durable = {name: await sql.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
    info: dict[str, Any] = await redis.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    kept = await redis.config_get("append*")
    return (
        f"PostgreSQL {version} ({', '.join(f'{key} {value}' for key, value in durable.items())}), "
        f"{name} {info.get('valkey_version', info['redis_version'])} (appendonly {kept['appendonly']}, "
        f"appendfsync {kept['appendfsync']})"
    )


def _value(file: Path, name: str) -> str | None:
    """The value of the first line of a file of /proc that begins with `name`."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _wrk() -> str:
    binary = shutil.which("wrk")
    if binary is None:
        return "no wrk"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - no words but ours
    return " ".join((said.stdout or said.stderr).split()[:2])


def _commit() -> str:
    """The checkout's commit, and whether it is that very commit."""
    try:
        words = ["git", "describe", "--always", "--dirty=, with changes", "--exclude=*"]
        said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - no words but ours
        return said.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
