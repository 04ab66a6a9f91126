"""One mutant's run, started by `mutants.py` in the folder of its copy: the last line of its output is the findings.

The faults are those of the schedule, one after the other, and two that aim at the moment of a commit.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.faults.inject import Evidence, Fault, Site
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.proxy import Mode
from tests.faults.run import run
from tests.faults.schedule import FAULTS, PAUSE_S, WARM_UP_S, Planned, Round
from tests.servers import folder_of_its_own

_LONG_COMMIT_S = 1.2
_SLOW = f"""
CREATE SCHEMA faults;
CREATE FUNCTION faults.commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('faults.slept', true), '') <> 'yes' THEN
        PERFORM set_config('faults.slept', 'yes', true), pg_sleep({_LONG_COMMIT_S});
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER faults_slow_commit AFTER INSERT ON appointments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION faults.commit_slowly();
"""
_QUICK = """
DROP TRIGGER faults_slow_commit ON appointments;
DROP SCHEMA faults CASCADE;
"""


@asynccontextmanager
async def _every_commit_cut(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """What commits is carried out and its reply lost, each time it is tried."""
    proxy = site.machine.postgres_proxy
    before = proxy.done[Mode.CUT_IN_COMMIT]
    await proxy.turn(Mode.CUT_IN_COMMIT, every=1)
    try:
        yield Evidence("commits without a reply", look=lambda: proxy.done[Mode.CUT_IN_COMMIT] - before)
    finally:
        await proxy.turn(Mode.PASS)


@asynccontextmanager
async def _cut_while_it_commits(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """Commits take long, and the connections they were sent on end meanwhile: Postgres goes on with them."""
    evidence = Evidence("connections cut")
    evidence.look = lambda: evidence.count
    async with site.machine.database() as connection:
        await connection.execute(_SLOW)

        async def cut() -> None:
            while True:
                await asyncio.sleep(_LONG_COMMIT_S / 2)
                evidence.count += site.machine.postgres_proxy.cut()

        task = asyncio.ensure_future(cut())
        try:
            yield evidence
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await connection.execute(_QUICK)


AIMED = (
    Fault("every_commit_cut", "postgres", _every_commit_cut),
    Fault("cut_while_it_commits", "postgres", _cut_while_it_commits),
)


def rounds_of(mutant: Mutant, chance: Random) -> list[Round]:
    """The mutant's faults one after the other, evenly over its time."""
    by_name = {fault.name: fault for fault in (*FAULTS, *AIMED)}
    gap = (mutant.seconds - WARM_UP_S) / max(1, len(mutant.faults))
    return [
        Round(WARM_UP_S + number * gap, (Planned(by_name[name], 0.0, max(PAUSE_S, gap / 2.5), chance.getrandbits(32)),))
        for number, name in enumerate(mutant.faults)
    ]


async def main(name: str, servers: str, seed: int) -> None:
    """Run the mutant of that name, which the code at hand must be. SIGTERM ends it like Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    mutant = next(one for one in MUTANTS if one.name == name)
    with folder_of_its_own() as folder:
        rounds = rounds_of(mutant, Random(seed))
        result = await run(seed, rounds, mutant.seconds, Path(folder), servers=servers, say=lambda _text: None)
    sys.stdout.write(
        json.dumps({check: [one.what for one in found] for check, found in result.findings.items()}) + "\n"
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
