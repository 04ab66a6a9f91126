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
        # One a day: others have booked here too, and a start that is free may be one too many for its day's limits.
        starts = list({start[:10]: start for start in await client.starts("cal-3")}.values())
        booked = await all_at_once(
            client.book(booking(start, "cal-3", person)) for person, start in enumerate(starts[:12])
        )
        assert [one.status for one in booked] == [201] * 12
        ids = [one.json["appointment_id"] for one in booked]
        await all_at_once(client("POST", f"/api/appointments/{one}/confirm") for one in ids)
        await eventually(lambda: len(receiver.accepted) == 24, what="every booking and confirmation")

        gone = await client("DELETE", f"{PATH}/{answer.json['endpoint_id']}")
        assert gone.status == 200
    assert len({one.raw for one in receiver.seen}) == 24
    assert all(one.verified(answer.json["secret"]) == one.json for one in receiver.seen)
    for one in ids:
        order = [number for who, number in (seen.place for seen in receiver.seen) if who == one]
        assert order == sorted(order)
