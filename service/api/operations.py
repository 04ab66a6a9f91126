"""What operators and programs ask: is it alive, can it book, what does it measure, what does it offer."""

from __future__ import annotations

import orjson

from service.api.docs_page import HEADERS, page
from service.api.endpoint import Call, Handler, Route
from service.api.response import Response
from service.api.shapes import HealthShape
from service.metrics import Metrics, exposition
from service.operations.check_health import CheckHealth


class OperationRoutes:
    """Handlers of the routes without a key."""

    def __init__(self, health: CheckHealth, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics
        self.openapi = b"{}"

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            self._route("/livez", "livez", "The process answers (touches nothing)", self.livez),
            self._route("/readyz", "readyz", "It can book", self.readyz, (503,)),
            self._route("/health", "health", "The state of each dependency", self.health, (503,)),
            self._route("/metrics", "metrics", "Prometheus series", self.metrics),
            self._route("/openapi.json", "openapi", "This API, as OpenAPI 3.1", self.document),
            self._route("/docs", "docs", "This API, as a page for people", self.docs),
        ]

    @staticmethod
    def _route(path: str, name: str, summary: str, handler: Handler, errors: tuple[int, ...] = ()) -> Route:
        health = HealthShape if name in ("livez", "readyz", "health") else None
        return Route(
            method="GET",
            path=path,
            operation_id=name,
            summary=summary,
            handler=handler,
            scope=None,
            tag="operations",
            answer=health,
            errors=errors,
            always_answered=name in ("livez", "readyz", "health", "metrics"),
        )

    async def livez(self, _: Call) -> Response:
        """GET /livez"""
        return Response(b'{"status":"alive"}', content_type="application/json")

    async def readyz(self, _: Call) -> Response:
        """GET /readyz"""
        states = await self._health()
        ready = states["postgres"] == "up"  # without Redis it books too
        body = orjson.dumps({"status": "ready" if ready else "not ready", "dependencies": states})
        return Response(body, 200 if ready else 503, content_type="application/json")

    async def health(self, _: Call) -> Response:
        """GET /health"""
        states = await self._health()
        well = all(state == "up" for state in states.values())
        body = orjson.dumps({"status": "healthy" if well else "degraded", "dependencies": states})
        return Response(body, 200 if well else 503, content_type="application/json")

    async def metrics(self, _: Call) -> Response:
        """GET /metrics"""
        return Response(exposition(self._metrics), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def docs(self, _: Call) -> Response:
        """GET /docs"""
        return Response(page(self.openapi), 200, dict(HEADERS), "text/html; charset=utf-8")

    async def document(self, _: Call) -> Response:
        """GET /openapi.json"""
        return Response(self.openapi, content_type="application/json")
