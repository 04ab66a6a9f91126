"""A plain client for what happens before and after the load: it waits when it is asked to, and measures nothing."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT_S = 20.0
TRIES = 8


def quoted(value: str) -> str:
    """A value for a query."""
    return quote(value, safe="")


class Unanswered(Exception):
    """The API could not be asked, or answered otherwise than expected: `status` is 0 when it did not answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """One API with one key, `None` sends none; a context manager that hangs up in the end."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ValueError(f"HOST: {url!r} is not an http URL")
        self._headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Any = None, *, expected: int = 200) -> Any:
        """The body of the answer. What is refused with a Retry-After is asked again, some times. Raises Unanswered."""
        for tried in range(1, TRIES + 1):
            status, headers, raw = self.once(method, path, body)
            patience = headers.get("retry-after", "")
            if status == expected:
                return json.loads(raw)
            if not (status in (429, 503) and patience.isdigit()) or tried == TRIES:
                break
            time.sleep(int(patience))
        raise Unanswered(status, f"{method} {path}: {status} {raw[:300].decode(errors='replace')}")

    def once(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of one request. Raises Unanswered with status 0."""
        sent = None if body is None else json.dumps(body).encode()
        for fresh in (False, True):
            try:
                connection = self._connected(fresh=fresh)
                connection.request(method, self._parts.path.rstrip("/") + path, sent, self._headers)
                answer = connection.getresponse()
                return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
            except (OSError, http.client.HTTPException) as problem:
                self.close()
                # A kept connection may have been closed from the other side; only what is asked twice in vain is away.
                if fresh or method != "GET":
                    raise Unanswered(0, f"{method} {path}: {type(problem).__name__}: {problem}") from None
        raise AssertionError("unreachable")

    def pages(self, path: str, field: str, **query: str) -> Iterator[dict[str, Any]]:
        """Every row of a list, page after page. Raises Unanswered."""
        cursor: dict[str, str] = {}
        while True:
            page = self.ask("GET", f"{path}?{urlencode({'limit': '200', **query, **cursor})}")
            yield from page[field]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, *, fresh: bool) -> http.client.HTTPConnection:
        if fresh:
            self.close()
        if self._connection is None:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            self._connection = kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_S)
        return self._connection
