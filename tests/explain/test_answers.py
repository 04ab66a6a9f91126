"""What may be asked and how it is answered: refusals by name, nothing of anybody else, and the newest that is known."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from service.app import Services, open_services
from service.db.explain import HindranceStore
from service.domain.calendar import Calendar, Coach, Roster
from service.operations.explain_availability import ExplainAvailability, Question
from service.operations.find_availability import FindAvailability, FreeSlots
from service.operations.postgres_grids import PostgresGrids
from tests.explain.conftest import TEAM, Api, all_but, later, shown
from tests.operations import steps
from tests.wishes import wish


async def test_where_everybody_is_free_the_answer_says_so_in_the_zone_asked_for(api: Api, ten: datetime) -> None:
    query = {"calendar_id": "cal-1", "start_time": ten.isoformat()}
    status, answer = await api("GET", "/api/availability/explain", **query)
    assert status == 200
    assert answer["start_time"].endswith("Z")
    assert (answer["calendar_id"], answer["timezone"]) == ("cal-1", "UTC")
    assert {one["coach_id"]: one["reason"] for one in answer["coaches"]} == all_but("free")
    assert datetime.fromisoformat(answer["end_time"]) - datetime.fromisoformat(answer["start_time"]) == timedelta(
        minutes=30
    )
    query = {"calendar_id": "cal-1", "start_time": f"{ten:%Y-%m-%dT%H:%M}", "timezone": "America/New_York"}
    status, there = await api("GET", "/api/availability/explain", **query)
    assert (there["start_time"], there["timezone"]) == (ten.isoformat(), "America/New_York")
    assert there["coaches"] == answer["coaches"]


async def test_an_end_of_ones_own_is_looked_at_where_the_calendar_allows_it(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await api.book(later(ten, 60), coach_id="coach-1")
    path = {"calendar_id": "cal-1", "start_time": ten.isoformat(), "end_time": later(ten, 90).isoformat()}
    status, answer = await api("GET", "/api/availability/explain", **path)
    assert (status, answer["details"]["fields"][0]["field"]) == (400, "end_time")
    await sql.execute("UPDATE calendars SET max_duration = 90 WHERE calendar_no = 1")
    await shown(services, org)
    assert await api.explained(ten, end_time=later(ten, 60).isoformat()) == all_but("free")
    assert await api.explained(ten, end_time=later(ten, 90).isoformat()) == all_but("free", coach_1="appointment")
    for minutes in (-30, 0, 62, 95):
        query = {**path, "end_time": later(ten, minutes).isoformat()}
        status, answer = await api("GET", "/api/availability/explain", **query)
        assert (status, answer["details"]["fields"][0]["field"]) == (400, "end_time")


async def test_what_cannot_be_explained_is_refused_by_name(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await sql.execute("UPDATE coaches SET active = false WHERE coach_no = 1")
    await shown(services, org)
    good = {"calendar_id": "cal-1", "start_time": ten.isoformat()}
    assert (await api.explained(ten, coach_id="coach-3")) == {"coach-3": "free"}
    assert "coach-2" not in await api.explained(ten)

    async def refused(query: dict[str, str]) -> list[str]:
        status, answer = await api("GET", "/api/availability/explain", **query)
        assert status == 400, answer
        return [one["field"] for one in answer["details"]["fields"]]

    assert await refused({}) == ["calendar_id", "start_time"]
    assert await refused({"calendar_id": "cal-1"}) == ["start_time"]
    assert await refused({**good, "coach_id": "coach-4"}) == ["coach_id"]
    assert await refused({**good, "coach_id": "coach-2"}) == ["coach_id"]
    assert await refused({**good, "start_time": "soon"}) == ["start_time"]
    assert await refused({**good, "start_time": f"{ten:%Y-%m-%dT%H:%M}"}) == ["start_time"]
    for year in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert await refused({**good, "start_time": year}) == ["start_time"]
    assert await refused({**good, "timezone": "Mars/Olympus"}) == ["timezone"]
    for unknown in ({"calendar_id": "cal-9"}, {"coach_id": "coach-9"}):
        status, answer = await api("GET", "/api/availability/explain", **{**good, **unknown})
        assert (status, answer["error"]) == (404, "NOT_FOUND")


async def test_nothing_of_other_contacts_or_appointments_is_told(api: Api, ten: datetime) -> None:
    booked = await api.book(ten, coach_id="coach-1", contact_name="Ada Lovelace", notes="a secret")
    query = {"calendar_id": "cal-1", "start_time": ten.isoformat()}
    _, answer = await api("GET", "/api/availability/explain", **query)
    assert next(one["reason"] for one in answer["coaches"]) == "appointment"
    for secret in ("ada", "lovelace", "secret", booked["appointment_id"], booked["contact_id"], "alice", "@"):
        assert secret not in str(answer).lower(), secret


async def test_another_organizations_coaches_are_not_explained(
    api: Api, services: Services, ten: datetime, sql: Any
) -> None:
    other = await sql.fetchval("INSERT INTO organizations (name) VALUES ('elsewhere') RETURNING org_id")
    await services.keys.add(other, "stranger", "stranger", frozenset({"read"}), 0)
    path, query = "/api/availability/explain", {"calendar_id": "cal-1", "start_time": ten.isoformat()}
    assert (await api("GET", path, **query))[0] == 200
    status, answer = await api.by("stranger")("GET", path, **query)
    assert (status, answer["error"]) == (404, "NOT_FOUND")


async def test_what_another_organization_has_at_that_time_is_no_reason(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await sql.execute("UPDATE coaches SET max_daily_appointments = 1 WHERE coach_no = 1")
    await shown(services, org)
    await api.book(ten, coach_id="coach-1")
    await steps.claim(services, org, wish(ten, coach_id="coach-2"))
    other = await sql.fetchval("INSERT INTO organizations (name) VALUES ('elsewhere') RETURNING org_id")
    await sql.execute(
        "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
        " SELECT $1, n, n::text, 'Coach', n::text, 'America/New_York', 1, 0 FROM generate_series(0, 1) AS n",
        other,
    )
    for text in (
        "INSERT INTO time_off (org_id, coach_no, time_off_id, starts_at, ends_at)"
        " SELECT $1, 0, gen_random_uuid(), starts_at, ends_at FROM appointments",
        "INSERT INTO external_busy SELECT $1, 0, starts_at, ends_at FROM appointments",
        "INSERT INTO contacts (org_id, contact_id, email, created_at)"
        " SELECT $1, contact_id, email, created_at FROM contacts",
        "INSERT INTO calendars (org_id, calendar_no, calendar_id, name, slot_duration, slot_interval,"
        " min_notice_minutes, max_days_ahead) SELECT $1, 1, 'cal-1', 'Calendar', 30, 15, 0, 30",
        "INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at,"
        " occupied, local_day, strategy, created_at, updated_at) SELECT $1, appointment_id, 1, 1, contact_id,"
        " starts_at, ends_at, occupied, local_day, strategy, created_at, updated_at FROM appointments",
    ):
        await sql.execute(text, other)
    assert await api.explained(ten) == all_but("free", coach_1="appointment", coach_2="claim")


class Interrupted(FindAvailability):
    """A search after whose first answer something happens, before the caller looks at Postgres."""

    def __init__(self, services: Services, then: Any) -> None:
        grids = PostgresGrids(services.roster_store, services.rosters)
        super().__init__(services.grid, services.keeper, services.rosters, grids, services.clock)
        self._then = then
        self.searches = 0

    async def __call__(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, start: datetime, end: datetime
    ) -> FreeSlots:
        found = await super().__call__(roster, calendar, coach, start, end)
        self.searches += 1
        if self.searches == 1:
            await self._then()
        return found


async def test_what_changes_between_the_grid_and_postgres_is_looked_at_again(
    api: Api, services: Services, org: int, ten: datetime
) -> None:
    booked = await api.book(ten, coach_id="coach-1")

    async def cancel() -> None:
        await services.change.cancel(
            org, UUID(booked["appointment_id"]), reason=None, actor="tests", correlation_id="corr-1"
        )

    find = Interrupted(services, cancel)
    store = HindranceStore(services.database)
    explain = ExplainAvailability(find, services.roster_store, store, services.clock)
    found = await explain(await services.rosters.get(org), Question("cal-1", ten, None, "coach-1"))
    assert ([one.reason for one in found.verdicts], find.searches) == (["free"], 2)


async def test_what_another_process_changed_counts_at_once(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    assert await api.explained(later(ten, 15)) == all_but("free")
    await sql.execute("UPDATE calendars SET slot_interval = 60 WHERE calendar_no = 1")
    async with open_services(services.settings, clock=services.clock) as other:
        await shown(other, org)
        assert await api.explained(later(ten, 15)) == all_but("grid")


async def test_a_roster_that_grew_wider_meanwhile_is_the_one_that_counts(
    services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await sql.execute("UPDATE calendars SET max_duration = 90 WHERE calendar_no = 1")
    await shown(services, org)
    old = await services.rosters.get(org)
    await sql.execute(
        "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
        " SELECT $1, n, 'coach-' || n + 1, 'Coach', 'coach' || n + 1 || '@example.com', 'America/New_York', 1, 3"
        " FROM generate_series(6, 39) AS n",
        org,
    )
    await sql.execute("INSERT INTO calendar_coaches SELECT $1, 1, n FROM generate_series(6, 39) AS n", org)
    await sql.execute("UPDATE weekly_windows SET end_minute = 660 WHERE coach_no = 0")
    await shown(services, org)
    store = HindranceStore(services.database)
    explain = ExplainAvailability(services.availability, services.roster_store, store, services.clock)
    found = await explain(old, Question("cal-1", ten, later(ten, 90), None))
    reasons = {one.coach.coach_id: one.reason for one in found.verdicts}
    assert len(reasons) == 39
    assert found.end == later(ten, 90)
    assert {coach: reasons[coach] for coach in TEAM} == all_but("free", coach_1="outside_hours")
    assert {reason for coach, reason in reasons.items() if coach not in TEAM} == {"outside_hours"}
