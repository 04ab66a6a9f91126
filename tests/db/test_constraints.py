"""No two live appointments of one coach overlap, buffers included: Postgres itself refuses, whatever asks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta

import asyncpg
import pytest

from service.db.commit import CommitOutcome
from tests.db.rows import MONDAY, booking, committing, looking_into

_OVERLAPS = """
SELECT count(*) FROM appointments AS a JOIN appointments AS b USING (org_id, coach_no)
WHERE a.appointment_id < b.appointment_id AND a.occupied && b.occupied
    AND a.status IN ('scheduled', 'completed', 'no_show') AND b.status IN ('scheduled', 'completed', 'no_show')
"""


async def test_of_many_with_mixed_durations_and_buffers_no_two_overlap(database_url: str) -> None:
    chance = random.Random(5)
    wishes = [
        booking(
            MONDAY + timedelta(minutes=5 * chance.randrange(288)),
            chance.choice([15, 30, 45, 90]),
            column=chance.randrange(2),
            before=chance.choice([0, 0, 5, 10]),
            after=chance.choice([0, 0, 5, 15]),
        )
        for _ in range(600)
    ]
    async with committing(database_url) as (one, _), committing(database_url) as (other, _):
        answers = await asyncio.gather(*(chance.choice((one, other)).commit(wish) for wish in wishes))
    taken = [w.appointment for w, a in zip(wishes, answers, strict=True) if a.outcome is CommitOutcome.TAKEN]
    lost = [w.appointment for w, a in zip(wishes, answers, strict=True) if a.outcome is CommitOutcome.LOST]
    assert len(taken) + len(lost) == len(wishes)
    async with looking_into(database_url) as sql:
        assert await sql.fetchval("SELECT count(*) FROM appointments") == len(taken)
        assert await sql.fetchval(_OVERLAPS) == 0
    # Nobody lost to nothing: the time of each loser is somebody's.
    for loser in lost:
        assert any(
            winner.column == loser.column
            and winner.occupied_start < loser.occupied_end
            and loser.occupied_start < winner.occupied_end
            for winner in taken
        )
    assert min(Counter(a.column for a in taken).values()) > 10


async def test_neighbours_may_touch_but_their_buffers_may_not_overlap(database_url: str) -> None:
    async with committing(database_url) as (committer, _):
        await committer.commit(booking(MONDAY, 30, after=10))
        outcomes = [
            (await committer.commit(booking(MONDAY + timedelta(minutes=minutes), 30, before=5))).outcome
            for minutes in (40, 45)
        ]
        touching = await committer.commit(booking(MONDAY - timedelta(minutes=30), 30))
    assert outcomes == [CommitOutcome.LOST, CommitOutcome.TAKEN]
    assert touching.outcome is CommitOutcome.TAKEN


@pytest.mark.parametrize(
    ("status", "blocks"),
    [("scheduled", True), ("completed", True), ("no_show", True), ("cancelled", False), ("void", False)],
)
async def test_only_a_live_row_holds_its_time(database_url: str, status: str, blocks: bool) -> None:
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        await committer.commit(booking(MONDAY))
        await sql.execute("UPDATE appointments SET status = $1::text::appointment_status", status)
        same = (await committer.commit(booking(MONDAY))).outcome
        over = (await committer.commit(booking(MONDAY - timedelta(minutes=20), 40))).outcome
    assert (same is CommitOutcome.LOST) is blocks
    assert over is CommitOutcome.LOST


async def test_each_race_is_refused_by_the_constraint_named_after_it(database_url: str) -> None:
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        await committer.commit(booking(MONDAY, key="key"))
        copy = (
            "INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at,"
            " occupied, local_day, strategy, idempotency_key, created_at, updated_at)"
            " SELECT org_id, gen_random_uuid(), calendar_no, coach_no + $4, contact_id, starts_at + $1, ends_at + $1,"
            " tstzrange(lower(occupied) + $1 + $2, upper(occupied) + $1), local_day, strategy, $3, now(), now()"
            " FROM appointments"
        )
        nothing, a_bit = timedelta(), timedelta(minutes=5)
        # An occupied range elsewhere shows the first constraint alone; with it the second would refuse as well.
        for arguments, name in [
            ((nothing, timedelta(minutes=30), None, 0), "appointments_one_live_per_coach_and_time"),
            ((a_bit, nothing, None, 0), "appointments_no_overlap_per_coach"),
            ((nothing, nothing, "key", 1), "appointments_one_per_idempotency_key"),
        ]:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
                await sql.execute(copy, *arguments)
            assert getattr(refused.value, "constraint_name", None) == name
