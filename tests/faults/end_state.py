"""Reading the end of a run, straight from the servers and not through the proxies.

Counters are read before the endpoints are looked at, because that look counts. A server that cannot be read is an
error of the run: the machine has been healed and given time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

from tests.api.stack import UNREPAIRED
from tests.faults.final import AppointmentRow, CalendarRow, CoachRow, EventRow, Final, Labels

# A pool of ten and the connection that commits bookings; one more that was just replaced.
CONNECTIONS_A_PROCESS = 12
API_PROCESSES = 2
PROBE_WITHIN_S = 5.0
_PLAIN = ("/livez", "/readyz", "/health", "/openapi.json", "/docs", "/metrics")
_KEYED = (
    "/api/availability?days=2",
    "/api/appointments?limit=5",
    "/api/coaches",
    "/api/calendars",
    "/api/contacts?limit=5",
    "/api/events?limit=5",
    "/api/coaches/distribution",
    "/api/webhooks/deliveries?state=dead",
    "/api/webhooks/endpoints",
)
_COACHES = """
SELECT o.name AS org, c.coach_no, c.coach_id, c.timezone, c.max_daily_appointments,
    coalesce(array_agg(w.weekday || ' ' || w.start_minute || ' ' || w.end_minute)
        FILTER (WHERE w.weekday IS NOT NULL), '{}') AS windows
FROM coaches AS c JOIN organizations AS o USING (org_id) LEFT JOIN weekly_windows AS w USING (org_id, coach_no)
WHERE c.active GROUP BY 1, 2, 3, 4, 5"""
_CALENDARS = """
SELECT o.name AS org, c.*, array(SELECT coach_no FROM calendar_coaches AS m
    WHERE m.org_id = c.org_id AND m.calendar_no = c.calendar_no) AS team
FROM calendars AS c JOIN organizations AS o USING (org_id)"""
_APPOINTMENTS = """
SELECT o.name AS org, a.*, c.coach_id, k.calendar_id, lower(a.occupied) AS occupied_from,
    upper(a.occupied) AS occupied_to
