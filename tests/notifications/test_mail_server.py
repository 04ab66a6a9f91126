"""Whatever the mail server answers, or does not, each message arrives or is given up for a reason that can be read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import replace
from typing import Any

import pytest
import structlog
import trustme

from service.app import Services
from service.assemble_worker import mailed_notifications
from service.delivery.destinations import Destination
from service.delivery.dispatcher import RetryPolicy
from service.outside.smtp import Encryption, Handover, MailServer, Smtp
from tests.delivery.bench import QUICK, Bench
from tests.notifications.post_office import ACCEPTED, PostOffice, all_sent
from tests.servers import eventually, free_port

SECRET = "s3cret-pass"
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


async def states(bench: Bench) -> list[tuple[str, int, int | None]]:
    """(state, attempts, last status) of the notifications' deliveries."""
    return [(row["state"], row["attempts"], row["last_status"]) for row in await bench.deliveries("notifications")]


async def test_asked_to_come_back_it_comes_back(bench: Bench, office: PostOffice, mail: Destination) -> None:
    office.rcpt = lambda _: ACCEPTED if office.asked > 2 else "450 4.2.1 greylisted"
    times = list[str]()
    office.data = lambda to: times.append(to) or (ACCEPTED if len(times) > 1 else "451 4.3.0 later")
    await bench.book(1)
    async with bench.worker(notifications=mail):
        await all_sent(bench)
    assert len(office.letters) == 1
    # Two refusals of the recipient, one of the message, then it was taken.
    assert await states(bench) == [("delivered", 4, 250)]
    assert await bench.dead("notifications") == []


@pytest.mark.parametrize("stage", ["rcpt", "data"])
async def test_what_is_refused_for_good_is_not_tried_again(
    bench: Bench, office: PostOffice, mail: Destination, stage: str
) -> None:
    setattr(office, stage, lambda to: "550 5.1.1 no such mailbox\r\nhere" if to == "person1@example.com" else ACCEPTED)
    await bench.book(3)
    async with bench.worker(notifications=mail):
        await all_sent(bench)
    assert sorted(letter.recipients[0] for letter in office.letters) == ["person0@example.com", "person2@example.com"]
    assert sorted(await states(bench)) == [("dead", 1, 550), ("delivered", 1, 250), ("delivered", 1, 250)]
    (letter,) = await bench.dead("notifications")
    assert letter["error"].startswith("SMTP 550: 5.1.1 no such mailbox")


async def test_a_server_that_is_away_costs_no_message(bench: Bench, services: Services, mail: Destination) -> None:
    office = PostOffice(port=free_port())
    away = mailed_notifications(replace(services, settings=replace(services.settings, smtp_port=office.port)))
    await bench.book(12)
    # More attempts than it takes to open the breaker, which then spares them.
    async with bench.worker(notifications=away, policy=RetryPolicy(attempts=12, delay_ms=50, turn_ms=20)):

        async def tried() -> bool:
            return len(await bench.deliveries("notifications")) > 5

        await eventually(tried, what="attempts")
        assert {state for state, _, _ in await states(bench)} == {"retrying"}
        async with office.open():
            await all_sent(bench)
    assert len({letter.recipients[0] for letter in office.letters}) == len(office.letters) == 12
    assert {state for state, _, _ in await states(bench)} == {"delivered"}


async def test_a_sender_that_is_refused_costs_no_message(bench: Bench, office: PostOffice, mail: Destination) -> None:
    office.mail = "550 5.7.1 not owned by who signed in"
    await bench.book(3)
    async with bench.worker(notifications=mail):

        async def tried() -> bool:
            return len(await bench.deliveries("notifications")) == 3

        await eventually(tried, what="an attempt for each")
        rows = await bench.deliveries("notifications")
        office.mail = ACCEPTED
        await all_sent(bench)
    assert {row["last_error"] for row in rows} == {"SMTP 550 to the sender: 5.7.1 not owned by who signed in"}
    assert {state for state, _, _ in await states(bench)} == {"delivered"}
    assert len(office.letters) == 3


