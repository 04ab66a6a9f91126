"""The mail server: takes one message a connection, and says what it thinks of it.

An attempt does not raise for what the server did. A reply to the message itself is the server's last word on it
(5xx) or an invitation to come back (4xx); whatever goes wrong before, connecting, encrypting, signing in or naming the
sender, is no fault of the message and may be mended. The password stands in no text that comes from here.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import suppress
from enum import StrEnum

import aiosmtplib
import msgspec

_QUIT_S = 1.0
_LONGEST_REPLY = 300
# Replies to a message that mean: you, not this message. Sign in, encrypt, or come back when we are up.
_ABOUT_US = frozenset({421, 454, 530, 534, 535, 538})
# Refusals of the sender that mean the message: it is too large, or wants what the server cannot do.
_NOT_THE_SENDER = frozenset({552, 555})


class Encryption(StrEnum):
    """How the connection is made private: after STARTTLS, from the first byte, or not at all."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is and how to sign in (with no username: not at all)."""

    host: str
    port: int
    encryption: Encryption
    username: str | None
    password: str | None
    timeout_s: float

    def __repr__(self) -> str:
        return f"MailServer({self.host}:{self.port}, {self.encryption.value})"


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What came of handing a message over.

    `code` is the server's reply, None where there was none; `refused` says that it will never be taken, `unwell`
    that the server seems to be in trouble.
    """

    code: int | None
    accepted: bool = False
    refused: bool = False
    unwell: bool = False
    why: str | None = None


class Smtp:
    """Hands messages over, each on a connection of its own that is closed after it."""

    def __init__(self, server: MailServer, tls: ssl.SSLContext, hello: str) -> None:
        """`hello` is the name we give ourselves, a domain."""
        self._server = server
        self._tls = tls
        self._hello = hello

    async def hand_over(self, sender: str, recipient: str, message: bytes) -> Handover:
        """One attempt, which ends within the server's `timeout_s`. Never raises for what the server does."""
        if not all(_is_plain(address) for address in (sender, recipient)):
            return Handover(code=None, refused=True, why="the address would not stay within its command")
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            local_hostname=self._hello,
            timeout=server.timeout_s,
            use_tls=server.encryption is Encryption.TLS,
            start_tls=server.encryption is Encryption.STARTTLS,
            tls_context=None if server.encryption is Encryption.NONE else self._tls,
        )
        ready = False
        try:
            async with asyncio.timeout(server.timeout_s):
                await client.connect()
                ready = True
                # An address beyond ASCII needs a server that can pass it on (RFC 6531).
                options = () if recipient.isascii() else ("SMTPUTF8", "BODY=8BITMIME")
                await client.sendmail(sender, [recipient], message, mail_options=options)
            await self._part(client)
        except TimeoutError:
            return Handover(code=None, unwell=True, why=f"no answer within {server.timeout_s:g} s")
        except (aiosmtplib.SMTPException, OSError, ValueError) as problem:
            return self._judge(problem, about_the_message=ready)
        finally:
            client.close()
        return Handover(code=250, accepted=True)

    def _judge(self, problem: Exception, *, about_the_message: bool) -> Handover:
        if isinstance(problem, aiosmtplib.SMTPRecipientsRefused) and problem.recipients:
            problem = problem.recipients[0]
        if isinstance(problem, aiosmtplib.SMTPResponseException):
            code = problem.code
            said = self._shown(problem.message)
            if _refuses_the_sender(problem):
                return Handover(code=code, unwell=True, why=f"SMTP {code} to the sender: {said}")
            if about_the_message and code not in _ABOUT_US:
                why = f"SMTP {code}: {said}"
                return Handover(code=code, refused=500 <= code < 600, why=why)
            return Handover(code=code, unwell=True, why=f"SMTP {code} {_stage(problem)}")
        if about_the_message and isinstance(problem, (ValueError, aiosmtplib.SMTPNotSupported)):
            return Handover(code=None, refused=True, why="the server cannot take this address or message")
        return Handover(code=None, unwell=True, why=f"no connection: {type(problem.__cause__ or problem).__name__}")

    def _shown(self, reply: str) -> str:
        """A server's words as one line, without the password should it repeat that."""
        line = " ".join("".join(c if c.isprintable() else " " for c in reply).split())
        for secret in _forms(self._server):
            line = line.replace(secret, "***")
        return line[:_LONGEST_REPLY]

    @staticmethod
    async def _part(client: aiosmtplib.SMTP) -> None:
        """Take leave; the message is accepted whatever becomes of it."""
        with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
            await client.quit(timeout=_QUIT_S)


def _is_plain(address: str) -> bool:
    """Whether an address can stand between < and > without ending them."""
    return address.isprintable() and not set(address) & set("<> ")


def _refuses_the_sender(problem: aiosmtplib.SMTPResponseException) -> bool:
    """Whether every message would be refused so, for whom it is from."""
    about_another = _ABOUT_US | _NOT_THE_SENDER
    return (
        isinstance(problem, aiosmtplib.SMTPSenderRefused) and problem.code >= 500 and problem.code not in about_another
    )


def _stage(problem: aiosmtplib.SMTPResponseException) -> str:
    # Not the server's words: at this point some repeat what they were given.
    signing_in = isinstance(problem, aiosmtplib.SMTPAuthenticationError) or problem.code in (530, 534, 535, 538)
    return "at sign-in: look at the user name and the password" if signing_in else "before the message"


def _forms(server: MailServer) -> list[str]:
    """The password as a server may repeat it: plain, or in the base64 of each way to sign in."""
    if not server.password:
        return []
    plain, user = server.password.encode(), (server.username or "").encode()
    encoded = (plain, b"\0" + user + b"\0" + plain)
    return [server.password, *(base64.b64encode(form).decode() for form in encoded)]
