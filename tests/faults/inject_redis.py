"""Redis with its memory lost, rolled back, full, or without the scripts it knew."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.faults.inject import Evidence, Fault, Site
from tests.servers import eventually

_NEWER = "faults:newer"


@asynccontextmanager
async def _flushall(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    async with site.machine.redis() as redis:
        keys = await redis.dbsize()
        await redis.flushall()
    yield Evidence("keys lost", keys)


@asynccontextmanager
async def _script_flush(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    async with site.machine.redis() as redis:
        before = await _cached(redis)
        await redis.script_flush()
        assert await _cached(redis) < before, "no script was forgotten"

        async def look() -> int:
            return await _cached(redis)

        yield Evidence("scripts loaded again", look=look)


@asynccontextmanager
async def _rollback(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """Redis starts with what it had some seconds ago: what was written since is lost, what was deleted is back."""
    server = site.machine.redis_server
    folder = site.machine.folder / "servers" / "redis" / "appendonlydir"
    older = folder.with_name("older")
    shutil.rmtree(older, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, folder, older)
    async with site.machine.redis() as redis:
        await redis.set(_NEWER, "1")
    evidence = Evidence("rolled back")
    yield evidence
    server.kill()
    await eventually(lambda: not server.alive(), what="the end of Redis")
    shutil.rmtree(folder)
    older.rename(folder)
    await site.machine.start_server(server)
    async with site.machine.redis() as redis:
        evidence.count = int(not await redis.delete(_NEWER))


@asynccontextmanager
async def _out_of_memory(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """Every write is refused with OOM; reads go on."""
    async with site.machine.redis() as redis:

        async def refused() -> int:
            errors = await redis.info("errorstats")
            return int(errors.get("errorstat_OOM", {}).get("count", 0))

        before = await refused()

        async def look() -> int:
            return await refused() - before

        await redis.config_set("maxmemory", 1)
        try:
            yield Evidence("commands refused", look=look)
        finally:
            await redis.config_set("maxmemory", 0)


async def _cached(redis: object) -> int:
    info = await redis.info("memory")  # pyright: ignore[reportAttributeAccessIssue]  redis-py types it loosely
    return int(info["number_of_cached_scripts"])


FAULTS = (
    Fault("flushall", "redis", _flushall),
    Fault("script_flush", "redis", _script_flush),
    Fault("redis_rollback", "redis", _rollback, (2.0, 4.0)),
    Fault("redis_out_of_memory", "redis", _out_of_memory),
)
