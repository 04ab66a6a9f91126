"""How every call outward is made: one kind of session, one kind of answer.

An attempt does not raise for what the other side did: a refusal, a silence and a success are all values, and
whoever asked decides whether to try again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from service.outside.guard import REFUSAL, guarded_socket, was_forbidden
from service.outside.resolver import ForeignResolver

EXCERPT_BYTES = 1024
MOST_BYTES = 4 * 1024 * 1024
_CHUNK = 64 * 1024
# Asked to come back later, by statuses that do not say that the request itself is wrong.
_COME_BACK = frozenset({408, 409, 425, 429})

# What JSON raises that cannot be read; the last: it is nested deeper than we go, for which a kilobyte is enough.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_object_in = msgspec.json.Decoder(dict[str, Any]).decode


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP call that was made.

    `status` is None when there was no whole answer, and `problem` says why; `body` is what was kept of the
    answer; `retry_after_ms` is the wait the other side asked for, in its header or its body. `forbidden`: it was we
    who did not want to connect there.
    """

    status: int | None
    body: bytes = b""
    problem: str | None = None
    retry_after_ms: int | None = None
    duration_s: float = 0.0
    forbidden: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the other side said that it was done."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether the same request would be refused again, whenever it is made."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _COME_BACK

    @property
    def unwell(self) -> bool:
        """Whether the other side seems to be in trouble: silent, failing, or asking to be spared."""
        return self.status is None or self.status >= 500 or self.status == 429

    @property
    def why(self) -> str:
        """What went wrong, in a line for a person: the status and the first kilobyte of the answer."""
        if self.status is None:
            return self.problem or "no answer"
        return f"HTTP {self.status}: {self.excerpt}" if self.excerpt else f"HTTP {self.status}"

    @property
    def excerpt(self) -> str:
        """The first kilobyte of the answer as text in one line."""
        text = self.body[:EXCERPT_BYTES].decode(errors="replace")
        if not text.isprintable():  # nearly every answer is: a tenth of what a call takes was spent on its characters
            text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())

    def json(self) -> dict[str, Any]:
        """The answer as a JSON object; empty when it is none."""
        try:
            return _object_in(self.body)
        except UNREADABLE:
            return {}


def open_session(*, connections: int = 256) -> aiohttp.ClientSession:
    """A session for calls outward. Close it when done."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=30),
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Each call sets its own limit; this one holds where a call forgets to.
        timeout=aiohttp.ClientTimeout(total=30),
        headers={"User-Agent": "booking-service", "Accept": "application/json"},
    )


def open_foreign_session(
    *, allow_private: bool, connections: int = 1024, resolver: AbstractResolver | None = None
) -> aiohttp.ClientSession:
    """A session for calls to wherever a client of ours says. Close it when done.

    Connects to public addresses only, unless `allow_private`, and unpacks no answer. Names are resolved beside those
    of our own calls, so that one whose answer is long in coming holds none of them up.
    """
    connector = aiohttp.TCPConnector(
        limit=connections,
        ttl_dns_cache=30,
        happy_eyeballs_delay=None,
        resolver=resolver or ForeignResolver(),
        socket_factory=None if allow_private else guarded_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=30),
        headers={"User-Agent": "booking-service", "Accept-Encoding": "identity"},
        auto_decompress=False,
    )


async def attempt(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    timeout_s: float,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    most_bytes: int = EXCERPT_BYTES * 16,
    cut: bool = False,
) -> Attempt:
    """Make one call; `body` (any value msgspec encodes) goes as JSON.

    At most `most_bytes` of the answer are kept. A longer answer to a successful call is of no use and counts
    as none: status None. So does one that breaks off. Where nobody reads the answer, `cut` lets both count.
    """
    began = time.monotonic()
    more = dict(headers or {})
    data: bytes | None = None
    if body is not None:
        data = msgspec.json.encode(body)
        more["Content-Type"] = "application/json"
    try:
        async with session.request(
            method,
            url,
            data=data,
            headers=more,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            status = response.status
            kept, whole = await _read(response, most_bytes, cut)
            if not whole and not cut and 200 <= status < 300:
                return Attempt(
                    status=None,
                    problem=f"the answer is longer than {most_bytes} bytes",
                    duration_s=time.monotonic() - began,
                )
            return Attempt(
                status=status,
                body=kept,
                retry_after_ms=None if 200 <= status < 300 else _retry_after_ms(response, kept),
                duration_s=time.monotonic() - began,
            )
    except TimeoutError:
        return Attempt(status=None, problem=f"no answer within {timeout_s:g} s", duration_s=time.monotonic() - began)
    except aiohttp.InvalidURL:
        why = "the URL is refused: its host is neither a name nor an address in its usual form"
        return Attempt(status=None, problem=why, duration_s=time.monotonic() - began, forbidden=True)
    except (aiohttp.ClientError, OSError) as problem:
        if was_forbidden(problem):
            return Attempt(status=None, problem=REFUSAL, duration_s=time.monotonic() - began, forbidden=True)
        # The exception's text may hold the URL, and with it whatever somebody put there: its kind must do.
        why = f"no connection: {type(problem).__name__}"
        return Attempt(status=None, problem=why, duration_s=time.monotonic() - began)


async def _read(response: aiohttp.ClientResponse, most_bytes: int, cut: bool) -> tuple[bytes, bool]:
    """At most `most_bytes` of the body, and whether that was all of it; with `cut` also of one that breaks off."""
    kept = bytearray()
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            kept += chunk
            if len(kept) > most_bytes:
                return bytes(kept[:most_bytes]), False
    except (TimeoutError, aiohttp.ClientError, OSError):
        if not cut:
            raise
        return bytes(kept), False
    return bytes(kept), True


def _retry_after_ms(response: aiohttp.ClientResponse, body: bytes) -> int | None:
    """The wait asked for: `Retry-After`, seconds or a date (RFC 9110), else `retry_after` of the body."""
    header = response.headers.get("Retry-After", "").strip()
    if header.isascii() and header.isdigit():
        return int(header[:9]) * 1000
    if header:
        try:
            when = parsedate_to_datetime(header)
        except (ValueError, OverflowError):
            return None
        wait = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)
        return max(0, round(wait.total_seconds() * 1000))
    try:
        told = msgspec.json.decode(body, type=_Told)
    except UNREADABLE:
        return None
    wait_s = told.retry_after
    return None if wait_s is None or not 0 <= wait_s < 1e9 else round(wait_s * 1000)


class _Told(msgspec.Struct, frozen=True):
    retry_after: float | None = None
