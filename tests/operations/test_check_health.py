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
    routes = OperationRoutes(CheckHealth(services.database, services.redis), services.metrics)
    assert (await routes.readyz(anybody)).status == 200
    await sql.execute("DELETE FROM schema_migrations WHERE number = (SELECT max(number) FROM schema_migrations)")
    for answer in (await routes.readyz(anybody), await routes.health(anybody)):
        assert answer.status == 503
        assert orjson.loads(answer.body or b"")["dependencies"] == {"postgres": "not migrated", "redis": "up"}
    await sql.execute("DROP TABLE schema_migrations")
    assert (await routes.readyz(anybody)).status == 503
