"""A commit whose answer was lost is asked again under the same id, and then told truly, once for each booking."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asyncpg import Connection
from asyncpg.exceptions import DataError, FeatureNotSupportedError, TooManyConnectionsError
from msgspec.structs import replace

from service.db.commit import CommitOutcome
from service.errors import OutcomeUnknown, Unavailable
from tests.db.rows import MONDAY, booking, committing, looking_into
from tests.servers import eventually

# The first transaction to commit appointments is held up inside its COMMIT; later ones are not.
_SLOW_COMMIT = """
CREATE SEQUENCE commits;
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('commits') = 1 THEN PERFORM {what}; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON appointments DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION dawdle();
"""
_WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = $1 AND datname = current_database()"


async def _who_waits(sql: Any, what_for: str) -> int:
    found: list[int] = []

    async def waiting() -> bool:
        found[:] = [row["pid"] for row in await sql.fetch(_WAITING, what_for)]
        return bool(found)

    await eventually(waiting, what=f"a commit that waits: {what_for}")
    return found[0]


@pytest.mark.parametrize("how", ["the server is killed", "the connection is cut and the commit goes on"])
async def test_a_commit_cut_in_the_middle_is_written_again_and_exactly_once(database_url: str, how: str) -> None:
    killed = how == "the server is killed"
    batch = [booking(MONDAY + timedelta(hours=n), key=f"key-{n}") for n in range(5)]
    async with committing(database_url) as (committer, sizes), looking_into(database_url) as sql:
        await sql.execute(_SLOW_COMMIT.format(what="pg_sleep(30)" if killed else "pg_advisory_xact_lock(1)"))
        await sql.execute("SELECT pg_advisory_lock(1)")
        answers = asyncio.gather(*(committer.commit(one) for one in batch))
        pid = await _who_waits(sql, "PgSleep" if killed else "advisory")
        if killed:
            assert await sql.fetchval("SELECT pg_terminate_backend($1)", pid)
        else:
            committer._connection.terminate()
            await _who_waits(sql, "transactionid")  # the second attempt, for the first
            await sql.execute("SELECT pg_advisory_unlock(1)")
        outcomes = [answer.outcome for answer in await answers]
        rows = await sql.fetch("SELECT appointment_id, idempotency_key FROM appointments")
        events = await sql.fetchval("SELECT count(*) FROM events")
        commits = await sql.fetchval("SELECT last_value FROM commits")
    assert outcomes == [CommitOutcome.TAKEN] * 5
    assert {row["appointment_id"].hex for row in rows} == {one.appointment.appointment_id.hex for one in batch}
    assert len(rows) == events == 5
    assert sizes == [5]
    # Killed: written twice, the first undone. Cut: the second waited for the first and found its rows.
    assert commits == (6 if killed else 5)


async def test_a_late_insert_loses_to_a_tombstone_put_there_meanwhile(database_url: str) -> None:
    """The reconciler buries a claim while its row is on the way: whoever comes second is told by the first."""
    late = booking(MONDAY)
    a = late.appointment
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        async with sql.transaction():
            await sql.execute(
                "INSERT INTO appointments (org_id, appointment_id, coach_no, starts_at, ends_at, occupied, local_day,"
                " status, created_at, updated_at)"
                " VALUES (1, $1, 0, $2, $3, tstzrange($2, $3), $4, 'void', now(), now())",
                a.appointment_id,
                a.start_time,
                a.end_time,
                a.start_time.date(),
            )
            answer = asyncio.ensure_future(committer.commit(late))
            async with looking_into(database_url) as other:
                waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await eventually(lambda: other.fetchval(waiting), what="the insert waiting for the tombstone")
            assert not answer.done()
        assert (await answer).outcome is CommitOutcome.EXPIRED
        assert await sql.fetchval("SELECT count(*) FROM events") == 0


async def test_a_server_that_cannot_be_reached_means_nothing_was_written(tmp_path: Path) -> None:
    async with committing(f"postgresql://postgres@/none?host={tmp_path}") as (committer, _):
        with pytest.raises(Unavailable) as refused:
            await committer.commit(booking(MONDAY))
    assert not isinstance(refused.value, OutcomeUnknown)


async def test_a_connection_that_cannot_be_prepared_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Postgres refuses for now just after it let us in: the next batch opens another connection."""
    prepare, opened = Connection.prepare, list[Any]()

    async def refused_once(connection: Any, *arguments: Any) -> Any:
        opened.append(connection)
        if len(opened) == 1:
            raise TooManyConnectionsError("later")
        return await prepare(connection, *arguments)

    monkeypatch.setattr(Connection, "prepare", refused_once)
    async with committing(database_url) as (committer, _):
        with pytest.raises(Unavailable):
            await committer.commit(booking(MONDAY))
        assert (await committer.commit(booking(MONDAY + timedelta(hours=1)))).outcome is CommitOutcome.TAKEN
    assert len(opened) == 2
    assert opened[0].is_closed()


