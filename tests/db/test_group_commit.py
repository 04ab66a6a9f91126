"""Everybody who waits shares one statement, and each is told what became of its own row."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
import uuid_utils

from service.db.appointments import AppointmentStore
from service.db.commit import CommitOutcome, NewBooking
from service.db.connection import Database
from service.domain.appointment import Status
from service.errors import BookingError, Unavailable
from tests.db.rows import MONDAY, ORG, booking, committing, looking_into
from tests.servers import eventually

HOUR = timedelta(hours=1)


async def test_a_batch_in_which_some_lose_tells_each_what_became_of_its_row(database_url: str) -> None:
    async with committing(database_url) as (committer, sizes), looking_into(database_url) as sql:
        earlier = booking(MONDAY, key="used")
        assert (await committer.commit(earlier)).outcome is CommitOutcome.TAKEN
        # Its answer stays the one it had when it was made.
        await sql.execute(
            "INSERT INTO events (org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, data)"
            " SELECT org_id, appointment_id, 2, 'appointment.confirmed', occurred_at, actor, correlation_id, '{}'"
            " FROM events"
        )
        # Another write that held the key was quicker to begin than to see the booking.
        await sql.execute(
            "INSERT INTO idempotency_records (org_id, key, fingerprint, held_until)"
            " VALUES ($1, 'used', '\\x01', now() + interval '1 minute')",
            ORG,
        )
        buried = UUID(int=uuid_utils.uuid7().int)
        database = Database(database_url)
        await database.open()
        day = earlier.appointment.local_day
        assert await AppointmentStore(database).bury_claim(ORG, buried, 0, MONDAY, MONDAY + HOUR, day)
        await database.close()
        batch = {
            "free": booking(MONDAY + HOUR),
            "same start": booking(MONDAY),
            "overlapping": booking(MONDAY + timedelta(minutes=25)),
            "twin of another": booking(MONDAY + HOUR),
            "key of another": booking(MONDAY + 2 * HOUR, key="used"),
            "buried": booking(MONDAY + 3 * HOUR, appointment_id=buried),
            "written before": earlier,
            "new key": booking(MONDAY + 4 * HOUR, key="new"),
            "same new key": booking(MONDAY + 5 * HOUR, key="new"),
        }
        answers = await asyncio.gather(*(committer.commit(one) for one in batch.values()))
        outcomes = dict(zip(batch, answers, strict=True))
        assert sizes == [1, len(batch)]
        rows = await sql.fetch("SELECT appointment_id FROM appointments WHERE status = 'scheduled'")
        events = await sql.fetch("SELECT appointment_id, data FROM events WHERE sequence = 1")
    twins = [outcomes.pop(name).outcome.value for name in ("free", "twin of another")]
    assert sorted(twins) == ["lost", "taken"]
    assert {name: answer.outcome.value for name, answer in outcomes.items()} == {
        "same start": "lost",
        "overlapping": "lost",
        "key of another": "repeated",
        "buried": "expired",
        "written before": "taken",
        "new key": "taken",
        "same new key": "repeated",
    }
    assert outcomes["key of another"].answer == earlier.data
    assert outcomes["same new key"].answer == batch["new key"].data
    assert outcomes["key of another"].fingerprint == bytes(16)
    winner = "free" if twins[0] == "taken" else "twin of another"
    taken = {batch[name].appointment.appointment_id for name in (winner, "written before", "new key")}
    assert {UUID(int=row["appointment_id"].int) for row in rows} == taken
    assert {UUID(int=row["appointment_id"].int): row["data"] for row in events} == {
        one.appointment.appointment_id: one.data for one in batch.values() if one.appointment.appointment_id in taken
    }


def _poisoned() -> dict[str, NewBooking]:
    start = MONDAY + timedelta(days=1)
    return {
        "a NUL in the notes": booking(start, notes="a\0b"),
        "a lone surrogate": booking(start, notes="\ud800"),
        "a column no integer holds": booking(start, column=2**40),
        "a coach nobody knows": booking(start, column=999),
        "a calendar nobody knows": booking(start, calendar_number=999),
        "an end before its start": booking(start, minutes=-5),
        "an idempotency key too long for its index": booking(start, key="".join(map(chr, range(33, 30_000)))),
        "more considered than a number holds": booking(start, considered=40_000),
    }


async def test_a_row_postgres_cannot_hold_fails_alone(database_url: str) -> None:
    poisoned = _poisoned()
    async with committing(database_url) as (committer, sizes), looking_into(database_url) as sql:
        for number, (why, bad) in enumerate(poisoned.items()):
            neighbours = [booking(MONDAY + number * HOUR, column=column) for column in range(3)]
            answers = await asyncio.gather(
                *(committer.commit(one) for one in (neighbours[0], bad, *neighbours[1:])), return_exceptions=True
            )
            good = [answers[0], *answers[2:]]
            assert [getattr(one, "outcome", one) for one in good] == [CommitOutcome.TAKEN] * 3, why
            assert isinstance(answers[1], BookingError), f"{why}: {answers[1]!r}"
            assert not isinstance(answers[1], Unavailable), why
        assert await sql.fetchval("SELECT count(*) FROM appointments") == 3 * len(poisoned)
    assert sizes == [4] * len(poisoned)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
async def test_a_batch_that_was_in_somebodys_way_is_written_again(database_url: str, sqlstate: str) -> None:
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        # A sequence is not rolled back, so the obstacle is there for the first two attempts and then gone.
        await sql.execute(
            f"""
            CREATE SEQUENCE attempts;
            CREATE FUNCTION refuse_twice() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('attempts') <= 2 THEN RAISE EXCEPTION 'in the way' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER refuse_twice AFTER INSERT ON appointments
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_twice();
            """
        )
        batch = [booking(MONDAY + n * HOUR) for n in range(3)]
        answers = await asyncio.gather(*(committer.commit(one) for one in batch))
        assert [answer.outcome for answer in answers] == [CommitOutcome.TAKEN] * 3
        assert await sql.fetchval("SELECT last_value FROM attempts") == 3
        assert await sql.fetchval("SELECT count(*) FROM appointments") == 3


async def test_batches_of_two_processes_that_want_the_same_rows_do_not_deadlock(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go in by key, so two batches in opposite orders wait for each other one way only."""
    monkeypatch.setattr("service.db.commit.ATTEMPTS", 1)  # a deadlock would be tried again, and not show
    async with (
        looking_into(database_url) as sql,
        committing(database_url) as (one, _),
        committing(database_url) as (other, _),
    ):
        await sql.execute(
            """
            CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
            CREATE TRIGGER dawdle BEFORE INSERT ON appointments FOR EACH ROW EXECUTE FUNCTION dawdle();
            """
        )
        starts = [MONDAY + n * HOUR for n in range(40)]
        first = [one.commit(booking(start, column=n % 3)) for n, start in enumerate(starts)]
        second = [other.commit(booking(start, column=n % 3)) for n, start in reversed(list(enumerate(starts)))]
        answers = await asyncio.gather(*first, *second)
    won = [answer.outcome for answer in answers]
    assert won.count(CommitOutcome.TAKEN) == won.count(CommitOutcome.LOST) == len(starts)