FROM appointments AS a JOIN organizations AS o USING (org_id) JOIN coaches AS c USING (org_id, coach_no)
LEFT JOIN calendars AS k ON k.org_id = a.org_id AND k.calendar_no = a.calendar_no"""
_EVENTS = """
SELECT o.name AS org, e.appointment_id, e.sequence, e.type, e.occurred_at, e.correlation_id, e.data::text AS data
FROM events AS e JOIN organizations AS o USING (org_id) ORDER BY e.occurred_at, e.appointment_id, e.sequence"""
_UNHEARD = """
SELECT count(*) FROM events AS e WHERE e.type <> 'appointment.reminder' AND NOT EXISTS (
    SELECT FROM deliveries AS d WHERE d.org_id = e.org_id AND d.appointment_id = e.appointment_id
        AND d.sequence = e.sequence AND d.destination = 'crm' AND d.state IN ('delivered', 'dead'))"""
_ACTIVITY = """
SELECT pid, state, extract(epoch FROM clock_timestamp() - xact_start)::float AS transaction_s, query
FROM pg_stat_activity WHERE application_name = 'booking' AND datname = current_database()"""


async def read(machine: Any) -> Final:
    """The whole end state of a machine that is healed and quiet."""
    # Taken before the look at the endpoints, which books as well.
    metrics = await _metrics(machine.url)
    receipts = {event: list(times) for event, times in machine.crm.receipts.items()}
    bodies = {event: set(told) for event, told in machine.crm.bodies.items()}
    ended = await machine.cli("verify")
    async with machine.database() as connection:
        coaches = await connection.fetch(_COACHES)
        calendars = await connection.fetch(_CALENDARS)
        appointments = await connection.fetch(_APPOINTMENTS)
        events = await connection.fetch(_EVENTS)
        deliveries = await connection.fetch("SELECT appointment_id, sequence, destination, state FROM deliveries")
        leftovers = {"events the CRM has not heard": await connection.fetchval(_UNHEARD)}
        leftovers["grid_repairs"] = await connection.fetchval(UNREPAIRED)
        activity = await connection.fetch(_ACTIVITY)
    async with machine.redis() as redis:
        leftovers |= await _left_in_redis(redis)
    probes = await _probe(machine)
    processes = {"api": len(machine.api_pids()), "worker": len(machine.worker_pids())}
    return Final(
        coaches=tuple(_coach(row) for row in coaches),
        calendars=tuple(_calendar(row) for row in calendars),
        appointments=tuple(_appointment(row) for row in appointments),
        events=tuple(_event(row) for row in events),
        deliveries={(str(r["appointment_id"]), r["sequence"], r["destination"]): r["state"] for r in deliveries},
        leftovers={name: count for name, count in leftovers.items() if count},
        metrics=metrics,
        verify_code=ended.code,
        verify_text=ended.out.strip() or ended.err.strip(),
        activity=tuple(dict(row) for row in activity),
        most_connections=CONNECTIONS_A_PROCESS * (API_PROCESSES + 1),
        receipts=receipts,
        receipt_bodies=bodies,
        probes=tuple(probes),
        processes=processes,
        expected_processes={"api": API_PROCESSES, "worker": 1},
    )


def _coach(row: Any) -> CoachRow:
    windows = [tuple(int(part) for part in window.split()) for window in row["windows"]]
    limit = row["max_daily_appointments"]
    return CoachRow(row["org"], row["coach_no"], row["coach_id"], row["timezone"], limit, tuple(windows))  # type: ignore[arg-type]


def _calendar(row: Any) -> CalendarRow:
    minutes = (row["slot_duration"], row["slot_interval"], row["buffer_before"], row["buffer_after"])
    return CalendarRow(row["org"], row["calendar_id"], *minutes, frozenset(row["team"]))


def _appointment(row: Any) -> AppointmentRow:
    day: date = row["local_day"]
    return AppointmentRow(
        org=row["org"],
        appointment_id=str(row["appointment_id"]),
        calendar_id=row["calendar_id"],
        coach_no=row["coach_no"],
        coach_id=row["coach_id"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        occupied=(row["occupied_from"], row["occupied_to"]),
        local_day=day,
        status=row["status"],
        version=row["version"],
        idempotency_key=row["idempotency_key"],
    )


def _event(row: Any) -> EventRow:
    return EventRow(
        row["org"],
        str(row["appointment_id"]),
        row["sequence"],
        row["type"],
        row["occurred_at"],
        row["correlation_id"],
        json.loads(row["data"]),
    )


async def _left_in_redis(redis: Any) -> dict[str, int]:
    """Entries of streams, dead letters and due sets, events on their way, pending claims."""
    lengths = {"stream": "xlen", "dead": "xlen", "due": "zcard", "way": "scard", "pending": "hlen"}
    left: dict[str, int] = {}
    async for key in redis.scan_iter(count=1000):
        # The shard's tag, what it is, and of which destination.
        _, kind, *name = key.decode().split(":")
        if kind in lengths:
            left[":".join([kind, *name])] = await getattr(redis, lengths[kind])(key)
    return left


async def _metrics(url: str) -> Mapping[tuple[str, Labels], float]:
    async with (
        ClientSession(timeout=ClientTimeout(total=PROBE_WITHIN_S)) as session,
        session.get(f"{url}/metrics") as answer,
    ):
        text = await answer.text()
    found: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def _probe(machine: Any) -> list[tuple[str, int, float]]:
    """Every kind of GET once, then a booking of a start that is offered, and its cancellation."""
    probes: list[tuple[str, int, float]] = []
    key = await _key(machine)
    timeout = ClientTimeout(total=PROBE_WITHIN_S)
    async with ClientSession(machine.url, headers={"X-API-Key": key}, timeout=timeout) as session:

        async def ask(method: str, path: str, body: object = None) -> Any:
            began = time.monotonic()
            try:
                async with session.request(method, path, json=body) as answer:
                    raw = await answer.read()
                    probes.append((f"{method} {path}", answer.status, time.monotonic() - began))
                    return json.loads(raw) if answer.content_type == "application/json" else None
            except (ClientError, OSError, TimeoutError, ValueError):
                probes.append((f"{method} {path}", 0, time.monotonic() - began))
                return None

        for path in (*_PLAIN, *_KEYED):
            await ask("GET", path)
        calendars = await ask("GET", "/api/calendars")
        calendar = calendars["calendars"][0]["calendar_id"] if calendars else ""
        # Later than what the load asked for: a start that nobody took.
        later = (datetime.now(UTC) + timedelta(days=6)).date()
        offered = await ask("GET", f"/api/availability?calendar_id={calendar}&from={later}&days=3")
        start = offered["slots"][0]["start_time"] if offered and offered["slots"] else ""
        booking = {"calendar_id": calendar, "start_time": start, "contact_email": "last@example.com"}
        booked = await ask("POST", "/api/appointments", booking)
        appointment = f"/api/appointments/{booked.get('appointment_id') if booked else 'none'}"
        await ask("GET", appointment)
        await ask("POST", f"{appointment}/cancel", {})
    return probes


async def _key(machine: Any) -> str:
    """A key of the last organization that was made."""
    async with machine.database() as connection:
        name = await connection.fetchval("SELECT name FROM organizations ORDER BY org_id DESC LIMIT 1")
    words = ("keys", "create", "--name", "probe", "--scopes", "read,write,admin", "--rate-limit", "0")
    ended = await machine.cli(*words, "--organization", name)
    assert ended.code == 0, ended.err
    return ended.out.split()[-1]
