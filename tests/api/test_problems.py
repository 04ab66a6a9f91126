"""A problem tells when it happened, to the millisecond and always in as many characters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest

from service.api import problems
from service.errors import SlotUnavailable


def test_a_problem_tells_its_time_to_the_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
    # Beyond the second, the year, and back again, as a clock that is set.
    for passed_ms in (0, 7, 999, 1000, 2000, 2001, 1999, -1, 86_400_000):
        at = now + timedelta(milliseconds=passed_ms)
        at_ns = round(at.timestamp() * 1000) * 1_000_000
        for ns in (0, 1, 999_999):
            monkeypatch.setattr(problems, "time", SimpleNamespace(time_ns=lambda ns=at_ns + ns: ns))
            assert problems.timestamp() == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_refusal_told_again_is_the_same_but_for_its_id_and_time() -> None:
    alternatives = [{"start_time": "2026-12-01T10:00:00Z", "end_time": None}]
    refusals = [SlotUnavailable("taken", details={"alternatives": alternatives[:n]}) for n in (0, 1)]
    for correlation_id in ("one", "other"):
        for refusal in refusals:
            first = problems.answer(problems.problem_of(refusal), correlation_id)
            again = problems.answer_again(refusal, correlation_id)
            assert first.status == again.status == 409
            assert (first.content_type, first.headers) == (again.content_type, again.headers)
            told, told_again = orjson.loads(first.body or b""), orjson.loads(again.body or b"")
            assert told_again.pop("timestamp") >= told.pop("timestamp")
            assert (
                told_again
                == told
                == {
                    "status": 409,
                    "title": "Conflict",
                    "error": "SLOT_UNAVAILABLE",
                    "message": "taken",
                    "details": dict(refusal.details),
                    "correlation_id": correlation_id,
                }
            )
