"""Incoming events can be looked at, and a dead one is worked on again, once, whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from service.errors import Unavailable
from tests.api.client import Client, assert_problem
from tests.api_people.asking import refused, seen
from tests.api_people.conftest import READER, STRANGER
from tests.delivery.bench import Bench
from tests.feed.test_replays import carry_out
from tests.servers import eventually

PATH = "/api/webhooks/events"
EVENT = "evt with/space 1"
ESCAPED = "evt%20with%2Fspace%201"


async def report(api: Client, event_id: str, kind: str, appointment_id: str) -> None:
    """An event of the external calendar."""
    body = {"event_id": event_id, "event_type": f"appointment.{kind}", "appointment_id": appointment_id}
    assert (await api("POST", "/api/webhooks/calendar", body)).status == 200


async def ended(bench: Bench, api: Client, escaped: str = ESCAPED) -> str:
    """The state an event ends in."""

    async def over() -> bool:
        state = (await seen(api, f"{PATH}/{escaped}"))["state"]
        return state in ("processed", "dead") and await bench.left("calendar-events") == (0, 0, 0)

    await eventually(over, what=f"the end of {escaped}")
    return (await seen(api, f"{PATH}/{escaped}"))["state"]


async def refused_event(bench: Bench, api: Client) -> dict[str, Any]:
    """An appointment that was confirmed by an event while nobody knew it, so that the event is dead."""
    (booked,) = await bench.book(1)
    await bench.sql("UPDATE appointments SET status = 'void'")
    async with bench.worker():
        await report(api, EVENT, "confirmed", booked["appointment_id"])
        assert await ended(bench, api) == "dead"
    await bench.sql("UPDATE appointments SET status = 'scheduled'")
    assert len(await bench.dead("calendar-events")) == 1
    return booked


async def test_a_dead_event_is_worked_on_again_when_the_reason_is_gone(bench: Bench, api: Client) -> None:
    booked = await refused_event(bench, api)
    answer = await api("POST", f"{PATH}/{ESCAPED}/replay")
    asked = {
        "event_id": EVENT,
        "event_type": "appointment.confirmed",
        "state": "received",
        "attempts": 0,
        "error": None,
    }
    assert (answer.status, answer.json) == (202, asked)
    async with bench.worker():
        assert await ended(bench, api) == "processed"
    assert await bench.dead("calendar-events") == []
    (one,) = (await seen(api, PATH))["events"]
    assert (one["state"], one["attempts"], one["replays"], one["error"]) == ("processed", 1, 1, None)
    assert one["processed_at"] >= one["received_at"]
    assert (await seen(api, f"/api/appointments/{booked['appointment_id']}"))["confirmed_at"] is not None


async def test_one_that_cannot_be_applied_still_is_one_dead_letter_again(bench: Bench, api: Client) -> None:
    await refused_event(bench, api)
    await bench.sql("UPDATE appointments SET status = 'void'")
    async with bench.worker():
        for number in (1, 2):
            assert (await api("POST", f"{PATH}/{ESCAPED}/replay")).status == 202

            async def dead(number: int = number) -> bool:
                (one,) = (await seen(api, f"{PATH}?state=dead"))["events"] or [{"replays": 0}]
                return one["replays"] == number and len(await bench.dead("calendar-events")) == 1

            await eventually(dead, what="the end of the replay")


async def test_only_what_is_dead_is_replayed_and_by_fifty_at_once_only_once(bench: Bench, api: Client) -> None:
    await refused_event(bench, api)
    for key, status in ((READER, 403), (STRANGER, 404), (None, 401)):
        assert (await api.with_key(key)("POST", f"{PATH}/{ESCAPED}/replay")).status == status
    assert_problem(await api("POST", f"{PATH}/nobody/replay"), 404, "NOT_FOUND")
    assert_problem(await api("POST", f"{PATH}/%00/replay"), 404, "NOT_FOUND")
    answers = await asyncio.gather(*(api("POST", f"{PATH}/{ESCAPED}/replay") for _ in range(50)))
    assert Counter(answer.status for answer in answers) == {202: 1, 409: 49}
    (problem,) = {
        tuple(assert_problem(answer, 409, "STATE_CONFLICT")["details"].items())
        for answer in answers
        if answer.status == 409
    }
    assert problem == (("state", "received"),)
    workers = [carry_out(bench, bench.stream("calendar-events")) for _ in range(3)]
    assert sum(await asyncio.gather(*(worker() for worker in workers))) == 1
    assert await bench.left("calendar-events") == (1, 0, 0)
    assert await bench.dead("calendar-events") == []
    async with bench.worker():
        assert await ended(bench, api) == "processed"
    assert_problem(await api("POST", f"{PATH}/{ESCAPED}/replay"), 409, "STATE_CONFLICT")


@pytest.mark.parametrize("cut", ["exhume", "add_all", "incoming_enqueued"])
async def test_a_crash_anywhere_between_the_writes_is_made_good(
    bench: Bench, api: Client, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    await refused_event(bench, api)
    await api("POST", f"{PATH}/{ESCAPED}/replay")
    stream = bench.stream("calendar-events")
    worker = carry_out(bench, stream)

    async def die(*_: object) -> None:
        raise Unavailable("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(worker._store if cut == "incoming_enqueued" else stream, cut, die)
        with pytest.raises(Unavailable):
            await worker()
    await worker()
    assert await bench.left("calendar-events") == (1, 0, 0)
    assert await bench.dead("calendar-events") == []


async def test_the_list_is_paged_newest_first_by_state_and_organization(bench: Bench, api: Client) -> None:
    (booked,) = await bench.book(1)
    known, unknown = booked["appointment_id"], "00000000-0000-4000-8000-000000000000"
    for number in range(7):
        await report(api, f"e{number}", "confirmed", unknown if number % 3 == 0 else known)
    # Those of one moment are told apart by their ids.
    await bench.sql("UPDATE webhook_events SET received_at = now() WHERE event_id IN ('e2', 'e3', 'e4')")
    async with bench.worker():
        for number in range(7):
            await ended(bench, api, f"e{number}")

    async def listed(words: str = "", client: Client = api) -> list[str]:
        found, cursor = list[str](), ""
        while True:
            page = await seen(client, f"{PATH}?limit=2{words}{cursor}")
            found += [one["event_id"] for one in page["events"]]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    assert await listed() == ["e4", "e3", "e2", "e6", "e5", "e1", "e0"]
    assert await listed("&state=dead") == ["e3", "e6", "e0"]
    assert await listed("&state=retrying") == []
    assert await listed(client=api.with_key(READER)) == await listed()
    cursor = (await seen(api, f"{PATH}?limit=1"))["next_cursor"]
    for words in ("", f"&cursor={cursor}"):
        assert await listed(words, api.with_key(STRANGER)) == []
    for query, field in (("state=lost", "state"), ("cursor=x", "cursor"), ("limit=201", "limit")):
        refused(await api("GET", f"{PATH}?{query}"), field)
