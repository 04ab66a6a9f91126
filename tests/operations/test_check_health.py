"""Whether it can book, as a load balancer is told."""

from __future__ import annotations

from typing import Any

import orjson

from service.api.operations import OperationRoutes
from service.app import Services
from service.operations.check_health import CheckHealth


async def test_beside_a_schema_without_its_migrations_it_is_not_ready(services: Services, sql: Any) -> None:
    """It would answer 500 where it asks for what is not there yet, and the release before it still answers rightly."""
    anybody: Any = None
    routes = OperationRoutes(CheckHealth(services.database, services.redis, services.shards), services.metrics)
    assert (await routes.readyz(anybody)).status == 200
    await sql.execute("DELETE FROM schema_migrations WHERE number = (SELECT max(number) FROM schema_migrations)")
    for answer in (await routes.readyz(anybody), await routes.health(anybody)):
        assert answer.status == 503
        assert orjson.loads(answer.body or b"")["dependencies"] == {"postgres": "not migrated", "redis": "up"}
    await sql.execute("DROP TABLE schema_migrations")
    assert (await routes.readyz(anybody)).status == 503


async def test_beside_a_server_that_takes_no_writes_it_is_not_ready_until_it_takes_them(
    services: Services, sql: Any
) -> None:
    """A standby answers whatever only reads; and its sessions stay as they began, so each is closed that is met."""
    anybody: Any = None
    routes = OperationRoutes(CheckHealth(services.database, services.redis, services.shards), services.metrics)
    name = await sql.fetchval("SELECT current_database()")
    async with services.database.writing() as connection:
        await connection.execute("SET default_transaction_read_only = on")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    for _ in range(3):
        for answer in (await routes.readyz(anybody), await routes.health(anybody)):
            assert answer.status == 503
            assert orjson.loads(answer.body or b"")["dependencies"] == {"postgres": "read only", "redis": "up"}
    await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert (await routes.readyz(anybody)).status == 200
    assert (await routes.health(anybody)).status == 200
