"""Each kind of write there is, with one request that is sound and what it does to the tables.

What takes a key is read from the document the service serves; a new endpoint fails the tests until it has its
example in `EXAMPLES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.api.client import Answer, Client, booking
from tests.api_people.asking import local, made, weekday

WRITES = frozenset({"post", "put", "patch", "delete"})
# Messages that have an identity of their own, which stands in their own headers or body.
OWN_IDENTITY = frozenset({"accept_calendar_event"})
# What tells that something was done: rows, and the versions of rosters, which count every change of them.
TABLES = ("appointments", "events", "contacts", "coaches", "calendars", "time_off")


@dataclass(frozen=True)
class Write:
    """A request ready to be sent, again and again."""

    method: str
    path: str
    body: Any = None

    async def __call__(self, api: Client, key: str | None, **headers: str) -> Answer:
        """Send it under a key."""
        named = {} if key is None else {"Idempotency-Key": key}
        return await api(self.method, self.path, self.body, headers={**named, **headers})


@dataclass(frozen=True)
class Example:
    """How a write of a kind is made ready (the number tells two of a kind apart), and what it adds to the tables."""

    ready: Callable[[Client, int], Awaitable[Write]]
    adds: Mapping[str, int]


async def _appointment(api: Client, number: int) -> str:
    start = (await api.starts("cal-1", coaches=2))[10 + 2 * number]
    made_one = await api.book(booking(start, "cal-1", person=1))
    assert made_one.status == 201, made_one.raw
    return made_one.json["appointment_id"]


def _of_appointment(method: str, suffix: str = "", body: Any = None) -> Example:
    async def ready(api: Client, number: int) -> Write:
        return Write(method, f"/api/appointments/{await _appointment(api, number)}{suffix}", body)

    return Example(ready, {"events": 1})


async def _booking(api: Client, number: int) -> Write:
    start = (await api.starts("cal-2"))[10 + 2 * number]
    return Write("POST", "/api/appointments", booking(start, "cal-2", person=1))


async def _move(api: Client, number: int) -> Write:
    path = f"/api/appointments/{await _appointment(api, number)}"
    return Write("PATCH", path, {"start_time": (await api.starts("cal-1"))[60 + 2 * number], "notes": "later"})


def _given(method: str, path: str, body: Any, **adds: int) -> Example:
    async def ready(_: Client, number: int) -> Write:
        text = {
            name: value.replace("#", str(number)) if isinstance(value, str) else value for name, value in body.items()
        }
        return Write(method, path, text)

    return Example(ready, adds)


async def _time_off(api: Client, number: int) -> Write:
    day = weekday(1, after_days=10 + 7 * (number % 2))
    period = {"start_time": local(day, "09:00"), "end_time": local(day, "12:00"), "existing": "keep"}
    return Write("POST", "/api/coaches/coach-4/time-off", period)


async def _end_of_time_off(api: Client, number: int) -> Write:
    wish = await _time_off(api, number)
    period = await made(api, wish.path, **wish.body)
    return Write("DELETE", f"{wish.path}/{period['time_off_id']}")


async def _coach_to_leave(api: Client, number: int) -> Write:
    coach = await made(api, "/api/coaches", name="Leaving", email=f"leaving{number}@example.com")
    return Write("DELETE", f"/api/coaches/{coach['coach_id']}")


_WEEK = {"timezone": "America/New_York", "weekly": {"monday": [{"start": "09:00", "end": "12:30"}]}}
_COACH = {"name": "New #", "email": "new#@example.com"}

EXAMPLES: Mapping[str, Example] = {
    "book_appointment": Example(_booking, {"appointments": 1, "events": 1, "contacts": 1}),
    "change_appointment": Example(_move, {"events": 1}),
    "put_appointment": _of_appointment("PUT", body={"notes": "other notes"}),
    "delete_appointment": _of_appointment("DELETE", body={"reason": "ill"}),
    "cancel_appointment": _of_appointment("POST", "/cancel", {"reason": "ill"}),
    "confirm_appointment": _of_appointment("POST", "/confirm"),
    "complete_appointment": _of_appointment("POST", "/complete"),
    "no_show_appointment": _of_appointment("POST", "/no-show"),
    "create_coach": _given("POST", "/api/coaches", _COACH, coaches=1, versions=1),
    "change_coach": _given("PATCH", "/api/coaches/coach-2", {"specialty": "Law #"}, versions=1),
    "deactivate_coach": Example(_coach_to_leave, {"versions": 1}),
    "replace_schedule": _given("PUT", "/api/coaches/coach-3/schedule", _WEEK, versions=1),
    "post_schedule": _given("POST", "/api/coaches/coach-6/schedule", _WEEK, versions=1),
    "set_time_off": Example(_time_off, {"time_off": 1}),
    "end_time_off": Example(_end_of_time_off, {"time_off": -1}),
    "create_calendar": _given("POST", "/api/calendars", {"name": "New #"}, calendars=1, versions=1),
    "change_calendar": _given("PATCH", "/api/calendars/cal-3", {"name": "Other #"}, versions=1),
    "create_contact": _given("POST", "/api/contacts", {"email": "person-#@new.example"}, contacts=1),
}


async def kinds(api: Client) -> dict[str, dict[str, Any]]:
    """The operations of the served document that write, by their ids."""
    document = (await api("GET", "/openapi.json")).json
    found = [operation for path in document["paths"].values() for method, operation in path.items() if method in WRITES]
    return {operation["operationId"]: operation for operation in found}


async def counted(sql: Any) -> dict[str, int]:
    """Rows of each table, and the rosters' versions together."""
    one = "SELECT count(*) AS {0} FROM {0}"
    rows = [await sql.fetchrow(one.format(table)) for table in TABLES]
    rows.append(await sql.fetchrow("SELECT sum(roster_version) AS versions FROM organizations"))
    return {name: int(value) for row in rows for name, value in row.items()}


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was added, where anything was."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


async def time_passes(sql: Any, redis: Any) -> None:
    """As long as whatever a dead process held is held: no mark is left in Redis, and its holds have ended."""
    for name in [name async for name in redis.scan_iter("{s0}:answer:*")]:
        await redis.delete(name)
    await sql.execute("UPDATE idempotency_records SET held_until = now() WHERE status IS NULL")
