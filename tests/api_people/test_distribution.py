"""How appointments are spread stays a comparison of the coaches that are shown."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import AsyncMock, patch

import pytest

from service.app import Services
from service.db.appointments import AppointmentStore, Counted
from service.domain.assignment import Candidate, ConsideredTogether, Strategy, choose
from service.operations.local_rates import RateSeen
from service.operations.show_distribution import AT_A_TIME, ShowDistribution
from tests.api.client import Client
from tests.api_people.asking import changed, seen, weekday
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


async def test_many_appointments_are_read_part_by_part(services: Services, org: int) -> None:
    free = choose(Strategy.BALANCED, [Candidate(column, 500_000, 0) for column in range(6)]).packed()
    by_day = {20_000: AT_A_TIME // 2, 20_001: AT_A_TIME // 2, 20_003: 1, 20_004: 2 * AT_A_TIME, 20_006: 1}
    appointments = AsyncMock(spec=AppointmentStore)
    appointments.counted.return_value = Counted({}, by_day)
    appointments.considered.return_value = [ConsideredTogether(True, bytes((0, 0, 0, len(free))), free)]
    roster = await services.rosters.get(org)
    show = ShowDistribution(appointments, services.roster_store)
    with patch.object(services.roster_store, "schedules", return_value={}):
        found = await show(roster, None, 20_000, 20_007)
    assert sum(row["expected_share"] for row in found.rows) == pytest.approx(1.0, abs=0.001)
    read = [(call.args[1], call.args[2]) for call in appointments.considered.await_args_list]
    assert read == [(20_000, 20_002), (20_003, 20_004), (20_004, 20_005), (20_006, 20_007)]


async def test_dates_with_hours_of_their_own_count_as_they_are(services: Services, org: int, api: Client) -> None:
    start = (await free_starts(services, org))[30]
    await services.book(wish(start, coach_id="coach-1"), caller(org), RateSeen())
    monday = weekday(0)
    day = {"start": "09:00", "end": "12:00"}
    path = f"/api/coaches/distribution?from={monday - timedelta(days=14)}&to={monday + timedelta(days=14)}"

    async def utilization(*closed: int, opened: tuple[int, ...] = ()) -> float:
        dates = [(monday + timedelta(days=one), []) for one in closed]
        dates += [(monday + timedelta(days=one), [day]) for one in opened]
        overrides = [{"date": str(one), "windows": windows} for one, windows in dates]
        await changed(api, "/api/coaches/coach-1/schedule", "PUT", weekly={"monday": [day]}, overrides=overrides)
        return (await seen(api, path))["distribution"][0]["utilization"]

    assert await utilization() == 1 / (10 * 4)
    assert await utilization(0, 1, 14, -15) == round(1 / (10 * 3), 4), "one of four Mondays closed"
    assert await utilization(-14, opened=(1, 13, 14, 0)) == 1 / (10 * 5), "one Monday closed, two other days open"
