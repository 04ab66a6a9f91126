"""A booking taken apart: each step by itself, so that a test can stop where a process would have died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import uuid_utils

from service.app import Services
from service.claims.breaker import Trip
from service.claims.messages import Release, Settlement
from service.claims.scripts import ClaimOutcome
from service.db.appointments import Change, ChangeOutcome
from service.db.commit import Committed, NewBooking
from service.domain.appointment import Appointment, Status, become, render
from service.domain.event import EventType
from service.domain.grid import day_of
from service.errors import GateClosed
from service.operations.claiming import LOOK_AGAIN
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest, Plan, appointment_of, plan_of
from service.operations.rosters import grid_days
from service.operations.settle_change import placement_of
from tests.servers import eventually
from tests.wishes import caller


@dataclass(frozen=True)
class Claimed:
    """A claim that was noted in Redis and nothing more: what would be written next."""

    plan: Plan
    appointment: Appointment
    booking: NewBooking

    @property
    def token(self) -> str:
        """The claim's token, which is the appointment's id."""
        return self.appointment.appointment_id.hex


async def claim(services: Services, org: int, request: BookingRequest) -> Claimed:
    """Take the claim of a booking and stop."""
    token = UUID(int=uuid_utils.uuid7().int)
    while True:
        plan = plan_of(request, await services.rosters.get(org), services.clock.now())
        reply = await services.gate.admit(services.book._admission(request, caller(org), RateSeen(), plan, token.hex))
        if reply.outcome not in LOOK_AGAIN:
            break
        # A start that Postgres has listed, as it does right after a start, may be of a day the grid has not yet.
        await services.book._claiming.catch_up(plan, reply)
    assert reply.outcome is ClaimOutcome.CLAIMED, reply
    considered: bytes = reply.second
    appointment = appointment_of(request, plan, token, reply.first, len(considered) // 10, services.clock.now())
    booking = NewBooking(
        appointment=appointment,
        idempotency_key=request.idempotency_key,
        fingerprint=bytes.fromhex(request.fingerprint),
        actor="tests",
        correlation_id="corr-1",
        considered=considered,
        data=render(appointment),
        epoch=reply.epoch,
        revision=reply.revision,
    )
    return Claimed(plan, appointment, booking)


async def commit(services: Services, claimed: Claimed) -> Committed:
    """Write the row of a claim and stop."""
    return await services.committer.commit(claimed.booking)


async def settle(services: Services, claimed: Claimed) -> None:
    """Settle a committed claim."""
    event = f"{claimed.plan.roster.org} {claimed.token} 1"
    roster = claimed.plan.roster
    settlement = Settlement(roster.org, claimed.token, event, roster.heard_by(EventType.CREATED))
    await services.gate.settle(settlement)


async def note_release(services: Services, appointment: Appointment) -> UUID:
    """Note that an appointment's time will be freed, and stop; the release's token."""
    token = UUID(int=uuid_utils.uuid7().int)
    await services.change._note_release(appointment, token)
    return token


async def commit_cancellation(services: Services, appointment: Appointment, token: UUID) -> None:
    """Write a cancellation that carries a release's token, and stop."""
    after = become(appointment, Status.CANCELLED, services.clock.now())
    change = Change(
        after=after,
        type=EventType.CANCELLED,
        token=token,
        actor="tests",
        correlation_id="corr-1",
        reason=None,
        data=render(after),
    )
    assert await services.appointments.change(change) is ChangeOutcome.DONE


def release_of(appointment: Appointment, token: UUID) -> Release:
    """The release that a cancellation's token stands for."""
    return Release(appointment.org, token.hex, placement_of(appointment), appointment.local_day)


@asynccontextmanager
async def commits_held(sql: Any) -> AsyncIterator[None]:
    """While this lasts every write of an appointment waits; reading goes on."""
    async with sql.transaction():
        await sql.execute("LOCK TABLE appointments IN SHARE ROW EXCLUSIVE MODE")
        yield


async def a_commit_waits(sql: Any) -> None:
    """Return when a write waits for `commits_held`."""

    async def waiting() -> bool:
        await sql.execute("SELECT pg_stat_clear_snapshot()")
        return await sql.fetchval(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

    await eventually(waiting, what="a commit under way")


async def expire_pending(services: Services) -> None:
    """Let the deadline of everything pending have passed, once what was answered has been settled."""
    await services.gate.drain()
    for keys in services.shards.all:
        entries: dict[bytes, bytes] = await services.redis.hgetall(keys.pending)  # type: ignore[misc]
        for token, packed in entries.items():
            parts = [bytes(part) for part in msgspec.msgpack.decode(packed, type=list[msgspec.Raw])]
            parts[1] = msgspec.msgpack.encode(1)
            head = bytes([0x90 | len(parts)]) if len(parts) < 16 else b"\xdc" + len(parts).to_bytes(2, "big")
            expired = head + b"".join(parts)
            await services.redis.hset(keys.pending, token.decode(), expired)  # type: ignore[misc]


async def emptied(services: Services) -> None:
    """Redis is emptied, and the process has noticed and gone on."""
    await services.redis.flushall()
    services.breaker.trip(Trip.SUSPECT)
    await eventually(lambda: services.breaker.closed, what="Redis asked again")


async def differences(services: Services, org: int) -> int:
    """In how many cells and counts the grid differs from Postgres, over all days it should hold."""
    roster = await services.rosters.get(org)
    while True:
        await eventually(lambda: services.breaker.closed, what="Redis asked again")
        found = 0
        try:
            for day in grid_days(roster, day_of(services.clock.now())):
                found += (await services.keeper.check_day(org, day, write=False)).total
        except GateClosed:
            continue  # only now does the process notice that Redis was emptied
        return found


async def announced(services: Services, stream: str = "crm") -> list[str]:
    """The events ('org appointment sequence') in a destination's stream."""
    entries: Any = await services.redis.xrange(services.shards.all[0].stream(stream))
    return [fields[b"event"].decode() for _, fields in entries]
