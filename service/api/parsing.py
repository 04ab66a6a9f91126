"""From bytes and strings to checked values, with the name of the field in every complaint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
import orjson

from service.domain.zones import day_bounds, wall_to_instant, zone
from service.errors import InvalidRequest, NotFound

Struct = TypeVar("Struct")

_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_NAMED = re.compile(r"`(?P<field>[^`]+)`")
_EMAIL = re.compile(r"[^@\s\"<>(),;:\\\[\]]{1,64}@(?:[^@\s.<>(),;:\\\[\]_]{1,63}\.)*[^@\s.<>(),;:\\\[\]_]{1,63}")
# Letters and marks to Unicode, so printable, but nothing to the eye: fillers, and what picks the form of a character.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_VERSION_TAG = re.compile(r'"v(?P<version>[1-9][0-9]{0,8})"')
_CORRELATION = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
LARGEST_METADATA_BYTES = 16_384
YEARS = range(1970, 2200)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[Struct]) -> Struct:
    """A request's JSON as the struct of `decoder`. Raises InvalidRequest naming the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        raise InvalidRequest([_complaint(str(problem))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest([("body", "is not valid JSON")]) from None


def _complaint(text: str) -> tuple[str, str]:
    """(field, message) out of msgspec's sentence."""
    at = _AT.search(text)
    message = text[: at.start()] if at else text
    path = (at["path"] if at else "").lstrip(".").replace("[...]", "[]")
    named = _NAMED.search(message)
    if message.startswith("Object missing required field") and named:
        return (f"{path}.{named['field']}" if path else named["field"], "is required")
    if message.startswith("Object contains unknown field") and named:
        return (f"{path}.{named['field']}" if path else named["field"], "is not a known field")
    return path or "body", message[:1].lower() + message[1:]


_HALF = re.compile("[\ud800-\udfff]")


def refuse_nul(value: Any, field: str = "") -> None:
    """Raise InvalidRequest for text Postgres cannot hold: a NUL character or half a surrogate pair, anywhere in it."""
    left: list[tuple[Any, str]] = [(value, field)]
    while left:  # a loop, because JSON may nest deeper than Python calls
        inner, name = left.pop()
        if isinstance(inner, str):
            if "\0" in inner:
                raise InvalidRequest([(name or "body", "must not contain a NUL character")])
            if not inner.isascii() and _HALF.search(inner):
                raise InvalidRequest([(name or "body", "must not contain half a surrogate pair")])
        elif isinstance(inner, dict):
            for key, item in cast("dict[str, Any]", inner).items():
                left += [(item, f"{name}.{key}" if name else key), (key, name)]  # the name is looked at first
        elif isinstance(inner, list):
            left += [(item, name) for item in cast("list[Any]", inner)]


def fingerprint_of(method: str, route: str, body: bytes) -> str:
    """What stands for a request under an idempotency key: method, route and canonical body, as 32 hex digits."""
    try:
        canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if body else b""
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        canonical = body
    digest = hashlib.blake2b(f"{method} {route}\n".encode(), digest_size=16)
    digest.update(canonical)
    return digest.hexdigest()


def idempotency_key(headers: Any) -> str | None:
    """The request's idempotency key: 1-255 visible ASCII characters, quoted or bare. Raises InvalidRequest.

    So do two that are not the same, under one name or both: nobody could say under which the answer is kept.
    """
    own, other = headers.getall("idempotency-key", ()), headers.getall("x-idempotency-key", ())
    if not own and not other:
        return None
    name = "Idempotency-Key" if own else "X-Idempotency-Key"
    key, *more = (*own, *other)
    key = _bare(key)
    if more and any(_bare(raw) != key for raw in more):
        raise InvalidRequest([(name, "must not be given twice with different values")])
    if not _KEY.fullmatch(key):
        raise InvalidRequest([(name, "must be 1 to 255 visible ASCII characters")])
    return key


def _bare(raw: str) -> str:
    key = raw.strip()
    return key[1:-1] if len(key) >= 2 and key[0] == key[-1] == '"' else key


