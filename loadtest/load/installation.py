"""Where the load goes: an installation that runs already, or one started for the run in a folder that is then removed.

A load needs a key without a limit and calendars that are not soon full. Where the `booking` command reaches the
installation's database, an organization of the run's own is made, with both; otherwise somebody must give a key.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.load.api import Api, Unanswered
from loadtest.load.world import furnish, run_name
from service.config import Settings
from service.embedded import RunFile
from service.embedded.process import OwnedProcess, drive
from service.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
_READY_WITHIN_S = 90.0
_STOPPED_WITHIN_S = 15.0
_LOOK_S = 0.1


class NoTarget(Exception):
    """There is nothing to put load on, in words for who asked."""


@dataclass(frozen=True)
class Target:
    """Where to put load: the URL, a key, and how the `booking` command reaches its database; None when it does not."""

    url: str
    key: str
    commands: Mapping[str, str] | None


@contextmanager
def target(host: str | None, key: str | None) -> Iterator[Target]:
    """What runs at `host`, or without a `host` at the usual place, or else one started for this run and ended after.

    Raises NoTarget.
    """
    try:
        settings = Settings.from_environment()
        url = host or f"http://localhost:{settings.port}"
        commands = _commands_of(url, settings.data_dir.resolve())
    except ConfigurationError as problem:
        raise NoTarget(problem.message) from None
    if answers(url):
        if key is None and commands is None:
            raise NoTarget(
                f"{url} answers, but its database cannot be reached from here, so no key can be made for the load.\n"
                "Make one where it runs: booking keys create --name load --scopes read,write --rate-limit 0\n"
                "and give it: make load KEY=bk_…"
            )
        yield Target(url, key or new_key(url, commands or {}), commands)
        return
    if host is not None:
        raise NoTarget(f"nothing answers at {host}; without HOST an installation is started for the run")
    if key is not None:
        raise NoTarget(f"nothing answers at {url}, and an installation of the run's own would not know the key")
    with _started() as (url, commands):
        yield Target(url, new_key(url, commands), commands)


def answers(url: str) -> bool:
    """Whether a booking service is alive there. Raises NoTarget for something else, or no URL."""
    try:
        with Api(url) as api:
            status, _, raw = api.once("GET", "/livez")
    except ValueError as problem:
        raise NoTarget(str(problem)) from None
    except Unanswered:
        return False
    if status != 200 or b"alive" not in raw:
        raise NoTarget(f"something else than a booking service answers at {url}: {status} {raw[:80]!r}")
    return True


def new_key(url: str, commands: Mapping[str, str]) -> str:
    """A key without a limit, of an organization with coaches and calendars, both made for this run. Raises NoTarget."""
    words = ["org", "create", "--name", run_name(), "--with-key", "--rate-limit", "0"]
    ended = booking(commands, *words)
    if ended.returncode:
        raise NoTarget(f"an organization for the load could not be made: {ended.stderr.strip()}")
    key = ended.stdout.split()[-1]
    try:
        with Api(url, key) as api:
            furnish(api)
    except Unanswered as problem:
        raise NoTarget(f"coaches and calendars for the load could not be made at {url}: {problem}") from None
    return key


def booking(commands: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A `booking` command, run to its end."""
    command = [sys.executable, "-m", "service.cli", *words]
    return subprocess.run(  # noqa: S603 - our own command
        command, env=dict(commands), capture_output=True, text=True, check=False
    )


def _environment(dropped: Collection[str], **chosen: object) -> dict[str, str]:
    """This one without the names `dropped`, and with the chosen ones."""
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    paths = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": paths, **{name: str(value) for name, value in chosen.items()}}


def _commands_of(url: str, data_dir: Path) -> dict[str, str] | None:
    """How `booking` reaches the database behind `url`: that of the `booking up` on `data_dir`, if it answers there."""
    running = RunFile.read(data_dir)
    if running is None:
        return None
    asked, runs = urlsplit(url), urlsplit(running.api_url)
    if asked.hostname not in ("localhost", "127.0.0.1", runs.hostname) or (asked.port or 80) != runs.port:
        return None
    # To `make load`, HOST is a URL; to the service it is the address it binds to.
    return _environment({"HOST"}, DATA_DIR=data_dir)


@contextmanager
def _started() -> Iterator[tuple[str, dict[str, str]]]:
    """A `booking up` with its mocks, on free ports, in a folder of its own. Raises NoTarget."""
    with tempfile.TemporaryDirectory(prefix="booking-load-") as folder:
        ports = {name: _free_port() for name in ("PORT", "CALENDAR_PORT", "CRM_PORT", "AUTH_PORT")}
        # Hours fetched from a calendar would take away most of what the coaches of the load offer.
        settings = {field.metadata["env"] for field in fields(Settings)}
        environment = _environment(settings, **ports, DATA_DIR=Path(folder) / "data", CALENDAR_SYNC_INTERVAL_S=0)
        url = f"http://127.0.0.1:{ports['PORT']}"
        log = Path(folder) / "up.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "service.cli", "up"]
            # In a session of its own, so that Ctrl-C ends the load first and this afterwards; also when we are killed.
            process = OwnedProcess(
                command, death_signal=signal.SIGTERM, env=environment, output=out.fileno(), cwd=Path(folder)
            )
        try:
            _wait_until_ready(process, url, log)
            yield url, environment
        finally:
            drive(process.stopping(((signal.SIGTERM, _STOPPED_WITHIN_S),)))


def _wait_until_ready(process: OwnedProcess, url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        with suppress(Unanswered), Api(url) as api:
            if api.once("GET", "/readyz")[0] == 200:
                return
        if not process.alive() or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-1_500:]
            raise NoTarget(f"an installation for the run could not be started:\n{said}")
        time.sleep(_LOOK_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
