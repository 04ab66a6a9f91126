"""wrk: one thread, keep-alive connections, a Lua script that makes the requests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CONNECTIONS = 64
_FOLDER = Path(__file__).parent
_MARK = "COUNTED "


def wrk_binary() -> str:
    """Where wrk is. Raises RuntimeError that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError("wrk makes the load and is not installed: apt-get install wrk, or `make bench` as root")
    return found


async def run_wrk(
    scripts: Sequence[str], port: int, seconds: float, given: Mapping[str, object], *, connections: int = CONNECTIONS
) -> str:
    """Run the scripts, as one, for so many seconds, with `given` as their arguments; the JSON they end with.

    Raises RuntimeError when wrk fails.
    """
    with _whole(scripts) as file:
        process = await asyncio.create_subprocess_exec(
            *(wrk_binary(), "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(file)),
            *(f"http://127.0.0.1:{port}", "--", *(f"{name}={value}" for name, value in given.items())),
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
    return text.partition(_MARK)[2].splitlines()[0]


@contextlib.contextmanager
def _whole(scripts: Sequence[str]) -> Iterator[Path]:
    """A file with all of them: wrk takes one."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        for name in scripts:
            file.write((_FOLDER / name).read_text())
        file.flush()
        yield Path(file.name)
