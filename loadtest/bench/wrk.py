"""wrk as the load: one thread, keep-alive connections, a Lua script that makes the requests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import msgspec

CONNECTIONS = 64
_FOLDER = Path(__file__).parent
_MARK = "COUNTED "


class Counted(msgspec.Struct, frozen=True):
    """What wrk counted: answers, those of them from 400 on, connections that broke, and latencies in microseconds."""

    requests: int
    refused: int
    broken: int
    microseconds: int
    p50: int
    p99: int

    @property
    def accepted(self) -> int:
        """Answers below 400."""
        return self.requests - self.refused

    @property
    def seconds(self) -> float:
        """How long the load lasted."""
        return self.microseconds / 1e6


def wrk_binary() -> str:
    """Where wrk is. Raises RuntimeError that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError("wrk makes the load and is not installed: apt-get install wrk, or `make bench` as root")
    return found


async def load(script: str, url: str, seconds: float, *, connections: int = CONNECTIONS, **given: object) -> Counted:
    """Run the script for so many seconds, with `given` as its arguments. Raises RuntimeError when wrk fails."""
    with _whole(script) as file:
        process = await asyncio.create_subprocess_exec(
            *(wrk_binary(), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(file), url, "--"),
            *(f"{name}={value}" for name, value in given.items()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    text = said.decode()
    if process.returncode or _MARK not in text:
        raise RuntimeError(f"wrk failed:\n{text[-2000:]}")
    return msgspec.json.decode(text.partition(_MARK)[2].splitlines()[0], type=Counted)


@contextlib.contextmanager
def _whole(script: str):  # noqa: ANN202
    """A file with the script and what all scripts end with: wrk takes one file."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        for name in (script, "counted.lua"):
            file.write((_FOLDER / name).read_text())
        file.flush()
        yield Path(file.name)
