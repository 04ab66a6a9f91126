"""How appointments are spread stays a comparison of the coaches that are shown."""

from __future__ import annotations

from datetime import timedelta

from service.app import Services
from service.operations.local_rates import RateSeen
from tests.api.client import Client
from tests.api_people.asking import changed, seen
from tests.wishes import caller, free_starts, wish


async def test_what_a_coach_earned_who_has_left_is_nobodys_share(services: Services, org: int, api: Client) -> None:
    await changed(api, "/api/calendars/cal-1", assignment="score", coach_ids=["coach-1", "coach-3"])
    starts = await free_starts(services, org)
    for person, start in enumerate(starts[10:50:4]):
        await services.book(wish(start, person=person), caller(org), RateSeen())
    await services.book(wish(starts[60], coach_id="coach-1"), caller(org), RateSeen())
    path = "/api/coaches/distribution?calendar_id=cal-1&to=" + (starts[-1].date() + timedelta(days=1)).isoformat()
    before = {row["coach_id"]: row for row in (await seen(api, path))["distribution"]}
    assert before["coach-3"]["appointments_count"] > 1
    assert sum(row["expected_share"] for row in before.values()) == 1.0
    await changed(api, "/api/coaches/coach-3", active=False)
    found = await seen(api, path)
    (left,) = found["distribution"]
    assert (left["coach_id"], left["share"], left["expected_share"]) == ("coach-1", 1.0, 1.0)
