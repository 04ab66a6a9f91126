"""Queries are taken apart once for all who ask the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.api.parsing import query_of, query_time
from service.errors import InvalidRequest

KNOWN = frozenset({"days"})


def test_nobody_changes_a_query_for_the_next() -> None:
    first: Any = query_of("days=7", KNOWN)
    with pytest.raises(TypeError):
        first["days"] = "8"


def test_one_route_s_parameters_are_not_another_s() -> None:
    assert query_of("days=7", KNOWN) == {"days": "7"}
    with pytest.raises(InvalidRequest, match="days"):
        query_of("days=7", frozenset({"from"}))


@pytest.mark.parametrize(
    ("text", "zone", "begins"),
    [
        ("2027-09-05", "America/Santiago", datetime(2027, 9, 5, 4, tzinfo=UTC)),
        ("2027-04-30", "Africa/Cairo", datetime(2027, 4, 29, 22, tzinfo=UTC)),
        ("2027-03-14", "America/Havana", datetime(2027, 3, 14, 5, tzinfo=UTC)),
        ("2027-03-14", "America/New_York", datetime(2027, 3, 14, 5, tzinfo=UTC)),
        ("2027-03-14", None, datetime(2027, 3, 14, tzinfo=UTC)),
        ("2199-12-31", None, datetime(2199, 12, 31, tzinfo=UTC)),
    ],
)
def test_a_date_begins_with_its_first_moment(text: str, zone: str | None, begins: datetime) -> None:
    assert query_time("from", text, zone) == begins


@pytest.mark.parametrize("text", ["2026-W10-1", "20260301", "2026-02-30", "2026-3-01", "2026-03-01x", "", "9999-12-31"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="from"):
        query_time("from", text, None)
