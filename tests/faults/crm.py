"""A CRM that takes everything and remembers when: what it says it has, it has."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Crm:
    """`receipts` holds, by event id, when it said that it has the event; `bodies` the distinct requests under it."""

    receipts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bodies: dict[str, set[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(set))

    @property
    def app(self) -> web.Application:
        """The application."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        event = request.headers["X-Idempotency-Key"]
        self.bodies[event].add((request.path, body))
        self.receipts[event].append(time.monotonic())
        return web.json_response({"success": True, "crm_id": f"crm-{event}"})
