"""The e-mail about an appointment: a text, and a calendar file that updates one and the same entry.

The entry is known by the appointment's id and counts by the event's sequence (iCalendar, RFC 5545; iTIP, RFC 5546).
The message is made of its event alone, so a repeat of it is the same to the last byte and carries the same
Message-ID, by which a mailbox knows it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.header import Header
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8, EmailPolicy
from typing import Any

import msgspec
from icalendar import Calendar, Event, vCalAddress, vText

from service.domain.event import EventRef
from service.domain.notification import Kind, Notice

_PRODUCT = "-//booking-service//appointments//EN"
_LINE = 76
# What a name may be of without quotation marks around it.
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")


class _Plain(UnstructuredHeader):
    """A heading that says what it says. The usual one decodes what looks encoded, line breaks with it."""

    @classmethod
    def parse(cls: Any, value: str, kwds: dict[str, Any]) -> None:
        kwds["parse_tree"] = None
        kwds["decoded"] = value


class _Token(_Plain):
    """A heading of one word, which a program compares: as it is, however long. The usual folding would encode it."""

    def fold(self: Any, *, policy: Any) -> str:
        return f"{self.name}: {self}{policy.linesep}"


class _Words(_Plain):
    """A heading for people. The usual folding may leave its first line empty, which some mailboxes show as a space."""

    def fold(self: Any, *, policy: Any) -> str:
        return f"{self.name}: {_folded(str(self), self.name, policy)}{policy.linesep}"


class _Mailbox(_Plain):
    """A name and the address after it in angle brackets. The usual folding may lose blanks and the quotation marks."""

    def fold(self: Any, *, policy: Any) -> str:
        name, bracket, address = self.rpartition(" <")
        if not bracket:
            return f"{self.name}: {address}{policy.linesep}"
        if _looks_plain(name) and not _ATOMS.fullmatch(name):
            name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        folded = _folded(name, self.name, policy)
        last = folded.rpartition(policy.linesep)[2]
        fits = len(last) + len(address) < _LINE - len("To:  <")
        return f"{self.name}: {folded}{'' if fits else policy.linesep} <{address}{policy.linesep}"


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Whom messages are from: the name may be empty, the address is ASCII."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """What message ids end in."""
        return self.address.rpartition("@")[2]


def letter(
    notice: Notice, sender: Sender, recipient: str, ref: EventRef, occurred_at: datetime, correlation_id: str
) -> bytes:
    """The whole message as it is sent. Raises ValueError for a recipient that is no address."""
    local, at, domain = recipient.rpartition("@")
    if not (local and at and domain and recipient.isprintable()):
        raise ValueError("the contact's address is none")
    message = EmailMessage(policy=_policy(recipient))
    message["From"] = _address(sender.name, sender.address)
    to = Address(username=local, domain=domain).addr_spec
    message["To"] = f"{notice.contact_name} <{to}>" if notice.contact_name else to
    message["Subject"] = notice.subject
    message["Date"] = occurred_at.astimezone(UTC)
    message["Message-ID"] = _message_id(ref, sender)
    if ref.sequence > 1:
        # All messages about one appointment make one conversation.
        message["References"] = _message_id(EventRef(ref.org, ref.appointment_id, 1), sender)
    message["Auto-Submitted"] = "auto-generated"
    message["X-Correlation-ID"] = "".join(c for c in correlation_id if c.isascii() and c.isprintable())
    message.set_content(notice.text, cte="quoted-printable")
    message.add_attachment(
        calendar_file(notice, sender, recipient, ref, occurred_at),
        "text",
        "calendar",
        cte="base64",
        params={"method": _method(notice.kind), "charset": "utf-8"},
        filename="appointment.ics",
    )
    message.set_boundary(f"=_{ref.event_id}")
    return message.as_bytes()


def calendar_file(notice: Notice, sender: Sender, recipient: str, ref: EventRef, occurred_at: datetime) -> bytes:
    """The iCalendar object: one entry, to be put in or updated, or taken out."""
    cancelled = notice.kind is Kind.CANCELLATION
    entry: Any = Event()
    entry.add("uid", notice.appointment_id)
    entry.add("sequence", ref.sequence)
    entry.add("dtstamp", occurred_at.astimezone(UTC))
    entry.add("dtstart", notice.start.astimezone(UTC))
    entry.add("dtend", notice.end.astimezone(UTC))
    entry.add("summary", notice.title)
    entry.add("description", f"Appointment {notice.appointment_id}")
    entry.add("status", "CANCELLED" if cancelled else "CONFIRMED")
    entry.add("organizer", _person(notice.calendar_name, sender.address), encode=False)
    attendee = _person(notice.contact_name, recipient)
    # Whoever booked is coming; nothing is to be answered.
    attendee.params.update({"ROLE": vText("REQ-PARTICIPANT"), "PARTSTAT": vText("ACCEPTED"), "RSVP": vText("FALSE")})
    entry.add("attendee", attendee, encode=False)
    calendar: Any = Calendar()
    calendar.add("prodid", _PRODUCT)
    calendar.add("version", "2.0")
    calendar.add("method", _method(notice.kind))
    calendar.add_component(entry)
    return calendar.to_ical()


def _policy(recipient: str) -> EmailPolicy[Any]:
    headings: Any = HeaderRegistry()
    for name in ("message-id", "references", "x-correlation-id"):
        headings.map_to_type(name, _Token)
    headings.map_to_type("subject", _Words)
    headings.map_to_type("to", _Mailbox)
    # An address beyond ASCII can only be written as it is (RFC 6532).
    return (SMTP if recipient.isascii() else SMTPUTF8).clone(header_factory=headings)


def _looks_plain(text: str) -> bool:
    """Whether a mailbox shows the text as it is written."""
    return text.isascii() and "=?" not in text


def _folded(text: str, heading: str, policy: Any) -> str:
    charset = "us-ascii" if _looks_plain(text) else "utf-8"
    return Header(text, charset, maxlinelen=_LINE, header_name=heading).encode(linesep=policy.linesep)


def _method(kind: Kind) -> str:
    return "CANCEL" if kind is Kind.CANCELLATION else "REQUEST"


def _person(name: str | None, address: str) -> Any:
    person: Any = vCalAddress(f"mailto:{address}")
    if name:
        # A parameter cannot hold the quotation mark that surrounds it.
        person.params["CN"] = vText(name.replace('"', "'"))
    return person


def _address(name: str, address: str) -> Address:
    local, _, domain = address.rpartition("@")
    return Address(display_name=name, username=local, domain=domain)


def _message_id(ref: EventRef, sender: Sender) -> str:
    return f"<{ref.event_id}@{sender.domain}>"
