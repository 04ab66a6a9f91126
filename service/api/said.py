"""What a request says, before anybody asks what it means: its key, correlation id, path, query, and body as bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
import uuid_utils
from sanic import Request
from sanic.exceptions import PayloadTooLarge, SanicException

from service.api.parsing import correlation_id
from service.operations.authenticate import Known

LARGEST_BODY_BYTES = 64 * 1024

# W3C Trace Context: ids of zeros only and version ff are invalid; versions after 00 may append fields.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?"
)


class Said(msgspec.Struct):
    """What a request says outside of its body, taken apart once for all that say the same.

    `query_text` is the query as it came; `query` is None before it was looked at, and so is what is `known` of the key.
    `is_json` says of its bodies that their type was looked at and can be read.
    """

    api_key: str | None
    correlation_id: str | None
    path: Mapping[str, str]
    query_text: str
    query: Mapping[str, str] | None = None
    known: Known | None = None
    is_json: bool = False


def said_by(request: Request, path: Mapping[str, str]) -> Said:
    """What a request says; `path` are the named parts of its path, as they came."""
    headers: Any = request.headers
    key: str | None = headers.get("x-api-key") or _bearer(headers.get("authorization"))
    if key is not None:  # bytes that are no UTF-8 arrive as half characters, which cannot be hashed
        key = key.encode(errors="replace").decode()
    # The router hands over what stands between the slashes as it was escaped.
    names = {name: unquote(value) for name, value in path.items()} if path else path
    given = _given_correlation(headers.get("x-correlation-id"), headers.get("traceparent"))
    return Said(key, given, names, request.query_string)


def correlation_of(request: Any) -> str:
    """The request's correlation id: the client's, else the trace id of a valid `traceparent`, else a new one."""
    headers: Any = getattr(request, "headers", None) or {}
    return correlation_among(headers.get("x-correlation-id"), headers.get("traceparent"))


def correlation_among(x_correlation_id: str | None, traceparent: str | None) -> str:
    """The correlation id of a request with these two headers."""
    return _given_correlation(x_correlation_id, traceparent) or str(uuid_utils.uuid4())


def _given_correlation(x_correlation_id: str | None, traceparent: str | None) -> str | None:
    """The correlation id that the client gave with these two headers."""
    given = correlation_id(x_correlation_id)
    if given is not None:
        return given
    traced = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if traced is None or (traced["version"] == "00" and traced["more"]):
        return None
    return traced["trace"]


def body_at_hand(stream: Any) -> bytes | None:
    """The body of the request on a connection, of at most 64 KiB, where all of it has come, as nearly always."""
    return stream.body_at_hand() if stream.request_bytes_left <= LARGEST_BODY_BYTES else None


async def read_body(request: Request) -> bytes:
    """The body, of at most 64 KiB.

    A larger one is read away, so that the answer arrives, and not kept. Raises PayloadTooLarge.
    """
    stream: Any = request.stream
    if stream is None:
        return request.body
    at_hand = body_at_hand(stream)
    if at_hand is not None:
        return at_hand
    parts: list[bytes] = []
    size = 0
    while True:
        chunk: bytes | None = await stream.read()
        if not chunk:
            break
        size += len(chunk)
        if size <= LARGEST_BODY_BYTES:
            parts.append(chunk)
    if size > LARGEST_BODY_BYTES:
        raise PayloadTooLarge("the body is larger than 64 KiB")
    return b"".join(parts)


def check_media_type(text: str | None, encoding: str | None) -> None:
    """Refuse a body that calls itself something else than JSON, or packed. Raises SanicException (415)."""
    if encoding is not None and encoding.strip().lower() != "identity":
        raise SanicException("send the body as it is, without Content-Encoding", status_code=415)
    if text is None or text == "application/json":
        return
    media = text.split(";", 1)[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise SanicException("send application/json", status_code=415)


def _bearer(text: str | None) -> str | None:
    if text is not None and text[:7].lower() == "bearer ":
        return text[7:].strip()
    return None