async def test_a_message_too_large_for_the_server_is_not_tried_again(office: PostOffice) -> None:
    office.mail = "552 5.3.4 too large"
    made = await smtp(office.port).hand_over("a@b.example", "c@d.example", MESSAGE)
    assert (made.refused, made.unwell, made.code) == (True, False, 552)


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_it_may_take(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        loop = asyncio.get_running_loop()
        began = loop.time()
        made = await smtp(silent.getsockname()[1], timeout_s=0.3).hand_over("a@b.example", "c@d.example", MESSAGE)
    assert made == Handover(code=None, unwell=True, why="no answer within 0.3 s")
    assert loop.time() - began < 10


@pytest.fixture
def authority() -> trustme.CA:
    """Whose certificates our client trusts."""
    return trustme.CA()


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side of an encrypted connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Our side of it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def smtp(
    port: int,
    tls: ssl.SSLContext | None = None,
    *,
    encryption: Encryption = Encryption.NONE,
    password: str | None = None,
    timeout_s: float = 60.0,
) -> Smtp:
    """A client of a server on the loopback."""
    server = MailServer(
        host="127.0.0.1",
        port=port,
        encryption=encryption,
        username=password and "clinic",
        password=password,
        timeout_s=timeout_s,
    )
    return Smtp(server, tls or ssl.create_default_context(), "clinic.example")


async def test_it_is_encrypted_and_signed_in_and_the_password_is_in_no_log(
    bench: Bench, services: Services, certified: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    office = PostOffice()
    settings = replace(services.settings, smtp_tls="starttls", smtp_username="clinic", smtp_password=SECRET)
    with structlog.testing.capture_logs() as lines:
        async with office.open(
            tls_context=certified, require_starttls=True, authenticator=office.authenticate, auth_required=True
        ):
            here = replace(services, settings=replace(settings, smtp_port=office.port))
            await bench.book(1)
            async with bench.worker(notifications=mailed_notifications(here, trusting)):
                await all_sent(bench)
            wrong = replace(here, settings=replace(here.settings, smtp_password=f"{SECRET}-wrong"))
            await bench.book(1, calendar="cal-2")
            async with bench.worker(notifications=mailed_notifications(wrong, trusting), policy=QUICK):

                async def tried() -> bool:
                    return len(await states(bench)) == 2

                await eventually(tried, what="an attempt to sign in")
    assert len(office.letters) == 1
    assert office.encrypted == [True]
    assert office.passwords[0] == SECRET.encode()
    rows = await bench.deliveries("notifications")
    # Nobody's fault but ours: the message is not given up for it.
    assert [(row["state"], row["last_status"]) for row in rows] == [("delivered", 250), ("retrying", 535)]
    assert rows[1]["last_error"] == "SMTP 535 at sign-in: look at the user name and the password"
    said = repr(lines) + repr(rows) + repr(here.settings) + repr(here) + repr(mailed_notifications(here))
    assert len(lines) > 5
    assert "s3cret" not in said
    assert SECRET in here.settings.smtp_password  # type: ignore[operator]


@pytest.mark.parametrize("encryption", [Encryption.STARTTLS, Encryption.TLS])
async def test_a_certificate_nobody_vouches_for_ends_the_attempt_before_the_message(
    encryption: Encryption, certified: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    office = PostOffice()
    more: dict[str, Any] = {"tls_context": certified} if encryption is Encryption.STARTTLS else {"ssl": certified}
    async with office.open(**more):
        made = await smtp(office.port, encryption=encryption).hand_over("a@b.example", "c@d.example", MESSAGE)
        assert (made.accepted, made.refused, made.unwell) == (False, False, True)
        assert office.letters == []
        trusted = smtp(office.port, trusting, encryption=encryption)
        assert (await trusted.hand_over("a@b.example", "c@d.example", MESSAGE)).accepted
    assert office.encrypted == [True]


async def test_a_server_without_starttls_is_not_spoken_to_in_the_clear(office: PostOffice) -> None:
    made = await smtp(office.port, encryption=Encryption.STARTTLS).hand_over("a@b.example", "c@d.example", MESSAGE)
    assert (made.accepted, made.refused, made.unwell) == (False, False, True)
    assert office.asked == 0


async def test_a_reply_that_repeats_the_password_is_shown_without_it(office: PostOffice) -> None:
    office.rcpt = lambda _: f"550 5.7.1 who says {SECRET}?"
    server = smtp(office.port, password=None)
    server._server = MailServer(
        host="127.0.0.1", port=office.port, encryption=Encryption.NONE, username=None, password=SECRET, timeout_s=60
    )
    made = await server.hand_over("a@b.example", "c@d.example", MESSAGE)
    assert (made.refused, made.why) == (True, "SMTP 550: 5.7.1 who says ***?")


async def test_a_line_of_an_address_is_no_command(office: PostOffice) -> None:
    evil = "c@d.example>\r\nRCPT TO:<victim@example.com"
    made = await smtp(office.port).hand_over("a@b.example", evil, MESSAGE)
    assert made.refused
    assert office.asked == 0
