"""Receivers at their worst: each request is answered by chance, and every one is remembered."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
from aiohttp import web

POISON = "poison"


@dataclass
class Receiver:
    """Answers 200, 500, 429 with Retry-After, not at all, or by a reset; what names the poison is always refused.

    `seen` holds, by what names the message (the header `key`), the distinct requests (path and body) that came under
    it; `done` those that were answered 200. `check` looks at every request and raises when it is not as it must be;
    what it raised is in `wrong`.
    """

    chance: random.Random
    key: str = "X-Idempotency-Key"
    refusal: int = 400
    check: Callable[[bytes, dict[str, str]], object] = lambda _body, _headers: None
    wrong: list[Exception] = field(default_factory=list)
    calm: bool = False
    seen: dict[str, set[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(set))
    done: list[str] = field(default_factory=list)
    requests: int = 0

    @property
    def app(self) -> web.Application:
        """The application."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        return app

    def asked_again(self) -> bool:
        """Whether any message came a second time."""
        return self.requests > len(self.seen)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        key = request.headers.get(self.key, "")
        if key:
            self.seen[key].add((request.path, body))
        try:
            self.check(body, {name.lower(): value for name, value in request.headers.items()})
        except Exception as problem:
            self.wrong.append(problem)
        if POISON.encode() in body:
            return web.json_response({"error": "never"}, status=self.refusal, headers={"Location": "/elsewhere"})
        mood = 1.0 if self.calm else self.chance.random()
        if mood < 0.12:
            return web.json_response({"error": "broken"}, status=500)
        if mood < 0.22:
            return web.json_response({"error": "later"}, status=429, headers={"Retry-After": "0"})
        if mood < 0.26:
            await asyncio.sleep(30)
        if mood < 0.34 and request.transport is not None:
            request.transport.abort()
            return web.Response()
        if key:
            self.done.append(key)
        answer = {"success": True, "crm_id": f"crm-{self.requests}", "block_id": f"block-{self.requests}"}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")
