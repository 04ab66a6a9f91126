"""What wrk is told asks at a rate: a request that could not be sent in time is as late as it is.

The scripts run here in a Lua of the test's own, by a clock of the test's own, and the test does what wrk does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from lupa import lua51

from loadtest.bench.requests import Wishes
from loadtest.bench.setting import Crowd
from loadtest.bench.wrk import __file__ as wrk_module

AROUND = """
clock_ms = 500  -- of no consequence
said = ""
wrk = {host = "bench"}
math.random = function(most) return most and 1 or 1 - math.exp(-1) end  -- all pauses are of the usual length
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
        folder = Path(wrk_module).parent
        self.lua.execute(AROUND + "".join((folder / name).read_text() for name in ("book.lua", "paced.lua")))
        self.of: Callable[[str], Any] = self.lua.globals().__getitem__
        self.lua.execute("setup({get = function(_, name) return _G[name] end})")
        arguments = (f"{name}={value}" for name, value in (wishes.arguments() | given).items())
        self.of("init")(self.lua.table_from(list(arguments)))
        assert "X-Correlation-ID" not in self.of("request")(), "wrk looks at one before it connects"

    def pass_ms(self, milliseconds: float) -> None:
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

    def answer(self, correlation_id: str, status: int = 201, name: str = "X-Correlation-ID") -> None:
        self.of("response")(status, self.lua.table_from({name: correlation_id}))

    def done(self) -> dict[str, Any]:
        self.lua.execute("done({errors = {connect = 1, read = 2, write = 4, status = 8, timeout = 16}})")
        return msgspec.json.decode(self.lua.globals().said.strip().removeprefix("COUNTED "))


def thread(**given: object) -> Wrk:
    return Wrk(Wishes(Crowd("x-", (1,), 1), "tag-", datetime(2030, 1, 1, tzinfo=UTC)), **given)


def test_what_is_due_waits_for_a_connection_and_counts_from_when_it_was_due() -> None:
    wrk = thread(rate=100.0, count=4)
    assert [wrk.free(), wrk.free()] == [10, 20], "one every ten milliseconds"
    wrk.pass_ms(10)
    first = wrk.send()
    wrk.pass_ms(10)
    second = wrk.send()
    wrk.pass_ms(25)
    wrk.answer(first)  # 45 ms after the beginning, and the first was due at 10
    assert wrk.free() == 0, "the third is due since 30 ms, and had no connection"
    third = wrk.send()
    wrk.answer(second, 503, "x-correlation-id")
    assert wrk.free() == 0, "the fourth since 40 ms"
    fourth = wrk.send()
    wrk.pass_ms(1)
    wrk.answer(third)
    wrk.answer(fourth)
    assert wrk.free() > 1e6, "there is no fifth"
    assert wrk.done() == {
        "statuses": {"201": 3, "503": 1},
        "broken": 7,
        "microseconds": [35_000, 25_000, 16_000, 6_000],
    }


def test_a_pause_is_never_too_short() -> None:
    wrk = thread(rate=300.0, count=3)
    assert [wrk.free() for _ in range(3)] == [4, 7, 10], "3.3, 6.7 and 10 ms in whole milliseconds"


def test_what_is_sent_early_counts_from_then() -> None:
    wrk = thread(rate=100.0, count=1)
    assert wrk.free() == 10
    wrk.pass_ms(9.5)
    sent = wrk.send()
    wrk.pass_ms(2)
    wrk.answer(sent)
    assert wrk.done()["microseconds"] == [2_000]
