"""The load: clients that book, move, cancel, look and ask again, and never give up because of a failure.

Everything a client does is chosen by one seeded generator a client, and everything it sends and hears is in the
history. A write keeps its idempotency key through all its retries. Each request carries its number as correlation
id, so an event in Postgres names the very request that made it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.faults.history import History, Operation
from tests.faults.world import OrganizationWorld, World

TIMEOUT_S = 8.0
LONGEST_WAIT_S = 1.0
RETRIES = 8
# After the end of the run a client asks this long for the answer it has not got.
LAST_RETRIES_S = 6.0
THINKING_S = (0.0, 0.1)
KEPT = 400
# Of a hundred wishes; "replay" asks for an answer again, "reuse" books something else under a key of before.
_SHARES = {"book": 44, "cancel": 20, "move": 14, "get": 9, "availability": 8, "replay": 3, "reuse": 2}


def correlation_of(number: int) -> str:
    """The correlation id of an operation."""
    return f"fault-{number}"


@dataclass(frozen=True)
class Wish:
    """What a client wants, whatever it takes: one write or read, and the key all its requests carry."""

    org: OrganizationWorld
    kind: str
    request: Mapping[str, Any]
    key: str | None = None
    target: str | None = None


class Load:
    """Some clients on `url`; `disconnecting` makes them cut some of their requests at random moments."""

    def __init__(self, url: str, world: World, history: History, chance: Random, *, clients: int = 24) -> None:
        self._url = url
        self._world = world
        self._history = history
        self._chances = [Random(chance.getrandbits(64)) for _ in range(clients)]
        # By organization: appointments that were booked and, as far as anybody knows, not cancelled; their calendars.
        self._live: dict[str, dict[str, str]] = defaultdict(dict)
        # Keyed bookings of before, to be asked again.
        self._kept: list[Wish] = []
        self._keys = 0
        self.disconnecting = False

    async def run(self, until: asyncio.Event) -> None:
        """Keep going through any failure until `until` is set, then end the retries (6 s at most) and return."""
        connector = TCPConnector(limit=0)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=TIMEOUT_S)) as session:
            # By itself aiohttp sends a GET again on a connection that broke: a request the history knows nothing of.
            session._retry_connection = False  # type: ignore[attr-defined]
            clients = [_Client(self, number, session, chance, until) for number, chance in enumerate(self._chances)]
            await asyncio.gather(*(client.run() for client in clients))

    def wish(self, chance: Random) -> Wish:
        """What a client wants next."""
        org = chance.choice(self._world.organizations)
        (kind,) = chance.choices(list(_SHARES), list(_SHARES.values()))
        if kind in ("replay", "reuse") and self._kept:
            return chance.choice(self._kept) if kind == "replay" else self._same_key(chance)
        if kind == "availability":
            calendar = chance.choice(org.calendars)
            day = chance.choice(calendar.starts).date().isoformat()
            return Wish(org, kind, {"calendar_id": calendar.calendar_id, "from": day, "days": "1"})
        live = self._live[org.name]
        if kind not in ("cancel", "move", "get") or not live:
            return self._booking(org, chance)
        target, calendar_id = chance.choice(list(live.items()))
        if kind != "move":
            return Wish(org, kind, {}, self._key(chance) if kind == "cancel" else None, target)
        calendar = next(one for one in org.calendars if one.calendar_id == calendar_id)
        moved: dict[str, Any] = {"start_time": chance.choice(calendar.starts).isoformat()}
        if chance.random() < 0.2:
            moved["coach_id"] = chance.choice(calendar.coach_ids)
        return Wish(org, kind, moved, self._key(chance), target)

    def _booking(self, org: OrganizationWorld, chance: Random) -> Wish:
        calendar = chance.choice(org.calendars)
        body: dict[str, Any] = {
            "calendar_id": calendar.calendar_id,
            "start_time": chance.choice(calendar.starts).isoformat(),
            "contact_email": f"person-{chance.randrange(200)}@example.com",
        }
        if chance.random() < 0.25:
            body["coach_id"] = chance.choice(calendar.coach_ids)
        return Wish(org, "book", body, self._key(chance))

    def _same_key(self, chance: Random) -> Wish:
        """A different booking under the key of one before: refused, unless that one came to nothing."""
        before = chance.choice(self._kept)
        other = self._booking(before.org, chance)
        return Wish(before.org, "book", {**other.request, "notes": f"another {chance.random()}"}, before.key)

    def _key(self, chance: Random) -> str | None:
        if chance.random() < 0.1:
            return None
        self._keys += 1
        return f"key-{self._keys}"

    def learn(self, wish: Wish, operation: Operation) -> None:
        """Remember what an answer tells the clients: what may be moved or cancelled, and asked for again."""
        live = self._live[wish.org.name]
        if wish.kind == "book" and operation.status == 201 and isinstance(operation.body, dict):
            live[operation.body["appointment_id"]] = operation.body["calendar_id"]
        gone = wish.kind == "cancel" and operation.status == 200
        if wish.target is not None and (gone or operation.error in ("STATE_CONFLICT", "NOT_FOUND")):
            live.pop(wish.target, None)
        if wish.kind == "book" and wish.key is not None and not operation.headers.get("Idempotent-Replayed"):
            self._kept.append(wish)
            del self._kept[:-KEPT]

    async def send(
        self, session: ClientSession, client: int, wish: Wish, first: Operation | None, cut_after_s: float | None
    ) -> Operation:
        """One request and its record; `cut_after_s`: when to go away without waiting for the answer."""
        operation = self._history.begin(
            client,
            wish.org.name,
            wish.kind,
            wish.request,
            key=wish.key,
            target=wish.target,
            retry_of=None if first is None else first.number,
        )
        with suppress(ClientError, OSError, TimeoutError, ValueError):
            async with asyncio.timeout(cut_after_s):
                await self._exchange(session, wish, operation)
        return operation

    async def _exchange(self, session: ClientSession, wish: Wish, operation: Operation) -> None:
        headers = {"X-API-Key": wish.org.key, "X-Correlation-ID": correlation_of(operation.number)}
        if wish.key is not None:
            headers["Idempotency-Key"] = wish.key
        method, path, written = _HTTP[wish.kind]
        url = self._url + path.format(target=wish.target)
        payload: dict[str, Any] = {"json": dict(wish.request)} if written else {"params": dict(wish.request)}
        async with session.request(method, url, headers=headers, **payload) as answer:
            raw = await answer.read()
            self._history.end(operation, answer.status, json.loads(raw), answer.headers, raw)


_HTTP = {
    "book": ("POST", "/api/appointments", True),
    "cancel": ("POST", "/api/appointments/{target}/cancel", True),
    "move": ("PATCH", "/api/appointments/{target}", True),
    "get": ("GET", "/api/appointments/{target}", False),
    "availability": ("GET", "/api/availability", False),
}


class _Client:
    """One of them: a wish after the other, each asked for until there is an answer or it can only do harm."""

    def __init__(self, load: Load, number: int, session: ClientSession, chance: Random, until: asyncio.Event) -> None:
        self._load = load
        self._number = number
        self._session = session
        self._chance = chance
        self._until = until
        self._ended: float | None = None

    async def run(self) -> None:
        while not self._until.is_set():
            wish = self._load.wish(self._chance)
            # Some people press twice.
            twice = wish.key is not None and self._chance.random() < 0.08
            await asyncio.gather(*(self._pursue(wish) for _ in range(2 if twice else 1)))
            await self._pause(self._chance.uniform(*THINKING_S))

    async def _pursue(self, wish: Wish) -> None:
        first: Operation | None = None
        for _ in range(RETRIES):
            operation = await self._load.send(self._session, self._number, wish, first, self._cut())
            self._load.learn(wish, operation)
            first = first or operation
            if not self._again(wish, operation):
                return
            await self._pause(self._wait(operation))

    def _cut(self) -> float | None:
        if not self._load.disconnecting or self._chance.random() > 0.2:
            return None
        return self._chance.uniform(0.0, 0.04)

    def _again(self, wish: Wish, operation: Operation) -> bool:
        """Whether to ask again: with a key always when the answer is open; without one only what did nothing."""
        if self._until.is_set():
            self._ended = self._ended or time.monotonic()
            if time.monotonic() - self._ended > LAST_RETRIES_S:
                return False
        if operation.unknown:
            return wish.key is not None or wish.kind in ("get", "availability")
        return operation.status in (429, 503)

    def _wait(self, operation: Operation) -> float:
        told = operation.headers.get("Retry-After", "")
        seconds = float(told) if told.isdigit() else 0.1
        return min(seconds, LONGEST_WAIT_S) * self._chance.uniform(0.5, 1.0)

    async def _pause(self, seconds: float) -> None:
        """Wait; not longer than the run lasts, unless only retries are left."""
        if self._until.is_set():
            await asyncio.sleep(min(seconds, 0.3))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._until.wait(), seconds)
