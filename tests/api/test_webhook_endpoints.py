"""A whole system tells an endpoint what each of its processes did."""

from __future__ import annotations

from tests.api.client import all_at_once, booking, open_client
from tests.api.stack import Stack, listening
from tests.endpoints.hooks import Receiver
from tests.servers import eventually, free_port

PATH = "/api/webhooks/endpoints"


async def test_what_every_process_does_is_heard(stack: Stack) -> None:
    receiver, port = Receiver(), free_port()
    async with (
        listening(receiver.app, port),
        open_client(stack.url, await stack.add_key("read", "write", "admin")) as client,
    ):
        answer = await client("POST", PATH, {"url": f"http://127.0.0.1:{port}/hooks"})
        assert answer.status == 201, answer.raw
        starts = await client.starts("cal-3")
        wishes = [booking(start, "cal-3", person) for person, start in enumerate(starts[10:22])]
        booked = [one.json for one in await all_at_once(client.book(wish) for wish in wishes)]
        ids = [one["appointment_id"] for one in booked]
        await all_at_once(client("POST", f"/api/appointments/{one}/confirm") for one in ids)
        await eventually(lambda: len(receiver.accepted) == 24, what="every booking and confirmation")

        gone = await client("DELETE", f"{PATH}/{answer.json['endpoint_id']}")
        assert gone.status == 200
    assert len({one.raw for one in receiver.seen}) == 24
    assert all(one.verified(answer.json["secret"]) == one.json for one in receiver.seen)
    for one in ids:
        order = [number for who, number in (seen.place for seen in receiver.seen) if who == one]
        assert order == sorted(order)
