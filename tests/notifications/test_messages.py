"""A contact is told of every change it must hear of, in words it understands, and its calendar follows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.header import decode_header, make_header
from typing import Any
from uuid import UUID

import pytest

from service.delivery.destinations import Destination
from service.operations.plan_move import MoveWish
from tests.delivery.bench import Bench
from tests.notifications.post_office import Letter, PostOffice, all_sent
from tests.servers import eventually
from tests.wishes import free_starts

ADDRESS = "person0@example.com"


async def letters(bench: Bench, office: PostOffice, mail: Destination, count: int) -> list[Letter]:
    """What a worker sends until there are so many letters and nothing is left to send."""
    async with bench.worker(notifications=mail):
        await eventually(lambda: len(office.letters) >= count, what=f"{count} letters")
        await all_sent(bench)
    assert len(office.letters) == count
    return office.letters


async def move(bench: Bench, appointment: dict[str, Any], wish: MoveWish) -> dict[str, Any]:
    """Move an appointment; its coach and its start after it."""
    after = await bench.services.move(
        bench.org, UUID(appointment["appointment_id"]), wish, actor="tests", correlation_id="corr-m"
    )
    return {"coach_id": after.coach_id, "start": after.start_time}


async def test_every_change_of_an_appointment_updates_one_entry(
    bench: Bench, office: PostOffice, mail: Destination
) -> None:
    (booked,) = await bench.book(1, contact_name="Ada Lovelace", timezone="America/New_York")
    appointment_id = UUID(booked["appointment_id"])
    later = (await free_starts(bench.services, bench.org))[-1]
    moved = await move(bench, booked, MoveWish(start_time=later))
    await bench.confirm(booked)
    reassigned = await bench.services.move.reassign(
        bench.org, appointment_id, reason="the coach fell ill", actor="tests", correlation_id="corr-r"
    )
    await bench.cancel(booked, "a private reason")
    sent = await letters(bench, office, mail, 4)

    roster = await bench.services.rosters.get(bench.org)
    names = [roster.coach(c).name for c in (booked["coach_id"], moved["coach_id"], reassigned.coach_id)]
    calendar = roster.calendar("cal-1").name
    assert {tuple(one.recipients) for one in sent} == {(ADDRESS,)}
    assert {one.sender for one in sent} == {"hello@clinic.example"}
    assert [one.read["Subject"].split(":")[0] for one in sent] == ["Booked", "Changed", "Changed", "Cancelled"]

    entries = [one.entry for one in sent]
    assert [str(entry["UID"]) for entry in entries] == [booked["appointment_id"]] * 4
    # The confirmation in between is an event the contact does not hear of; the numbers grow all the same.
    assert [int(entry["SEQUENCE"]) for entry in entries] == [1, 2, 4, 5]
    assert [one.method for one in sent] == ["REQUEST", "REQUEST", "REQUEST", "CANCEL"]
    assert [one.file.get_param("method") for one in sent] == ["REQUEST", "REQUEST", "REQUEST", "CANCEL"]
    assert [str(entry["STATUS"]) for entry in entries] == ["CONFIRMED", "CONFIRMED", "CONFIRMED", "CANCELLED"]
    first = datetime.fromisoformat(booked["start_time"]).astimezone(UTC)
    assert [entry["DTSTART"].dt for entry in entries] == [first, later, later, later]
    assert [entry["DTEND"].dt - entry["DTSTART"].dt for entry in entries] == [timedelta(minutes=30)] * 4
    assert {entry["DTSTART"].dt.tzname() for entry in entries} == {"UTC"}
    assert {str(entry["ORGANIZER"]) for entry in entries} == {"mailto:hello@clinic.example"}
    assert {str(entry["ATTENDEE"]) for entry in entries} == {f"mailto:{ADDRESS}"}
    assert entries[0]["ATTENDEE"].params["CN"] == "Ada Lovelace"
    assert str(entries[0]["SUMMARY"]) == f"{calendar} with {names[0]}"

    for one, name in zip(sent, [*names, names[-1]], strict=True):
        assert f"What: {calendar}\nWith: {name}\n" in one.text
        assert "Hello Ada Lovelace," in one.text
        # Nothing of the inside, nothing that may be meant for others.
        told = one.text + one.entry.to_ical().decode() + one.heading("Subject")
        assert not [word for word in ("coach-", "cal-1", "private", "fell ill") if word in told]
    local = datetime.fromisoformat(booked["start_time"])
    shown = f"{local:%A}, {local.day} {local:%B} {local.year}, {local:%H:%M} to {local + timedelta(minutes=30):%H:%M}"
    assert f"When: {shown} (America/New_York, UTC-0" in sent[0].text
    assert f"Before the change: {shown}" in sent[1].text
    assert "Before the change: " not in sent[2].text
    assert f"Before the change with: {names[1]}" in sent[2].text

    assert [one.read["Message-ID"] for one in sent] == [
        f"<{booked['appointment_id']}.{n}@clinic.example>" for n in (1, 2, 4, 5)
    ]
    assert {str(one.read["References"]) for one in sent[1:]} == {f"<{booked['appointment_id']}.1@clinic.example>"}
    assert [one.read["X-Correlation-ID"] for one in sent] == ["corr-1", "corr-m", "corr-r", "corr-2"]


async def test_without_a_zone_times_are_utc_and_without_a_name_nobody_is_named(
    bench: Bench, office: PostOffice, mail: Destination
) -> None:
    (booked,) = await bench.book(1)
    (sent,) = await letters(bench, office, mail, 1)
    start = datetime.fromisoformat(booked["start_time"])
    assert sent.text.startswith("Hello,\n")
    assert f", {start:%H:%M} to {start + timedelta(minutes=30):%H:%M} (UTC)" in sent.text
    assert "CN" not in sent.entry["ATTENDEE"].params


NASTY = 'Eve"\r\nBcc: victim@example.com\r\n\r\n<b>hi</b>\u2028X\x1b[31m'


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (NASTY, 'Eve" Bcc: victim@example.com <b>hi</b> X [31m'),
        ("Zoë Müller-Ōtsuka, 大塚", "Zoë Müller-Ōtsuka, 大塚"),
        ("END:VEVENT\nBEGIN:VEVENT\nSUMMARY:mine", "END:VEVENT BEGIN:VEVENT SUMMARY:mine"),
        ("é" * 200, "é" * 200),
        ("=?utf-8?q?a=0d=0aHello_world?=", "=?utf-8?q?a=0d=0aHello_world?="),
        ("=?utf-8?q?a=0d=0aBcc:_victim@example.com?=", "=?utf-8?q?a=0d=0aBcc:_victim@example.com?="),
        ("Αλέξανδρος Παπαδόπουλος του Κωνσταντίνου", "Αλέξανδρος Παπαδόπουλος του Κωνσταντίνου"),
        (f"Ada, Countess {'of Lovelace ' * 12}(née", f"Ada, Countess {'of Lovelace ' * 12}(née"),
        (f"Ada, Countess {'of Lovelace ' * 12}(born", f"Ada, Countess {'of Lovelace ' * 12}(born"),
    ],
)
async def test_a_name_stays_a_name(bench: Bench, office: PostOffice, mail: Destination, name: str, shown: str) -> None:
    await bench.sql("UPDATE coaches SET name = left($1, 190) || coach_no WHERE org_id = $2", name, bench.org)
    await bench.sql("UPDATE calendars SET name = $1 WHERE org_id = $2", name, bench.org)
    await bench.book(1, contact_name=name, notes=NASTY)
    (sent,) = await letters(bench, office, mail, 1)
    read = sent.read
    assert set(read.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Correlation-ID", "MIME-Version",
        "Content-Type",
    }  # fmt: skip
    assert sent.recipients == [ADDRESS]
    assert [one.addr_spec for one in read["To"].addresses] == [ADDRESS]
    assert sent.heading("To").replace("\\", "").removesuffix(f" <{ADDRESS}>").strip('"') == shown
    assert sent.heading("Subject").startswith(f"Booked: {shown} with {shown[:20]}")
    assert f"Hello {shown}," in sent.text
    assert sent.text.count("\n") == 11
    assert str(sent.entry["ATTENDEE"].params["CN"]) == shown.replace('"', "'")
    assert str(sent.entry["SUMMARY"]).startswith(f"{shown} with ")
    # A fold may stand in the middle of a character, as the format allows; no line of the message is too long.
    assert max(len(line) for line in sent.raw.split(b"\r\n")) <= 998


@pytest.mark.parametrize("name", ["Zoë", "Müller, Dr. med. habil. Zoë (Praxis für Allgemeinmedizin am Schloßgarten)"])
async def test_an_address_beyond_ascii_is_written_to(
    bench: Bench, office: PostOffice, mail: Destination, name: str
) -> None:
    await bench.book(1, contact_email="zoë@müller.example", contact_name=name)
    (sent,) = await letters(bench, office, mail, 1)
    assert sent.recipients == ["zoë@müller.example"]
    to = sent.raw.decode().partition("\r\nTo: ")[2].partition("\r\nSubject")[0].replace("\r\n ", " ")
    shown, _, address = to.rpartition(" ")
    assert address == "<zoë@müller.example>"
    # Whatever would part mailboxes is within the encoded words.
    assert not set(shown) & set(",;:<>()")
    assert str(make_header(decode_header(shown))) == name


async def test_a_repeat_is_the_same_to_the_last_byte(bench: Bench, office: PostOffice, mail: Destination) -> None:
    (booked,) = await bench.book(1, contact_name="Ada")
    await letters(bench, office, mail, 1)
    # As after a crash between sending and noting it.
    await bench.sql("UPDATE deliveries SET state = 'retrying' WHERE destination = 'notifications'")
    await bench.stream("notifications").add(f"{bench.org} {UUID(booked['appointment_id']).hex} 1")
    first, second = await letters(bench, office, mail, 2)
    assert first.raw == second.raw
