"""A problem tells when it happened, to the millisecond and always in as many characters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from service.api import problems


def test_a_problem_tells_its_time_to_the_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
    # Beyond the second, the year, and back again, as a clock that is set.
    for passed_ms in (0, 7, 999, 1000, 2000, 2001, 1999, -1, 86_400_000):
        at = now + timedelta(milliseconds=passed_ms)
        at_ns = round(at.timestamp() * 1000) * 1_000_000
        for ns in (0, 1, 999_999):
            monkeypatch.setattr(problems, "time", SimpleNamespace(time_ns=lambda ns=at_ns + ns: ns))
            assert problems.timestamp() == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
