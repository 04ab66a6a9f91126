"""The promise: what dies is replaced at once, and a stop at any moment, however rude, leaves no process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
import redis

from service.embedded import EmbeddedPostgres, EmbeddedRedis
from service.embedded.process import Steps
from service.errors import ConfigurationError
from service.supervisor import Child, StopRequested, Supervisor
from service.up import beside_signals
from tests.embedded.conftest import processes_on, python, read_until, wait_for
from tests.servers import LONGEST_STOP_S


def _sleeper(name: str, folder: Path) -> Child:
    return Child(name, ["sh", "-c", "exec sleep 600", str(folder)], os.environ)


def _shell(name: str, script: str, folder: Path, grace_s: float = 5.0) -> Child:
    return Child(name, ["sh", "-c", script, str(folder)], os.environ, grace_s=grace_s)


def test_a_killed_child_is_replaced_at_once_and_its_death_told(tmp_path: Path) -> None:
    deaths: list[tuple[str, int]] = []
    child, other = _sleeper("one", tmp_path), _sleeper("other", tmp_path)
    with Supervisor(on_exit=lambda name, pid: deaths.append((name, pid))) as supervisor:
        supervisor.start(child, other)
        killed, untouched = child.pid, other.pid
        assert killed is not None
        began = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        assert supervisor.run(until=lambda: child.alive() and child.pid != killed, timeout_s=60)
        assert time.monotonic() - began < LONGEST_STOP_S
        assert deaths == [("one", killed)]
        assert other.pid == untouched
    assert processes_on(tmp_path) == []


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    child = _shell("parent", f"sh -c 'touch {grandchild}; sleep 600; true' & wait", tmp_path)
    with Supervisor() as supervisor:
        supervisor.start(child)
        assert supervisor.run(until=grandchild.exists, timeout_s=60)
        assert len(processes_on(tmp_path)) == 2
    # Its signal has been sent to all of them; only the child itself is waited for.
    wait_for(lambda: processes_on(tmp_path) == [])


def test_a_child_that_keeps_dying_is_started_ever_more_rarely(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    child = _shell("dying", f"echo x >> {starts}; exit 3", tmp_path)
    with Supervisor() as supervisor:
        supervisor.start(child)
        began = time.monotonic()
        assert supervisor.run(until=lambda: starts.exists() and len(starts.read_text()) >= 2 * 4, timeout_s=60)
        assert time.monotonic() - began >= 0.1 + 0.2 + 0.4


def test_stages_end_in_reverse_order_and_one_stage_together(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def child(name: str) -> Child:
        ready = tmp_path / f"{name}.ready"
        script = f"trap 'echo {name} >> {order}; exit 0' TERM; touch {ready}; while :; do sleep 0.02; done"
        return _shell(name, script, tmp_path)

    with Supervisor() as supervisor:
        supervisor.start(child("first"))
        supervisor.start(child("second"), child("third"))
        assert supervisor.run(until=lambda: len(list(tmp_path.glob("*.ready"))) == 3, timeout_s=60)
    words = order.read_text().split()
    assert set(words[:2]) == {"second", "third"}
    assert words[2:] == ["first"]


def test_children_that_refuse_to_end_are_killed_after_their_grace_all_within_ten_seconds(
    tmp_path: Path,
) -> None:
    def stubborn(name: str) -> Child:
        ready = tmp_path / f"{name}.ready"
        return _shell(name, f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done", tmp_path, grace_s=0.4)

    with Supervisor() as supervisor:
        supervisor.start(stubborn("a"))
        supervisor.start(stubborn("b"), stubborn("c"))
        assert supervisor.run(until=lambda: len(list(tmp_path.glob("*.ready"))) == 3, timeout_s=60)
        began = time.monotonic()
    assert 0.8 <= time.monotonic() - began < LONGEST_STOP_S
    assert processes_on(tmp_path) == []


def test_every_stage_gets_its_turn_within_ten_seconds_when_nothing_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    class Endless(Child):
        def stopping(self, timeout_s: float) -> Steps:
            asked.append(timeout_s)
            yield from super().stopping(0.0)

    # A clock of the test's own, by which each stage takes half a second.
    monkeypatch.setattr("service.supervisor.time", SimpleNamespace(monotonic=lambda: 100 + len(asked) / 2))
    with Supervisor() as supervisor:
        for name in ("a", "b", "c"):
            supervisor.start(Endless(name, ["sleep", "600"], os.environ))
    # What a stage leaves unused the next may take, but 2 s are kept for each stage after it.
    assert asked == [5.0, 6.5, 8.0]


def test_another_ctrl_c_kills_at_once_but_the_same_one_delivered_twice_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, ended = tmp_path / "ready", tmp_path / "ended"

    def stopped_properly(*, same_within_s: float, drains_s: float) -> bool:
        """Whether a child that takes so long to end, as a server draining its requests does, came to its end.

        Told to stop, it is who presses Ctrl-C again, so that this comes in the middle.
        """
        monkeypatch.setattr("service.supervisor._ANOTHER_CTRL_C_S", same_within_s)
        ready.unlink(missing_ok=True)
        end = f"kill -INT {os.getpid()}; sleep {drains_s}; touch {ended}; exit 0"
        child = _shell("draining", f"trap '{end}' TERM; touch {ready}; while :; do sleep 0.02; done", tmp_path, 8.0)
        with Supervisor() as supervisor:
            supervisor.start(child)
            supervisor.run(until=ready.exists, timeout_s=60)
            os.kill(os.getpid(), signal.SIGINT)
            supervisor.run()
        return ended.exists()

    assert not stopped_properly(same_within_s=0.0, drains_s=4.0)
    assert stopped_properly(same_within_s=60.0, drains_s=0.3)
    assert processes_on(tmp_path) == []


def test_a_signal_during_the_callers_own_work_breaks_it_off(tmp_path: Path) -> None:
    child = _sleeper("server", tmp_path)
    reached: list[str] = []

    async def migrate() -> None:
        # In a callback of the loop, and below somebody's wide net: neither may swallow it.
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        with contextlib.suppress(Exception):
            await asyncio.sleep(60)
        reached.append("the end of the migrations")

    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    with Supervisor() as supervisor:
        supervisor.start(child)
        supervisor.call(lambda: asyncio.run(migrate()))
        reached.append("the next stage")
    assert reached == []
    assert time.monotonic() - began < LONGEST_STOP_S
    assert processes_on(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_between_two_stages_stops_what_runs_and_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("a migration failed")

    def start_and_fail() -> None:
        with Supervisor() as supervisor:
            supervisor.start(_sleeper("server", tmp_path))
            supervisor.call(fail)

    with pytest.raises(RuntimeError, match="migration"):
        start_and_fail()
    assert processes_on(tmp_path) == []


def test_nothing_more_is_started_after_a_stop_signal(tmp_path: Path) -> None:
    late = _sleeper("late", tmp_path)
    with Supervisor() as supervisor:
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.start(late)
    assert late.pid is None


def test_killed_servers_are_replaced_with_their_data_side_by_side(tmp_path: Path) -> None:
    postgres, cache = EmbeddedPostgres(tmp_path), EmbeddedRedis(tmp_path)

    async def query(sql: str) -> object:
        connection = await asyncpg.connect(postgres.url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    with Supervisor() as supervisor:
        supervisor.start(postgres, cache)
        supervisor.call(lambda: asyncio.run(query("CREATE TABLE kept AS SELECT 'a row' AS word")))
        with redis.Redis.from_url(cache.url, protocol=2) as client:
            client.set("kept", "a key")
        before = (postgres.pid, cache.pid)
        for pid in before:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

        def replaced() -> bool:
            return postgres.pid != before[0] and cache.pid != before[1] and _answers(cache) and _ready(postgres)

        assert supervisor.run(until=replaced, timeout_s=60)
        assert asyncio.run(query("SELECT word FROM kept")) == "a row"
        with redis.Redis.from_url(cache.url, protocol=2) as client:
            assert client.get("kept") == b"a key"
    wait_for(lambda: processes_on(tmp_path) == [])


def _answers(cache: EmbeddedRedis) -> bool:
    return cache._answers()


def _ready(postgres: EmbeddedPostgres) -> bool:
    return postgres.pid is not None and postgres._cluster.ready(postgres.pid)


# What `booking up` does, in small.
_UP = """
import sys, time
from pathlib import Path
from service.embedded import EmbeddedPostgres, EmbeddedRedis
from service.errors import ConfigurationError
from service.supervisor import Child, StopRequested, Supervisor
from service.up import beside_signals
folder = Path(sys.argv[1])
with Supervisor() as supervisor:
    print("begin", flush=True)
    supervisor.start(EmbeddedPostgres(folder), EmbeddedRedis(folder))
    supervisor.call(lambda: (print("migrating", flush=True), time.sleep(float(sys.argv[2]))))
    program = [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]]
    supervisor.start(Child("a", program, {}), Child("b", program, {}))
    print("up", flush=True)
    supervisor.run()
