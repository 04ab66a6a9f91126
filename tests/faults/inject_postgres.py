"""Postgres that takes long to commit, and Postgres that ends connections in the middle of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.faults.inject import Evidence, Fault, Site

# Once a transaction, in its COMMIT. Mostly shorter than a claim lives, sometimes longer than a client waits.
_SLOW = """
CREATE SCHEMA faults;
CREATE SEQUENCE faults.slow_commits;
CREATE FUNCTION faults.commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('faults.slept', true), '') <> 'yes' THEN
        PERFORM set_config('faults.slept', 'yes', true), nextval('faults.slow_commits');
        PERFORM pg_sleep(CASE WHEN random() < 0.15 THEN 6.5 ELSE 0.2 + 3.5 * random() ^ 3 END);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER faults_slow_commit AFTER INSERT OR UPDATE ON appointments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION faults.commit_slowly();
"""
_QUICK = """
DROP TRIGGER faults_slow_commit ON appointments;
DROP SCHEMA faults CASCADE;
"""


@asynccontextmanager
async def _slow_commit(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    async with site.machine.database() as connection:

        async def look() -> int:
            return await connection.fetchval(
                "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM faults.slow_commits"
            )

        await connection.execute(_SLOW)
        try:
            yield Evidence("commits slowed down", look=look)
        finally:
            await connection.execute(_QUICK)


@asynccontextmanager
async def _terminated_backends(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """Again and again each connection of the service is ended by an operator, one of two by chance."""
    evidence = Evidence("backends terminated")
    evidence.look = lambda: evidence.count
    async with site.machine.database() as connection:

        async def terminate() -> None:
            while True:
                evidence.count += await connection.fetchval(
                    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'booking' AND random() < 0.5"
                )
                await asyncio.sleep(chance.uniform(0.1, 0.8))

        task = asyncio.ensure_future(terminate())
        try:
            yield evidence
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


FAULTS = (
    Fault("slow_commit", "postgres", _slow_commit, (3.0, 4.0)),
    Fault("terminated_backends", "postgres", _terminated_backends),
)
