"""Speaking to the API as its clients do, and what every failure must look like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from yarl import URL

from tests.servers import eventually

PROBLEM_FIELDS = {"status", "title", "error", "message", "details", "correlation_id", "timestamp"}
RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.raw)


class Client:
    """Calls one API with one key; `None` sends none."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self._url = url
        self.key = key

    def with_key(self, key: str | None) -> Client:
        """The same API with another key."""
        return Client(self._session, self._url, key)

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: Any = None,
    ) -> Answer:
        """One request; `body` goes as JSON, `raw` (bytes or an async iterable of them) as it is."""
        sent = {} if self.key is None else {"X-API-Key": self.key}
        if body is not None or raw is not None:
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        data = raw if body is None else msgspec.json.encode(body)
        url = URL(self._url + path, encoded=True)
        async with self._session.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())

    async def book(self, body: Mapping[str, Any], *, key: str | None = None) -> Answer:
        """POST /api/appointments, under an idempotency key if one is given."""
        return await self("POST", "/api/appointments", body, headers={} if key is None else {"Idempotency-Key": key})

    async def slots(self, **query: object) -> list[dict[str, str]]:
        """The free slots of `GET /api/availability`."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        answer = await self("GET", f"/api/availability?{words}")
        assert answer.status == 200, answer.raw
        return answer.json["slots"]

    async def starts(self, calendar: str = "cal-1", *, coaches: int = 1, days: int = 30) -> list[str]:
        """Starts of a calendar at which at least `coaches` of its team are free.

        From tomorrow on: the first one of today may be over before it is asked for.
        """
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        words = f"calendar_id={calendar}&from={tomorrow}&days={days}&group_by=start"
        answer = await self("GET", f"/api/availability?{words}")
        assert answer.status == 200, answer.raw
        return [slot["start_time"] for slot in answer.json["slots"] if slot["available"] >= coaches]

    async def series(self) -> dict[str, float]:
        """What /metrics says: the value of each series by its name and labels as they are written."""
        answer = await self.with_key(None)("GET", "/metrics")
        lines = (line for line in answer.raw.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@asynccontextmanager
async def open_client(url: str, key: str | None) -> AsyncGenerator[Client]:
    """A client with as many connections as it likes."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(session, url, key)


def booking(start: str, calendar: str = "cal-1", person: int = 0, **more: Any) -> dict[str, Any]:
    """A wish for a start by the `person`-th contact."""
    wish = {"calendar_id": calendar, "start_time": start, "contact_email": f"person{person}@example.com"}
    return {**wish, "contact_name": f"Person {person}", **more}


async def all_at_once(calls: Iterable[Any]) -> list[Answer]:
    """The answers of requests made at the same time."""
    return await asyncio.gather(*calls)


async def until_redis_is_asked(api: Client) -> None:
    """Wait until every process asks Redis: one that was idle learns only by its next request that it was emptied.

    Until then it counts for itself, and books without claims.
    """

    async def asked() -> bool:
        await all_at_once(api("GET", "/api/availability?days=1") for _ in range(20))
        return (await api.series())["booking_gates_closed"] == 0

    await eventually(asked, what="every process asking Redis")


def assert_problem(answer: Answer, status: int, error: str) -> dict[str, Any]:
    """The problem an answer carries, after checking that it is what the contract promises of every failure."""
    assert answer.status == status, (answer.status, answer.raw)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert set(problem) == PROBLEM_FIELDS
    assert (problem["status"], problem["error"]) == (status, error), problem
    assert problem["title"] == HTTPStatus(status).phrase
    assert problem["message"]
    assert isinstance(problem["details"], dict)
    assert problem["correlation_id"] == answer.headers["X-Correlation-ID"]
    assert datetime.fromisoformat(problem["timestamp"]).tzinfo is not None
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1
    return problem


def assert_rate_headers(answer: Answer) -> None:
    """Every answer to a known key says where it stands."""
    assert all(answer.headers[name].isdigit() for name in RATE_HEADERS), dict(answer.headers)