print("over", flush=True)
"""

_MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at the very beginning": lambda folder: True,
    "while the data folder is made": lambda folder: bool(list(folder.glob("postgres.new-*/base"))),
    "while the servers start": lambda folder: (folder / "postgres" / "postmaster.pid").exists(),
}


_STOPS = [(moment, signal.SIGTERM) for moment in (*_MOMENTS, "migrating", "up")]


@pytest.mark.parametrize(
    ("moment", "number"), [*_STOPS, ("while the servers start", signal.SIGINT), ("up", signal.SIGINT)]
)
def test_a_stop_at_any_moment_of_the_start_leaves_nothing(
    moment: str, number: signal.Signals, tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    program = python(_UP, tmp_path, 60 if moment == "migrating" else 0)
    programs.append(program)
    read_until(program, "begin")
    if moment in _MOMENTS:
        wait_for(lambda: _MOMENTS[moment](tmp_path))
    else:
        read_until(program, moment)
    began = time.monotonic()
    program.send_signal(number)
    output, _ = program.communicate(timeout=60)
    assert time.monotonic() - began < LONGEST_STOP_S, output
    assert program.returncode == 0, output
    assert output.splitlines()[-1] == "over"
    assert processes_on(tmp_path) == []


def test_the_kernel_ends_everything_when_the_supervisor_is_killed(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    program = python(_UP, tmp_path, 0)
    programs.append(program)
    read_until(program, "up")
    assert len(processes_on(tmp_path)) > 4
    program.kill()
    program.wait()
    wait_for(lambda: processes_on(tmp_path) == [])
    assert "database system is shut down" in (tmp_path / "postgres.log").read_text()
    for server in (EmbeddedPostgres(tmp_path), EmbeddedRedis(tmp_path)):
        shutil.rmtree(server._sockets)


def test_what_is_done_beside_signals_is_cancelled_by_an_interruption_and_tells_its_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def failing() -> None:
        raise ConfigurationError("DATABASE_URL: no")

    with pytest.raises(ConfigurationError):
        beside_signals(failing())

    join, joined = threading.Thread.join, []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        joined.append(timeout)
        if len(joined) == 1:
            raise StopRequested
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(StopRequested):
        beside_signals(endless())
    assert ended == ["cancelled"]
