"""Responses that are made into bytes quickly."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sanic.helpers import STATUS_CODES
from sanic.response import HTTPResponse

# What would end a header and begin another.
_SPLITTING = str.maketrans("", "", "\r\n\0")


class Response(HTTPResponse):
    """Sanic's response, whose head is one string that is encoded once.

    Sanic translates every name and value character by character, which took as long as all the rest of sending.
    """

    __slots__ = ("common",)

    def __init__(
        self,
        body: bytes | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        # As Sanic's does, which makes two dictionaries of headers that know upper case from lower.
        self.asgi = False
        self.body = body
        self.content_type = content_type
        self.stream = None
        self.status = status
        self.headers: Any = {} if headers is None else headers
        self._cookies = None
        self.common = ""  # what every answer carries, as `lines_of` makes it

    @property
    def has_body(self) -> bool:
        """Whether the status allows a body, and so says how long it is."""
        return self.status not in (204, 304)

    def head(self, *, keep_alive: bool) -> bytes:
        """Everything before the body."""
        lines = lines_of(self.headers) if self.headers else ""
        if self.has_body:
            size = len(self.body or b"")
            kind = "" if self.content_type is None else f"content-type: {self.content_type}\r\n"
            lines = f"{lines}{kind}content-length: {size}\r\n"
        connection = "keep-alive" if keep_alive else "close"
        text = f"{_status_line(self.status)}{lines}{self.common}connection: {connection}\r\n\r\n"
        return text.encode(errors="surrogateescape")


def lines_of(headers: dict[str, str]) -> str:
    """Header lines, without what would end one and begin another."""
    return "".join(
        [
            f"{name}: {value if value.isprintable() else value.translate(_SPLITTING)}\r\n"
            for name, value in headers.items()
        ]
    )


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {STATUS_CODES[status].decode()}\r\n"
