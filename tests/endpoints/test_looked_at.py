"""Deliveries to endpoints are listed and replayed like those to the built-in destinations."""

from __future__ import annotations

from aiohttp import web

from service.mocks.server import serving
from tests.api.client import Client
from tests.delivery.bench import Bench
from tests.endpoints.hooks import Hooks, Received, Receiver
from tests.servers import eventually


async def test_a_dead_delivery_to_an_endpoint_is_seen_and_sent_again(bench: Bench, hooks: Hooks, api: Client) -> None:
    moved = web.HTTPFound("/elsewhere")

    def redirect(_: Received) -> web.Response:
        return web.Response(status=moved.status, headers=dict(moved.headers))

    receiver = Receiver(redirect)
    await bench.book(1)
    async with serving(receiver.app) as url:
        told = await hooks.register(url, "appointment.created")
        name = f"endpoint:{told.endpoint.endpoint_id}"
        path = f"/api/webhooks/deliveries?destination={name}"
        (appointment,) = await bench.book(1)
        (pending,) = (await api("GET", path)).json["deliveries"]
        assert (pending["event_id"], pending["state"]) == (f"{appointment['appointment_id']}.1", "pending")
        async with hooks.worker():
            await eventually(hooks.nothing_left, what="empty streams")
            (dead,) = (await api("GET", f"{path}&state=dead")).json["deliveries"]
            assert "redirects are refused" in dead["last_error"]
            assert dead["delivery_id"] == f"{appointment['appointment_id']}.1.{name}"
            receiver.answer = lambda _: 200
            asked = await api("POST", f"/api/webhooks/deliveries/{dead['delivery_id']}/replay")
            assert (asked.status, asked.json["state"]) == (202, "pending")
            await eventually(lambda: len(receiver.seen) == 2, what="the replay")

            async def delivered() -> bool:
                answer = await api("GET", f"/api/webhooks/deliveries/{dead['delivery_id']}")
                return answer.json["state"] == "delivered"

            await eventually(delivered, what="the delivery's end")
            await eventually(hooks.nothing_left, what="empty streams")
    first, second = receiver.seen
    assert (first.event_id, first.raw) == (second.event_id, second.raw)
