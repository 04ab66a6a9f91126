"""An answer has no more rows than can be made in a moment, however it is grouped."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from service.api import availability
from tests.api.client import Client, assert_problem

PATH = "/api/availability?calendar_id=cal-1&days=7"


@pytest.mark.parametrize(
    ("grouped", "per_start"), [("", True), ("&group_by=start&include=coaches", True), ("&group_by=start", False)]
)
async def test_rows_are_counted_as_they_are_made(api: Client, grouped: str, per_start: bool) -> None:
    starts = (await api("GET", f"{PATH}&group_by=start")).json["slots"]
    rows = sum(slot["available"] for slot in starts) if per_start else len(starts)
    assert rows > 0
    with patch.object(availability, "MOST_ROWS", rows):
        assert (await api("GET", f"{PATH}{grouped}&timezone=UTC")).status == 200
    with patch.object(availability, "MOST_ROWS", rows - 1):
        problem = assert_problem(await api("GET", f"{PATH}{grouped}&timezone=Etc/UTC"), 400, "VALIDATION_ERROR")
    assert f"{rows} rows" in problem["message"] + str(problem["details"])
