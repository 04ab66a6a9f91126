"""One run: an installation, its clients, faults by a schedule, the heal, the quiet, and what the checks say of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults.checks import Finding, check_all
from tests.faults.clients import Load
from tests.faults.differences import differences
from tests.faults.final import Final, read_final
from tests.faults.history import FaultSpan, History
from tests.faults.inject import Site, inflict
from tests.faults.machine import Machine, running_machine
from tests.faults.quiet import until_quiet
from tests.faults.schedule import PAUSE_S, Planned, Round
from tests.faults.trips import trips_in
from tests.faults.world import make_world

QUIET_WITHIN_S = 40.0
_LOAD_ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Result:
    """What a run did and found. `began` and `ended` are of the load; `quiet_s` is how long the rest then took.

    `servers` names the versions of Postgres and Redis, `differences` what the grid and Postgres disagree on.
    """

    seed: int
    servers: str
    began: float
    ended: float
    quiet_s: float
    history: History
    spans: Sequence[FaultSpan]
    final: Final
    findings: Mapping[str, Sequence[Finding]]
    differences: Sequence[str]

    @property
    def unreached(self) -> list[FaultSpan]:
        """Faults that nothing met, or that could not be healed."""
        return [span for span in self.spans if not span.reached]

    @property
    def holds(self) -> bool:
        """Every check holds and every fault was reached."""
        return not self.unreached and not any(self.findings.values())

    def totals(self) -> Counter[str]:
        """Operations by what came of them, faults, and what the service counted of its own repairs."""
        operations = self.history.operations
        found = Counter({"operations": len(operations), "faults": len(self.spans)})
        found["2xx and 3xx"] = sum(one.status is not None and one.status < 400 for one in operations)
        found["409"] = sum(one.status == 409 for one in operations)
        found["503"] = sum(one.status == 503 for one in operations)
        found["unanswered"] = sum(one.status is None for one in operations)
        found["unknown"] = sum(one.unknown for one in self.history.of_kind("book", "cancel", "move"))
        return found


async def run(
    seed: int,
    rounds: Sequence[Round],
    seconds: float,
    folder: Path,
    *,
    servers: str = "embedded",
    cluster: bool = False,
    clients: int = 24,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:
    """Drive a new installation in `folder` for `seconds` through `rounds`; `say` hears how it goes."""
    chance = Random(f"run {seed}")
    async with running_machine(folder, chance, servers=servers, cluster=cluster) as machine:
        versions = await _versions(machine)
        world = await make_world(machine)
        history = History()
        load = Load(machine.url, world, history, Random(chance.random()), clients=clients)
        enough = asyncio.Event()
        began = time.monotonic()
        loading = asyncio.ensure_future(load.run(enough))
        try:
            site = Site(machine, load, history)
            spans = await _follow(rounds, site, began, say)
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            enough.set()
            await asyncio.wait_for(loading, _LOAD_ENDS_WITHIN_S)
        finally:
            loading.cancel()
        ended = time.monotonic()
        say(f"{len(history.operations)} operations; waiting for quiet")
        await _settle(machine, say)
        quiet_s = time.monotonic() - ended
        final = await read_final(machine)
        differ = await differences(machine.database_url, machine.redis_url) if final.verify_code else []
        trips = trips_in(machine.stack.log())
    findings = check_all(history, final, [*spans, *trips])
    return Result(seed, versions, began, ended, quiet_s, history, spans, final, findings, differ)


async def _follow(rounds: Sequence[Round], site: Site, began: float, say: Callable[[str], None]) -> list[FaultSpan]:
    spans: list[FaultSpan] = []
    for one in rounds:
        await asyncio.sleep(max(PAUSE_S, began + one.at_s - time.monotonic()))
        done = await asyncio.gather(*(_after(planned, site) for planned in one.faults))
        for span in done:
            what = span.note if span.reached else f"NOT REACHED: {span.note}"
            say(f"{span.began - began:6.1f} s  {span.name} ({span.healed - span.began:.1f} s): {what}")
        spans += done
    return spans


async def _after(planned: Planned, site: Site) -> FaultSpan:
    await asyncio.sleep(planned.after_s)
    return await inflict(planned.fault, site, Random(planned.seed), planned.seconds)


async def _settle(machine: Machine, say: Callable[[str], None]) -> None:
    left = await until_quiet(machine, QUIET_WITHIN_S)
    if left:
        say(f"not quiet after {QUIET_WITHIN_S:.0f} s: {left}")


async def _versions(machine: Machine) -> str:
    async with machine.database() as connection, machine.redis() as redis:
        postgres = (await connection.fetchval("SHOW server_version")).split()[0]
        facts = await redis.info("server")
    name = "Valkey" if "valkey_version" in facts else "Redis"
    mode = " as a cluster" if "cluster" in (facts.get("redis_mode"), facts.get("server_mode")) else ""
    return f"PostgreSQL {postgres}, {name} {facts.get('valkey_version', facts['redis_version'])}{mode}"
