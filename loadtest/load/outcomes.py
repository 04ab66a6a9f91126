"""What an answer counts as: done, an outcome that a client must expect, or a failure.

409 and 429 are outcomes, and 503 with a Retry-After is one with a threshold of its own; all three are shown under a
name of their own. Every other status that was not asked for is a failure, and so is a refusal that is not the
problem document that API.md promises.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# After these nobody knows whether the request was carried out; its idempotency key tells.
UNKNOWN = frozenset({"OUTCOME_UNKNOWN", "IDEMPOTENCY_IN_PROGRESS"})
UNAVAILABLE = "[503 "


class Kind(StrEnum):
    """What an answer counts as; `lost` is none at all."""

    DONE = "done"
    OUTCOME = "outcome"
    FAILURE = "failure"
    LOST = "lost"


class Broken(Exception):
    """An answer that says what must not be: `promise` in a few words, `seen` what was answered instead."""

    def __init__(self, promise: str, seen: object) -> None:
        super().__init__(f"{promise}: {seen!r}"[:300])
        self.promise = promise


class Refused(Exception):
    """The service asked for patience: `after_s` seconds of it."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"refused for {after_s} s")
        self.after_s = after_s


@dataclass(frozen=True)
class Answer:
    """One answer, read whole; status 0 when there was none."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def body(self) -> Any:
        """The body as JSON; None for one that is not."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None

    @property
    def error(self) -> str:
        """The code of a problem document, or ''."""
        body = self.body
        return str(body.get("error", "")) if isinstance(body, dict) else ""

    @property
    def retry_after_s(self) -> float | None:
        """The seconds of Retry-After; None without one."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdigit() else None


@dataclass(frozen=True)
class Judged:
    """What an answer counts as; `label` is put behind its request's name, `why` says what is wrong with it."""

    kind: Kind
    label: str = ""
    why: str = ""

    @property
    def asks_again(self) -> bool:
        """Whether the client must ask again with its key to know what became of its request."""
        return self.kind is Kind.LOST or any(code in self.label for code in UNKNOWN)


def judge(answer: Answer, expected: Collection[int]) -> Judged:
    """What `answer` counts as to who expects one of the statuses `expected`."""
    status = answer.status
    if status in expected:
        return Judged(Kind.DONE, "" if 200 <= status < 300 else f" [{status}]")
    if status == 0:
        return Judged(Kind.LOST, why="no answer")
    if status not in (409, 429, 503):
        return Judged(Kind.FAILURE, why=f"{status} {answer.error or answer.raw[:120]!r}")
    if not answer.error or answer.body.get("status") != status:
        return Judged(Kind.FAILURE, why=f"{status} without a problem document: {answer.raw[:120]!r}")
    if answer.retry_after_s is None and (status != 409 or answer.error in UNKNOWN):
        return Judged(Kind.FAILURE, why=f"{status} {answer.error} without Retry-After")
    return Judged(Kind.OUTCOME, f" [{status} {answer.error}]")
