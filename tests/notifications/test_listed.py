"""What the contact was told can be looked at, and without a mail server the log is where it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from service.app import Services
from service.assemble_worker import mailed_notifications
from service.delivery.destinations import Destination
from tests.api.client import Client
from tests.api_people.conftest import served
from tests.delivery.bench import Bench
from tests.notifications.conftest import MovedClock
from tests.notifications.post_office import ACCEPTED, PostOffice, all_sent
from tests.servers import eventually

SCOPES = frozenset({"read"})
EVERYTHING = frozenset({"read", "write", "admin"})


async def listed(client: Client, appointment: dict[str, Any]) -> list[dict[str, Any]]:
    """The notifications of an appointment."""
    answer = await client("GET", f"/api/appointments/{appointment['appointment_id']}/notifications")
    assert answer.status == 200, answer.raw
    return answer.json


async def test_each_notification_is_pending_then_sent_or_failed(
    bench: Bench, services: Services, office: PostOffice, mail: Destination, clock: MovedClock
) -> None:
    await services.keys.add(bench.org, "reader", "reader", SCOPES, 0)
    (booked,) = await bench.book(1)
    async with served(services) as opened:
        client = opened.with_key("reader")
        pending = {"kind": "confirmation", "status": "pending", "error": None, "sent_at": None}
        assert await listed(client, booked) == [pending]
        office.data = lambda _: "451 4.3.0 later"
        async with bench.worker(notifications=mail):

            async def tried() -> bool:
                return (await listed(client, booked))[0]["error"] is not None

            await eventually(tried, what="a first attempt")
            assert await listed(client, booked) == [{**pending, "error": "SMTP 451: 4.3.0 later"}]
            office.data = lambda _: ACCEPTED

            async def sent() -> bool:
                return (await listed(client, booked))[0]["status"] == "sent"

            await eventually(sent, what="the letter")
            office.data = lambda _: "554 5.7.1 no"
            await bench.confirm(booked)
            await bench.cancel(booked)

            async def failed() -> bool:
                return (await listed(client, booked))[-1]["status"] == "failed"

            await eventually(failed, what="the refusal")
        confirmation, cancellation = await listed(client, booked)
        assert (confirmation["kind"], confirmation["error"]) == ("confirmation", None)
        assert datetime.fromisoformat(confirmation["sent_at"]).utcoffset() == timedelta(0)
        assert cancellation == {
            "kind": "cancellation", "status": "failed", "error": "SMTP 554: 5.7.1 no", "sent_at": None
        }  # fmt: skip
        await services.keys.add(bench.org, "admin", "admin", EVERYTHING, 0)
        refused = f"{booked['appointment_id']}.3.notifications"
        again = await opened.with_key("admin")("POST", f"/api/webhooks/deliveries/{refused}/replay")
        assert again.status == 202, again.raw
        assert (await listed(client, booked))[-1] == {**cancellation, "status": "pending"}
        made_up = {"appointment_id": "0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061"}
        answer = await client("GET", f"/api/appointments/{made_up['appointment_id']}/notifications")
        assert (answer.status, answer.json["error"]) == (404, "NOT_FOUND")


async def test_without_a_mail_server_a_line_is_logged_and_counts_as_sent(bench: Bench, services: Services) -> None:
    without = replace(services, settings=replace(services.settings, smtp_host=None))
    assert mailed_notifications(without) is None
    await services.keys.add(bench.org, "reader", "reader", SCOPES, 0)
    (booked,) = await bench.book(1, contact_name="Ada")
    with structlog.testing.capture_logs() as lines:
        async with bench.worker(notifications=mailed_notifications(without)):
            await all_sent(bench)
    (line,) = [line for line in lines if line["event"] == "notification"]
    assert (line["kind"], line["to"], line["appointment_id"], line["correlation_id"]) == (
        "confirmation", "person0@example.com", booked["appointment_id"], "corr-1"
    )  # fmt: skip
    async with served(services) as opened:
        (shown,) = await listed(opened.with_key("reader"), booked)
    assert (shown["kind"], shown["status"], shown["error"]) == ("confirmation", "sent", None)
    assert shown["sent_at"] is not None


async def test_what_was_booked_before_there_were_notifications_is_told_to_nobody(
    bench: Bench, services: Services, office: PostOffice, mail: Destination
) -> None:
    (booked,) = await bench.book(1)
    # As the migration found it: the event in the ledger, and nothing in the stream.
    await services.redis.delete(services.shards.of(bench.org).stream("notifications"))
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
        " SELECT org_id, appointment_id, sequence, 'notifications', 'delivered', 0 FROM events"
    )
    await services.keys.add(bench.org, "reader", "reader", SCOPES, 0)
    await bench.cancel(booked)
    async with bench.worker(notifications=mail):
        # What comes after it does not wait for it.
        await eventually(lambda: len(office.letters) == 1, what="the cancellation")
    assert office.letters[0].method == "CANCEL"
    async with served(services) as opened:
        assert [one["kind"] for one in await listed(opened.with_key("reader"), booked)] == ["cancellation"]
