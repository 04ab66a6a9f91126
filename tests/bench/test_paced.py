"""What wrk is told asks at a fixed rate: a request that could not be sent in time is as late as it is.

The scripts run here in a Lua of the test's own, by a clock of the test's own, and the test does what wrk does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from lupa import lua51

from loadtest.bench import wrk
from loadtest.bench.requests import Wishes
from loadtest.bench.setting import Crowd

AROUND = """
clock_ms = 500  -- of no consequence
said = ""
wrk = {host = "bench"}
io = {write = function(text) said = said .. text end}
function require(name)
  assert(name == "ffi")
  return {
    cdef = function() end,
    new = function() return {} end,
    C = {clock_gettime = function(_, now) now.seconds, now.nanoseconds = 0, clock_ms * 1e6 end},
  }
end
"""


class Wrk:
    """One thread of wrk, with as many connections as one likes."""

    def __init__(self, wishes: Wishes, **given: object) -> None:
        make_runtime: Any = lua51.LuaRuntime  # whose stubs ask for arguments that have defaults
        self.lua = make_runtime()
        folder = Path(wrk.__file__).parent
        self.lua.execute(AROUND + "".join((folder / name).read_text() for name in ("book.lua", "paced.lua")))
        self.of: Callable[[str], Any] = self.lua.globals().__getitem__
        self.lua.execute("setup({get = function(_, name) return _G[name] end})")
        arguments = (f"{name}={value}" for name, value in (wishes.arguments() | given).items())
        self.of("init")(self.lua.table_from(list(arguments)))

    def pass_ms(self, milliseconds: int) -> None:
        self.lua.globals().clock_ms += milliseconds

    def free(self) -> float:
        """A connection is free: in how many milliseconds it sends."""
        return self.of("delay")()

    def send(self) -> str:
        """What a connection sends: the request's correlation id."""
        request: str = self.of("request")()
        head, _, body = request.partition("\r\n\r\n")
        lines = dict(line.split(": ") for line in head.split("\r\n")[1:])
        assert head.startswith("POST /api/appointments HTTP/1.1\r\n")
        assert int(lines["Content-Length"]) == len(body)
        return lines["X-Correlation-ID"]

    def answer(self, correlation_id: str, status: int = 201) -> None:
        self.of("response")(status, self.lua.table_from({"X-Correlation-ID": correlation_id}))

    def done(self) -> dict[str, Any]:
        self.of("done")()
        return msgspec.json.decode(self.lua.globals().said.strip().removeprefix("COUNTED "))


def test_what_is_due_waits_for_a_connection_and_counts_from_when_it_was_due() -> None:
    wishes = Wishes(Crowd("x-", (1,), 1), "tag-", datetime(2030, 1, 1, tzinfo=UTC))
    thread = Wrk(wishes, rate=100.0, count=4)
    assert [thread.free(), thread.free()] == [0, 10], "one every ten milliseconds"
    first = thread.send()
    thread.pass_ms(10)
    second = thread.send()
    thread.pass_ms(25)
    thread.answer(first)  # 35 ms after the beginning, the first was due at once
    assert thread.free() == 0, "the third is due since 20 ms, and had no connection"
    third = thread.send()
    thread.answer(second, status=503)
    assert thread.free() == 0, "the fourth since 30 ms"
    fourth = thread.send()
    thread.pass_ms(1)
    thread.answer(third)
    thread.answer(fourth)
    assert thread.free() > 1e6, "there is no fifth"
    assert thread.done() == {"statuses": {"201": 3, "503": 1}, "microseconds": [35_000, 25_000, 16_000, 6_000]}


def test_a_pause_is_never_too_short() -> None:
    wishes = Wishes(Crowd("x-", (1,), 1), "tag-", datetime(2030, 1, 1, tzinfo=UTC))
    thread = Wrk(wishes, rate=300.0, count=3)
    assert [thread.free() for _ in range(3)] == [0, 4, 7], "3.3 and 6.7 ms in whole milliseconds"
