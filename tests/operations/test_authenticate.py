"""What the auth service says of a key counts, whatever else is away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service.app import Services
from service.errors import NotAuthenticated, OutcomeUnknown, Unavailable
from service.operations import authenticate
from service.operations.authenticate import Authenticate, Permit
from service.operations.caller import Caller

READ, WRITE = frozenset({"read"}), frozenset({"read", "write"})


class Door:
    """Lets in with the key `theirs`, which only the auth service knows; it is asked at every request."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("KNOWN_FOR", "UNKNOWN_FOR", "ASK_AGAIN_AFTER"):
            monkeypatch.setattr(authenticate, name, timedelta(0))
        self.permit: Permit | None = Permit(READ, 7)
        self._services = services
        self._monkeypatch = monkeypatch
        self._authenticate = self.another()

    def another(self) -> Authenticate:
        """What lets in, of a process that has just begun."""
        return Authenticate(
            keys=self._services.keys,
            rosters=self._services.roster_store,
            validate=self._validate,
            clock=self._services.clock,
            default_organization="demo",
            default_limit=100,
            window_ms=60_000,
        )

    async def _validate(self, _: str) -> Permit | None:
        return self.permit

    def take_no_writes(self, problem: type[Unavailable | OutcomeUnknown]) -> None:
        """From now on keys cannot be written."""

        async def refuse(*_: object) -> None:
            raise problem("Postgres refused for now")

        for name in ("add", "revoke"):
            self._monkeypatch.setattr(self._services.keys, name, refuse)

    async def __call__(self, let_in: Authenticate | None = None) -> Caller:
        return await (let_in or self._authenticate)("theirs", lambda: "127.0.0.1", "c")


@pytest.mark.parametrize("problem", [Unavailable, OutcomeUnknown])
async def test_a_key_that_was_taken_back_is_refused_while_nothing_can_be_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: type[Unavailable | OutcomeUnknown]
) -> None:
    door = Door(services, monkeypatch)
    assert (await door()).scopes == READ
    door.permit = None
    door.take_no_writes(problem)
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            await door()


@pytest.mark.parametrize("problem", [Unavailable, OutcomeUnknown])
async def test_a_key_that_was_seen_may_do_what_it_may_now_while_nothing_can_be_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: type[Unavailable | OutcomeUnknown]
) -> None:
    door = Door(services, monkeypatch)
    await door()
    door.permit = Permit(WRITE, 8)
    door.take_no_writes(problem)
    for let_in in (None, door.another()):
        seen = await door(let_in)
        assert (seen.scopes, seen.rate.limit) == (WRITE, 8)


@pytest.mark.parametrize("problem", [Unavailable, OutcomeUnknown])
async def test_a_key_that_was_never_seen_is_no_fault_of_its_request(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: type[Unavailable | OutcomeUnknown]
) -> None:
    door = Door(services, monkeypatch)
    door.take_no_writes(problem)
    with pytest.raises(Unavailable):
        await door()


@pytest.mark.parametrize("problem", [None, Unavailable, OutcomeUnknown])
async def test_a_key_that_is_given_again_counts_also_while_nothing_can_be_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: type[Unavailable | OutcomeUnknown] | None
) -> None:
    door = Door(services, monkeypatch)
    await door()
    given, door.permit = door.permit, None
    with pytest.raises(NotAuthenticated):
        await door()
    if problem is not None:
        door.take_no_writes(problem)
    door.permit = given
    assert (await door()).scopes == READ


async def test_a_key_that_was_not_known_is_looked_up_again_soon_and_one_that_was_is_not(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(services, monkeypatch)
    for name in ("KNOWN_FOR", "ASK_AGAIN_AFTER"):
        monkeypatch.setattr(authenticate, name, timedelta(hours=1))
    given, door.permit = door.permit, None
    with pytest.raises(NotAuthenticated):
        await door()
    door.permit = given
    assert (await door()).scopes == READ
    door.permit = Permit(WRITE, 8)
    assert (await door(door.another())).scopes == READ, "the auth service limits how often it is asked"


async def test_however_many_keys_and_addresses_fail_only_so_many_are_remembered(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticate, "MOST_KEPT", 2)
    let_in = Door(services, monkeypatch).another()
    let_in._validate = None
    for number in range(4):
        with pytest.raises(NotAuthenticated):
            await let_in(f"unknown-{number}", lambda number=number: f"10.0.0.{number}", "c")
    assert [len(kept) for kept in (let_in._kept, let_in._failures, let_in._asking)] == [2, 2, 0]


async def test_an_address_that_keeps_failing_waits_ever_longer_until_it_has_stopped_for_a_minute(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in, now = Door(services, monkeypatch).another(), 1000.0
    with monkeypatch.context() as moved:
        moved.setattr(asyncio.get_running_loop(), "time", lambda: now)
        assert [let_in.count_failure("10.0.0.1") for _ in range(10)] == [0.0] * 10
        assert [let_in.count_failure("10.0.0.1") for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert let_in.count_failure("10.0.0.2") == 0.0
        now += 61
        assert let_in.count_failure("10.0.0.1") == 0.0
