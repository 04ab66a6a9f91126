"""Nobody can make the service call what is not public: not by any spelling, name, redirect or change of mind."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service.clock import SystemClock
from service.domain.addresses import check_url, is_public, literal_address
from service.mocks.server import serving
from service.outside.endpoint import EndpointCaller, Message
from service.outside.http import Attempt, open_foreign_session
from tests.delivery.bench import Bench
from tests.endpoints.hooks import Hooks, Receiver
from tests.servers import eventually

# These reach the loopback where it is not forbidden; of the rest some are refused by the client's own reading of URLs.
LOOPBACK = ["127.0.0.1", "0x7f000001", "0x7f.1", "localhost"]
UNUSUAL = ["2130706433", "0177.0.0.1", "017700000001", "127.1", "2852039166", "0x7f000001", "0x0a.1"]
OTHERS = [
    *UNUSUAL,
    "0.0.0.0",  # noqa: S104  called, not bound
    *("10.0.0.1", "100.64.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "0xa9fea9fe"),
    *("[::]", "[::1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:8.8.8.8]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::1]", "[2001::1]", "[2001:db8::1]"),
    *("[fc00::1]", "[fd12:3456::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[100::1]", "[3fff::1]"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.169.0.1", "223.255.255.255"]
PUBLIC_V6 = ["2606:4700:4700::1111", "2a00:1450::1", "2001:4860:4860::8888"]
MESSAGE = Message(message_id="m.1", body=b"{}", correlation_id="c")


async def called(session: aiohttp.ClientSession, url: str, timeout_s: float = 5.0) -> Attempt:
    """One attempt at a URL."""
    return await EndpointCaller(session, timeout_s, SystemClock()).post(url, [b"k" * 32], MESSAGE)


@pytest.mark.parametrize("host", [*LOOPBACK, *OTHERS])
async def test_no_connection_is_made_to_what_is_not_public(host: str, guarded: aiohttp.ClientSession) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url:
        made = await called(guarded, f"http://{host}:{URL(url).port}/")
    assert made.forbidden
    assert "the address is refused: it is not a public one" in made.why or "the URL is refused" in made.why
    # What a name stands for inside is not told.
    assert "127.0.0.1" not in made.why
    assert receiver.seen == []


@pytest.mark.parametrize("host", LOOPBACK)
async def test_the_same_spellings_arrive_where_private_addresses_are_allowed(
    host: str, open_door: aiohttp.ClientSession
) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url:
        made = await called(open_door, f"http://{host}:{URL(url).port}/")
    assert made.succeeded, made.why
    assert len(receiver.seen) == 1


@pytest.mark.parametrize("host", [*LOOPBACK, *OTHERS])
def test_a_url_that_spells_such_an_address_cannot_be_registered(host: str) -> None:
    with pytest.raises(ValueError, match=r"not a public|this machine"):
        check_url(f"https://{host}/hooks", allow_private=False)


@pytest.mark.parametrize("host", UNUSUAL)
def test_an_unusual_spelling_cannot_be_registered_even_where_private_addresses_are_allowed(host: str) -> None:
    with pytest.raises(ValueError, match="four decimal numbers"):
        check_url(f"https://{host}/hooks", allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "[::1]", "crm.internal"])
def test_private_addresses_can_be_registered_where_they_are_allowed(host: str) -> None:
    check_url(f"http://{host}:8080/hooks", allow_private=True)


@pytest.mark.parametrize("address", [*PUBLIC, *PUBLIC_V6])
def test_what_anybody_could_reach_is_allowed(address: str) -> None:
    assert is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert literal_address(urlsplit(f"http://{host}/").hostname or "") == address
    check_url(f"http://{host}:8080/", allow_private=False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "visible"),
        ("example.com/hooks", "http://"),
        ("ftp://example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("http:///path", "host"),
        ("http://", "host"),
        ("http://exa mple.com/", "visible"),
        ("http://example.com/\n", "visible"),
        ("http://exämple.com/", "visible"),
        ("http://example.com\\@127.0.0.1/", "backslash"),
        ("http://user:word@example.com/", "password"),
        ("http://user@example.com/", "password"),
        ("http://example.com/#part", "fragment"),
        ("http://example.com:99999/", "URL"),
        ("http://example.com:x/", "URL"),
        ("http://example.com:22/", "port"),
        ("http://example.com:0/", "port"),
        ("http://[::1/", "URL"),
        ("http://1.2.3.4.5/", "host"),
        ("http://-_-.999/", "host"),
        ("http://" + "a" * 2100, "longer"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_url(url, allow_private=True)


@pytest.mark.parametrize("url", ["https://hooks.example.com/a?b=c%20d", "http://example.com", "https://x.test:8443/"])
def test_an_ordinary_url_is_fine(url: str) -> None:
    check_url(url, allow_private=False)


class Rebinding(AbstractResolver):
    """A name server that answers something else each time."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The next answer."""
        self.asked += 1
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._answers.pop(0)
        ]

    async def close(self) -> None:
        """Nothing was opened."""


async def test_a_name_that_changes_its_mind_after_it_was_looked_at_gains_nothing() -> None:
    receiver = Receiver()
    # 2000::1 is public and nobody's.
    resolver = Rebinding(["2000::1"], ["127.0.0.1"], ["2000::1", "127.0.0.1"])
    async with (
        serving(receiver.app) as url,
        open_foreign_session(allow_private=False, resolver=resolver) as session,
    ):
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        attempts: list[Attempt] = []
        for _ in range(3):
            connector.clear_dns_cache()
            attempts.append(await called(session, f"http://rebinding.test:{URL(url).port}/", 0.3))
    assert resolver.asked == 3
    assert [one.forbidden for one in attempts[:2]] == [False, True]
    assert [one.succeeded for one in attempts] == [False] * 3
    assert receiver.seen == []


async def test_a_redirect_is_refused_and_not_followed(bench: Bench, hooks: Hooks) -> None:
    inside = Receiver()
    async with serving(inside.app) as secret_place:
        receiver = Receiver(lambda _: web.Response(status=307, headers={"Location": f"{secret_place}/"}))
        async with serving(receiver.app) as url, hooks.worker():
            told = await hooks.register(url)
            await bench.book(1)

            async def ended() -> bool:
                return await hooks.states(told) == ["dead"]

            await eventually(ended, what="the end of the delivery")
    (row,) = await hooks.deliveries(told)
    assert "redirects are refused" in row["last_error"]
    assert row["last_status"] == 307
    assert len(receiver.seen) == 1
    assert inside.seen == []


async def test_the_refusal_stands_in_the_delivery(bench: Bench, hooks: Hooks, guarded: aiohttp.ClientSession) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url, hooks.worker(session=guarded):
        told = await hooks.register(url.replace("127.0.0.1", "localhost"))
        await bench.book(1)

        async def ended() -> bool:
            return await hooks.states(told) == ["dead"]

        await eventually(ended, what="the end of the delivery")
    (row,) = await hooks.deliveries(told)
    (tried,) = await bench.sql("SELECT * FROM delivery_attempts WHERE destination = $1", row["destination"])
    for said in (row["last_error"], tried["answer"]):
        assert "the address is refused: it is not a public one" in said
    assert row["last_status"] is tried["status"] is None
    assert receiver.seen == []