async def test_an_answer_is_kept_byte_for_byte(database_url: str) -> None:
    one = booking(MONDAY, key="key", notes="ü \\u0000 \n", metadata={"b": 1, "a": [1.50, None]})
    odd = msgspec.structs.replace(one, data=b'{ "spaces" :1, "a":1,\n"a":2}')
    async with committing(database_url) as (committer, _):
        await committer.commit(odd)
        again = await committer.commit(booking(MONDAY + HOUR, key="key"))
    assert (again.outcome, again.answer) == (CommitOutcome.REPEATED, odd.data)
    database = Database(database_url)
    await database.open()
    stored = await AppointmentStore(database).get(ORG, one.appointment.appointment_id)
    await database.close()
    assert stored is not None
    assert stored.status is Status.SCHEDULED
    assert msgspec.structs.replace(stored, contact_name=None) == one.appointment


async def test_no_table_is_read_from_end_to_end_by_a_plan_from_when_it_was_small(database_url: str) -> None:
    tables = ("idempotency_records", "coaches", "appointments", "contacts", "events")
    async with looking_into(database_url) as sql:
        await sql.execute("ANALYZE coaches")
        async with committing(database_url) as (committer, _):
            for number in range(8):  # the plan that is kept is made within the first six
                assert (await committer.commit(booking(MONDAY + number * HOUR, key=f"k{number}"))).outcome == "taken"
            await sql.execute(
                "INSERT INTO idempotency_records (org_id, key, fingerprint, status, body)"
                " SELECT $1, 'kept' || n, ''::bytea, 200, ''::bytea FROM generate_series(1, 3000) AS n",
                ORG,
            )
            for number in range(8, 16):
                assert (await committer.commit(booking(MONDAY + number * HOUR, key=f"k{number}"))).outcome == "taken"

        async def told() -> bool:  # what a connection did is counted by its end
            return await sql.fetchval("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'appointments'") == 16

        await eventually(told, what="the statistics of the committer's connection")
        read = dict(await sql.fetch("SELECT relname, seq_tup_read FROM pg_stat_user_tables"))
        entries = await sql.fetchval(
            "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = 'idempotency_records'"
        )
    assert {table: read[table] for table in tables} == dict.fromkeys(tables, 0)
    assert entries == 0
