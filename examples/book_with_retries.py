#!/usr/bin/env python3
"""Books an appointment exactly once, whatever happens on the way. Needs only the standard library.

    BASE=http://localhost:3000 KEY=test-key-123 python3 examples/book_with_retries.py cal-1 ada@example.com [START]

Without START (RFC 3339) it takes the first free start, and the next one when somebody was faster.

The rule: make one idempotency key before the first attempt and keep it until there is a final answer. Then an
attempt whose answer was lost can be made again without a second appointment coming of it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from typing import Any

Answer = tuple[int, Mapping[str, str], dict[str, Any]]

ATTEMPT_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
# Nothing was decided yet. Any other 409 is an answer, and so is every other 4xx.
UNDECIDED = {429: None, 503: None, 409: "IDEMPOTENCY_IN_PROGRESS"}


class Refused(Exception):
    """The service said no; `problem` is its problem+json."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('error')}: {problem.get('message')}")
        self.problem = problem


class NoAnswerError(Exception):
    """There was no final answer in time. Whether there is an appointment is known by asking again with the key."""


class BookingClient:
    """Talks to one service with one API key; gives up `patience_s` after a call began."""

    def __init__(
        self, base: str, key: str, *, patience_s: float = 60.0, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._base = base.rstrip("/")
        self._key = key
        self._patience_s = patience_s
        self._sleep = sleep

    def free_starts(self, calendar_id: str) -> list[str]:
        """The starts at which somebody is free within a week."""
        _, _, answer = self._call("GET", f"/api/availability?calendar_id={calendar_id}&group_by=start")
        return [slot["start_time"] for slot in answer["slots"]]

    def book(self, wish: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        """The one appointment of this key. Raises Refused or NoAnswerError."""
        return self._call("POST", "/api/appointments", wish, {"Idempotency-Key": idempotency_key})[2]

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The final answer to a request that may be sent more than once. Raises Refused or NoAnswerError."""
        until = time.monotonic() + self._patience_s
        attempt = 0
        while True:
            why, asked_to_wait_s = "no answer", 0.0
            try:
                status, heads, answer = self._attempt(method, path, body, headers or {})
            except (OSError, http.client.HTTPException, ValueError) as lost:
                # Refused, cut off, timed out or garbled: it may have been carried out or not. The key makes it safe.
                why = f"no answer ({type(lost).__name__})"
            else:
                if status < 400:
                    return status, heads, answer
                code = answer.get("error")
                if status not in UNDECIDED or UNDECIDED[status] not in (None, code):
                    raise Refused(answer)
                why, asked_to_wait_s = f"{status} {code}", _seconds(heads.get("Retry-After"))
            attempt += 1
            pause_s = max(asked_to_wait_s, _jittered_s(attempt))
            if time.monotonic() + pause_s > until:
                raise NoAnswerError(f"{why} after {attempt} attempts")
            self._sleep(pause_s)

    def _attempt(self, method: str, path: str, body: dict[str, Any] | None, headers: Mapping[str, str]) -> Answer:
        request = urllib.request.Request(  # noqa: S310  the address is the caller's own
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self._key, "Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=ATTEMPT_TIMEOUT_S) as response:  # noqa: S310
                return response.status, response.headers, json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.headers, _problem(refusal)


def _problem(refusal: urllib.error.HTTPError) -> dict[str, Any]:
    """What a refusal says; whatever stands between us and the service may answer in another language."""
    try:
        found: Any = json.load(refusal)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": f"HTTP_{refusal.code}", "message": refusal.reason}


def _seconds(retry_after: str | None) -> float:
    """The wait that `Retry-After` asks for; this service always gives it in seconds."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _jittered_s(attempt: int) -> float:
    """Anywhere up to a ceiling that doubles: clients that failed together must not come back together."""
    return random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))


def book_first_free(client: BookingClient, calendar_id: str, email: str, start: str | None = None) -> dict[str, Any]:
    """Book `start`, or the first free one; of the starts we chose, the next when somebody was faster.

    The key stays the same over all of them: a refused request leaves its key free, and with one key there can
    never be two appointments. Raises Refused or NoAnswerError.
    """
    key = str(uuid.uuid4())
    starts = [start] if start else client.free_starts(calendar_id)[:5]
    taken = Refused({"error": "SLOT_UNAVAILABLE", "message": "nothing is free within a week"})
    for wanted in starts:
        try:
            return client.book({"calendar_id": calendar_id, "start_time": wanted, "contact_email": email}, key)
        except Refused as refused:
            if refused.problem.get("error") != "SLOT_UNAVAILABLE":
                raise
            taken = refused
    raise taken


def main() -> int:
    """Book what the command line asks for and print the appointment."""
    if len(sys.argv) not in (3, 4):
        sys.stderr.write(f"usage: {sys.argv[0]} CALENDAR E-MAIL [START]\n")
        return 2
    client = BookingClient(os.environ.get("BASE", "http://localhost:3000"), os.environ.get("KEY", "test-key-123"))
    try:
        appointment = book_first_free(client, *sys.argv[1:])
    except (Refused, NoAnswerError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(json.dumps(appointment, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
