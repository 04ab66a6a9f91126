"""Running the load as a person would: a process of its own, for Locust changes the standard library of its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from service.config import Settings

ROOT = Path(__file__).resolve().parents[2]
ENDED_WITHIN_S = 100.0


@dataclass(frozen=True)
class Ended:
    """A run that came to its end: exit code, what it printed, and the folder of its report."""

    code: int
    out: str
    report: Path

    def read(self, name: str) -> Any:
        """One of its JSON files."""
        return json.loads((self.report / name).read_text())

    @property
    def verdict(self) -> Any:
        """The thresholds' judgement."""
        return self.read("verdict.json")

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The measured rows by name."""
        return {row["name"]: row for row in self.verdict["rows"]}


async def run_load(folder: Path, *words: str, shape: str = "smoke", **environment: object) -> Ended:
    """`python -m loadtest.load` with those options, reporting into `folder`; ended by force when it does not end."""
    command = [sys.executable, "-m", "loadtest.load", "--shape", shape, "--report", str(folder), *words]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=_environment(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), ENDED_WITHIN_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode or 0, out.decode(errors="replace"), folder / shape)


def _environment(chosen: Mapping[str, object]) -> dict[str, str]:
    """This one without the service's settings and the load's, and with the chosen ones."""
    ours = {field.metadata["env"] for field in fields(Settings)} | {"SHAPE", "KEY", "USERS", "PACE", "LIMITS"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in chosen.items()}}
