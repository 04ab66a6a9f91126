"""When an installation has nothing left to do: no stream, set or claim holds anything, every event was heard."""

from __future__ import annotations

import asyncio
import time

import asyncpg
from redis.exceptions import RedisError

from service.domain.event import Destination, EventType, heard_by
from tests.api.stack import UNREPAIRED
from tests.faults.machine import Machine
from tests.faults.world import IN_CALENDAR

_LOOK_S = 0.2
_UNHEARD = """
SELECT count(*) FROM events AS e
JOIN organizations AS o USING (org_id)
JOIN unnest($1::text[], $2::text[], $3::boolean[]) AS h (type, destination, only_in_calendar) ON h.type = e.type
WHERE (o.name = $4 OR NOT h.only_in_calendar) AND NOT EXISTS (
    SELECT FROM deliveries AS d
    WHERE d.org_id = e.org_id AND d.appointment_id = e.appointment_id AND d.sequence = e.sequence
        AND d.destination = h.destination AND d.state IN ('delivered', 'dead')
)
"""


async def unfinished(machine: Machine) -> dict[str, int]:
    """What waits to be done, by name: `stream:crm`, `due:crm`, `way:crm`, `pending`, `grid_repairs`, `unheard`."""
    found: dict[str, int] = {}
    async with machine.redis() as redis:
        async for raw in redis.scan_iter(match="{s*}:*", count=1000):
            name: str = raw.decode().partition(":")[2]
            if name == "pending":
                found[name] = await redis.hlen(raw)
            elif name.startswith("stream:"):
                found[name] = await redis.xlen(raw)
            elif name.startswith("due:"):
                found[name] = await redis.zcard(raw)
            elif name.startswith("way:"):
                found[name] = await redis.scard(raw)
    heard = [
        (kind.value, destination.value, destination is Destination.CALENDAR)
        for kind in EventType
        for destination in heard_by(kind, calendar=True, endpoints=False)
    ]
    async with machine.database() as connection:
        found["unheard"] = await connection.fetchval(_UNHEARD, *map(list, zip(*heard, strict=True)), IN_CALENDAR)
        found["grid_repairs"] = await connection.fetchval(UNREPAIRED)
    return {name: count for name, count in found.items() if count}


async def until_quiet(machine: Machine, within_s: float) -> dict[str, int]:
    """Wait until nothing is unfinished, twice in a row; what is left when the time is over."""
    deadline = time.monotonic() + within_s
    calm = 0
    while True:
        try:
            left = await unfinished(machine)
        except (RedisError, asyncpg.PostgresError, OSError) as problem:
            left = {f"cannot look: {type(problem).__name__}": 1}
        calm = 0 if left else calm + 1
        if calm == 2 or time.monotonic() > deadline:
            return left
        await asyncio.sleep(_LOOK_S)
