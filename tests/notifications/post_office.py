"""A real mail server on the loopback, and the messages as a mailbox reads them."""

from __future__ import annotations

import asyncio
import email
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from ssl import SSLContext
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from icalendar import Calendar

from tests.delivery.bench import Bench
from tests.servers import eventually

ACCEPTED = "250 2.0.0 taken"


@dataclass
class Letter:
    """A message that was taken, byte for byte."""

    sender: str
    recipients: list[str]
    raw: bytes

    @property
    def read(self) -> EmailMessage:
        """The message, decoded."""
        message = email.message_from_bytes(self.raw, policy=default)
        assert isinstance(message, EmailMessage)
        return message

    def heading(self, name: str) -> str:
        """A heading as a person reads it, with every encoded word decoded (RFC 2047)."""
        value = email.message_from_bytes(self.raw)[name]
        return str(make_header(decode_header(value.replace("\r\n ", " "))))

    @property
    def text(self) -> str:
        """Its words."""
        body = self.read.get_body(("plain",))
        assert body is not None
        return body.get_content().replace("\r\n", "\n")

    @property
    def file(self) -> EmailMessage:
        """What is attached."""
        (attached,) = self.read.iter_attachments()
        assert isinstance(attached, EmailMessage)
        return attached

    @property
    def entry(self) -> Any:
        """The entry of the attached calendar."""
        (entry,) = Calendar.from_ical(self.file.get_payload(decode=True)).walk("VEVENT")  # type: ignore[arg-type]
        return entry

    @property
    def method(self) -> str:
        """What the attached calendar is for."""
        return str(Calendar.from_ical(self.file.get_payload(decode=True))["METHOD"])  # type: ignore[arg-type]


@dataclass
class PostOffice:
    """Takes letters; `mail` may answer otherwise to the sender, `rcpt` and `data` by the recipient."""

    port: int = 0
    letters: list[Letter] = field(default_factory=list)
    asked: int = 0
    mail: str = ACCEPTED
    rcpt: Callable[[str], str] = lambda _: ACCEPTED
    data: Callable[[str], str] = lambda _: ACCEPTED
    encrypted: list[bool] = field(default_factory=list)
    passwords: list[bytes] = field(default_factory=list)

    async def handle_MAIL(  # noqa: N802 - the name is the library's
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """MAIL FROM"""
        if self.mail.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return self.mail

    async def handle_RCPT(  # noqa: N802 - the name is the library's
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """RCPT TO"""
        self.asked += 1
        answer = self.rcpt(address)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """DATA"""
        answer = self.data(envelope.rcpt_tos[0])
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            assert envelope.mail_from is not None
            assert server.transport is not None
            self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
            self.letters.append(Letter(envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        return answer

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        """AUTH: the password is `s3cret-pass`."""
        self.passwords.append(data.password)
        return AuthResult(success=data.password == b"s3cret-pass", handled=False)

    def to(self, recipient: str) -> list[Letter]:
        """The letters of one recipient, in the order they came."""
        return [letter for letter in self.letters if letter.recipients == [recipient]]

    @asynccontextmanager
    async def open(self, ssl: SSLContext | None = None, **more: Any) -> AsyncIterator[None]:
        """Serve on the loopback for the length of the block, with `ssl` encrypted from the first byte."""
        loop = asyncio.get_running_loop()

        def speak() -> SMTP:
            return SMTP(self, loop=loop, hostname="mail.example", enable_SMTPUTF8=True, **more)

        server = await loop.create_server(speak, "127.0.0.1", self.port, ssl=ssl)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()


async def all_sent(bench: Bench) -> None:
    """Wait until a worker has nothing left to tell contacts."""

    async def over() -> bool:
        # An entry on its way from the due ones to the stream may be in neither count; its row says that it is not over.
        states = {row["state"] for row in await bench.deliveries("notifications")}
        return states <= {"delivered", "dead"} and await bench.left("notifications") == (0, 0, 0)

    await eventually(over, what="nothing left to tell")