async def test_a_standby_takes_nothing_and_the_next_booking_goes_over_another_connection(database_url: str) -> None:
    async with committing(database_url) as (committer, _):
        assert (await committer.commit(booking(MONDAY))).outcome is CommitOutcome.TAKEN
        await committer._connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(Unavailable) as refused:
            await committer.commit(booking(MONDAY + timedelta(hours=1)))
        assert not isinstance(refused.value, OutcomeUnknown)
        assert (await committer.commit(booking(MONDAY + timedelta(hours=1)))).outcome is CommitOutcome.TAKEN


async def test_what_is_written_is_unknown_until_it_was_told(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crowded(*_: Any) -> Any:
        raise TooManyConnectionsError("too many")

    monkeypatch.setattr("service.db.commit.outcomes_of", crowded)
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        with pytest.raises(OutcomeUnknown):
            await committer.commit(booking(MONDAY))
        assert await sql.fetchval("SELECT count(*) FROM appointments") == 1


async def test_an_error_nobody_knows_after_a_lost_answer_does_not_mean_that_nothing_was_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with committing(database_url) as (committer, _), looking_into(database_url) as sql:
        prepare = committer._statement
        attempts: list[str] = []

        class Statement:
            async def fetch(self, *given: Any) -> Any:
                attempts.append("lost" if not attempts else "refused")
                if attempts[-1] == "refused":
                    raise FeatureNotSupportedError("nobody expects it")
                await (await prepare()).fetch(*given)
                raise ConnectionResetError

        async def statement() -> Any:
            return Statement()

        monkeypatch.setattr(committer, "_statement", statement)
        with pytest.raises(OutcomeUnknown):
            await committer.commit(booking(MONDAY))
        assert attempts == ["lost", "refused"]
        assert await sql.fetchval("SELECT count(*) FROM appointments") == 1


@pytest.mark.parametrize(
    ("since", "epoch"),
    [
        ([Unavailable("away")] * 3, None),
        ([], 0),
        ([DataError("a neighbour's"), *[Unavailable("away")] * 8], None),
    ],
    ids=["away since", "fenced since", "a neighbour cannot be stored and away since"],
)
async def test_what_comes_after_a_lost_answer_does_not_say_that_nothing_was_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch, since: list[Exception], epoch: int | None
) -> None:
    """The first attempt may still be under way; only its own row tells what became of it."""
    batch = [replace(booking(MONDAY + timedelta(hours=n)), epoch=epoch) for n in range(2)]
    problems = [ConnectionResetError(), *since]
    async with committing(database_url) as (committer, sizes):
        prepare = committer._statement

        async def statement() -> Any:
            if problems:
                raise problems.pop(0)
            return await prepare()

        monkeypatch.setattr(committer, "_statement", statement)
        answers = await asyncio.gather(*(committer.commit(one) for one in batch), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 2
    assert (problems, sizes) == ([], [2])
