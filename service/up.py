"""`booking up` and `booking serve`: which processes there are, and in which order they start.

Servers first, then migrations and sample data, then the mocks and the worker, then the API, which is ready
when it can book.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Generator, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import prometheus_client.multiprocess

from service.app import default_slot
from service.config import Settings
from service.db.connection import Database
from service.db.migrate import migrate
from service.db.sample import load_sample
from service.errors import ConfigurationError
from service.metrics import MULTIPROC_DIR, empty_multiprocess_folder
from service.supervisor import Child, Supervisor

READY_WITHIN_S = 60.0
CALENDARS_WITHIN_S = 8.0
BACKLOG = 4096
_LOOK_S = 0.05
_CANCELLED_WITHIN_S = 3.0
_FREED_WITHIN_S = 3.0


def up(settings: Settings) -> None:
    """Everything, in the foreground, until a signal. Raises ConfigurationError or Unavailable."""
    from service.embedded import DataDirLock, EmbeddedPostgres, EmbeddedRedis, RunFile

    with DataDirLock(settings.data_dir), contextlib.ExitStack() as stack:
        data_dir = settings.data_dir.resolve()
        listening = stack.enter_context(contextlib.closing(listen(settings)))
        check_ports(settings)
        metrics_dir = data_dir / "metrics"
        empty_multiprocess_folder(metrics_dir)
        stack.callback(RunFile.remove, data_dir)
        with Supervisor(lambda _name, pid: forget_process(pid, metrics_dir)) as supervisor:
            servers: list[EmbeddedPostgres | EmbeddedRedis] = []
            if settings.database_url is None:
                postgres = EmbeddedPostgres(data_dir)
                servers.append(postgres)
                settings = replace(settings, database_url=postgres.url)
            if settings.redis_url is None:
                redis = EmbeddedRedis(data_dir)
                servers.append(redis)
                settings = replace(settings, redis_url=redis.url)
            say("starting Postgres and Redis ...")
            supervisor.start(*servers)
            supervisor.call(lambda: beside_signals(prepare(settings)))
            settings, mocked = with_mocks(settings)
            environment = child_environment(settings, metrics_dir)
            RunFile(
                database_url=settings.database_url or "",
                redis_url=settings.redis_url or "",
                api_url=f"http://{settings.host}:{settings.port}",
                calendar_api_url=settings.calendar_api_url or "",
                crm_webhook_url=settings.crm_webhook_url or "",
                auth_service_url=settings.auth_service_url or "",
            ).write(data_dir)
            loopback = {**environment, "HOST": "127.0.0.1"}  # where their URLs lead
            mocks = [Child(f"mock-{name}", command("mock", name), loopback) for name in mocked]
            supervisor.start(*mocks)
            supervisor.call(lambda: look_at_calendars(settings, environment, metrics_dir))
            supervisor.start(Child("worker", command("worker"), environment))
            supervisor.start(*api_children(settings, listening, environment))
            if not supervisor.run(until=lambda: is_ready(settings, mocked.values()), timeout_s=READY_WITHIN_S):
                raise ConfigurationError(f"PORT: nothing could be booked within {READY_WITHIN_S:.0f} s of the start")
            welcome(settings)
            with shut_before_the_end(listening):
                supervisor.run()


def serve(settings: Settings) -> None:
    """Only the API processes, in the foreground, until a signal. Raises ConfigurationError."""
    with (
        contextlib.closing(listen(settings)) as listening,
        tempfile.TemporaryDirectory(prefix="booking-metrics-") as folder,
    ):
        metrics_dir = Path(folder)
        with Supervisor(lambda _name, pid: forget_process(pid, metrics_dir)) as supervisor:
            supervisor.start(*api_children(settings, listening, child_environment(settings, metrics_dir)))
            say(f"API on http://{settings.host}:{settings.port}")
            with shut_before_the_end(listening):
                supervisor.run()


def beside_signals(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` on an event loop in a thread of its own; whatever interrupts the wait for it cancels it.

    A stop signal is raised wherever the main thread happens to be: in the middle of a driver's callback it would break
    the connection or be lost.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as problem:
            failures.append(problem)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="prepare", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_S)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join(_CANCELLED_WITHIN_S)
        raise
    if failures:
        raise failures[0]


async def prepare(settings: Settings) -> None:
    """Migrations and sample data."""
    url = settings.database_url or ""
    for name in await migrate(url):
        say(f"migrated: {name}")
    database = Database(url)
    await database.open()
    try:
        if await load_sample(database, default_slot(settings)):
            say("sample data loaded")
    finally:
        await database.close()


def look_at_calendars(settings: Settings, environment: Mapping[str, str], metrics_dir: Path) -> None:
    """Fetch the external calendars before the first request, so that it already sees them; for some seconds at most.

    In a process of its own, so that a stop signal need not wait for it. A calendar that is away or slow holds
    nothing else up: the worker goes on asking.
    """
    if not settings.calendar_sync_interval_s:
        return
    say("looking at the external calendars ...")
    words = command("fetch-calendars")
    with subprocess.Popen(words, env=dict(environment), start_new_session=True) as process:  # noqa: S603 - our own command
        try:
            process.wait(CALENDARS_WITHIN_S + 2)
        except subprocess.TimeoutExpired:
            say("the external calendars take long; going on without them")
        finally:
            process.kill()
            process.wait()
            forget_process(process.pid, metrics_dir)


def check_ports(settings: Settings) -> None:
    """Raise ConfigurationError where a port that is to be listened on is another's, or taken.

    Whoever has it would be taken for one of ours: told of appointments, asked about keys.
    """
    _, mocked = with_mocks(settings)
    wanted = {"PORT": settings.port, **{f"{name.upper()}_PORT": port for name, port in mocked.items()}}
    if settings.metrics_port:
        wanted["METRICS_PORT"] = settings.metrics_port
    names = dict[int, str]()
    for name, port in wanted.items():
        if port in names:
            raise ConfigurationError(f"{name}: {port} is {names[port]} too")
        names[port] = name
        if name == "PORT":
            continue  # it is listened on already
        _wait_for_port(name, settings.host if name == "METRICS_PORT" else "127.0.0.1", port)


def _wait_for_port(name: str, host: str, port: int) -> None:
    """Wait a moment for a port: processes of a start that was killed may just be ending."""
    until = time.monotonic() + _FREED_WITHIN_S
    while True:
        try:
            return socket.create_server((host, port)).close()
        except OSError as problem:
            if time.monotonic() > until:
                raise ConfigurationError(f"{name}: cannot listen on {host}:{port}: {problem.strerror}") from None
            time.sleep(_LOOK_S)


def listen(settings: Settings) -> socket.socket:
    """The socket all API processes share. Raises ConfigurationError when the port is taken, or HOST is none of ours."""
    try:
        listening = socket.create_server((settings.host, settings.port), backlog=BACKLOG)
    except OSError as problem:
        # What getaddrinfo(3) says has numbers below 0.
        name = "HOST" if problem.errno == errno.EADDRNOTAVAIL or (problem.errno or 0) < 0 else "PORT"
        raise ConfigurationError(
            f"{name}: cannot listen on {settings.host}:{settings.port}: {problem.strerror}"
        ) from None
    listening.setblocking(False)
    return listening


def command(*words: str) -> list[str]:
    """A `booking` command run by this very Python."""
    return [sys.executable, "-m", "service.cli", *words]


# By default glibc gives the memory of a large answer back at once, and the kernel clears each page of the next one
# anew: a week of 10,000 coaches took 1.6 times as long. See mallopt(3); another malloc passes over these.
_KEEPS_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(16 * 1024 * 1024),
}


@contextlib.contextmanager
def shut_before_the_end(listening: socket.socket) -> Generator[None]:
    """Whoever comes while the API processes finish is refused at once: nobody would take that connection any more.

    It is shut for all who share it, and not closed by each, because the kernel goes on until the last one has.
    """
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)


def api_children(settings: Settings, listening: socket.socket, environment: Mapping[str, str]) -> list[Child]:
    """One child for each API process, sharing the socket."""
    return [
        Child(
            f"api-{number}",
            command("api-process", "--fd", str(listening.fileno())),
            {**_KEEPS_MEMORY, **environment},
            pass_fds=(listening.fileno(),),
            grace_s=8.0,
        )
        for number in range(1, settings.workers + 1)
    ]


def with_mocks(settings: Settings) -> tuple[Settings, dict[str, int]]:
    """Settings in which every outside service has a URL, and the mocks that must run for that, with their ports."""
    mocked: dict[str, int] = {}
    for name, field, port in (
        ("calendar", "calendar_api_url", settings.calendar_port),
        ("crm", "crm_webhook_url", settings.crm_port),
        ("auth", "auth_service_url", settings.auth_port),
    ):
        if getattr(settings, field) is None:
            settings = replace(settings, **{field: f"http://127.0.0.1:{port}"})
            mocked[name] = port
    return settings, mocked


def child_environment(settings: Settings, metrics_dir: Path) -> dict[str, str]:
    """What children find in their environment: ours, and where the servers and services are."""
    found = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "CALENDAR_API_URL": settings.calendar_api_url,
        "CRM_WEBHOOK_URL": settings.crm_webhook_url,
        "AUTH_SERVICE_URL": settings.auth_service_url,
        "WEBHOOK_ALLOW_PRIVATE": str(settings.webhook_allow_private).lower(),
        MULTIPROC_DIR: str(metrics_dir),
    }
    return {**os.environ, **{name: value for name, value in found.items() if value is not None}}


def forget_process(pid: int, metrics_dir: Path) -> None:
    """Take a dead process's live gauges out of the sum."""
    multiprocess: Any = prometheus_client.multiprocess  # untyped
    multiprocess.mark_process_dead(pid, str(metrics_dir))


def is_ready(settings: Settings, mock_ports: Iterable[int]) -> bool:
    """Whether the API answers that it can book, and every mock is there to be asked."""
    if not all(is_listened_on(port) for port in mock_ports):
        return False
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104  compared, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_listened_on(port: int) -> bool:
    """Whether somebody on this machine takes connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def welcome(settings: Settings) -> None:
    """Where everything is, and one request to try next."""
    base = f"http://{settings.host}:{settings.port}"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    say(
        f"\nReady.\n"
        f"  API       {base}   (also /openapi.json, /metrics, /health)\n"
        f"  calendar  {settings.calendar_api_url}\n"
        f"  CRM       {settings.crm_webhook_url}\n"
        f"  auth      {settings.auth_service_url}\n"
        f"  data      {settings.data_dir}\n\n"
        f"Try:\n"
        f'  curl -H "X-API-Key: test-key-123" "{base}/api/availability?calendar_id=cal-1&days=3&from={tomorrow}"\n\n'
        f"Ctrl-C stops everything.\n"
    )


def say(text: str) -> None:
    """A line for the person who started us."""
    print(text, file=sys.stdout, flush=True)  # noqa: T201  this is what the command is for
