"""The requests a load is made of, as bytes: what the Lua scripts make in wrk, for loads of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec

from loadtest.bench.setting import CALENDAR, CONTACTS, DAYS, DURATION_MIN, STARTS_A_DAY, Crowd, first_midnight, key_of


@dataclass(frozen=True)
class Wishes:
    """Bookings at random starts: whose they are, `starts` starts from `first` on, and what their keys begin with."""

    crowd: Crowd
    tag: str
    first: datetime
    starts: int = DAYS * STARTS_A_DAY
    seed: int = 1

    def arguments(self) -> dict[str, object]:
        """As `book.lua` takes them."""
        return {
            "prefix": self.crowd.prefix,
            "organizations": len(self.crowd.orgs),
            "calendar": CALENDAR,
            "first": int(self.first.timestamp()),
            "step": DURATION_MIN * 60,
            "starts": self.starts,
            "contacts": CONTACTS,
            "tag": self.tag,
            "seed": self.seed,
        }

    def maker(self) -> Callable[[int], bytes]:
        """The n-th of them."""
        chance = Random(self.seed)

        def make(number: int) -> bytes:
            organization = f"{self.crowd.prefix}{chance.randrange(len(self.crowd.orgs)):03d}"
            start = self.first + timedelta(minutes=DURATION_MIN * chance.randrange(self.starts))
            return booking(
                key_of(organization),
                start,
                idempotency_key=f"{self.tag}{number}",
                email=f"contact-{chance.randrange(CONTACTS):05d}@example.com",
            )

        return make


def all_starts(crowd: Crowd, tag: str, seed: int = 1) -> Wishes:
    """Bookings spread over all that is offered from tomorrow on."""
    return Wishes(crowd, tag, first_midnight(), seed=seed)


def booking(key: str, start: datetime, *, idempotency_key: str, email: str, **more: str) -> bytes:
    """The bytes of one booking; `more` are further fields of its body."""
    body = msgspec.json.encode(
        {
            "calendar_id": CALENDAR,
            "start_time": start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "contact_email": email,
            **more,
        }
    )
    return (
        f"POST /api/appointments HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nIdempotency-Key: {idempotency_key}\r\n\r\n"
    ).encode() + body


def get(path: str, **headers: str) -> bytes:
    """The bytes of a GET; underscores in the names of headers stand for hyphens."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{lines}\r\n".encode()
