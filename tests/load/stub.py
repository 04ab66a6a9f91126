"""A booking service in memory, for what a real one must not do: stand still, lie, or refuse on command.

It keeps appointments by their idempotency key and answers in the shapes of API.md, as far as the load asks for them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from aiohttp import web

CALENDAR = {
    "calendar_id": "stub",
    "coach_ids": ["coach-a", "coach-b", "coach-c"],
    "slot_duration": 30,
    "max_days_ahead": 30,
}
LIES = ("start_time", "coach_id", "replay", "mark")
_OF_REPLAYS = ("replay", "mark")
HALF_HOUR = timedelta(minutes=30)


class Stub:
    """`lies` are told in turn to those who book, or book again.

    `refusal` (status, error, Retry-After) is what bookings meet.
    `calendars` are those its key sees. Every answer takes `slow_s`.
    `stall_s` is one standstill of everybody, from the request numbered `stall_at` on; `held` counts who met it.
    """

    def __init__(
        self,
        *,
        lies: tuple[str, ...] = (),
        refusal: tuple[int, str, str | None] | None = None,
        calendars: tuple[dict[str, Any], ...] = (CALENDAR,),
        stall_at: int = 0,
        stall_s: float = 0.0,
        slow_s: float = 0.0,
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.held = 0
        self.url = ""
        self._lies: Iterator[str] = cycle(lies or ("",))  # those of replays leave a first booking honest
        self._lies_again: Iterator[str] = cycle([lie for lie in lies if lie in _OF_REPLAYS] or [""])
        self._refusal = refusal
        self._offered = calendars
        self._slow_s = slow_s
        self._stall_at, self._stall_s = stall_at, stall_s
        self._still: asyncio.Event | None = None
        self._by_key: dict[str, tuple[bytes, str]] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def application(self) -> web.Application:
        """Every route the load uses."""
        app = web.Application(middlewares=[self._door])
        one = "/api/appointments/{id}"
        app.add_routes(
            [
                web.get("/livez", self._alive),
                web.get("/api/calendars", self._calendars),
                web.get("/api/availability", self._availability),
                web.post("/api/appointments", self._book),
                web.get("/api/appointments", self._list),
                web.get(one, self._get),
                web.patch(one, self._move),
                web.delete(one, self._cancel),
                web.get("/api/webhooks/deliveries", self._deliveries),
            ]
        )
        return app

    @web.middleware
    async def _door(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked[request.method] += 1
        if self._stall_s and self._still is None and self.asked.total() >= self._stall_at:
            self._still = asyncio.Event()
            asyncio.get_running_loop().call_later(self._stall_s, self._still.set)
        if self._still is not None and not self._still.is_set():
            self.held += 1
            await self._still.wait()
        await asyncio.sleep(self._slow_s)
        return await handler(request)

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _calendars(self, _: web.Request) -> web.Response:
        return web.json_response({"calendars": list(self._offered), "next_cursor": None})

    async def _availability(self, request: web.Request) -> web.Response:
        first = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
        times = [first + HALF_HOUR * number for number in range(20)]
        rows: list[dict[str, Any]] = [{"start_time": shown(at), "end_time": shown(at + HALF_HOUR)} for at in times]
        if request.query.get("group_by") == "start":
            rows = [{**row, "available": 3} for row in rows]
        else:
            rows = [{**row, "coach_id": request.query["coach_id"]} for row in rows]
        total = sum(row.get("available", 1) for row in rows)
        return web.json_response({"slots": rows, "total_available": total})

    async def _book(self, request: web.Request) -> web.Response:
        if self._refusal is not None:
            return refused(*self._refusal)
        key, wish = request.headers["Idempotency-Key"], await request.json()
        lie = next(self._lies_again if key in self._by_key else self._lies)
        if key in self._by_key:
            raw, name = self._by_key[key]
            raw = raw.replace(b"scheduled", b"scheduled ") if lie == "replay" else raw
            return booked(raw, name, {} if lie == "mark" else {"Idempotent-Replayed": "true"})
        start = datetime.fromisoformat(wish["start_time"]) + (HALF_HOUR if lie == "start_time" else timedelta())
        name = f"00000000-0000-7000-8000-{len(self._rows):012}"
        row = {
            "appointment_id": name,
            "calendar_id": wish["calendar_id"],
            "coach_id": "a-stranger" if lie == "coach_id" else "coach-a",
            "contact_email": wish["contact_email"],
            "start_time": shown(start),
            "end_time": shown(start + HALF_HOUR),
            "status": "scheduled",
            "version": 1,
        }
        self._rows[name] = row
        self._by_key[key] = (json.dumps(row).encode(), name)
        return booked(*self._by_key[key], {})

    async def _list(self, request: web.Request) -> web.Response:
        wanted = {name: value for name, value in request.query.items() if name in ("contact_email", "status")}
        rows = [row for row in self._rows.values() if all(row[name] == value for name, value in wanted.items())]
        rows.sort(key=lambda row: row["start_time"])
        return web.json_response({"appointments": rows, "next_cursor": None})

    async def _get(self, request: web.Request) -> web.Response:
        return told(self._rows[request.match_info["id"]])

    async def _move(self, request: web.Request) -> web.Response:
        start = datetime.fromisoformat((await request.json())["start_time"])
        return self._change(request, start_time=shown(start), end_time=shown(start + HALF_HOUR))

    async def _cancel(self, request: web.Request) -> web.Response:
        return self._change(request, status="cancelled")

    def _change(self, request: web.Request, **fields: str) -> web.Response:
        row = self._rows[request.match_info["id"]]
        if request.headers["If-Match"] != f'"v{row["version"]}"':
            return refused(412, "VERSION_MISMATCH", None)
        row.update(fields, version=row["version"] + 1)
        return told(row)

    async def _deliveries(self, _: web.Request) -> web.Response:
        rows = [
            {"event_id": f"{name}.1", "destination": destination, "state": "delivered"}
            for name in sorted(self._rows, reverse=True)
            for destination in ("crm", "notifications")
        ]
        return web.json_response({"deliveries": rows, "next_cursor": None})


def shown(at: datetime) -> str:
    """A time as the API writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def told(row: dict[str, Any]) -> web.Response:
    """An appointment with its entity tag."""
    return web.json_response(row, headers={"ETag": f'"v{row["version"]}"'})


def booked(raw: bytes, name: str, headers: dict[str, str]) -> web.Response:
    """A 201 of those very bytes."""
    place = {"Location": f"/api/appointments/{name}", "ETag": '"v1"'}
    return web.Response(body=raw, status=201, content_type="application/json", headers=place | headers)


def refused(status: int, error: str, retry_after: str | None) -> web.Response:
    """A problem document."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body = json.dumps({"status": status, "error": error, "message": "", "details": {}}).encode()
    return web.Response(body=body, status=status, content_type="application/problem+json", headers=headers)


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    """Serve it on a port of the loopback for the length of the block."""
    runner = web.AppRunner(stub.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield stub
    finally:
        await runner.cleanup()
