"""What the clients did and saw: one record a request, with the moments it began and was answered.

Times are `time.monotonic()` of this process, so a fault's span and an operation lie on one line. A record is made
before its first byte is sent: what has no answer may have taken effect at any moment since, or never.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Writes that may change what a coach's day holds.
WRITES = ("book", "cancel", "move")


@dataclass(slots=True)
class Operation:
    """One HTTP request. `answered`, `status` and `body` stay None when no whole answer came."""

    number: int
    client: int
    org: str
    kind: str  # "book" | "cancel" | "move" | "availability" | "get"
    request: dict[str, Any]  # body or query as sent
    key: str | None  # idempotency key
    target: str | None  # appointment id of cancel, move and get
    invoked: float  # time.monotonic()
    answered: float | None = None  # None: no answer (disconnect, timeout, reset)
    status: int | None = None
    body: Any = None  # decoded JSON
    headers: dict[str, str] = field(default_factory=dict[str, str])
    retry_of: int | None = None
    raw: bytes = b""  # the body's bytes, for what must be equal byte for byte

    @property
    def error(self) -> str | None:
        """The `error` of a refusal, such as `SLOT_UNAVAILABLE`."""
        if self.status is None or self.status < 400 or not isinstance(self.body, dict):
            return None
        return self.body.get("error")

    @property
    def succeeded(self) -> bool:
        """Answered 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def unknown(self) -> bool:
        """A write that may have been carried out: no answer, OUTCOME_UNKNOWN, a 500, or a body that is not ours.

        409 IDEMPOTENCY_IN_PROGRESS says that the key's first request is not answered yet: unknown as well.
        """
        if self.status is None:
            return True
        return self.status >= 300 and not self.refused

    @property
    def refused(self) -> bool:
        """A definite refusal: this request left nothing. API.md, Errors."""
        if self.status is None or self.status < 400 or self.error is None:
            return False
        if self.error in ("OUTCOME_UNKNOWN", "INTERNAL_ERROR", "IDEMPOTENCY_IN_PROGRESS"):
            return False
        return self.status < 500 or (self.status == 503 and self.error == "SERVICE_UNAVAILABLE")


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """One injected fault: from `began` to `healed` (monotonic seconds), and whether something proves it was reached."""

    name: str
    began: float
    healed: float
    reached: bool
    note: str


class History:
    """An append-only list of operations; numbers are their places in it."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def begin(
        self,
        client: int,
        org: str,
        kind: str,
        request: Mapping[str, Any],
        *,
        key: str | None = None,
        target: str | None = None,
        retry_of: int | None = None,
    ) -> Operation:
        """Record a request that is about to be sent."""
        operation = Operation(
            number=len(self.operations),
            client=client,
            org=org,
            kind=kind,
            request=dict(request),
            key=key,
            target=target,
            invoked=time.monotonic(),
            retry_of=retry_of,
        )
        self.operations.append(operation)
        return operation

    def end(self, operation: Operation, status: int, body: Any, headers: Mapping[str, str], raw: bytes = b"") -> None:
        """Record its whole answer. What is never ended was not answered."""
        operation.answered = time.monotonic()
        operation.status = status
        operation.body = body
        operation.headers = dict(headers)
        operation.raw = raw

    def answered_per_second(self) -> dict[str, Counter[int]]:
        """Answers by whole second (monotonic): `ok` 2xx and 3xx, `refused` 4xx and 503, `failed` the rest.

        A request without an answer counts as failed in the second in which it was sent.
        """
        found: dict[str, Counter[int]] = {"ok": Counter(), "refused": Counter(), "failed": Counter()}
        for operation in self.operations:
            if operation.status is None or operation.answered is None:
                found["failed"][int(operation.invoked)] += 1
            elif operation.status < 400:
                found["ok"][int(operation.answered)] += 1
            elif operation.status < 500 or operation.status == 503:
                found["refused"][int(operation.answered)] += 1
            else:
                found["failed"][int(operation.answered)] += 1
        return found

    def of_kind(self, *kinds: str) -> list[Operation]:
        """The operations of some kinds, in the order they were sent."""
        return [operation for operation in self.operations if operation.kind in kinds]