def versions_of(if_match: str | None) -> frozenset[int] | None:
    """The versions an `If-Match` header lets a change be made from; None for any.

    A tag that is none of ours, or a weak one, matches nothing.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    found = (_VERSION_TAG.fullmatch(tag.strip()) for tag in if_match.split(","))
    return frozenset(int(match["version"]) for match in found if match is not None)


def correlation_id(text: str | None) -> str | None:
    """A client's correlation id when it is safe to log and echo, else None."""
    return text if text is not None and _CORRELATION.fullmatch(text) else None


def email(field: str, text: str) -> str:
    """An e-mail address that looks like one (at most 254 characters), in lower case. Raises InvalidRequest.

    One with characters nobody sees, as come along when an address is copied, is none: no letter can be written to it.
    """
    if len(text) > 254 or not text.isprintable() or _UNSEEN.search(text) or not _EMAIL.fullmatch(text):
        raise InvalidRequest([(field, "is not an e-mail address")])
    return text.lower()


def uuid_of(text: str, what: str) -> UUID:
    """A path's id as a UUID. Raises NotFound for one that is none: there is no such `what`."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"no {what} {text[:64]!r}") from None


def timezone_name(field: str, text: str) -> str:
    """An IANA zone's name. Raises InvalidRequest."""
    try:
        zone(text)
    except ValueError as problem:
        raise InvalidRequest([(field, str(problem))]) from None
    return text


def instant(field: str, value: datetime, timezone: str | None) -> datetime:
    """A body's time in UTC; one without offset is wall-clock time of the named zone. Raises InvalidRequest."""
    try:
        if value.tzinfo is not None:
            return value.astimezone(UTC)
        if timezone is None:
            raise InvalidRequest([(field, "needs an offset, or a timezone beside it")])
        return wall_to_instant(value, zone(timezone))
    except (ValueError, OverflowError) as problem:
        raise InvalidRequest([(field, str(problem))]) from None


def query_time(field: str, text: str, timezone: str | None) -> datetime:
    """A date (its beginning in the zone, else in UTC) or a time of a query string, in UTC. Raises InvalidRequest."""
    # A plus sign of an offset reads as a space where the client did not escape it.
    text = text.replace(" ", "+") if "T" in text else text
    try:
        if not _DATE.fullmatch(text):
            if "T" not in text.upper():
                raise ValueError("a date of another form")
            return instant(field, datetime.fromisoformat(text.upper()), timezone)
        day = date.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidRequest([(field, "is neither a date nor an RFC 3339 time")]) from None
    try:
        # Not always at midnight, which some zones skip on a day of the year.
        return day_bounds(day, zone(timezone or "UTC"))[0]
    except ValueError as problem:
        raise InvalidRequest([(field, str(problem))]) from None


def planned_time(field: str, text: str, timezone: str | None) -> datetime:
    """A time of a query string, of a year that has calendars. Raises InvalidRequest."""
    found = query_time(field, text, timezone)
    if found.year not in YEARS:
        raise InvalidRequest([(field, f"is not in the years {YEARS[0]} to {YEARS[-1]}")])
    return found


def query_zone(query: Mapping[str, str]) -> str | None:
    """The IANA zone a query names by its `timezone`, None for none. Raises InvalidRequest."""
    return timezone_name("timezone", query["timezone"]) if "timezone" in query else None


def query_integer(field: str, text: str, low: int, high: int) -> int:
    """A whole number of a query string. Raises InvalidRequest."""
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise InvalidRequest([(field, f"must be a whole number from {low} to {high}")])
    return int(text)


def query_word(field: str, text: str, words: Sequence[str]) -> str:
    """One of a few words of a query string. Raises InvalidRequest."""
    if text not in words:
        raise InvalidRequest([(field, "must be one of " + ", ".join(word for word in words if word))])
    return text


# Who asks again mostly asks the same, and taking a query apart takes over ten times as long as finding it here.
@lru_cache(maxsize=256)
def query_of(text: str, known: frozenset[str]) -> Mapping[str, str]:
    """A query string's parameters. Raises InvalidRequest for one that is unknown, given twice or holds a NUL."""
    found: dict[str, str] = {}
    for name, values in parse_qs(text, keep_blank_values=True).items():
        if name not in known:
            raise InvalidRequest([(name[:64], "is not a known parameter")])
        if len(values) != 1:
            raise InvalidRequest([(name, "is given more than once")])
        if "\0" in values[0]:
            raise InvalidRequest([(name, "must not contain a NUL character")])
        found[name] = values[0]
    return MappingProxyType(found)
